/** What a run of events does to the tables in memory, and how it is undone. The statements of `ledger/postgres-rows.ts`, in their order. */
import type { Rows } from '../../ledger/rows.ts';
import { Fork, type Lines } from '../../ledger/store.ts';
import type { ShardTables, Tables } from './tables.ts';

const accounts = ['outside', 'available', 'reserved', 'sold'];
const intMax = 2_147_483_647;

/** Writes them all, or throws Fork and leaves nothing. Answers what undoes them. */
export function writeRows(tables: Tables, shard: ShardTables, rows: Rows): () => void {
  const undos: (() => void)[] = [];
  const undo = (): void => {
    for (const one of undos.splice(0).reverse()) one();
  };
  const set = <Key, Value>(map: Map<Key, Value>, key: Key, value: Value): void => {
    const had = map.get(key);
    undos.push(() => {
      if (had === undefined) map.delete(key);
      else map.set(key, had);
    });
    map.set(key, value);
  };
  const must = (condition: boolean, broken: string): void => {
    if (!condition) throw new Fork(broken);
  };
  /** Text of Postgres has no NUL. */
  const text = (value: string): string => {
    must(!value.includes('\0'), 'invalid byte sequence for encoding "UTF8": 0x00');
    return value;
  };
  const int = (value: number): number => {
    must(Number.isInteger(value) && Math.abs(value) <= intMax, 'integer out of range');
    return value;
  };
  const json = (value: string): string => {
    must(!value.includes('\\u0000'), 'unsupported Unicode escape sequence');
    return value;
  };

  try {
    for (const { sale, id, settings, stockDigest, state } of rows.sales) {
      const had = shard.sales.get(sale);
      if (settings === null) {
        if (had) set(shard.sales, sale, { ...had, state: text(state ?? '') });
        continue;
      }
      // What is sent is looked at, used or not.
      text(stockDigest);
      json(settings);
      const place = tables.saleIds.get(text(id));
      if (!had) {
        must(place === undefined, 'duplicate key value violates unique constraint "sale_id_key"');
        set(tables.saleIds, id, `${shard.row.shard}/${sale}`);
        set(shard.sales, sale, { sale, id, settings, stockDigest, state: 'open' });
      } else set(shard.sales, sale, { ...had, settings });
    }
    for (const { sale, sku, warehouse, seq } of rows.opened) {
      const key = `${sale}/${text(sku)}/${text(warehouse)}`;
      if (shard.balances.has(key)) continue;
      const counts = { supply: 0, available: 0, reserved: 0, sold: 0 };
      set(shard.balances, key, { sale, sku, warehouse, ...counts, openedSeq: seq });
    }
    for (const { seqFirst, seqLast, line, sale, sku, warehouse, debit, credit, units } of rows.entries) {
      const key = `${seqLast}/${line}`;
      must(!shard.entries.has(key), 'duplicate key value violates unique constraint "entry_pkey"');
      must(
        units > 0 && seqFirst <= seqLast && debit !== credit && accounts.includes(debit) && accounts.includes(credit),
        'entry_check',
      );
      set(shard.entries, key, {
        ...{ seqFirst, seqLast, sale, sku: text(sku), warehouse: text(warehouse), debit, credit, units },
      });
    }
    for (const { sale, sku, warehouse, supply, available, reserved, sold } of rows.balances) {
      const key = `${sale}/${sku}/${warehouse}`;
      const had = shard.balances.get(key);
      // Counted first in Postgres, but which of two reasons is named makes no difference.
      if (!had) throw new Fork('units moved in an allotment that was never opened');
      const now = {
        ...had,
        supply: had.supply + supply,
        available: had.available + available,
        reserved: had.reserved + reserved,
        sold: had.sold + sold,
      };
      must(now.available >= 0, 'violates check constraint "available_not_negative"');
      must(now.reserved >= 0, 'violates check constraint "reserved_not_negative"');
      must(now.sold >= 0, 'violates check constraint "sold_not_negative"');
      must(now.supply === now.available + now.reserved + now.sold, 'violates check constraint "supply_adds_up"');
      set(shard.balances, key, now);
    }
    for (const row of rows.reservations) {
      must(!shard.reservations.has(row.seq), 'duplicate key value violates unique constraint "reservation_pkey"');
      must(int(row.units) > 0 && (row.state === 'held') === (row.endedAt === null), 'reservation_check');
      set(shard.reservations, row.seq, {
        ...{ sale: row.sale, seq: row.seq, buyer: text(row.buyer), key: text(row.key), state: row.state },
        ...{ lines: JSON.parse(json(row.lines)) as Lines, durability: text(row.durability), units: row.units },
        ...{ firstExpiresAtMs: Date.parse(row.firstExpiresAt), expiresAtMs: Date.parse(row.expiresAt) },
        ...{ reservedAtMs: Date.parse(row.reservedAt), extensions: row.extensions, returned: 0 },
        ...{ endedAtMs: row.endedAt === null ? null : Date.parse(row.endedAt), endedSeq: row.endedSeq },
      });
    }
    for (const { seq, expiresAt, state, endedAt, endedSeq, extensions, returned } of rows.changes) {
      const had = shard.reservations.get(seq);
      if (!had || !(had.state === 'held' || (state === null && extensions === 0)))
        throw new Fork('a reservation ended twice, or ended without having been reserved');
      const now = {
        ...had,
        expiresAtMs: expiresAt === null ? had.expiresAtMs : Date.parse(expiresAt),
        state: state ?? had.state,
        endedAtMs: endedAt === null ? had.endedAtMs : Date.parse(endedAt),
        endedSeq: endedSeq ?? had.endedSeq,
        extensions: had.extensions + extensions,
        returned: had.returned + returned,
      };
      must(now.returned >= 0 && now.returned <= now.units, 'violates check constraint "reservation_returned_check"');
      must(now.returned === 0 || now.state === 'committed', 'violates check constraint "reservation_check"');
      must((now.state === 'held') === (now.endedAtMs === null), 'violates check constraint "reservation_check1"');
      set(shard.reservations, seq, now);
    }
    for (const { seq, sale, kind, id, content, at } of rows.stockChanges) {
      must(!shard.changes.has(seq), 'duplicate key value violates unique constraint "stock_change_pkey"');
      const what = JSON.parse(json(content)) as Record<string, unknown>;
      set(shard.changes, seq, { sale, seq, kind, id: text(id), content: what, atMs: Date.parse(at) });
    }
  } catch (error) {
    undo();
    throw error;
  }
  return undo;
}
