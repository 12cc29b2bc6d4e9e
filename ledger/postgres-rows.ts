/** The ledger's rows into Postgres: each table's in one statement, which Postgres has prepared. */
import type { PoolClient } from 'pg';
import type { Rows } from './rows.ts';
import { reservationRuns } from './runs.ts';
import { Fork } from './store.ts';

export const column = <Row, Value>(rows: Row[], pick: (row: Row) => Value): Value[] => rows.map(pick);

/** Writes the rows of a run of events, within a transaction. Throws Fork when they don't fit what is there. */
export async function writeRows(client: PoolClient, shard: number, rows: Rows): Promise<void> {
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
      text: `insert into ledger.entry (shard, seq_first, seq_last, line, sale, sku, warehouse, debit, credit, units)
             select $1, * from unnest($2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[])`,
      values: [
        shard,
        column(rows.entries, (r) => r.seqFirst),
        column(rows.entries, (r) => r.seqLast),
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
  const reservations = reservationRuns(rows.reservations);
  if (reservations.length > 0) {
    const { rowCount } = await client.query({
      name: 'ledger-reservations',
      text: `insert into ledger.reservation (shard, seq, sale, buyer, key, state, lines, durability,
                                             first_expires_at, expires_at, reserved_at, ended_at, ended_seq, units, extensions)
             select $1, r.first + o.no - 1, r.sale, o.buyer, o.key, r.state, r.lines, r.durability,
                    r.first_expires_at, r.expires_at, r.reserved_at, r.ended_at, r.ended_seq, r.units, r.extensions
               from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[],
                           $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::bigint[],
                           $14::int[], $15::int[])
                    as r(first, sale, buyers, keys, state, lines, durability,
                         first_expires_at, expires_at, reserved_at, ended_at, ended_seq, units, extensions)
              cross join lateral unnest(string_to_array(r.buyers, ' '), string_to_array(r.keys, ' '))
                    with ordinality as o(buyer, key, no)`,
      values: [
        shard,
        column(reservations, (r) => r.first),
        column(reservations, (r) => r.sale),
        column(reservations, (r) => r.buyers),
        column(reservations, (r) => r.keys),
        column(reservations, (r) => r.state),
        column(reservations, (r) => r.lines),
        column(reservations, (r) => r.durability),
        column(reservations, (r) => r.firstExpiresAt),
        column(reservations, (r) => r.expiresAt),
        column(reservations, (r) => r.reservedAt),
        column(reservations, (r) => r.endedAt),
        column(reservations, (r) => r.endedSeq),
        column(reservations, (r) => r.units),
        column(reservations, (r) => r.extensions),
      ],
    });
    if (rowCount !== rows.reservations.length)
      throw new Fork(`${rowCount} of ${rows.reservations.length} reservations were written`);
  }
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
