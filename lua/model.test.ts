/**
 * The functions beside a plain model of a shard: random commands, the same answers and the same counters after each.
 * STAMPEDE_MODEL_RUNS sets how many sequences are tried.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createOutbox } from '../engine/outbox.ts';
import type { Shards } from '../engine/shards.ts';
import { decodeReservationId } from '../kernel/ids.ts';
import type { Batch } from '../ledger/events.ts';
import { rowsOf } from '../ledger/rows.ts';
import {
  adjustCommand,
  commitCommand,
  expireCommand,
  extendCommand,
  outboxTrimCommand,
  putSaleCommand,
  readReservationsCommand,
  releaseCommand,
  reservationCodes,
  returnUnitsCommand,
  setSaleStateCommand,
  shardStatusCommand,
  snapshotCommand,
} from './bindings.ts';
import type { Line } from './outbox.ts';
import {
  holdTime,
  makeSale,
  openTestShard,
  reference,
  reserve,
  type SaleOptions,
  type StatusName,
  type Stock,
  saleArgs,
  short,
  startTestValkey,
  statusName,
  type TestShard,
  type TestValkey,
  type Wish,
} from './testing.ts';

const runs = Number(process.env.STAMPEDE_MODEL_RUNS ?? 60);
const rememberMs = 5_000;
const outboxEvents = 60;
const startMs = 4_000_000_000_000;

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
  book: Map<string, Reservation>;
  changes: Map<string, { content: string; answer: string }>;
  due: { bucket: number; field: string }[];
};

const sum = (numbers: number[]): number => numbers.reduce((total, one) => total + one, 0);
const fieldOf = ({ buyer = 'ann', key = 'k' }: Wish): string => `${buyer}/${key}`;
const bucketOf = (ms: number): number => Math.ceil(ms / 100);
const perSku = (lines: Line[]): string => {
  const found = new Map<string, number>();
  for (const { sku, quantity } of lines) found.set(sku, (found.get(sku) ?? 0) + quantity);
  return JSON.stringify([...found].sort());
};

/** What a shard should do: no batches, no packing, no half measures. */
class Model {
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
      ...{ state: 1, stock: new Map(), supply: new Map(), units: new Map() },
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
    if (state !== 'committed') sale.units.set(buyer, (sale.units.get(buyer) ?? 0) - units);
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

type Reference = { sale: number; wish: Wish; seq: number; seconds: number };
/** Reservations as they were answered, so that commands can name them. */
type Run = { model: Model; shard: TestShard; made: Reference[] };
type Step = { text: string; run(run: Run): Promise<void> };

async function compare({ model, shard }: Run): Promise<void> {
  const snapshot = await shard.call(snapshotCommand, {});
  const found: Record<string, string> = {};
  for (const { no, stock } of snapshot.sales)
    for (const { sku, warehouse, onHand, reserved, sold } of stock) {
      found[`${no}/${sku}/${warehouse}`] = `${onHand}/${reserved}/${sold}`;
      // Never oversold: every unit of the supply is available, reserved or sold; none of them below zero.
      expect(onHand - reserved).toBeGreaterThanOrEqual(0);
      expect(onHand + sold, 'the supply').toBe(model.sales.get(no)?.supply.get(`${sku}/${warehouse}`));
    }
  expect(found).toEqual(model.counters());
  expect([snapshot.seq, snapshot.live, snapshot.now]).toEqual([model.seq, model.live(), model.now]);
  for (const [no, sale] of model.sales) {
    const book = await shard.redis.hgetall(`${shard.prefix}book:${no}`);
    const units = Object.entries(book).filter(([field]) => field.length === 12);
    const owners = [...sale.units]
      .filter(([, owned]) => owned > 0)
      .map(([buyer, owned]) => [short(buyer), String(owned)]);
    expect(Object.fromEntries(units)).toEqual(Object.fromEntries(owners));
    expect(Object.keys(book).length - units.length, 'reservations remembered').toBe(sale.book.size);
    // The first sale's rules never change.
    if (no === 1) for (const owned of sale.units.values()) expect(owned).toBeLessThanOrEqual(6);
  }
}

const buyers = fc.constantFrom('ann', 'bob', 'cem');
const saleNo = fc.oneof(
  { weight: 6, arbitrary: fc.constant(1) },
  { weight: 4, arbitrary: fc.constant(2) },
  { weight: 1, arbitrary: fc.constant(3) },
);
const skus = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom('shoe', 'hat', 'scarf') },
  { weight: 1, arbitrary: fc.constant('boot') },
);
const wish: fc.Arbitrary<Wish> = fc.record({
  sale: saleNo,
  buyer: buyers,
  key: fc.constantFrom('k0', 'k1', 'k2', 'k3', 'k4'),
  lines: fc
    .uniqueArray(fc.tuple(skus, fc.integer({ min: 1, max: 5 })), {
      minLength: 1,
      maxLength: 3,
      selector: ([sku]) => sku,
    })
    .map((lines) => Object.fromEntries(lines)),
});

const reserveStep: fc.Arbitrary<Step> = fc.array(wish, { minLength: 1, maxLength: 6 }).map((wishes) => ({
  text: `reserve ${JSON.stringify(wishes)}`,
  async run({ model, shard, made }) {
    const expected = wishes.map((one) => {
      const { status, reservation: r } = model.reserve(one);
      return { status, seq: r?.seq ?? 0, expiresAt: r?.expiresAt ?? 0, lines: r?.lines ?? [] };
    });
    const found = await reserve(shard, wishes);
    expect(found.map(({ item: _item, ...rest }) => rest)).toEqual(expected);
    for (const [i, { status, seq }] of found.entries())
      if (status === 'ok') made.push({ sale: wishes[i]?.sale ?? 1, wish: wishes[i] ?? {}, seq, seconds: 0 });
  },
}));

const picks = fc.array(
  fc.record({ pick: fc.nat(), seconds: fc.constantFrom(1, 2, 3), wrong: fc.integer({ min: 0, max: 19 }) }),
  {
    minLength: 1,
    maxLength: 5,
  },
);
const references = (made: Reference[], chosen: { pick: number; seconds: number; wrong: number }[]): Reference[] =>
  chosen.map(({ pick, seconds, wrong }) => {
    // Mostly recent ones: old ones were forgotten.
    const one = made[made.length - 1 - (pick % Math.min(made.length, 8))] ?? { sale: 1, wish: {}, seq: 1, seconds };
    return { ...one, seconds, seq: wrong === 0 ? one.seq + 1 : one.seq };
  });
const packed = ({ sale, wish: one, seq, seconds }: Reference) => reference(seq, { ...one, sale }, seconds);

const settles = { commit: commitCommand, release: releaseCommand, extend: extendCommand } as const;
const settleStep: fc.Arbitrary<Step> = fc
  .tuple(fc.constantFrom('commit', 'commit', 'release', 'extend'), picks)
  .map(([kind, chosen]) => ({
    text: `${kind} ${JSON.stringify(chosen)}`,
    async run({ model, shard, made }) {
      const refs = references(made, chosen);
      const expected = refs.map((ref) => model.settle(kind, ref));
      const { results } = await shard.call(settles[kind], { references: refs.map(packed) });
      expect(results.map(({ status, state }) => `${statusName(status)} ${state}`)).toEqual(expected);
    },
  }));

const readStep: fc.Arbitrary<Step> = picks.map((chosen) => ({
  text: `read ${JSON.stringify(chosen)}`,
  async run({ model, shard, made }) {
    const refs = references(made, chosen);
    const { results } = await shard.call(readReservationsCommand, { references: refs.map(packed) });
    expect(results.map(({ state }) => state)).toEqual(
      refs.map((ref) => {
        const found = model.find(ref);
        return found ? reservationCodes[model.stateOf(found.r)] : 0;
      }),
    );
  },
}));

const sweepStep: fc.Arbitrary<Step> = fc.integer({ min: 1, max: 8 }).map((max) => ({
  text: `sweep ${max}`,
  async run({ model, shard }) {
    const found = { expired: 0, forgotten: 0 };
    for (let more = 1; more === 1; ) {
      const answer = await shard.call(expireCommand, { max });
      found.expired += answer.expired;
      found.forgotten += answer.forgotten;
      more = answer.more;
    }
    expect(found).toEqual(model.sweep());
  },
}));

const timeStep: fc.Arbitrary<Step> = fc.constantFrom(1, 99, 100, 500, 999, 1_000, 2_001, 5_000).map((ms) => ({
  text: `${ms} ms pass`,
  async run({ model, shard }) {
    model.now += ms;
    await holdTime(shard, model.now);
  },
}));

const warehouses = fc.constantFrom('east', 'west', 'north');
const adjustStep: fc.Arbitrary<Step> = fc
  .record({
    sale: saleNo,
    id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'),
    sku: skus,
    warehouse: warehouses,
    delta: fc.integer({ min: -6, max: 6 }),
    open: fc.constantFrom(0, 1),
  })
  .map((args) => ({
    text: `adjust ${JSON.stringify(args)}`,
    async run({ model, shard }) {
      const { sale: no, id, sku, warehouse, delta, open } = args;
      const expected = model.change(no, id, `adjust ${sku} ${warehouse} ${delta}`, (sale) => {
        let all = sale.stock.get(sku);
        let w = all?.find(({ name }) => name === warehouse);
        if (!w && (open === 0 || delta <= 0)) return 'unknownSku';
        if (w && w.onHand - w.reserved + delta < 0) return 'insufficientStock';
        if (!model.hasRoom(1)) return 'overloaded';
        if (!w) {
          all ??= [];
          sale.stock.set(sku, all);
          w = { name: warehouse, onHand: 0, reserved: 0, sold: 0 };
          all.push(w);
        }
        w.onHand += delta;
        sale.supply.set(`${sku}/${warehouse}`, w.onHand + w.sold);
        return 'ok';
      });
      expect(statusName((await shard.call(adjustCommand, { ...args, reason: 'counted' })).status)).toBe(expected);
    },
  }));

const returnStep: fc.Arbitrary<Step> = fc
  .record({ pick: fc.nat(), id: fc.constantFrom('r', 's', 't', 'u', 'a'), fewer: fc.nat({ max: 2 }) })
  .map(({ pick, id, fewer }) => ({
    text: `return ${pick} ${id} ${fewer}`,
    async run({ model, shard, made }) {
      const [ref] = references(made, [{ pick, seconds: 0, wrong: 1 }]);
      const all = ref && model.find(ref)?.r.lines;
      if (!ref || !all) return;
      const lines = all.slice(0, Math.max(1, all.length - fewer));
      const buyer = ref.wish.buyer ?? 'ann';
      const content = JSON.stringify(['return', fieldOf(ref.wish), ref.seq, lines]);
      const expected = model.change(ref.sale, id, content, (sale) => {
        const units = sum(lines.map(({ quantity }) => quantity));
        const warehouseOf = (line: Line) => sale.stock.get(line.sku)?.find(({ name }) => name === line.warehouse);
        const owned = sale.units.get(buyer) ?? 0;
        if (owned < units || lines.some((line) => (warehouseOf(line)?.sold ?? 0) < line.quantity))
          return 'insufficientStock';
        if (!model.hasRoom(1)) return 'overloaded';
        for (const line of lines) {
          const w = warehouseOf(line);
          if (!w) throw new Error('the model lost a warehouse');
          w.sold -= line.quantity;
          w.onHand += line.quantity;
        }
        sale.units.set(buyer, owned - units);
        return 'ok';
      });
      const { sale, buyer: packedBuyer, key, seq } = packed(ref);
      const answer = await shard.call(returnUnitsCommand, { sale, buyer: packedBuyer, key, seq, id, lines });
      expect(statusName(answer.status)).toBe(expected);
    },
  }));

const stateStep: fc.Arbitrary<Step> = fc
  .tuple(
    saleNo,
    fc.oneof({ weight: 20, arbitrary: fc.constantFrom<1 | 2>(1, 1, 2) }, { weight: 1, arbitrary: fc.constant<3>(3) }),
  )
  .map(([no, state]) => ({
    text: `state ${no} ${state}`,
    async run({ model, shard }) {
      const sale = model.sales.get(no);
      let expected: StatusName = 'ok';
      if (!sale) expected = 'unknownSale';
      else if (sale.state === 3 && state !== 3) expected = 'notAllowed';
      else if (sale.state === state) expected = 'replay';
      if (sale && expected === 'ok') {
        sale.state = state;
        model.seq++;
      }
      expect(statusName((await shard.call(setSaleStateCommand, { sale: no, state })).status)).toBe(expected);
    },
  }));

const trimStep: fc.Arbitrary<Step> = fc.double({ min: 0, max: 1, noNaN: true }).map((part) => ({
  text: `trim ${part}`,
  async run({ model, shard }) {
    const acked = Math.floor(model.seq * part);
    model.acked = Math.max(model.acked, acked);
    // All is kept: at the end the outbox is replayed from its first entry.
    const answer = await shard.call(outboxTrimCommand, { acked, ackedAt: 0, keep: 0xffff_ffff });
    expect(answer).toEqual({ seq: model.seq, acked: model.acked });
  },
}));

const rulesStep: fc.Arbitrary<Step> = fc
  .record({
    perBuyer: fc.constantFrom(0, 3, 6),
    holdMs: fc.constantFrom(1_000, 2_000),
    closesIn: fc.constantFrom(0, 0, 3_000),
  })
  .map(({ perBuyer, holdMs, closesIn }) => ({
    text: `rules ${perBuyer} ${holdMs} ${closesIn}`,
    async run({ model, shard }) {
      const sale = model.sales.get(2);
      if (!sale) return;
      const rules = { ...sale.rules, perBuyer, holdMs, closesAt: closesIn === 0 ? 0 : model.now + closesIn };
      const room = model.hasRoom(1);
      if (room) {
        sale.rules = rules;
        model.seq++;
      }
      const { status } = await shard.call(putSaleCommand, saleArgs({ id: 'two', digest: '', stock: {}, ...rules }));
      expect(statusName(status)).toBe(room ? 'ok' : 'overloaded');
    },
  }));

const step = fc.oneof(
  { weight: 8, arbitrary: reserveStep },
  { weight: 6, arbitrary: settleStep },
  { weight: 2, arbitrary: readStep },
  { weight: 3, arbitrary: sweepStep },
  { weight: 4, arbitrary: timeStep },
  { weight: 3, arbitrary: adjustStep },
  { weight: 2, arbitrary: returnStep },
  { weight: 1, arbitrary: stateStep },
  { weight: 3, arbitrary: trimStep },
  { weight: 1, arbitrary: rulesStep },
);

/** A counterexample is a list of what was done. */
const printed = step.map((one) => ({ ...one, [fc.toStringMethod]: () => one.text }));

/** The ledger's balances, out of the outbox alone, must be the shard's counters. */
async function replay({ model, shard }: Run): Promise<void> {
  const call: Shards['call'] = (_number, command, args) => shard.call(command, args);
  const { batches } = await createOutbox({ call } as Shards).read(shard.number, 0, 10_000);
  const rows = rowsOf(batches as Batch[], decodeReservationId);
  const balances = rows.balances.filter(({ supply, sold, reserved }) => supply !== 0 || sold !== 0 || reserved !== 0);
  const replayed = Object.fromEntries(
    balances.map((b) => [`${b.sale}/${b.sku}/${b.warehouse}`, `${b.available + b.reserved}/${b.reserved}/${b.sold}`]),
  );
  const live = Object.entries(model.counters()).filter(([, text]) => text !== '0/0/0');
  expect(replayed).toEqual(Object.fromEntries(live));
  expect(balances.every((b) => b.supply === b.available + b.reserved + b.sold)).toBe(true);
  expect(rows.reservations.filter(({ state }) => state === 'held')).toHaveLength(model.live());
}

const sales: { options: SaleOptions & { stock: Stock } }[] = [
  {
    options: {
      ...{ id: 'one', perBuyer: 6, holdMs: 2_000, extensions: 1, extendMs: 2_000 },
      stock: { shoe: { east: 3, west: 4 }, hat: { west: 2, east: 2, north: 1 }, scarf: { east: 8 } },
    },
  },
  {
    options: {
      ...{ id: 'two', perBuyer: 0, holdMs: 1_000, extensions: 2, extendMs: 3_000 },
      stock: { shoe: { east: 6 }, hat: { north: 0, east: 3 }, scarf: { west: 1, east: 1, north: 1 } },
    },
  },
];

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey({ appendfsync: 'everysec' });
});
afterAll(async () => {
  await server.stop();
});

test('any sequence of commands answers and counts as the model does', { timeout: 600_000 }, async () => {
  let commands = 0;
  const seen = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(fc.array(printed, { minLength: 1, maxLength: 80, size: 'max' }), async (steps) => {
      const shard = await openTestShard(server, { rememberMs, outboxEvents });
      const run: Run = { model: new Model(), shard, made: [] };
      await holdTime(shard, run.model.now);
      for (const { options } of sales) {
        await makeSale(shard, options);
        run.model.putSale(options);
      }
      for (const one of steps) {
        await one.run(run);
        await compare(run);
        commands++;
        const kind = one.text.split(' ')[0] ?? '';
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
      }
      await replay(run);
      const { seq } = await shard.call(shardStatusCommand, {});
      expect(seq).toBe(run.model.seq);
    }),
    { numRuns: runs },
  );
  expect(seen.size).toBeGreaterThanOrEqual(9);
  expect(commands).toBeGreaterThan(runs * 10);
});
