/**
 * Carries each shard's outbox to the ledger, straight or by way of Kafka, and trims what the ledger has. One loop a shard;
 * two relays at once do no harm, since the ledger drops what it has.
 */
import type { Clock } from '../kernel/clock.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import { ShardStopped } from './apply.ts';
import type { Batch } from './events.ts';
import type { Watermark } from './store.ts';

/** The outbox of each shard: what the relay needs of it. */
export type OutboxSource = {
  read(shard: number, after: number, max: number): Promise<{ seq: number; acked: number; batches: Batch[] }>;
  trim(shard: number, acked: number, keep: number): Promise<void>;
};

/** Takes batches towards the ledger: resolves when they are there, or safely on their way. */
export type Carrier = { deliver(shard: number, batches: Batch[]): Promise<void>; close(): Promise<void> };

export type RelayStats = {
  relayed(events: number): void;
  failed(shard: number): void;
  rewound(shard: number): void;
};

export type Relay = { stop(): Promise<void> };

const busyMs = 20;
const idleMs = 50;
const trimEveryMs = 200;
const retryMs = [100, 200, 500, 1_000, 2_000];

export function startRelay(options: {
  shards: number;
  source: OutboxSource;
  carrier: Carrier;
  watermark(shard: number): Promise<Watermark>;
  /**
   * Finds events that the outbox has no more and the ledger has not, or stops the shard with a reason. The ledger has gone
   * back then: Postgres was restored from an older backup.
   */
  fillGap(shard: number, from: number, to: number): Promise<void>;
  clock: Clock;
  logger: Logger;
  stats: RelayStats;
  stallMs?: number;
}): Relay {
  const { source, carrier, clock, logger, stats } = options;
  const stallMs = options.stallMs ?? limits.relayStallMs;
  const stopped = new AbortController();
  const { signal } = stopped;

  const carry = async (shard: number): Promise<void> => {
    /** The last sequence given to the carrier. */
    let sent = -1;
    let acked = -1;
    let progressMs = clock.monotonicMs();
    let trimmedMs = 0;
    let failures = 0;
    let complaint = '';
    let behind = false;
    let wentBack = false;
    while (!signal.aborted) {
      try {
        const mark = await options.watermark(shard);
        if (mark.stopped !== null) throw new ShardStopped(shard, mark.stopped);
        const nowMs = clock.monotonicMs();
        if (mark.watermark > acked) progressMs = nowMs;
        if (mark.watermark > acked && nowMs - trimmedMs >= trimEveryMs) {
          await source.trim(shard, mark.watermark, limits.outboxTailEvents);
          acked = mark.watermark;
          trimmedMs = nowMs;
        }
        if (sent < mark.watermark) sent = mark.watermark;
        if (sent > mark.watermark && nowMs - progressMs > stallMs) {
          // What was sent has not arrived: lost on the way, or set aside behind something that was.
          logger.warn({ shard, from: mark.watermark, sent }, 'the ledger stands still: sending again');
          stats.rewound(shard);
          sent = mark.watermark;
          progressMs = nowMs;
        }
        behind = false;
        if (sent - mark.watermark < limits.relayAheadEvents) {
          const { seq, acked: told, batches } = await source.read(shard, sent, limits.relayEntries);
          if (mark.watermark < told && !wentBack)
            logger.error(
              { shard, told, found: mark.watermark },
              'the ledger has gone back: it is given its events again',
            );
          wentBack = mark.watermark < told;
          const first = batches[0];
          const last = batches.at(-1);
          const next = first?.seqFirst ?? seq + 1;
          if (next > sent + 1 && sent === mark.watermark) {
            logger.error({ shard, from: sent + 1, to: next - 1 }, 'the outbox has these events no more');
            await options.fillGap(shard, sent + 1, next - 1);
          } else if (first && last) {
            await carrier.deliver(shard, batches);
            if (sent === mark.watermark) progressMs = clock.monotonicMs();
            sent = last.seqLast;
            stats.relayed(last.seqLast - first.seqFirst + 1);
            behind = sent < seq;
          }
        }
        failures = 0;
        complaint = '';
        if (!behind) await clock.wait(sent > mark.watermark ? busyMs : idleMs, signal);
      } catch (error) {
        if (signal.aborted) return;
        const text = error instanceof Error ? error.message : String(error);
        stats.failed(shard);
        if (text !== complaint) logger.error({ shard, error: text }, 'the relay cannot go on; it keeps trying');
        complaint = text;
        sent = -1;
        await clock.wait(retryMs[Math.min(failures++, retryMs.length - 1)] ?? 1_000, signal);
      }
    }
  };

  const loops = Array.from({ length: options.shards }, (_, shard) => carry(shard));
  return {
    async stop() {
      stopped.abort();
      await Promise.all(loops);
      await carrier.close();
    },
  };
}
