/** `stampede stops`: shards that the ledger has stopped. */
import { styleText } from 'node:util';
import { systemClock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { createLogger } from '../kernel/logger.ts';
import { expectShardCount } from '../ledger/authority.ts';
import { createPool } from '../ledger/pool.ts';
import { readWatermark } from '../ledger/postgres.ts';
import { readStops, retryStopped, type Stop } from '../ledger/stops.ts';

const retryLimitMs = 10_000;

function describe(stop: Stop): string {
  const lines = [
    styleText('red', `Shard ${stop.shard} is stopped at sequence ${stop.watermark}: ${stop.reason}`),
    ...(stop.batch === null ? [] : [`  the batch: ${stop.batch}`]),
    `  what was wrong is mended:               stampede stops --retry ${stop.shard}`,
    `  leave it out, and all that follows it:  stampede rebuild --shard ${stop.shard} --discard`,
  ];
  return lines.join('\n');
}

/** Answers the exit code: 0 none is stopped, 1 some are, 2 couldn't look. */
export async function stopsCommand(
  config: Config,
  options: { retry: number | null; json: boolean },
  print: (line: string) => void,
): Promise<0 | 1 | 2> {
  const { retry } = options;
  const pool = createPool(config.databaseUrl, createLogger({ level: 'silent', name: 'stampede' }));
  try {
    await expectShardCount(pool, config.shards);
    if (retry !== null && retry >= config.shards)
      throw new SetupError('which-shards', `there are ${config.shards} shards, from 0 on`);
    if (retry !== null && (await retryStopped(pool, retry))) {
      // Whether it stops again shows once a relay has sent the events again.
      const { watermark } = await readWatermark(pool, retry);
      for (const untilMs = Date.now() + retryLimitMs; Date.now() < untilMs; await systemClock.wait(100)) {
        const now = await readWatermark(pool, retry);
        if (now.stopped !== null || now.watermark > watermark) break;
      }
    }
    const stops = (await readStops(pool)).filter(({ shard }) => retry === null || shard === retry);
    if (options.json) print(JSON.stringify({ stops }));
    else if (stops.length === 0) print(retry === null ? 'No shard is stopped.' : `Shard ${retry} goes on.`);
    else for (const stop of stops) print(describe(stop));
    return stops.length === 0 ? 0 : 1;
  } catch (error) {
    const message = `could not look: ${error instanceof Error ? error.message : String(error)}`;
    if (options.json) print(JSON.stringify({ error: message }));
    else process.stderr.write(`stampede: ${message}\n`);
    return 2;
  } finally {
    await pool.end();
  }
}
