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
import { fieldOf, outboxEvents, type Reference, rememberMs, ShardModel, sum } from './shard-model.ts';
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

const runs = Number(process.env.STAMPEDE_MODEL_RUNS ?? 120);
/** Reservations as they were answered, so that commands can name them. */
type Run = { model: ShardModel; shard: TestShard; made: Reference[]; returned: Map<number, string> };
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
    const book = await shard.redis.hgetallBuffer(`${shard.prefix}book:${no}`);
    const entries = Object.entries(book).filter(([field]) => field.length === 12);
    const owners = entries.map(([buyer, entry]) => [buyer, entry.readUIntLE(0, 6), entry.readUIntLE(6, 6)] as const);
    expect(
      Object.fromEntries(owners.filter(([, units]) => units > 0).map(([buyer, ...units]) => [buyer, units])),
    ).toEqual(
      Object.fromEntries(
        [...sale.units]
          .filter(([, owned]) => owned > 0)
          .map(([buyer, owned]) => [short(buyer), [owned, sale.bought.get(buyer) ?? 0]]),
      ),
    );
    const [own, others] = [entries.filter(([, entry]) => entry.length > 16), Object.keys(book).length - entries.length];
    expect(own.length + others, 'reservations remembered').toBe(sale.book.size);
    expect(
      entries.reduce((sum, [, entry]) => sum + entry.readUInt32LE(12), 0),
      'as many as buyers’ entries say',
    ).toBe(others);
    for (const [, entry] of entries)
      expect(entry.readUIntLE(0, 6) + entry.readUInt32LE(12) + entry.length).toBeGreaterThan(16);
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
    expect(found.map(({ line: _line, ...rest }) => rest)).toEqual(expected);
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
    async run({ model, shard, made, returned }) {
      const [ref] = references(made, [{ pick, seconds: 0, wrong: 1 }]);
      const found = ref && model.find(ref);
      // The caller knows, from the ledger, what was bought and what of it has come back.
      if (!ref || found?.r.state !== 'committed' || (returned.get(ref.seq) ?? id) !== id) return;
      const all = found.r.lines;
      const lines = all.slice(0, Math.max(1, all.length - fewer));
      const buyer = ref.wish.buyer ?? 'ann';
      const content = JSON.stringify(['return', fieldOf(ref.wish), ref.seq, lines]);
      const expected = model.change(ref.sale, id, content, (sale) => {
        const units = sum(lines.map(({ quantity }) => quantity));
        const warehouseOf = (line: Line) => sale.stock.get(line.sku)?.find(({ name }) => name === line.warehouse);
        const owned = sale.units.get(buyer) ?? 0;
        const bought = sale.bought.get(buyer) ?? 0;
        if (bought < units || lines.some((line) => (warehouseOf(line)?.sold ?? 0) < line.quantity))
          return 'insufficientStock';
        if (!model.hasRoom(1)) return 'overloaded';
        for (const line of lines) {
          const w = warehouseOf(line);
          if (!w) throw new Error('the model lost a warehouse');
          w.sold -= line.quantity;
          w.onHand += line.quantity;
        }
        sale.units.set(buyer, owned - units);
        sale.bought.set(buyer, bought - units);
        returned.set(ref.seq, id);
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
    const answer = await shard.call(outboxTrimCommand, { acked, keep: 0xffff_ffff });
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
      const run: Run = { model: new ShardModel(), shard, made: [], returned: new Map() };
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
