/** Reads an outbox entry: what `close_call` in `includes/20-shard.lua` packs. */
import { factCodes } from './bindings.ts';
import { Reader, Writer } from './packing.ts';

/** A line of a reservation: units of a SKU from a warehouse. */
export type Line = { sku: string; warehouse: string; quantity: number };

/** Counters of an allotment. */
export type Counted = { onHand: number; reserved: number; sold: number };

/** A stock change's note (restock, adjust): `units` is signed; `after`: the counters that it left. */
export type StockChange = {
  id: string;
  sku: string;
  warehouse: string;
  units: number;
  reason: string;
  after: Counted;
};

/** One transition, as the shard wrote it. `kind` is one of `factCodes`. */
export type Fact = {
  kind: number;
  sale: number;
  saleId: string;
  buyer: string;
  key: string;
  /** Sequence of the reservation that it is about (its own, when it makes it); 0 where there is none. */
  reservation: number;
  expiresAt: number;
  durability: number;
  lines: Buffer;
  note: Buffer;
};

export type OutboxEntry = { epoch: number; atMs: number; seqFirst: number; facts: Fact[] };

const knownFormat = 1;
const nothing = Buffer.alloc(0);

/** Throws when the entry is of a format that this release doesn't know. */
export function decodeOutboxEntry(body: Buffer): OutboxEntry {
  const r = new Reader(body);
  const format = r.u8();
  if (format !== knownFormat) throw new Error(`an outbox entry of format ${format}: written by another release?`);
  const epoch = r.u32();
  const atMs = r.f64();
  const seqFirst = r.f64();
  const saleIds = new Map<number, string>();
  for (let left = r.u16(); left > 0; left--) saleIds.set(r.u32(), r.str8());
  const facts: Fact[] = [];
  for (let left = r.u16(); left > 0; left--) {
    const kind = r.u8();
    const sale = r.u32();
    const saleId = saleIds.get(sale) ?? '';
    if (kind === factCodes.reserved) {
      // Reservations that followed one another with the same lines.
      const common = { expiresAt: r.f64(), durability: r.u8(), lines: r.raw32(), note: nothing };
      const count = r.u16();
      const buyers = r.chars(count * 12);
      const keys = r.chars(count * 12);
      for (let at = 0; at < count * 12; at += 12) {
        const ref = { buyer: buyers.slice(at, at + 12), key: keys.slice(at, at + 12) };
        facts.push({ kind, sale, saleId, ...ref, reservation: seqFirst + facts.length, ...common });
      }
    } else {
      facts.push({
        kind,
        sale,
        saleId,
        buyer: r.chars(12),
        key: r.chars(12),
        reservation: r.f64(),
        expiresAt: r.f64(),
        durability: r.u8(),
        lines: r.raw32(),
        note: r.raw16(),
      });
    }
  }
  if (r.left !== 0) throw new Error('an outbox entry with bytes left over');
  return { epoch, atMs, seqFirst, facts };
}

/** The lines of a reservation as records and facts carry them. */
export function decodeLines(packed: Buffer): Line[] {
  const r = new Reader(packed);
  const lines: Line[] = [];
  while (r.left > 0) lines.push({ sku: r.str8(), warehouse: r.str8(), quantity: r.u16() });
  return lines;
}

/** As records and facts carry them. */
export function encodeLines(lines: readonly Line[]): Buffer {
  const w = new Writer(64);
  for (const { sku, warehouse, quantity } of lines) {
    w.str8(sku);
    w.str8(warehouse);
    w.u16(quantity);
  }
  return w.done();
}

export function decodeStockChange(note: Buffer): StockChange {
  const r = new Reader(note);
  return {
    ...{ id: r.str8(), sku: r.str8(), warehouse: r.str8(), units: r.f64(), reason: r.str16() },
    after: { onHand: r.u32(), reserved: r.u32(), sold: r.u32() },
  };
}

/** A sale's settings as JSON, and the digest of its opening stock. */
export function decodeSaleSet(note: Buffer): { settings: string; stockDigest: string } {
  const r = new Reader(note);
  return { settings: r.str16(), stockDigest: r.str8() };
}
