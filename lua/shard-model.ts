/** A plain model of a shard, for the property test: what the functions should answer and count. */
import { reservationCodes } from './bindings.ts';
import type { Line } from './outbox.ts';
import { type SaleOptions, type StatusName, saleArgs, type Wish } from './testing.ts';

export const rememberMs = 5_000;
export const outboxEvents = 60;
export const startMs = 4_000_000_000_000;

/** A reservation as a caller names it. */
export type Reference = { sale: number; wish: Wish; seq: number; seconds: number };

type Warehouse = { name: string; onHand: number; reserved: number; sold: number };
type State = 'held' | 'committed' | 'released' | 'expired';
type Reservation = {
  seq: number;
  state: State;
  expiresAt: number;
  deadline: number;
  extensions: number;
  lines: Line[];
};
type Sale = {
  rules: Required<Pick<SaleOptions, 'perBuyer' | 'holdMs' | 'extensions' | 'extendMs' | 'closesAt'>>;
  state: 1 | 2 | 3;
  stock: Map<string, Warehouse[]>;
  supply: Map<string, number>;
  units: Map<string, number>;
  bought: Map<string, number>;
  book: Map<string, Reservation>;
  changes: Map<string, { content: string; answer: string }>;
  due: { bucket: number; field: string }[];
};

export const sum = (numbers: number[]): number => numbers.reduce((total, one) => total + one, 0);
export const fieldOf = ({ buyer = 'ann', key = 'k' }: Wish): string => `${buyer}/${key}`;
const bucketOf = (ms: number): number => Math.ceil(ms / 100);
const perSku = (lines: Line[]): string => {
  const found = new Map<string, number>();
  for (const { sku, quantity } of lines) found.set(sku, (found.get(sku) ?? 0) + quantity);
  return JSON.stringify([...found].sort());
};

/** What a shard should do: no batches, no packing, no half measures. */
export class ShardModel {
  now = startMs;
  seq = 0;
  acked = 0;
  sales = new Map<number, Sale>();

  live(): number {
    return sum([...this.sales.values()].map(({ book }) => [...book.values()].filter((r) => r.state === 'held').length));
  }
  hasRoom(more: number): boolean {
    return this.seq - this.acked + this.live() + more <= outboxEvents;
  }
  putSale(options: SaleOptions): void {
    const { perBuyer, holdMs, extensions, extendMs, closesAt, stock } = saleArgs(options);
    const sale: Sale = {
      rules: { perBuyer, holdMs, extensions, extendMs, closesAt },
      ...{ state: 1, stock: new Map(), supply: new Map(), units: new Map(), bought: new Map() },
      ...{ book: new Map(), changes: new Map(), due: [] },
    };
    for (const { sku, warehouse: name, quantity } of stock) {
      sale.stock.set(sku, [...(sale.stock.get(sku) ?? []), { name, onHand: quantity, reserved: 0, sold: 0 }]);
      sale.supply.set(`${sku}/${name}`, quantity);
    }
    this.sales.set(this.sales.size + 1, sale);
    this.seq += 1 + stock.length;
  }
  reserve(wish: Wish): { status: StatusName; reservation?: Reservation } {
    const { sale: no = 1, buyer = 'ann', lines = {} } = wish;
    const sale = this.sales.get(no);
    if (!sale) return { status: 'unknownSale' };
    const known = sale.book.get(fieldOf(wish));
    const asked = Object.entries(lines);
    if (asked.some(([sku]) => !sale.stock.has(sku))) return { status: 'unknownSku' };
    if (known) {
      const same = perSku(known.lines) === JSON.stringify(asked.toSorted());
      return same ? { status: 'replay', reservation: known } : { status: 'mismatch' };
    }
    const available = ([sku]: [string, number]): number =>
      sum((sale.stock.get(sku) ?? []).map((w) => w.onHand - w.reserved));
    const { perBuyer, closesAt, holdMs } = sale.rules;
    if (sale.state !== 1 || (closesAt > 0 && this.now >= closesAt)) return { status: 'saleNotOpen' };
    const owned = (sale.units.get(buyer) ?? 0) + sum(asked.map(([, quantity]) => quantity));
    if (perBuyer > 0 && owned > perBuyer) return { status: 'purchaseLimit' };
    if (asked.some((line) => available(line) === 0)) return { status: 'soldOut' };
    if (asked.some((line) => available(line) < line[1])) return { status: 'insufficientStock' };
    if (!this.hasRoom(2)) return { status: 'overloaded' };
    const taken = asked.flatMap(([sku, quantity]) => {
      const warehouses = sale.stock.get(sku) ?? [];
      const whole = warehouses.find((w) => w.onHand - w.reserved >= quantity);
      let left = quantity;
      return (whole ? [whole] : warehouses).flatMap((w) => {
        const part = Math.min(left, w.onHand - w.reserved);
        w.reserved += part;
        left -= part;
        return part > 0 ? [{ sku, warehouse: w.name, quantity: part }] : [];
      });
    });
    const expiresAt = this.now + holdMs;
    const reservation: Reservation = {
      ...{ seq: ++this.seq, state: 'held', expiresAt, deadline: expiresAt, extensions: 0, lines: taken },
    };
    sale.book.set(fieldOf(wish), reservation);
    sale.units.set(buyer, owned);
    sale.due.push({ bucket: bucketOf(expiresAt), field: fieldOf(wish) });
    return { status: 'ok', reservation };
  }
  stateOf(r: Reservation): State {
    return r.state === 'held' && this.now >= r.deadline ? 'expired' : r.state;
  }
  end(sale: Sale, field: string, r: Reservation, state: State): void {
    for (const { sku, warehouse, quantity } of r.lines) {
      const w = sale.stock.get(sku)?.find(({ name }) => name === warehouse);
      if (!w) throw new Error('the model lost a warehouse');
      w.reserved -= quantity;
      if (state === 'committed') {
        w.onHand -= quantity;
        w.sold += quantity;
      }
    }
    const buyer = field.split('/')[0] ?? '';
    const units = sum(r.lines.map(({ quantity }) => quantity));
    if (state === 'committed') sale.bought.set(buyer, (sale.bought.get(buyer) ?? 0) + units);
    else sale.units.set(buyer, (sale.units.get(buyer) ?? 0) - units);
    r.state = state;
    r.deadline = this.now + rememberMs;
    sale.due.push({ bucket: bucketOf(r.deadline), field });
    this.seq++;
  }
  find({ sale: no, wish, seq }: Reference): { sale: Sale; field: string; r: Reservation } | null {
    const sale = this.sales.get(no);
    const r = sale?.book.get(fieldOf(wish));
    return sale && r && r.seq === seq ? { sale, field: fieldOf(wish), r } : null;
  }
  settle(kind: 'commit' | 'release' | 'extend', ref: Reference): string {
    const found = this.find(ref);
    if (!found) return 'unknownReservation 0';
    const { sale, field, r } = found;
    const state = this.stateOf(r);
    const wanted = kind === 'commit' ? 'committed' : 'released';
    const answer = (status: StatusName): string => `${status} ${reservationCodes[this.stateOf(r)]}`;
    if (kind !== 'extend') {
      if (state === wanted) return answer('replay');
      if (state !== 'held') return answer('ended');
      this.end(sale, field, r, wanted);
      return answer('ok');
    }
    if (state !== 'held') return answer('ended');
    const ms = ref.seconds * 1_000;
    if (r.extensions >= sale.rules.extensions || ms > sale.rules.extendMs) return answer('notAllowed');
    if (!this.hasRoom(1)) return answer('overloaded');
    r.deadline += ms;
    r.extensions++;
    sale.due.push({ bucket: bucketOf(r.deadline), field });
    this.seq++;
    return answer('ok');
  }
  sweep(): { expired: number; forgotten: number } {
    const found = { expired: 0, forgotten: 0 };
    for (const sale of this.sales.values()) {
      const due = new Set(
        sale.due.filter(({ bucket }) => bucket <= Math.floor(this.now / 100)).map(({ field }) => field),
      );
      sale.due = sale.due.filter(({ bucket }) => bucket > Math.floor(this.now / 100));
      for (const field of due) {
        const r = sale.book.get(field);
        if (!r || r.deadline > this.now) continue;
        if (r.state === 'held') {
          this.end(sale, field, r, 'expired');
          found.expired++;
        } else {
          sale.book.delete(field);
          found.forgotten++;
        }
      }
    }
    return found;
  }
  change(no: number, id: string, content: string, apply: (sale: Sale) => StatusName): string {
    const sale = this.sales.get(no);
    if (!sale) return 'unknownSale';
    const done = sale.changes.get(id);
    if (done) return done.content === content ? 'replay' : 'mismatch';
    const status = apply(sale);
    if (status !== 'ok') return status;
    sale.changes.set(id, { content, answer: status });
    this.seq++;
    return status;
  }
  counters(): Record<string, string> {
    const found: Record<string, string> = {};
    for (const [no, sale] of this.sales)
      for (const [sku, warehouses] of sale.stock)
        for (const w of warehouses) found[`${no}/${sku}/${w.name}`] = `${w.onHand}/${w.reserved}/${w.sold}`;
    return found;
  }
}
