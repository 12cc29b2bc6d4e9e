/** The ledger's decisions on real Postgres. */
import { DatabaseError, type Pool, type PoolClient } from 'pg';
import type { Batch } from './events.ts';
import { createRebuildStore } from './postgres-rebuild.ts';
import type { Rows } from './rows.ts';
import { Fork, type LedgerStore, type ShardRow, type ShardTransaction, type Watermark } from './store.ts';

const column = <Row, Value>(rows: Row[], pick: (row: Row) => Value): Value[] => rows.map(pick);

async function writeRows(client: PoolClient, shard: number, rows: Rows): Promise<void> {
  for (const sale of rows.sales) {
    if (sale.settings)
      await client.query(
        `insert into ledger.sale (shard, sale, id, settings, stock_digest) values ($1, $2, $3, $4, $5)
         on conflict (shard, sale) do update set settings = excluded.settings`,
        [shard, sale.sale, sale.id, sale.settings, sale.stockDigest],
      );
    else
      await client.query('update ledger.sale set state = $3 where shard = $1 and sale = $2', [
        shard,
        sale.sale,
        sale.state,
      ]);
  }
  if (rows.opened.length > 0)
    await client.query(
      `insert into ledger.balance (shard, sale, sku, warehouse, opened_seq)
       select $1, * from unnest($2::int[], $3::text[], $4::text[], $5::bigint[]) on conflict do nothing`,
      [
        shard,
        column(rows.opened, (r) => r.sale),
        column(rows.opened, (r) => r.sku),
        column(rows.opened, (r) => r.warehouse),
        column(rows.opened, (r) => r.seq),
      ],
    );
  if (rows.entries.length > 0)
    await client.query({
      name: 'ledger-entries',
      text: `insert into ledger.entry (shard, seq, line, sale, sku, warehouse, debit, credit, units)
             select $1, * from unnest($2::bigint[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[])`,
      values: [
        shard,
        column(rows.entries, (r) => r.seq),
        column(rows.entries, (r) => r.line),
        column(rows.entries, (r) => r.sale),
        column(rows.entries, (r) => r.sku),
        column(rows.entries, (r) => r.warehouse),
        column(rows.entries, (r) => r.debit),
        column(rows.entries, (r) => r.credit),
        column(rows.entries, (r) => r.units),
      ],
    });
  if (rows.balances.length > 0) {
    const { rowCount } = await client.query({
      name: 'ledger-balances',
      text: `update ledger.balance b
                set supply = b.supply + d.supply, available = b.available + d.available,
                    reserved = b.reserved + d.reserved, sold = b.sold + d.sold
               from unnest($2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
                    as d(sale, sku, warehouse, supply, available, reserved, sold)
              where b.shard = $1 and b.sale = d.sale and b.sku = d.sku and b.warehouse = d.warehouse`,
      values: [
        shard,
        column(rows.balances, (r) => r.sale),
        column(rows.balances, (r) => r.sku),
        column(rows.balances, (r) => r.warehouse),
        column(rows.balances, (r) => r.supply),
        column(rows.balances, (r) => r.available),
        column(rows.balances, (r) => r.reserved),
        column(rows.balances, (r) => r.sold),
      ],
    });
    if (rowCount !== rows.balances.length) throw new Fork('units moved in an allotment that was never opened');
  }
  if (rows.reservations.length > 0)
    await client.query({
      name: 'ledger-reservations',
      text: `insert into ledger.reservation (shard, seq, sale, buyer, key, state, lines, durability,
                                             first_expires_at, expires_at, reserved_at, ended_at, ended_seq, units, extensions)
             select $1, * from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[],
                                      $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::bigint[],
                                      $14::int[], $15::int[])`,
      values: [
        shard,
        column(rows.reservations, (r) => r.seq),
        column(rows.reservations, (r) => r.sale),
        column(rows.reservations, (r) => r.buyer),
        column(rows.reservations, (r) => r.key),
        column(rows.reservations, (r) => r.state),
        column(rows.reservations, (r) => r.lines),
        column(rows.reservations, (r) => r.durability),
        column(rows.reservations, (r) => r.firstExpiresAt),
        column(rows.reservations, (r) => r.expiresAt),
        column(rows.reservations, (r) => r.reservedAt),
        column(rows.reservations, (r) => r.endedAt),
        column(rows.reservations, (r) => r.endedSeq),
        column(rows.reservations, (r) => r.units),
        column(rows.reservations, (r) => r.extensions),
      ],
    });
  if (rows.changes.length > 0) {
    const { rowCount } = await client.query({
      name: 'ledger-changes',
      text: `update ledger.reservation r
                set expires_at = coalesce(d.expires_at, r.expires_at), state = coalesce(d.state, r.state),
                    ended_at = coalesce(d.ended_at, r.ended_at), ended_seq = coalesce(d.ended_seq, r.ended_seq),
                    extensions = r.extensions + d.extensions, returned = r.returned + d.returned
               from unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::bigint[], $7::int[], $8::int[])
                    as d(seq, expires_at, state, ended_at, ended_seq, extensions, returned)
              where r.shard = $1 and r.seq = d.seq
                and (r.state = 'held' or (d.state is null and d.extensions = 0))`,
      values: [
        shard,
        column(rows.changes, (r) => r.seq),
        column(rows.changes, (r) => r.expiresAt),
        column(rows.changes, (r) => r.state),
        column(rows.changes, (r) => r.endedAt),
        column(rows.changes, (r) => r.endedSeq),
        column(rows.changes, (r) => r.extensions),
        column(rows.changes, (r) => r.returned),
      ],
    });
    if (rowCount !== rows.changes.length)
      throw new Fork('a reservation ended twice, or ended without having been reserved');
  }
  if (rows.stockChanges.length > 0)
    await client.query(
      `insert into ledger.stock_change (shard, seq, sale, kind, id, content, at)
       select $1, * from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[])`,
      [
        shard,
        column(rows.stockChanges, (r) => r.seq),
        column(rows.stockChanges, (r) => r.sale),
        column(rows.stockChanges, (r) => r.kind),
        column(rows.stockChanges, (r) => r.id),
        column(rows.stockChanges, (r) => r.content),
        column(rows.stockChanges, (r) => r.at),
      ],
    );
}

async function quarantine(
  client: Pick<PoolClient, 'query'>,
  shard: number,
  batches: Batch[],
  reason: string,
): Promise<void> {
  for (const batch of batches)
    await client.query(
      `insert into ledger.quarantine (shard, epoch, seq_first, seq_last, digest, reason, batch)
       values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing`,
      [shard, batch.epoch, batch.seqFirst, batch.seqLast, batch.digest, reason, JSON.stringify(batch)],
    );
}

async function writeBatches(client: PoolClient, shard: number, fresh: Batch[]): Promise<void> {
  await client.query({
    name: 'ledger-batches',
    text: `insert into ledger.batch (shard, seq_last, seq_first, epoch, at, digest)
           select $1, * from unnest($2::bigint[], $3::bigint[], $4::int[], $5::timestamptz[], $6::text[])`,
    values: [
      shard,
      column(fresh, (b) => b.seqLast),
      column(fresh, (b) => b.seqFirst),
      column(fresh, (b) => b.epoch),
      column(fresh, (b) => b.at),
      column(fresh, (b) => b.digest),
    ],
  });
  const last = fresh.at(-1);
  await client.query('update ledger.shard set watermark = $2, watermark_at = $3 where shard = $1', [
    shard,
    last?.seqLast,
    last?.at,
  ]);
}

/** Bad data (class 22) and integrity violations (23) come from the events; anything else from Postgres, and may pass. */
function isPoison(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && /^2[23]/.test(error.code ?? '');
}

/** How far the ledger is with a shard. */
export async function readWatermark(pool: Pool, shard: number): Promise<Watermark> {
  const { rows } = await pool.query<{ watermark: string; stopped: string | null }>(
    'select watermark, stopped from ledger.shard where shard = $1',
    [shard],
  );
  return { watermark: Number(rows[0]?.watermark ?? 0), stopped: rows[0]?.stopped ?? null };
}

async function lockShard(client: PoolClient, shard: number): Promise<ShardRow | null> {
  const { rows } = await client.query<{
    last_epoch: number | null;
    epoch: number;
    closed_epoch: number;
    closed_seq: string;
    watermark: string;
    stopped: string | null;
  }>(
    `select epoch, watermark, stopped, closed_epoch, closed_seq,
            (select b.epoch from ledger.batch b where b.shard = s.shard and b.seq_last = s.watermark) as last_epoch
       from ledger.shard s where shard = $1 for update`,
    [shard],
  );
  const row = rows[0];
  if (!row) return null;
  return {
    ...{ epoch: row.epoch, lastEpoch: row.last_epoch, closedEpoch: row.closed_epoch },
    ...{ closedSeq: Number(row.closed_seq), watermark: Number(row.watermark), stopped: row.stopped },
  };
}

const transactionOn = (client: PoolClient, shard: number, row: ShardRow | null): ShardTransaction => ({
  row,
  async batchesAt(seqs) {
    const { rows } = await client.query<{ seq_last: string; digest: string; epoch: number }>(
      'select seq_last, digest, epoch from ledger.batch where shard = $1 and seq_last = any($2::bigint[])',
      [shard, seqs],
    );
    return rows.map(({ seq_last, ...rest }) => ({ seqLast: Number(seq_last), ...rest }));
  },
  quarantine: (batches, reason) => quarantine(client, shard, batches, reason),
  writeRows: (written) => writeRows(client, shard, written),
  writeBatches: (batches) => writeBatches(client, shard, batches),
});

export function createLedgerStore(pool: Pool): LedgerStore {
  return {
    ...createRebuildStore(pool),
    watermark: (shard) => readWatermark(pool, shard),
    async transaction(shard, work) {
      const client = await pool.connect();
      let broken: Error | undefined;
      try {
        await client.query('begin');
        const answer = await work(transactionOn(client, shard, await lockShard(client, shard)));
        await client.query('commit');
        return answer;
      } catch (error) {
        await client.query('rollback').catch((failed: Error) => {
          broken = failed;
        });
        throw isPoison(error) ? new Fork(error.message, { cause: error }) : error;
      } finally {
        client.release(broken);
      }
    },
    async stop(shard, reason) {
      await pool.query('update ledger.shard set stopped = $2 where shard = $1 and stopped is null', [shard, reason]);
    },
    quarantine: (shard, batches, reason) => quarantine(pool, shard, batches, reason),
  };
}
