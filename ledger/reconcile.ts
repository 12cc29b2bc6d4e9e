/**
 * Compares each shard's counters with the ledger's balances, both as of exactly the same sequence, so that there is no
 * false alarm while a sale is live.
 */
import type { Pool } from 'pg';
import type { Clock } from '../kernel/clock.ts';

export type Snapshot = {
  epoch: number;
  seq: number;
  sales: {
    no: number;
    id: string;
    stock: { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
  }[];
};

/** Reads a shard's counters at one moment. */
export type SnapshotSource = { snapshot(shard: number): Promise<Snapshot> };

export type Counts = { available: number; reserved: number; sold: number };

/** An allotment on both sides; a side that doesn't have it is null. `drift`: units that differ, over all three. */
export type ReconcileRow = {
  shard: number;
  /** The sale's number on its shard. */
  sale: number;
  saleId: string;
  sku: string;
  warehouse: string;
  valkey: Counts | null;
  ledger: Counts | null;
  supply: number;
  drift: number;
};

export type ShardReport = {
  shard: number;
  epoch: number;
  seq: number;
  watermark: number;
  /** Why the shard could not be compared; null when it was. */
  unread: string | null;
};

/** Sequences that buyers may have been told of and nobody has; `by`: a rebuild's report, or an engine that was not heard in time. */
export type Loss = { shard: number; epoch: number; from: number; to: number; by: 'rebuild' | 'engine' };

export type Reconciliation = { shards: ShardReport[]; rows: ReconcileRow[]; drift: number; losses: Loss[] };

type BalanceRow = {
  sale: number;
  id: string | null;
  sku: string;
  warehouse: string;
  supply: string;
  available: string;
  reserved: string;
  sold: string;
};

/**
 * Balances as of `seq`: today's, less what entries after it moved. One statement, so one snapshot of Postgres.
 */
const balancesAsOf = `
  with moved as (
    select sale, sku, warehouse, debit, credit, units * (seq_last - greatest(seq_first, $2 + 1) + 1) as units
      from ledger.entry where shard = $1 and seq_last > $2),
  later as (
    select sale, sku, warehouse,
           sum(case when debit = 'outside' then units when credit = 'outside' then -units else 0 end) as supply,
           sum(case when credit = 'available' then units when debit = 'available' then -units else 0 end) as available,
           sum(case when credit = 'reserved' then units when debit = 'reserved' then -units else 0 end) as reserved,
           sum(case when credit = 'sold' then units when debit = 'sold' then -units else 0 end) as sold
      from moved group by sale, sku, warehouse)
  select b.sale, s.id, b.sku, b.warehouse,
         b.supply - coalesce(l.supply, 0) as supply, b.available - coalesce(l.available, 0) as available,
         b.reserved - coalesce(l.reserved, 0) as reserved, b.sold - coalesce(l.sold, 0) as sold
    from ledger.balance b
    left join later l using (sale, sku, warehouse)
    left join ledger.sale s on s.shard = b.shard and s.sale = b.sale
   where b.shard = $1`;

const nothing: Counts = { available: 0, reserved: 0, sold: 0 };

function driftOf(valkey: Counts | null, ledger: Counts | null): number {
  const a = valkey ?? nothing;
  const b = ledger ?? nothing;
  return Math.abs(a.available - b.available) + Math.abs(a.reserved - b.reserved) + Math.abs(a.sold - b.sold);
}

/** Waits until the ledger has come to `seq`; answers where it is. */
async function waitForLedger(
  pool: Pool,
  shard: number,
  seq: number,
  untilMs: number,
  clock: Clock,
): Promise<{ watermark: number; epoch: number; stopped: string | null }> {
  for (;;) {
    const { rows } = await pool.query<{ watermark: string; epoch: number; stopped: string | null }>(
      'select watermark, epoch, stopped from ledger.shard where shard = $1',
      [shard],
    );
    const watermark = Number(rows[0]?.watermark ?? 0);
    const found = { watermark, epoch: rows[0]?.epoch ?? 0, stopped: rows[0]?.stopped ?? null };
    if (watermark >= seq || found.stopped !== null || clock.monotonicMs() > untilMs) return found;
    await clock.wait(20);
  }
}

async function reconcileShard(
  pool: Pool,
  source: SnapshotSource,
  shard: number,
  waitMs: number,
  clock: Clock,
): Promise<{ report: ShardReport; rows: ReconcileRow[] }> {
  const report: ShardReport = { shard, epoch: 0, seq: 0, watermark: 0, unread: null };
  let snapshot: Snapshot;
  try {
    snapshot = await source.snapshot(shard);
  } catch (error) {
    report.unread = `its counters could not be read: ${error instanceof Error ? error.message : String(error)}`;
    return { report, rows: [] };
  }
  report.epoch = snapshot.epoch;
  report.seq = snapshot.seq;
  const ledger = await waitForLedger(pool, shard, snapshot.seq, clock.monotonicMs() + waitMs, clock);
  report.watermark = ledger.watermark;
  if (ledger.stopped !== null) report.unread = `the ledger has stopped it: ${ledger.stopped}`;
  else if (ledger.watermark < snapshot.seq)
    report.unread = `the ledger is at ${ledger.watermark} of ${snapshot.seq}, and did not catch up within ${waitMs} ms`;
  if (report.unread !== null) return { report, rows: [] };

  const { rows: balances } = await pool.query<BalanceRow>(balancesAsOf, [shard, snapshot.seq]);
  const rows = new Map<string, ReconcileRow>();
  for (const sale of snapshot.sales) {
    for (const { sku, warehouse, onHand, reserved, sold } of sale.stock)
      rows.set(`${sale.no}/${sku}/${warehouse}`, {
        shard,
        sale: sale.no,
        saleId: sale.id,
        sku,
        warehouse,
        valkey: { available: onHand - reserved, reserved, sold },
        ledger: null,
        supply: 0,
        drift: 0,
      });
  }
  for (const balance of balances) {
    const name = `${balance.sale}/${balance.sku}/${balance.warehouse}`;
    const counts = {
      available: Number(balance.available),
      reserved: Number(balance.reserved),
      sold: Number(balance.sold),
    };
    const supply = Number(balance.supply);
    const row = rows.get(name);
    if (row) {
      row.ledger = counts;
      row.supply = supply;
    } else if (supply !== 0 || driftOf(null, counts) !== 0) {
      const { sku, warehouse } = balance;
      const saleId = balance.id ?? `number ${balance.sale}`;
      rows.set(name, {
        shard,
        sale: balance.sale,
        saleId,
        sku,
        warehouse,
        valkey: null,
        ledger: counts,
        supply,
        drift: 0,
      });
    }
  }
  for (const row of rows.values()) row.drift = driftOf(row.valkey, row.ledger);
  return { report, rows: [...rows.values()] };
}

/** Everything that was ever reported as lost. */
async function lossesOf(pool: Pool): Promise<Loss[]> {
  const { rows } = await pool.query<Omit<Loss, 'from' | 'to'> & { first: string; last: string }>(
    `select shard, epoch - 1 as epoch, report->'lost'->>'from' as first, report->'lost'->>'to' as last, 'rebuild' as by
       from ledger.rebuild where report->'lost'->>'to' is not null
     union all
     select shard, epoch, seq_first::text, seq_last::text, 'engine' from ledger.loss
      order by shard, epoch, by desc`,
  );
  return rows.map(({ first, last, ...rest }) => ({ ...rest, from: Number(first), to: Number(last) }));
}

/** Compares all shards. `waitMs`: how long the ledger may take to come to a shard's sequence. */
export async function reconcile(options: {
  pool: Pool;
  source: SnapshotSource;
  shards: number;
  waitMs: number;
  clock: Clock;
}): Promise<Reconciliation> {
  const found: Reconciliation = { shards: [], rows: [], drift: 0, losses: await lossesOf(options.pool) };
  for (let shard = 0; shard < options.shards; shard++) {
    const { report, rows } = await reconcileShard(options.pool, options.source, shard, options.waitMs, options.clock);
    found.shards.push(report);
    found.rows.push(...rows);
  }
  found.drift = found.rows.reduce((sum, row) => sum + row.drift, 0);
  return found;
}
