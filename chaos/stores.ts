/** Checkers of what the stores say when all is over: `no-gap-no-fork`, `drains`, and that they agree with each other. */
import type { BalanceRow, Evidence } from './evidence.ts';
import type { Fact, Finding, Line } from './history.ts';
import type { Fates } from './verdict.ts';

const most = 20;

/** A shard's sequence has no hole, no twin, no second history, in the ledger and in what the outbox still has. */
export function noGapNoFork({ batches, outboxes, shards, facts, quarantined, losses }: Evidence): Finding[] {
  const findings: Finding[] = [];
  const known = new Map(batches.map((batch) => [`${batch.shard}/${batch.seqLast}`, batch]));
  for (const { shard, watermark, stopped } of shards) {
    if (stopped !== null) findings.push(`shard ${shard} is stopped: ${stopped}`);
    let next = 1;
    let epoch = 0;
    for (const batch of batches) {
      if (batch.shard !== shard) continue;
      if (batch.seqFirst !== next)
        findings.push(`shard ${shard}: sequence ${next} is followed by a batch from ${batch.seqFirst}`);
      if (batch.epoch < epoch)
        findings.push(`shard ${shard}: epoch ${batch.epoch} at ${batch.seqFirst}, after epoch ${epoch}`);
      next = batch.seqLast + 1;
      epoch = batch.epoch;
    }
    if (next !== watermark + 1)
      findings.push(`shard ${shard}: the watermark is ${watermark}, its batches end at ${next - 1}`);
  }
  for (const batch of outboxes) {
    const place = `shard ${batch.shard}, ${batch.seqFirst} to ${batch.seqLast}`;
    const ledger = known.get(`${batch.shard}/${batch.seqLast}`);
    if (!ledger) findings.push(`${place}: in the outbox, not in the ledger`);
    else if (ledger.digest !== batch.digest || ledger.epoch !== batch.epoch)
      findings.push(`${place}: outbox and ledger have two histories`);
  }
  const seen = new Set<string>();
  const watermarks = new Map(shards.map(({ shard, watermark }) => [shard, watermark]));
  for (const { shard, seq } of facts) {
    const watermark = watermarks.get(shard) ?? 0;
    if (seq > watermark) findings.push(`shard ${shard}: a fact at sequence ${seq}, and the watermark is ${watermark}`);
    if (seen.has(`${shard}/${seq}`)) findings.push(`shard ${shard}: two facts at sequence ${seq}`);
    seen.add(`${shard}/${seq}`);
  }
  for (const { shard, epoch, seqFirst, reason } of quarantined)
    if (!losses.some((loss) => loss.shard === shard && epoch < loss.epoch))
      findings.push(
        `shard ${shard}: ${seqFirst} of epoch ${epoch} was set apart, and no rebuild closed that: ${reason}`,
      );
  return findings.slice(0, most);
}

const placeOf = ({ shard, no, sku, warehouse }: BalanceRow): string => `${shard}/${no}/${sku}/${warehouse}`;

type Units = { supply: number; reserved: number; sold: number };

/** What supply, holds and sales there are by the facts, by allotment. */
function unitsByFacts(facts: readonly Fact[]): Map<string, Units> {
  const units = new Map<string, Units>();
  const add = ({ shard, no }: Fact, lines: readonly Line[], sign: Partial<Units>): void => {
    for (const { sku, warehouse, quantity } of lines) {
      const name = `${shard}/${no}/${sku}/${warehouse}`;
      const of = units.get(name) ?? { supply: 0, reserved: 0, sold: 0 };
      for (const account of ['supply', 'reserved', 'sold'] as const) of[account] += (sign[account] ?? 0) * quantity;
      units.set(name, of);
    }
  };
  for (const fact of facts) {
    if ('units' in fact) add(fact, [{ ...fact, quantity: fact.units }], { supply: 1 });
    else if (fact.kind === 'reserved') add(fact, fact.lines, { reserved: 1 });
    else if (fact.kind === 'committed') add(fact, fact.lines, { reserved: -1, sold: 1 });
    else if (fact.kind === 'returned') add(fact, fact.lines, { sold: -1 });
    else add(fact, fact.lines, { reserved: -1 });
  }
  return units;
}

const none = { supply: 0, available: 0, reserved: 0, sold: 0 };

/** Balances add up, are what the entries and the facts add up to, and none is below zero. One that is missing is zero. */
export function storesAgree({ balances, entries }: Evidence, facts: readonly Fact[]): Finding[] {
  const findings: Finding[] = [];
  const byFacts = unitsByFacts(facts);
  const rows = new Map(balances.map((row) => [placeOf(row), row]));
  const sums = new Map(entries.map((row) => [placeOf(row), row]));
  for (const place of new Set([...rows.keys(), ...sums.keys(), ...byFacts.keys()])) {
    const row = rows.get(place) ?? none;
    const { supply, available, reserved, sold } = row;
    if (supply !== available + reserved + sold || Math.min(available, reserved, sold) < 0)
      findings.push(`${place}: ${supply} supplied, ${available} available, ${reserved} reserved, ${sold} sold`);
    const known = byFacts.get(place) ?? none;
    for (const name of ['supply', 'reserved', 'sold'] as const)
      if (row[name] !== known[name]) findings.push(`${place}: balance ${row[name]} ${name}, facts ${known[name]}`);
    const sum = sums.get(place) ?? none;
    for (const name of ['supply', 'available', 'reserved', 'sold'] as const)
      if (row[name] !== sum[name]) findings.push(`${place}: balance ${row[name]} ${name}, entries ${sum[name]}`);
  }
  return findings.slice(0, most);
}

/** After the fault all goes on, and comes to its end: sales, holds, the ledger. Processes end only when they are told to. */
export const drains = (_evidence: Evidence, { stuck, crashed }: Fates): Finding[] => [...stuck, ...crashed];

const contract = new Set([
  ...['200', '201', 'no answer', 'unavailable', 'overloaded', 'shard-fenced'],
  ...['sold-out', 'insufficient-stock', 'purchase-limit', 'reservation-ended', 'idempotency-mismatch', 'conflict'],
]);

/**
 * Clients who ask for what there is, and know what they want, are refused for these reasons only. `lossy`: what they know may
 * be lost.
 */
export function knownAnswers(outcomes: Record<string, number>, lossy: boolean): Finding[] {
  return Object.entries(outcomes).flatMap(([code, count]) =>
    contract.has(code) || (lossy && code === 'not-found') ? [] : [`${count} calls answered ${code}`],
  );
}
