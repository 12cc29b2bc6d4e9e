/** `stampede rebuild`: builds shards of Valkey anew from the ledger. */
import { styleText } from 'node:util';
import Table from 'cli-table3';
import type { Config } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { createLogger } from '../kernel/logger.ts';
import { ShardStopped } from '../ledger/apply.ts';
import type { RebuildReport } from '../ledger/rebuild.ts';
import { openStores, rebuild } from './compose.ts';

/** What was rebuilt, as a table for people. */
export function rebuildTable(reports: RebuildReport[]): string {
  const table = new Table({
    head: ['shard', 'epoch', 'sequence', 'sales', 'held', 'remembered', 'may be lost', 'seconds'],
    style: { head: [], border: [] },
    colAligns: ['right', 'right', 'right', 'right', 'right', 'right', 'right', 'right'],
  });
  for (const report of reports) {
    const { lost } = report;
    table.push([
      report.shard,
      report.epoch,
      report.seq,
      report.sales,
      report.liveReservations,
      report.rememberedReservations,
      lost ? styleText('red', `${lost.from} to ${lost.to}`) : 'nothing known',
      report.seconds.toFixed(1),
    ]);
  }
  return table.toString();
}

/** Answers the exit code: 0 nothing known to be lost, 1 something may be, 2 not all could be rebuilt. */
export async function rebuildCommand(
  config: Config,
  options: { shards: number[]; all: boolean; discard: boolean; json: boolean },
  print: (line: string) => void,
): Promise<0 | 1 | 2> {
  if (options.all === options.shards.length > 0)
    throw new SetupError('which-shards', 'say which: --shard N (several times if you like), or --all');
  const wanted = options.all ? Array.from({ length: config.shards }, (_, shard) => shard) : options.shards;
  if (wanted.some((shard) => shard >= config.shards))
    throw new SetupError('which-shards', `there are ${config.shards} shards, from 0 on`);
  const logger = createLogger({ level: 'silent', name: 'stampede' });
  const stores = await openStores(config, logger, { observe: true });
  const reports: RebuildReport[] = [];
  const failed: { shard: number; error: string }[] = [];
  try {
    for (const shard of wanted) {
      let shownMs = Date.now();
      try {
        const progress = (stage: string, reservations: number): void => {
          if (Date.now() - shownMs < 2_000) return;
          shownMs = Date.now();
          const built = reservations > 0 ? `, ${reservations} reservations` : '';
          process.stderr.write(`shard ${shard}: ${stage}${built} …\n`);
        };
        reports.push(await rebuild(config, stores, shard, logger, { discard: options.discard, progress }));
      } catch (error) {
        const hint = error instanceof ShardStopped ? ' (`stampede stops` shows it, --discard leaves it out)' : '';
        failed.push({ shard, error: (error instanceof Error ? error.message : String(error)) + hint });
      }
    }
  } finally {
    await stores.close();
  }
  if (options.json) {
    print(JSON.stringify({ rebuilt: reports, failed }));
  } else {
    if (reports.length > 0) print(rebuildTable(reports));
    for (const { from, to } of reports.flatMap(({ lost }) => lost ?? []))
      print(styleText('red', `What buyers were told at sequences ${from} to ${to} of the old epoch may be lost.`));
    const silent = Math.max(0, ...reports.map((report) => report.silentEngines));
    if (silent > 0)
      print(
        styleText(
          'red',
          `${silent} ended or silent engine(s) did not say what they had seen, and may have told buyers more.`,
        ),
      );
    for (const { shard, error } of failed) print(styleText('red', `Shard ${shard} was not rebuilt: ${error}`));
  }
  if (failed.length > 0) return 2;
  return reports.some(({ lost, silentEngines }) => lost !== null || silentEngines > 0) ? 1 : 0;
}
