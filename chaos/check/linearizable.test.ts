/** The search of linearizability: as brute force on tiny histories, finds lies, is quick, and says when it gives up. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeReservationId, encodeReservationId, keyDigest } from '../../kernel/ids.ts';
import { ShardModel } from '../../lua/shard-model.ts';
import type { Stock } from '../../lua/testing.ts';
import type { Answer, Call, History, Line, Operation, State } from '../history.ts';
import * as lie from './lies.ts';
import { change } from './lies.ts';
import { linearizable } from './linearizable.ts';
import { buyerName, plansOf, type Setting, short, simulate } from './testing.ts';

const tinySale = (stock: Stock): Setting => ({
  buyers: 3,
  sales: short.sales.map((sale) => ({ ...sale, rules: { ...sale.rules, perBuyer: 4 }, stock })),
});
/** With SKUs of several warehouses, and of one. */
const tinySales = [
  tinySale({ shoe: { east: 2, west: 1 }, hat: { west: 2 } }),
  tinySale({ shoe: { east: 3 }, hat: { west: 2 } }),
];

const ok = (state: State, lines: Line[], replayed = false) => ({ status: 'ok', code: '', state, lines, replayed });
const no = (code: string) => ({ status: code === 'not-found' ? 'missing' : 'no', code });
type Outcome = ReturnType<typeof ok> | ReturnType<typeof no>;
const codes: Record<string, string> = {
  ...{ mismatch: 'idempotency-mismatch', purchaseLimit: 'purchase-limit', soldOut: 'sold-out' },
  ...{ insufficientStock: 'insufficient-stock', unknownSku: 'not-found' },
};

/** What the plain model answers. */
function decide(model: ShardModel, { call, buyer }: Operation): Outcome {
  if (call.kind === 'reserve') {
    const lines: Record<string, number> = {};
    for (const { sku, quantity } of call.lines) lines[sku] = (lines[sku] ?? 0) + quantity;
    const { status, reservation } = model.reserve({ sale: 1, buyer, key: keyDigest(call.key), lines });
    return reservation ? ok('held', reservation.lines, status === 'replay') : no(codes[status] ?? status);
  }
  if (call.kind === 'adjust') {
    const { id, sku, warehouse, delta } = call;
    const status = model.change(1, id, `${sku}/${warehouse}/${delta}`, (sale) => {
      const w = sale.stock.get(sku)?.find(({ name }) => name === warehouse);
      if (!w) return 'unknownSku';
      if (w.onHand - w.reserved + delta < 0) return 'insufficientStock';
      w.onHand += delta;
      return 'ok';
    });
    return status === 'ok' || status === 'replay' ? ok('held', []) : no(codes[status] ?? status);
  }
  const ref = decodeReservationId(call.reservation);
  const r = model.sales.get(1)?.book.get(`${ref?.buyer}/${ref?.key}`);
  if (!r) return no('not-found');
  if (call.kind !== 'read') {
    const wish = { sale: 1, buyer: ref?.buyer ?? '', key: ref?.key ?? '' };
    const status = model.settle(call.kind, { sale: 1, wish, seq: r.seq, seconds: 1 }).split(' ')[0];
    if (status === 'ended') return no('reservation-ended');
  }
  return ok(model.stateOf(r), r.lines);
}

class RoomyModel extends ShardModel {
  override hasRoom(): boolean {
    return true;
  }
}

const fits = (outcome: Outcome, { status, code, reservation, replayed }: Answer, call: Call): boolean => {
  if (!('state' in outcome)) return status >= 400 && code === outcome.code;
  if (status >= 400) return false;
  if (call.kind === 'adjust') return true;
  const alike = JSON.stringify(reservation?.lines) === JSON.stringify(outcome.lines);
  return alike && reservation?.state === outcome.state && (call.kind !== 'reserve' || replayed === outcome.replayed);
};

/** Every order of every choice of the unanswered, each tried on a model from the beginning. */
function bruteForce({ operations }: History, stock: Stock): boolean {
  const all = operations
    .filter(({ answered }) => answered?.answer.status !== 503)
    .map((one) => ({ ...one, callMs: one.callMs - (one.answered?.answer.code === 'sold-out' ? 100 : 0) }));
  const ids = new Map<string, string>();
  for (const { call, answered, buyer } of all) {
    const id = answered?.answer.reservation?.id;
    if (id === undefined) continue;
    const ref = call.kind === 'reserve' ? { buyer, key: keyDigest(call.key) } : decodeReservationId(id);
    const name = `${ref?.buyer}/${ref?.key}`;
    if ((ids.get(name) ?? id) !== id) return false;
    ids.set(name, id);
  }
  const replay = (order: Operation[]): boolean => {
    const model = new RoomyModel();
    model.putSale({ perBuyer: 4, holdMs: 1_800_000, stock });
    return order.every((one) => {
      const { answered, call } = one;
      if (answered?.answer.code === 'sold-out' && call.kind === 'reserve')
        return call.lines.some(({ sku }) => {
          const of = model.sales.get(1)?.stock.get(sku) ?? [];
          return of.every((w) => w.onHand === w.reserved);
        });
      const outcome = decide(model, one);
      return !answered || fits(outcome, answered.answer, call);
    });
  };
  const extend = (order: Operation[], left: Operation[]): boolean => {
    if (!replay(order)) return false;
    if (left.every(({ answered }) => !answered)) return true;
    const first = Math.min(...left.map(({ answered }) => answered?.atMs ?? Number.POSITIVE_INFINITY));
    return left.some(
      (one) =>
        one.callMs <= first &&
        extend(
          [...order, one],
          left.filter((rest) => rest !== one),
        ),
    );
  };
  return extend([], all);
}

const refusals = ['sold-out', 'insufficient-stock', 'purchase-limit', 'idempotency-mismatch', 'reservation-ended'];
type Twist = { at: number; how: number; to: number };

/** Changes one answer, or when it was given. */
function twist({ operations }: History, { at, how, to }: Twist): void {
  const known = operations.filter(({ answered }) => answered && answered.answer.status !== 503);
  const one = known[at % Math.max(1, known.length)];
  if (!one?.answered) return;
  const { answer } = one.answered;
  const { reservation } = answer;
  const length = one.answered.atMs - one.callMs;
  if (how === 0 && reservation) {
    const states: State[] = ['held', 'committed', 'released'];
    reservation.state = states[to % 3] ?? 'held';
  } else if (how === 1) answer.replayed = !answer.replayed;
  else if (how === 2 && reservation)
    reservation.lines = reservation.lines.map((line) => ({ ...line, warehouse: to % 2 ? 'east' : 'west' }));
  else if (how === 3) lie.tell(one as Parameters<typeof lie.tell>[0], refusals[to % refusals.length] ?? '', 409);
  else if (how === 4) {
    one.callMs += (to % 9) - 4;
    one.answered.atMs = one.callMs + length;
  } else if (how === 5) lie.tell(one as Parameters<typeof lie.tell>[0], 'not-found', 404);
  else if (how === 6) one.answered = null;
}

test('it says what brute force says, on tiny histories, true and false', { timeout: 600_000 }, () => {
  const seen = { true: 0, false: 0 };
  const twists = fc.array(fc.record({ at: fc.nat(9), how: fc.nat(6), to: fc.nat(90) }), { maxLength: 2 });
  fc.assert(
    fc.property(fc.constantFrom(...tinySales), plansOf(false, 3, 7), twists, (tiny, plans, lies) => {
      const history = simulate(plans, tiny);
      // A 404 to a reserve says nothing, and is left out; so is what happens to be told of two sales.
      for (const one of lies) twist(history, one);
      history.operations = history.operations.filter(
        ({ call, answered }) => !(call.kind === 'reserve' && answered?.answer.status === 404),
      );
      const expected = bruteForce(history, tiny.sales[0]?.stock ?? {});
      seen[`${expected}`]++;
      const found = linearizable(history);
      expect(found.length === 0, found.join()).toBe(expected);
    }),
    { numRuns: Number(process.env.STAMPEDE_MODEL_RUNS ?? 3_000) },
  );
  expect(Math.min(seen.true, seen.false)).toBeGreaterThan(50);
});

const successful = (history: History, kind: 'commit' | 'release' | 'read') =>
  lie.settles(history, kind).find(({ answered }) => answered.answer.status === 200);
const reserved = (history: History, id: string) => lie.reservedOf(history).find((fact) => fact.id === id);

const lies: { name: string; tell: lie.Tell }[] = [
  {
    name: 'another warehouse than the one that serves first',
    tell: change(
      (history) => lie.grants(history).find(({ answered }) => answered.answer.reservation?.lines.length === 1),
      (one) => {
        for (const line of one.answered.answer.reservation?.lines ?? [])
          line.warehouse = lie.other(line.warehouse, ['east', 'west']);
      },
    ),
  },
  {
    name: 'what is committed reads as held later',
    tell: change(
      (history) => successful(history, 'commit'),
      (one, history) => {
        const fact = reserved(history, lie.idOf(one));
        if (fact) lie.addRead(history, fact, 'held');
      },
    ),
  },
  {
    name: 'what was released is committed later',
    tell: change(
      (history) => successful(history, 'release'),
      (one, history) => {
        const answer = structuredClone(one.answered.answer);
        if (answer.reservation) answer.reservation.state = 'committed';
        lie.add(history, one.saleId, one.buyer, { kind: 'commit', reservation: lie.idOf(one) }, answer);
      },
    ),
  },
  {
    name: 'what is committed can’t be committed again',
    tell: change(
      (history) => successful(history, 'commit'),
      (one, history) => {
        const answer = { status: 409, code: 'reservation-ended', reservation: null, replayed: false };
        lie.add(history, one.saleId, one.buyer, one.call, answer);
      },
    ),
  },
  {
    name: 'a reservation that was answered is gone later',
    tell: change(
      (history) => lie.grants(history)[0],
      (one, history) => {
        const answer = { status: 404, code: 'not-found', reservation: null, replayed: false };
        lie.add(history, one.saleId, one.buyer, { kind: 'read', reservation: lie.idOf(one) }, answer);
      },
    ),
  },
  {
    name: 'units are granted that were never there',
    tell: change(
      (history) => history.sales[0],
      ({ saleId }, history) => {
        const id = encodeReservationId({ shard: 0, sale: 1, seq: 999, buyer: lie.stranger, key: keyDigest('lie') });
        const lines = [{ sku: 'shoe', warehouse: 'east', quantity: 40 }];
        const answer = {
          status: 201,
          code: '',
          reservation: { id, state: 'held', expiresAtMs: 0, lines },
          replayed: false,
        };
        lie.add(history, saleId, lie.stranger, { kind: 'reserve', key: 'lie', lines }, answer as Answer);
      },
    ),
  },
  {
    name: 'a limit is named that nobody has reached',
    tell: (history) => {
      lie.addReserve(history, 'short', [{ sku: 'shoe', quantity: 1 }], 'purchase-limit');
      return history;
    },
  },
  {
    name: 'one key has two reservations',
    tell: change(lie.replayOfTold, (one) => {
      const reservation = one.answered.answer.reservation;
      const ref = reservation && decodeReservationId(reservation.id);
      if (ref) reservation.id = encodeReservationId({ ...ref, sale: 1, seq: ref.seq + 1 });
    }),
  },
  {
    name: 'a change of stock is refused that was answered before',
    tell: change(
      (history) =>
        history.operations.find(({ call, answered }) => call.kind === 'adjust' && answered?.answer.status === 200),
      ({ saleId, buyer, call }, history) => {
        const answer = { status: 409, code: 'insufficient-stock', reservation: null, replayed: false };
        lie.add(history, saleId, buyer, call, answer);
      },
    ),
  },
];

describe('without the ledger', () => {
  const histories = fc
    .sample(plansOf(false, 8, 60), { numRuns: 40, seed: 3 })
    .map((plans) => simulate(plans, short))
    .filter(({ operations }) => operations.length > 5);
  test.each(lies)('it finds: $name', { timeout: 120_000 }, ({ tell }) => {
    let told = 0;
    for (const honest of histories) {
      const history = tell(structuredClone(honest));
      if (!history) continue;
      told++;
      expect(linearizable(history).join()).toMatch(/no order of its calls|gave up/);
      expect(linearizable(history).join()).not.toMatch(/gave up/);
    }
    expect(told, 'occasions').toBeGreaterThanOrEqual(10);
  });
});

const shoes = (units: number): History => {
  const history = simulate([], short);
  for (const fact of history.facts)
    if ('units' in fact) fact.units = fact.sku === 'shoe' && fact.warehouse === 'east' ? units : 0;
  return history;
};
const one: Line[] = [{ sku: 'shoe', warehouse: 'east', quantity: 1 }];
const asked = (i: number, callMs: number, atMs: number | null, answer: Partial<Answer>): Operation => {
  const [buyer, key] = [buyerName(i), 'k'];
  const id = encodeReservationId({ shard: 0, sale: 1, seq: 100 + i, buyer, key: keyDigest(key) });
  const reservation = answer.status === 201 ? { id, state: 'held' as const, expiresAtMs: 0, lines: one } : null;
  const full = { status: 409, code: '', reservation, replayed: false, ...answer };
  return {
    ...{
      client: i,
      saleId: 'short',
      buyer,
      call: { kind: 'reserve', key, lines: [{ sku: 'shoe', quantity: 1 }] },
      callMs,
    },
    answered: atMs === null ? null : { atMs, answer: full },
  };
};

test('it names the answer from which on there is no order, and what was beside it', () => {
  const history = shoes(1);
  history.operations = [
    asked(0, 0, 10, { status: 201 }),
    asked(1, 20, 40, { code: 'sold-out' }),
    asked(2, 25, 30, { status: 201 }),
    asked(3, 50, 60, { code: 'sold-out' }),
  ];
  const found = linearizable(history);
  expect(found).toHaveLength(1);
  expect(found[0]).toMatch(
    /up to 00:00:00.030 .*3 calls, 1 of them open.*Without the last.*client 2 .*Beside it: client 1 /,
  );
});

test('sold out may be 100 ms old, and no older', () => {
  const history = shoes(1);
  const released: Operation = {
    ...asked(0, 20, 30, { status: 200, reservation: null }),
    call: { kind: 'release', reservation: asked(0, 0, 0, { status: 201 }).answered?.answer.reservation?.id ?? '' },
  };
  const { reservation } = asked(0, 0, 0, { status: 201 }).answered?.answer ?? {};
  if (released.answered && reservation) released.answered.answer.reservation = { ...reservation, state: 'released' };
  for (const [callMs, findings] of [
    [130, 0],
    [131, 1],
  ] as const) {
    history.operations = [asked(0, 0, 10, { status: 201 }), released, asked(1, callMs, 140, { code: 'sold-out' })];
    expect(linearizable(history)).toHaveLength(findings);
  }
});

test('it says when it gives up, and when holds have run out', () => {
  const history = shoes(30);
  history.operations = [
    ...Array.from({ length: 40 }, (_, i) => ({ ...asked(i, 0, null, {}), buyer: buyerName(i % 20) })),
    asked(50, 0, 10, { code: 'sold-out' }),
    asked(51, 20, 30, { status: 201, reservation: { id: 'x', state: 'held', expiresAtMs: 0, lines: one } }),
  ];
  expect(linearizable(history, 1_000).join()).toMatch(/gave up .* 42 calls after 1000 places/);
  const ran = shoes(1);
  ran.facts.push({ kind: 'expired', shard: 0, no: 1, seq: 9, atMs: 0, reservation: 5, lines: [] });
  expect(linearizable(ran).join()).toMatch(/can't be searched/);
});

test('a hundred calls of eight clients take less than a second', { timeout: 120_000 }, () => {
  for (const plans of fc.sample(plansOf(false, 8, 130), { numRuns: 100, seed: 2 })) {
    const history = simulate(plans, short);
    const began = performance.now();
    expect(linearizable(history)).toEqual([]);
    expect(performance.now() - began).toBeLessThan(1_000);
  }
});
