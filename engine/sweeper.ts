/** Puts units of lapsed holds back on sale: a loop a shard, a bounded number a call. */
import type { Clock } from '../kernel/clock.ts';
import { RefusalError } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import { expireCommand } from '../lua/bindings.ts';
import type { Shards } from './shards.ts';

const sweepEveryMs = 100;
const retryMs = 1_000;

export function startSweeper(options: {
  shards: Shards;
  clock: Clock;
  logger: Logger;
  swept(expired: number, forgotten: number): void;
}): { stop(): Promise<void> } {
  const { shards, clock, logger } = options;
  const stopped = new AbortController();

  const sweep = async (shard: number): Promise<void> => {
    let calls = 1;
    while (!stopped.signal.aborted) {
      try {
        const sweeping = Array.from({ length: calls }, () =>
          shards.call(shard, expireCommand, { max: limits.sweepReservations }),
        );
        const answers = await Promise.all(sweeping);
        for (const { expired, forgotten } of answers) options.swept(expired, forgotten);
        // What is left is worked off without a pause: Valkey has the next call before the answer to the last is read.
        calls = answers.every(({ more }) => more === 1) ? limits.sweepsInFlight : 1;
        if (calls === 1) await clock.wait(sweepEveryMs, stopped.signal);
      } catch (error) {
        calls = 1;
        if (!(error instanceof RefusalError)) logger.error({ shard, error: String(error) }, 'the sweep failed');
        await clock.wait(retryMs, stopped.signal);
      }
    }
  };
  const loops = Array.from({ length: shards.count }, (_, shard) => sweep(shard));
  return {
    async stop() {
      stopped.abort();
      await Promise.all(loops);
    },
  };
}
