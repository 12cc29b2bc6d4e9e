/** A ledger that has gone back further than the outbox goes: Postgres was restored from an older backup. */
import { applyBatches } from './apply.ts';
import type { Batch } from './events.ts';
import type { LedgerStore } from './store.ts';

/**
 * Applies what `replay` still finds of the events from `from` to `to`, and stops the shard, saying which are gone, when that
 * is not all. `replay` null: there is no Kafka.
 */
export async function fillGap(options: {
  store: LedgerStore;
  shard: number;
  from: number;
  to: number;
  replay: ((take: (batches: Batch[]) => Promise<void>) => Promise<void>) | null;
}): Promise<void> {
  const { store, shard, to, replay } = options;
  await replay?.(async (batches) => {
    await applyBatches(store, shard, batches);
  });
  const { watermark } = await store.watermark(shard);
  if (watermark < to) await store.stop(shard, goneReason(shard, watermark, to));
}

/** What to tell a person about events that nobody has any more. */
export function goneReason(shard: number, watermark: number, to: number): string {
  return `events ${watermark + 1} to ${to} are gone: the ledger has gone back to ${watermark} (was Postgres restored from an older backup?), the outbox has them no more, nor has Kafka. Restore a newer backup, then: stampede stops --retry ${shard}, and if /readyz still names the shard: stampede rebuild --shard ${shard}`;
}
