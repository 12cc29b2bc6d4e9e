/** What the witness lets pass and what not, to the millisecond; and that it is quick enough for a run. */
import { describe, expect, test } from 'vitest';
import type { Fact, History, Operation } from '../history.ts';
import { limitsHold } from './limits-hold.ts';
import { neverOversold } from './never-oversold.ts';
import { oneOutcome } from './one-outcome.ts';
import { asked, ended, granted, history, holdMs, reserved, settled, shardMs } from './one-sale.ts';
import { sameKeySameAnswer } from './same-key-same-answer.ts';
import { buyerName, type Plan, type Setting, simulate } from './testing.ts';
import { witness } from './witness.ts';

describe('sold out', () => {
  const fact = reserved(2);
  const sold = [asked(2, 0, 10, fact), settled('release', fact, 20, 30)];
  const facts = [fact, ended('released', 3, 2)];
  test.each([
    ['before the release is answered', 30, 0],
    ['100 ms after it', 130, 0],
    ['more than 100 ms after it', 130.5, 1],
  ])('%s', (_, callMs, findings) => {
    const found = witness(history(1, [...sold, asked(9, callMs, callMs + 5, { code: 'sold-out' })], facts));
    expect(found).toHaveLength(findings);
  });
  test.each([
    ['answered when the sale of the last was called', 20, 0],
    ['answered before the sale of the last was called', 19, 1],
  ])('%s', (_, atMs, findings) => {
    const found = witness(history(1, [asked(9, 5, atMs, { code: 'sold-out' }), asked(2, 20, 30, fact)], [fact]));
    expect(found).toHaveLength(findings);
  });
});

describe('a purchase limit', () => {
  const fact = reserved(2);
  test.each([
    ['while the first may be there', 0, 5, 0],
    ['when what the buyer had is back', 31, 35, 1],
  ])('%s', (_, callMs, atMs, findings) => {
    const operations = [
      asked(2, 0, 10, fact),
      settled('release', fact, 20, 30),
      asked(2, callMs, atMs, { code: 'purchase-limit' }, 'other'),
    ];
    const found = witness(history(9, operations, [fact, ended('released', 3, 2)], 1));
    expect(found).toHaveLength(findings);
  });
});

describe('too few left', () => {
  test.each([
    ['of one, for two', 1, 0, 0],
    ['of none: that is sold out', 0, 0, 1],
    ['for a buyer over the limit, who is told of that', 1, 1, 1],
  ])('%s', (_, units, perBuyer, findings) => {
    const two = asked(9, 5, 10, { code: 'insufficient-stock' });
    two.call = { kind: 'reserve', key: 'k', lines: [{ sku: 'shoe', quantity: 2 }] };
    expect(witness(history(units, [two], [], perBuyer))).toHaveLength(findings);
  });
});

describe('an answer that says nothing was taken', () => {
  const fact = reserved(2);
  const replayed = asked(2, 20, 30, fact);
  if (replayed.answered) replayed.answered.answer.replayed = true;
  const refused = asked(2, 0, 10, { status: 503, code: 'overloaded' });
  test('is a lie when its key is a replay the next time', () => {
    expect(witness(history(1, [refused, replayed], [fact])).join()).toMatch(/no call of buyer/);
  });
  test('may be true when another call of the key has no answer', () => {
    expect(witness(history(1, [refused, asked(2, 5, null, {}), replayed], [fact]))).toEqual([]);
  });
  test('may be true when its key is granted the next time', () => {
    expect(witness(history(1, [refused, asked(2, 20, 30, fact)], [fact]))).toEqual([]);
  });
});

describe('real time', () => {
  const [a, b] = [reserved(3), reserved(2)];
  test.each([
    ['called at the moment of the other answer', 10, 0],
    ['called after the other answer', 10.25, 1],
  ])('%s', (_, callMs, findings) => {
    const found = witness(history(9, [asked(3, 0, 10, a), asked(2, callMs, 30, b)], [b, a]));
    expect(found).toHaveLength(findings);
  });
  test('a change is of the call that asked for just that', () => {
    const adjust = (callMs: number, delta: number): Operation => ({
      ...asked(9, callMs, null, {}),
      call: { kind: 'adjust', id: 'c', sku: 'shoe', warehouse: 'east', delta },
    });
    const change: Fact = {
      ...{ shard: 0, no: 1, seq: 2, atMs: shardMs, kind: 'restocked', id: 'c' },
      ...{ sku: 'shoe', warehouse: 'east', units: 2 },
    };
    const found = witness(history(9, [adjust(0, 1), asked(3, 0, 10, a), adjust(20, 2)], [change, a]));
    expect(found.join()).toMatch(/stands after restocked c/);
  });
  test('what nobody was answered may happen late, and not before its call', () => {
    const late = asked(3, 0, null, {});
    expect(witness(history(9, [late, asked(2, 5, 10, b)], [b, a]))).toEqual([]);
    const early = asked(2, 20, null, {});
    expect(witness(history(9, [asked(3, 0, 10, a), early], [b, a])).join()).toMatch(/stands after/);
  });
});

describe('stock', () => {
  const stock = [{ sku: 'shoe', warehouse: 'east', quantity: 9 }];
  const told = (code: string | null): Operation => {
    const answer = { status: code ? 409 : 200, code: code ?? '', reservation: null, replayed: false };
    return {
      ...asked(9, 0, 10, {}),
      call: { kind: 'adjust', id: 'c', sku: 'shoe', warehouse: 'east', delta: 2 },
      answered: { atMs: 10, answer },
    };
  };
  const change = (more: object = {}): Fact => ({
    ...{ shard: 0, no: 1, seq: 2, atMs: shardMs, kind: 'restocked', id: 'c' },
    ...{ sku: 'shoe', warehouse: 'east', units: 2, ...more },
  });
  /** Of a sale of which it is known what it was opened with. */
  const found = (operations: Operation[], facts: Fact[], units = 9): string => {
    const { sales, ...rest } = history(units, operations, facts);
    return witness({ ...rest, sales: sales.map((sale) => ({ ...sale, stock })) }).join('\n');
  };
  const nobody = /restocked c, sequence 2 of shard 0: nobody asked for it, or all who did were refused/;

  test('is changed by who asked for that, answered or not', () => {
    expect(found([told(null)], [change()])).toBe('');
    expect(found([{ ...told(null), answered: null }], [change()])).toBe('');
  });
  test.each<[name: string, operations: Operation[], fact: Fact]>([
    ['was refused', [told('insufficient-stock')], change()],
    ['was never asked for', [], change()],
    ['was asked for under another id', [{ ...told(null), answered: null }], change({ id: 'd' })],
    ['was asked for by another number', [{ ...told(null), answered: null }], change({ units: 3 })],
    ['was asked for another warehouse', [{ ...told(null), answered: null }], change({ warehouse: 'west' })],
    ['was asked for another article', [{ ...told(null), answered: null }], change({ sku: 'hat' })],
  ])('is not changed by what %s', (_, operations, fact) => {
    expect(found(operations, [fact])).toMatch(/nobody asked for it, or all who did were refused/);
  });
  test('may have changed unasked where nobody recorded who changes it', () => {
    expect(witness(history(9, [], [change()]))).toEqual([]);
    expect(found([told('insufficient-stock')], [change()])).toMatch(nobody);
  });
  test.each<[name: string, units: number, facts: Fact[], says: RegExp]>([
    ['with more than it was set to', 10, [], /opens sale sale with 10 shoe in east, which was set to 9/],
    ['with less', 8, [], /opens sale sale with 8 shoe in east, which was set to 9/],
    ['twice', 9, [change({ id: 'opening', units: 9 })], /which was set to none/],
    [
      'with what it was not set to have',
      9,
      [change({ id: 'opening', warehouse: 'west' })],
      /opens sale sale with 2 shoe in west, which was set to none/,
    ],
  ])('does not open %s', (_, units, facts, says) => {
    expect(found([], facts, units)).toMatch(says);
  });
  test('opens with all that it was set to have', () => {
    const { sales, ...rest } = history(9, [], []);
    const more = [...stock, { sku: 'hat', warehouse: 'east', quantity: 3 }];
    const none = [...stock, { sku: 'hat', warehouse: 'east', quantity: 0 }];
    const of = (set: typeof stock): History => ({ ...rest, sales: sales.map((sale) => ({ ...sale, stock: set })) });
    expect(witness(of(more))).toEqual(['Sale sale was opened without its 3 hat in east.']);
    expect(witness(of(none))).toEqual([]);
  });
});

describe('a hold that is over', () => {
  const fact = reserved(2);
  const next = (atMs: number): Fact => reserved(3, atMs);
  const refused = settled('commit', fact, 20, 30, 'reservation-ended');
  const others = (atMs: number) => [asked(2, 0, 10, fact), refused, asked(3, 40, 50, next(atMs))];
  const swept = ended('expired', 4, 2, holdMs + 50);
  test('ends before the sweeper comes', () => {
    expect(witness(history(9, others(holdMs), [fact, next(holdMs), swept]))).toEqual([]);
  });
  test('is not read as held once a fact of a later time was answered', () => {
    const read = asked(2, 60, 70, fact);
    read.call = { kind: 'read', reservation: granted(fact).reservation?.id ?? '' };
    const of = (atMs: number): History =>
      history(9, [asked(2, 0, 10, fact), asked(3, 40, 50, next(atMs)), read], [fact, next(atMs), swept]);
    expect(witness(of(holdMs - 1))).toEqual([]);
    expect(witness(of(holdMs)).join()).toMatch(/it was over since/);
  });
  test('does not end before its time', () => {
    expect(witness(history(9, others(holdMs - 1), [fact, next(holdMs - 1), swept])).join()).toMatch(/had not ended so/);
  });
});

describe('a key', () => {
  const hourMs = 3_600_000;
  const first = reserved(2);
  const facts = (atMs: number): Fact[] => [first, ended('released', 3, 2), reserved(4, atMs, 'k', 2)];
  const operations = (atMs: number): Operation[] => [
    asked(2, 0, 10, first),
    settled('release', first, 20, 30),
    asked(2, 40, 50, facts(atMs)[2] as Fact),
  ];
  test('is remembered for an hour after the end, the shard’s time', () => {
    const of = (atMs: number): History => history(9, operations(atMs), facts(atMs));
    expect(sameKeySameAnswer(of(hourMs))).toEqual([]);
    expect(sameKeySameAnswer(of(hourMs - 1)).join()).toMatch(/holds twice.*two reservations/);
  });
});

test('it says no more than twenty things, and how many more', () => {
  const operations = Array.from({ length: 50 }, (_, i) => asked(i, i, i + 1, { code: 'sold-out' }));
  const found = witness(history(9, operations, []));
  expect(found).toHaveLength(21);
  expect(found.at(-1)).toBe('… and 30 more.');
  expect(found[0]).toContain(buyerName(0));
});

test('tens of thousands of calls are checked in seconds', { timeout: 300_000 }, () => {
  let state = 1;
  const next = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const kinds: Plan['kind'][] = ['reserve', 'reserve', 'reserve', 'again', 'commit', 'release', 'read'];
  const fates: Plan['fate'][] = [...Array.from({ length: 17 }, () => 'answered' as const), 'lost', 'late', 'never'];
  const plans = Array.from(
    { length: 30_000 },
    (): Plan => ({
      ...{ client: next(400), kind: kinds[next(kinds.length)] ?? 'read', fate: fates[next(fates.length)] ?? 'lost' },
      ...{ pick: next(1_000), thinkMs: next(20), beforeMs: next(40) / 4, afterMs: next(40) / 4 },
    }),
  );
  const large: Setting = {
    buyers: 400,
    sales: history(0, [], []).sales.map((rules) => ({
      rules: { ...rules, perBuyer: 200 },
      stock: { shoe: { east: 3_000, west: 6_000 }, hat: { east: 2_000 } },
      extendMs: 1_000,
    })),
  };
  const run = simulate(plans, large);
  expect(run.operations).toHaveLength(30_000);
  const began = performance.now();
  for (const check of [witness, neverOversold, oneOutcome, limitsHold, sameKeySameAnswer])
    expect(check(run)).toEqual([]);
  // A hundred thousand took six seconds on two busy cores.
  expect(performance.now() - began).toBeLessThan(60_000);
});
