/** What a rebuild builds: a shard's sales, stock, reservations and ids as the ledger has them, in pieces of bounded size. */
import { decodeReservationId } from '../kernel/ids.ts';
import type { Batch } from './events.ts';
import type { Lines, ShardContent } from './store.ts';

/** Rows of the ledger that are read, and built, at once. */
export const pageRows = 1_000;
const stockRows = 2_000;

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
  lines: Lines;
};

export type RebuiltChanges = {
  adjustments: {
    id: string;
    sku: string;
    warehouse: string;
    units: number;
    after: { onHand: number; reserved: number; sold: number };
  }[];
  returns: { id: string; buyer: string; key: string; seq: number; lines: Lines }[];
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
 * Gives `target` all that the ledger has of a shard; answers how many sales. `counted` is told of the live and the remembered
 * reservations of each piece. Reservations that ended before `rememberedSinceMs` only count for what their buyers own.
 */
export async function buildShard(
  content: ShardContent,
  remember: { sinceMs: number; forMs: number },
  target: RebuildTarget,
  counted: (live: number, remembered: number) => void,
): Promise<number> {
  const sales = await buildSales(content, target);
  await buildBook(content, remember, target, counted);
  await buildChanges(content, target);
  return sales;
}

async function buildSales(content: ShardContent, target: RebuildTarget): Promise<number> {
  const sales = await content.sales();
  for (const { sale, id, settings, stockDigest, state } of sales) {
    const all = (await content.stock(sale)).map(({ sku, warehouse, available, reserved, sold }) => ({
      ...{ sku, warehouse, onHand: available + reserved, reserved, sold },
    }));
    const rules = { no: sale, id, settings, stockDigest, state: state as RebuiltSale['state'] };
    for (let from = 0; from === 0 || from < all.length; from += stockRows)
      await target.sale({ ...rules, stock: all.slice(from, from + stockRows) });
  }
  return sales.length;
}

async function buildBook(
  content: ShardContent,
  remember: { sinceMs: number; forMs: number },
  target: RebuildTarget,
  counted: (live: number, remembered: number) => void,
): Promise<void> {
  for (let after = 0; ; ) {
    const rows = await content.book(after, remember.sinceMs, pageRows);
    const last = rows.at(-1);
    if (!last) break;
    after = last.seq;
    for (const [sale, ofSale] of Map.groupBy(rows, (row) => row.sale))
      await target.book(
        sale,
        [],
        ofSale.map((row) => ({
          ...{ buyer: row.buyer, key: row.key, state: row.state, seq: row.seq, lines: row.lines },
          ...{ durability: row.durability, extensions: row.extensions },
          expiresAt: row.firstExpiresAtMs,
          extendedSeconds: Math.round((row.expiresAtMs - row.firstExpiresAtMs) / 1000),
          forgetAt: row.endedAtMs === null ? 0 : row.endedAtMs + remember.forMs,
          units: row.units - row.returned,
        })),
      );
    const live = rows.filter((one) => one.state === 'held').length;
    counted(live, rows.length - live);
  }
  // What buyers own by reservations that are remembered no more.
  for await (const rows of content.owners(remember.sinceMs, pageRows))
    for (const [sale, ofSale] of Map.groupBy(rows, (row) => row.sale))
      await target.book(
        sale,
        ofSale.map(({ buyer, units }) => ({ buyer, units })),
        [],
      );
}

async function buildChanges(content: ShardContent, target: RebuildTarget): Promise<void> {
  for (let after = 0; ; ) {
    const rows = await content.changes(after, pageRows);
    const last = rows.at(-1);
    if (!last) return;
    after = last.seq;
    for (const [sale, ofSale] of Map.groupBy(rows, (row) => row.sale)) {
      const changes: RebuiltChanges = { adjustments: [], returns: [] };
      for (const { kind, id, content: what } of ofSale) {
        if (kind === 'returned') {
          const { reservationId, lines } = what as { reservationId: string; lines: Lines };
          const ref = decodeReservationId(reservationId);
          if (!ref) throw new Error(`the ledger has a return of ${reservationId}, which is no reservation's id`);
          changes.returns.push({ id, buyer: ref.buyer, key: ref.key, seq: ref.seq, lines });
        } else if (what.reason !== 'opening stock' || id !== 'opening') {
          const { sku, warehouse, units, after: left } = what as RebuiltChanges['adjustments'][number];
          changes.adjustments.push({ id, sku, warehouse, units, after: left });
        }
      }
      await target.changes(sale, changes);
    }
  }
}
