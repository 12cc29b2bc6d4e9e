/** Random commands for a shard and for its model: each is done to both, and must be answered alike. */
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { expect } from 'vitest';
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
} from './bindings.ts';
import type { Line } from './outbox.ts';
import { fieldOf, type Reference, type ShardModel, sum } from './shard-model.ts';
import {
  type CallOptions,
  holdTime,
  reference,
  reserve,
  type StatusName,
  saleArgs,
  statusName,
  type TestShard,
  type Wish,
} from './testing.ts';

/** As `expect(found).toEqual(expected)`, at a small part of its cost where they are the same. */
export function agree(found: unknown, expected: unknown, what = ''): void {
  if (!isDeepStrictEqual(found, expected)) expect(found, what).toEqual(expected);
}

/** `made`: reservations as they were answered, so that commands can name them. */
export type Run = { model: ShardModel; shard: TestShard; made: Reference[]; returned: Map<number, string> };
/** `requests`: what the command asks for, each by itself: a batch is as many as are in it. */
export type Step = { text: string; requests: number; run(run: Run): Promise<void> };

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
  requests: wishes.length,
  async run({ model, shard, made }) {
    const expected = wishes.map((one) => {
      const { status, reservation: r } = model.reserve(one);
      return { status, seq: r?.seq ?? 0, expiresAt: r?.expiresAt ?? 0, lines: r?.lines ?? [] };
    });
    const found = await reserve(shard, wishes);
    agree(
      found.map(({ line: _line, ...rest }) => rest),
      expected,
    );
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
    requests: chosen.length,
    async run({ model, shard, made }) {
      const refs = references(made, chosen);
      const expected = refs.map((ref) => model.settle(kind, ref));
      const { results } = await shard.call(settles[kind], { references: refs.map(packed) });
      agree(
        results.map(({ status, state }) => `${statusName(status)} ${state}`),
        expected,
      );
    },
  }));

const readStep: fc.Arbitrary<Step> = picks.map((chosen) => ({
  text: `read ${JSON.stringify(chosen)}`,
  requests: chosen.length,
  async run({ model, shard, made }) {
    const refs = references(made, chosen);
    const { results } = await shard.call(readReservationsCommand, { references: refs.map(packed) });
    agree(
      results.map(({ state }) => state),
      refs.map((ref) => {
        const found = model.find(ref);
        return found ? reservationCodes[model.stateOf(found.r)] : 0;
      }),
    );
  },
}));

const sweepStep: fc.Arbitrary<Step> = fc.integer({ min: 1, max: 8 }).map((max) => ({
  text: `sweep ${max}`,
  requests: 1,
  async run({ model, shard }) {
    const found = { expired: 0, forgotten: 0 };
    for (let more = 1; more === 1; ) {
      const answer = await shard.call(expireCommand, { max });
      found.expired += answer.expired;
      found.forgotten += answer.forgotten;
      more = answer.more;
    }
    agree(found, model.sweep());
  },
}));

const timeStep: fc.Arbitrary<Step> = fc.constantFrom(1, 99, 100, 500, 999, 1_000, 2_001, 5_000).map((ms) => ({
  text: `${ms} ms pass`,
  requests: 1,
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
    requests: 1,
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
      agree(statusName((await shard.call(adjustCommand, { ...args, reason: 'counted' })).status), expected);
    },
  }));

const returnStep: fc.Arbitrary<Step> = fc
  .record({ pick: fc.nat(), id: fc.constantFrom('r', 's', 't', 'u', 'a'), fewer: fc.nat({ max: 2 }) })
  .map(({ pick, id, fewer }) => ({
    text: `return ${pick} ${id} ${fewer}`,
    requests: 1,
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
      agree(statusName(answer.status), expected);
    },
  }));

const stateStep: fc.Arbitrary<Step> = fc
  .tuple(
    saleNo,
    fc.oneof({ weight: 20, arbitrary: fc.constantFrom<1 | 2>(1, 1, 2) }, { weight: 1, arbitrary: fc.constant<3>(3) }),
  )
  .map(([no, state]) => ({
    text: `state ${no} ${state}`,
    requests: 1,
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
      agree(statusName((await shard.call(setSaleStateCommand, { sale: no, state })).status), expected);
    },
  }));

const trimStep: fc.Arbitrary<Step> = fc.double({ min: 0, max: 1, noNaN: true }).map((part) => ({
  text: `trim ${part}`,
  requests: 1,
  async run({ model, shard }) {
    const acked = Math.floor(model.seq * part);
    model.acked = Math.max(model.acked, acked);
    // All is kept: at the end the outbox is replayed from its first entry.
    const answer = await shard.call(outboxTrimCommand, { acked, keep: 0xffff_ffff });
    agree(answer, { seq: model.seq, acked: model.acked });
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
    requests: 1,
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
      agree(statusName(status), room ? 'ok' : 'overloaded');
    },
  }));

/** A frame that must be refused, whatever it carries: the shard at another epoch, or behind its caller, or the call too late. */
const frames: [string, (model: ShardModel) => CallOptions, RegExp][] = [
  ['of a closed epoch', () => ({ epoch: 0 }), /^FENCED the shard is at epoch/],
  ['of an epoch to come', () => ({ epoch: 2 }), /^FENCED the shard is at epoch/],
  ['that has seen more', ({ seq }) => ({ seen: seq + 1 }), /^FENCED the shard is at sequence/],
  ['past its deadline', ({ now }) => ({ deadlineMs: now - 1 }), /^LATE/],
];
const frameStep: fc.Arbitrary<Step> = fc
  .tuple(fc.constantFrom(...frames), fc.nat({ max: 6 }), wish, picks)
  .map(([[name, optionsOf, message], which, one, chosen]) => ({
    text: `refused ${name}: ${which} ${JSON.stringify([one, chosen])}`,
    requests: 1,
    async run({ model, shard, made }) {
      const options = optionsOf(model);
      const named = references(made, chosen).map(packed);
      const change = { sale: one.sale ?? 1, id: 'z', sku: 'shoe', warehouse: 'east', delta: 1, open: 1, reason: 'x' };
      const calls: (() => Promise<unknown>)[] = [
        () =>
          reserve(
            framed(shard, () => options),
            [one],
          ),
        () => shard.call(commitCommand, { references: named }, options),
        () => shard.call(releaseCommand, { references: named }, options),
        () => shard.call(extendCommand, { references: named }, options),
        () => shard.call(adjustCommand, change, options),
        () => shard.call(expireCommand, { max: 8 }, options),
        () => shard.call(setSaleStateCommand, { sale: one.sale ?? 1, state: 2 }, options),
      ];
      await expect(calls[which]?.()).rejects.toThrow(message);
    },
  }));

/** The shard, called with this frame where a caller gives none. */
export function framed(shard: TestShard, optionsOf: () => CallOptions): TestShard {
  return { ...shard, call: (command, args, options) => shard.call(command, args, { ...optionsOf(), ...options }) };
}

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
  { weight: 2, arbitrary: frameStep },
);

/** A command, shown as what was done: a counterexample is a list of them. */
export const commandStep: fc.Arbitrary<Step> = step.map((one) => ({ ...one, [fc.toStringMethod]: () => one.text }));
