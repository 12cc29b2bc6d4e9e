/**
 * `no-gap-no-fork`, of the topic: who reads it as docs/reference/events.md says has the ledger's history, batch for batch.
 * Only of a broker that has kept all.
 */
import type { BatchRow, Evidence } from '../evidence.ts';
import type { Finding } from '../history.ts';

type Taken = Pick<BatchRow, 'seqFirst' | 'seqLast' | 'epoch' | 'digest'>;

/** What a consumer has applied of one shard, and the batches that it had to stop at. The rules' numbers are those of events.md. */
export function consume(batches: readonly Taken[]): { taken: Taken[]; forks: Taken[] } {
  const taken: Taken[] = [];
  const forks: Taken[] = [];
  for (const batch of batches) {
    const last = taken.at(-1);
    const after = last?.seqLast ?? 0;
    // 1
    if (last && batch.epoch < last.epoch) continue;
    if (last && batch.epoch > last.epoch && batch.seqFirst <= after) {
      // 3
      while ((taken.at(-1)?.seqLast ?? 0) >= batch.seqFirst) taken.pop();
    } else if (batch.seqLast <= after) {
      // 2
      const had = taken.findLast(({ seqLast }) => seqLast === batch.seqLast);
      if (had?.digest !== batch.digest && had?.epoch === batch.epoch) forks.push(batch);
      continue;
    }
    // 4, else 5
    if (batch.seqFirst === (taken.at(-1)?.seqLast ?? 0) + 1) taken.push(batch);
  }
  return { taken, forks };
}

export function topicWhole({ topic, batches, shards }: Evidence): Finding[] {
  if (topic === null) return [];
  const findings: Finding[] = [];
  for (const { shard } of shards) {
    const { taken, forks } = consume(topic.filter((batch) => batch.shard === shard));
    for (const { seqLast } of forks) findings.push(`shard ${shard}: the topic has two histories at ${seqLast}`);
    const ledger = batches.filter((batch) => batch.shard === shard);
    const at = ledger.findIndex(
      ({ seqLast, digest }, i) => taken[i]?.seqLast !== seqLast || taken[i]?.digest !== digest,
    );
    const differs = ledger[at];
    if (differs)
      findings.push(
        `shard ${shard}: the ledger has ${differs.seqFirst} to ${differs.seqLast} of epoch ${differs.epoch}; a reader of the topic ${
          taken[at]
            ? `has ${taken[at].seqFirst} to ${taken[at].seqLast} of epoch ${taken[at].epoch} there`
            : 'never gets it'
        }`,
      );
    else if (taken.length > ledger.length)
      findings.push(
        `shard ${shard}: a reader of the topic has ${taken.length - ledger.length} batches more than the ledger`,
      );
  }
  return findings;
}
