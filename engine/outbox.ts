/** The outbox of each shard as public events: what a relay reads and trims. */
import { hash } from 'node:crypto';
import { timestamp } from '../kernel/clock.ts';
import { encodeReservationId } from '../kernel/ids.ts';
import { factCodes, outboxReadCommand, outboxTrimCommand, saleCodes, snapshotCommand } from '../lua/bindings.ts';
import {
  decodeLines,
  decodeOutboxEntry,
  decodeSaleSet,
  decodeStockChange,
  type Fact,
  type Line,
  type StockChange,
} from '../lua/outbox.ts';
import { type Durability, durabilityOf } from './durability.ts';
import type { Shards } from './shards.ts';

type About = { seq: number; saleId: string; sale: number };
type OfReservation = { reservationId: string; buyerId: string; lines: Line[] };
type OfStock = StockChange;

export type OutboxEvent = About &
  (
    | ({ type: 'reserved'; expiresAt: string; durability: Durability } & OfReservation)
    | ({ type: 'extended'; expiresAt: string } & OfReservation)
    | ({ type: 'committed' | 'released' | 'expired' } & OfReservation)
    | ({ type: 'returned'; id: string } & OfReservation)
    | ({ type: 'restocked' | 'adjusted' } & OfStock)
    | { type: 'sale-set'; settings: Record<string, unknown>; stockDigest: string }
    | { type: 'sale-state'; state: 'open' | 'paused' | 'closed' }
  );

export type OutboxBatch = {
  format: 1;
  shard: number;
  epoch: number;
  seqFirst: number;
  seqLast: number;
  at: string;
  digest: string;
  events: OutboxEvent[];
};

const saleStates = new Map(
  Object.entries(saleCodes).map(([name, code]) => [code as number, name as keyof typeof saleCodes]),
);

function eventOf(shard: number, seq: number, fact: Fact): OutboxEvent {
  const about = { seq, saleId: fact.saleId, sale: fact.sale };
  const reservation = (): OfReservation => ({
    reservationId: encodeReservationId({
      shard,
      sale: fact.sale,
      seq: fact.reservation,
      buyer: fact.buyer,
      key: fact.key,
    }),
    buyerId: fact.buyer,
    lines: decodeLines(fact.lines),
  });
  switch (fact.kind) {
    case factCodes.reserved:
      return {
        type: 'reserved',
        ...about,
        ...reservation(),
        expiresAt: timestamp(fact.expiresAt),
        durability: durabilityOf(fact.durability),
      };
    case factCodes.extended:
      return { type: 'extended', ...about, ...reservation(), expiresAt: timestamp(fact.expiresAt) };
    case factCodes.committed:
      return { type: 'committed', ...about, ...reservation() };
    case factCodes.released:
      return { type: 'released', ...about, ...reservation() };
    case factCodes.expired:
      return { type: 'expired', ...about, ...reservation() };
    case factCodes.returned:
      return { type: 'returned', ...about, ...reservation(), id: fact.note.toString('utf8') };
    case factCodes.restocked:
      return { type: 'restocked', ...about, ...decodeStockChange(fact.note) };
    case factCodes.adjusted:
      return { type: 'adjusted', ...about, ...decodeStockChange(fact.note) };
    case factCodes.saleSet: {
      const { settings, stockDigest } = decodeSaleSet(fact.note);
      return { type: 'sale-set', ...about, settings: JSON.parse(settings), stockDigest };
    }
    case factCodes.saleState: {
      const state = saleStates.get(Number(fact.note.toString('utf8')));
      if (!state) throw new Error('an event with a sale state that this release doesn’t know');
      return { type: 'sale-state', ...about, state };
    }
    default:
      throw new Error(`an event of kind ${fact.kind}, which this release doesn’t know`);
  }
}

/** An outbox entry as the public batch that it is. */
export function batchOf(shard: number, body: Buffer): OutboxBatch {
  const entry = decodeOutboxEntry(body);
  return {
    format: 1,
    shard,
    epoch: entry.epoch,
    seqFirst: entry.seqFirst,
    seqLast: entry.seqFirst + entry.facts.length - 1,
    at: timestamp(entry.atMs),
    digest: hash('sha256', body, 'base64url'),
    events: entry.facts.map((fact, i) => eventOf(shard, entry.seqFirst + i, fact)),
  };
}

export type Counters = { sku: string; warehouse: string; onHand: number; reserved: number; sold: number };

/** A shard's counters at one sequence. */
export type ShardSnapshot = {
  epoch: number;
  seq: number;
  sales: { no: number; id: string; stock: Counters[] }[];
};

export type Outbox = {
  /** Up to `max` entries after sequence `after`, oldest first; `seq` is the shard's last, `acked` what the ledger had. */
  read(shard: number, after: number, max: number): Promise<{ seq: number; acked: number; batches: OutboxBatch[] }>;
  /** Tells the shard how far the ledger is; what it has is dropped, less the last `keep` events. */
  trim(shard: number, acked: number, keep: number): Promise<void>;
  snapshot(shard: number): Promise<ShardSnapshot>;
};

export function createOutbox(shards: Shards): Outbox {
  return {
    async read(shard, after, max) {
      const { seq, acked, entries } = await shards.call(shard, outboxReadCommand, { after, max });
      return { seq, acked, batches: entries.map((entry) => batchOf(shard, entry.body)) };
    },
    async trim(shard, acked, keep) {
      await shards.call(shard, outboxTrimCommand, { acked, keep });
    },
    async snapshot(shard) {
      const { epoch, seq, sales } = await shards.call(shard, snapshotCommand, {});
      return { epoch, seq, sales };
    },
  };
}
