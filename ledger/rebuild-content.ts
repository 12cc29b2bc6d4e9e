/** What a rebuild builds: a shard's sales, stock, reservations and ids as the ledger has them, in pieces of bounded size. */
import type { PoolClient } from 'pg';
import { decodeReservationId } from '../kernel/ids.ts';
import type { Batch } from './events.ts';

/** Rows of the ledger that are read, and built, at once. */
export const pageRows = 1_000;
const stockRows = 2_000;

type LineText = { sku: string; warehouse: string; quantity: number }[];

export type RebuiltSale = {
  no: number;
  id: string;
  settings: string;
  stockDigest: string;
  state: 'open' | 'paused' | 'closed';
  stock: { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
};

export type RebuiltReservation = {
  buyer: string;
  key: string;
  state: 'held' | 'committed' | 'released' | 'expired';
  seq: number;
  /** As first answered; ms. */
  expiresAt: number;
  extendedSeconds: number;
  extensions: number;
  durability: string;
  /** When its key is forgotten, ms; 0 while it is held. */
  forgetAt: number;
  /** What it counts for its buyer. */
  units: number;
  lines: LineText;
};

export type RebuiltChanges = {
  adjustments: {
    id: string;
    sku: string;
    warehouse: string;
    units: number;
    after: { onHand: number; reserved: number; sold: number };
  }[];
  returns: { id: string; buyer: string; key: string; seq: number; lines: LineText }[];
};

/** The shard in Valkey, as a rebuild needs it. Every call rejects once another rebuild has begun. */
export type RebuildTarget = {
  /** Fences the shard; answers at which epoch it was (0: there was nothing) and its last sequence. */
  begin(): Promise<{ epoch: number; seq: number; runId: string }>;
  /** What the fenced shard's outbox has after `after`. */
  read(after: number): Promise<Batch[]>;
  clear(): Promise<void>;
  sale(sale: RebuiltSale): Promise<void>;
  book(sale: number, owners: { buyer: string; units: number }[], reservations: RebuiltReservation[]): Promise<void>;
  changes(sale: number, changes: RebuiltChanges): Promise<void>;
  finish(end: { epoch: number; seq: number; atMs: number; live: number }): Promise<void>;
};

/**
 * Gives `target` all that the ledger has of a shard, in the caller's transaction; answers how many sales. `counted` is told
 * of the live and the remembered reservations of each piece.
 */
export async function buildShard(
  client: PoolClient,
  shard: number,
  rememberMs: number,
  target: RebuildTarget,
  counted: (live: number, remembered: number) => void,
): Promise<number> {
  const sales = await buildSales(client, shard, target);
  await buildBook(client, shard, rememberMs, target, counted);
  await buildChanges(client, shard, target);
  return sales;
}

async function buildSales(client: PoolClient, shard: number, target: RebuildTarget): Promise<number> {
  const { rows } = await client.query<{
    sale: number;
    id: string;
    settings: string;
    stock_digest: string;
    state: string;
  }>('select sale, id, settings::text, stock_digest, state from ledger.sale where shard = $1 order by sale', [shard]);
  for (const { sale, id, settings, stock_digest, state } of rows) {
    const stock = await client.query<{
      sku: string;
      warehouse: string;
      available: string;
      reserved: string;
      sold: string;
    }>(
      `select sku, warehouse, available, reserved, sold from ledger.balance
        where shard = $1 and sale = $2 order by opened_seq`,
      [shard, sale],
    );
    const all = stock.rows.map((row) => ({
      ...{ sku: row.sku, warehouse: row.warehouse },
      onHand: Number(row.available) + Number(row.reserved),
      reserved: Number(row.reserved),
      sold: Number(row.sold),
    }));
    const rules = { no: sale, id, settings, stockDigest: stock_digest, state: state as RebuiltSale['state'] };
    for (let from = 0; from === 0 || from < all.length; from += stockRows)
      await target.sale({ ...rules, stock: all.slice(from, from + stockRows) });
  }
  return rows.length;
}

type BookRow = {
  sale: number;
  seq: string;
  buyer: string;
  key: string;
  state: RebuiltReservation['state'];
  lines: LineText;
  durability: string;
  first_expires_at: Date;
  expires_at: Date;
  ended_at: Date | null;
  units: number;
  extensions: number;
  returned: number;
};

async function buildBook(
  client: PoolClient,
  shard: number,
  rememberMs: number,
  target: RebuildTarget,
  counted: (live: number, remembered: number) => void,
): Promise<void> {
  const rememberedSince = new Date(Date.now() - rememberMs);
  for (let after = 0; ; ) {
    const { rows } = await client.query<BookRow>(
      `select sale, seq, buyer, key, state, lines, durability, first_expires_at, expires_at, ended_at, units, extensions,
              returned
         from ledger.reservation
        where shard = $1 and seq > $2 and (state = 'held' or ended_at > $3)
        order by seq limit $4`,
      [shard, after, rememberedSince, pageRows],
    );
    const last = rows.at(-1);
    if (!last) break;
    after = Number(last.seq);
    for (const [sale, ofSale] of Map.groupBy(rows, (row) => row.sale))
      await target.book(
        sale,
        [],
        ofSale.map((row) => ({
          ...{ buyer: row.buyer, key: row.key, state: row.state, seq: Number(row.seq), lines: row.lines },
          ...{ durability: row.durability, extensions: row.extensions },
          expiresAt: row.first_expires_at.getTime(),
          extendedSeconds: Math.round((row.expires_at.getTime() - row.first_expires_at.getTime()) / 1000),
          forgetAt: row.ended_at ? row.ended_at.getTime() + rememberMs : 0,
          units: row.units - row.returned,
        })),
      );
    const live = rows.filter((one) => one.state === 'held').length;
    counted(live, rows.length - live);
  }
  // What buyers own by reservations that are remembered no more: one pass over them all.
  await client.query(
    `declare owners no scroll cursor for
       select sale, buyer, sum(units - returned) as units from ledger.reservation
        where shard = ${Number(shard)} and state = 'committed' and ended_at <= '${rememberedSince.toISOString()}'
        group by sale, buyer having sum(units - returned) > 0`,
  );
  for (;;) {
    const { rows } = await client.query<{ sale: number; buyer: string; units: string }>(
      `fetch ${pageRows} from owners`,
    );
    if (rows.length === 0) break;
    for (const [sale, ofSale] of Map.groupBy(rows, (row) => row.sale))
      await target.book(
        sale,
        ofSale.map(({ buyer, units }) => ({ buyer, units: Number(units) })),
        [],
      );
  }
}

async function buildChanges(client: PoolClient, shard: number, target: RebuildTarget): Promise<void> {
  for (let after = 0; ; ) {
    const { rows } = await client.query<{
      sale: number;
      seq: string;
      kind: string;
      id: string;
      content: Record<string, unknown>;
    }>(
      `select sale, seq, kind, id, content from ledger.stock_change
        where shard = $1 and seq > $2 order by seq limit $3`,
      [shard, after, pageRows],
    );
    const last = rows.at(-1);
    if (!last) return;
    after = Number(last.seq);
    for (const [sale, ofSale] of Map.groupBy(rows, (row) => row.sale)) {
      const changes: RebuiltChanges = { adjustments: [], returns: [] };
      for (const { kind, id, content } of ofSale) {
        if (kind === 'returned') {
          const { reservationId, lines } = content as { reservationId: string; lines: LineText };
          const ref = decodeReservationId(reservationId);
          if (!ref) throw new Error(`the ledger has a return of ${reservationId}, which is no reservation's id`);
          changes.returns.push({ id, buyer: ref.buyer, key: ref.key, seq: ref.seq, lines });
        } else if (content.reason !== 'opening stock' || id !== 'opening') {
          const { sku, warehouse, units, after: left } = content as RebuiltChanges['adjustments'][number];
          changes.adjustments.push({ id, sku, warehouse, units, after: left });
        }
      }
      await target.changes(sale, changes);
    }
  }
}
