import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type Clock, systemClock, within } from '../kernel/clock.ts';
import { type Refusal, RefusalError, refusal } from '../kernel/errors.ts';
import { createBatcher } from './batcher.ts';

type Options = Partial<Omit<Parameters<typeof createBatcher<number, string>>[0], 'send'>>;

/** A batcher whose calls end when the test says so. */
function bench(options: Options = {}) {
  const calls: { requests: number[]; answer(results?: string[]): void; fail(error: unknown): void }[] = [];
  const outcomes = new Map<number, (string | Refusal['code'])[]>();
  let nowMs = 0;
  const clock: Clock = { ...systemClock, monotonicMs: () => nowMs };
  const batcher = createBatcher<number, string>({
    send: (requests) =>
      new Promise((resolve, reject) => {
        const answer = (results = requests.map((request) => `r${request}`)): void => resolve(results);
        calls.push({ requests, answer, fail: reject });
      }),
    weight: () => 1,
    ...{ maxWeight: 100, maxInFlight: 2, minBatch: 1, maxPending: 1_000, maxWaitMs: 1_000, clock, onFault: () => {} },
    ...options,
  });
  const submit = (...requests: number[]): void => {
    for (const request of requests)
      batcher.submit(request, (result, refused) => {
        outcomes.set(request, [...(outcomes.get(request) ?? []), result ?? refused?.code ?? 'nothing']);
      });
  };
  const pass = (ms: number): void => {
    nowMs += ms;
  };
  return { batcher, calls, outcomes, submit, pass, all: () => Object.fromEntries(outcomes) };
}

describe('folding', () => {
  test('what comes in one turn travels together, in order, and each gets its own answer', async () => {
    const { calls, submit, all, batcher } = bench();
    submit(1, 2, 3);
    expect(calls).toHaveLength(0);
    await nextTurn();
    expect(calls.map(({ requests }) => requests)).toEqual([[1, 2, 3]]);
    calls[0]?.answer();
    await batcher.idle();
    expect(all()).toEqual({ 1: ['r1'], 2: ['r2'], 3: ['r3'] });
  });

  test.each<[string, number[], number, number[][]]>([
    ['by number', [1, 1, 1, 1, 1], 2, [[0, 1], [2, 3], [4]]],
    ['by weight', [3, 3, 5, 1, 1], 6, [[0, 1], [2, 3], [4]]],
    ['one that is too heavy alone goes alone', [9, 1, 9], 5, [[0], [1], [2]]],
  ])('a batch is bounded %s', async (_name, weights, maxWeight, expected) => {
    const { calls, submit } = bench({ weight: (request) => weights[request] ?? 1, maxWeight, maxInFlight: 10 });
    submit(...weights.keys());
    await nextTurn();
    expect(calls.map(({ requests }) => requests)).toEqual(expected);
  });
});

describe('calls under way', () => {
  test('are so many at the most; the next starts when one ends', async () => {
    const { calls, submit, batcher } = bench({ maxWeight: 1, maxInFlight: 2 });
    submit(1, 2, 3, 4);
    await nextTurn();
    expect([calls.length, batcher.inFlight, batcher.depth]).toEqual([2, 2, 2]);
    calls[1]?.answer();
    await nextTurn();
    expect([calls.length, batcher.inFlight, batcher.depth]).toEqual([3, 2, 1]);
    for (const at of [0, 2, 3]) {
      calls[at]?.answer();
      await nextTurn();
    }
    await batcher.idle();
    expect([batcher.inFlight, batcher.depth]).toEqual([0, 0]);
  });

  test('the next goes out before the answers of the last are given', async () => {
    const order: string[] = [];
    const ends: (() => void)[] = [];
    const batcher = createBatcher<number, string>({
      send: (requests) => {
        order.push(`send ${requests}`);
        return new Promise((resolve) => {
          ends.push(() => resolve(requests.map(String)));
        });
      },
      ...{ weight: () => 1, maxWeight: 1, maxInFlight: 1, minBatch: 1, maxPending: 10, maxWaitMs: 1_000 },
      onFault: () => {},
      clock: systemClock,
    });
    for (const request of [1, 2]) batcher.submit(request, (result) => order.push(`answer ${result}`));
    await nextTurn();
    ends[0]?.();
    await nextTurn();
    expect(order).toEqual(['send 1', 'send 2', 'answer 1']);
  });

  test('while one is under way, few wait for its answer and many do not', async () => {
    const { calls, submit } = bench({ minBatch: 3, maxInFlight: 4 });
    submit(1);
    await nextTurn();
    expect(calls).toHaveLength(1);
    submit(2, 3);
    await nextTurn();
    expect(calls).toHaveLength(1);
    submit(4);
    await nextTurn();
    expect(calls.map(({ requests }) => requests)).toEqual([[1], [2, 3, 4]]);
    submit(5);
    await nextTurn();
    expect(calls).toHaveLength(2);
    calls[0]?.answer();
    calls[1]?.answer();
    await nextTurn();
    expect(calls.map(({ requests }) => requests)).toEqual([[1], [2, 3, 4], [5]]);
  });
});

describe('refusals', () => {
  test('more than may wait are refused at once; those that wait are not hurt', async () => {
    const { calls, submit, all } = bench({ maxPending: 2 });
    submit(1, 2, 3);
    expect(all()).toEqual({ 3: ['overloaded'] });
    await nextTurn();
    calls[0]?.answer();
    await nextTurn();
    expect(all()).toEqual({ 1: ['r1'], 2: ['r2'], 3: ['overloaded'] });
  });

  test('who has waited too long is refused, and sent nowhere', async () => {
    const { calls, submit, pass, all, batcher } = bench({ maxInFlight: 1, maxWaitMs: 100 });
    submit(1);
    await nextTurn();
    submit(2);
    pass(60);
    submit(3);
    pass(60);
    calls[0]?.answer();
    await nextTurn();
    expect(calls.map(({ requests }) => requests)).toEqual([[1], [3]]);
    calls[1]?.answer();
    await batcher.idle();
    expect(all()).toEqual({ 1: ['r1'], 2: ['overloaded'], 3: ['r3'] });
  });

  test('is idle too when all that waited were refused by age', async () => {
    const { submit, pass, all, batcher } = bench({ maxWaitMs: 100 });
    submit(1, 2);
    pass(101);
    await within(batcher.idle(), 2_000, 'it never came to rest');
    expect(all()).toEqual({ 1: ['overloaded'], 2: ['overloaded'] });
  });

  test.each<[string, unknown, string]>([
    ['a refusal', new RefusalError(refusal('shard-fenced', 'fenced')), 'shard-fenced'],
    ['anything else', new Error('socket closed'), 'unavailable'],
  ])('%s of the whole call is everybody’s in it, and nobody else’s', async (_name, error, code) => {
    const { calls, submit, all } = bench({ maxWeight: 2 });
    submit(1, 2, 3);
    await nextTurn();
    calls[0]?.fail(error);
    calls[1]?.answer();
    await nextTurn();
    expect(all()).toEqual({ 1: [code], 2: [code], 3: ['r3'] });
  });

  test('an answer too few is unavailable for who has none', async () => {
    const { calls, submit, all } = bench();
    submit(1, 2);
    await nextTurn();
    calls[0]?.answer(['r1']);
    await nextTurn();
    expect(all()).toEqual({ 1: ['r1'], 2: ['unavailable'] });
  });

  test('a call that fails at once leaves the batcher at work', async () => {
    let calls = 0;
    const batcher = createBatcher<number, string>({
      send: async (requests) => {
        if (calls++ === 0) throw new Error('at once');
        return requests.map(String);
      },
      ...{ weight: () => 1, maxWeight: 10, maxInFlight: 1, minBatch: 1, maxPending: 10, maxWaitMs: 1_000 },
      onFault: () => {},
      clock: systemClock,
    });
    const outcomes: unknown[] = [];
    const submit = (request: number) =>
      new Promise<void>((resolve) => {
        batcher.submit(request, (result, refused) => {
          outcomes.push(result ?? refused?.code);
          resolve();
        });
      });
    await submit(1);
    await submit(2);
    expect(outcomes).toEqual(['unavailable', '2']);
  });
});

test('under load everybody is answered exactly once, and all bounds hold', async () => {
  let most = 0;
  let underWay = 0;
  const batcher = createBatcher<number, number>({
    async send(requests) {
      most = Math.max(most, ++underWay);
      await nextTurn();
      underWay--;
      if (requests.length > 16) throw new Error('too many');
      return requests;
    },
    ...{ weight: () => 1, maxWeight: 16, maxInFlight: 3, minBatch: 4, maxPending: 500, maxWaitMs: 10_000 },
    onFault: () => {},
    clock: systemClock,
  });
  const answered = new Map<number, number>();
  let wrong = 0;
  for (let i = 0; i < 5_000; i++) {
    batcher.submit(i, (result, refused) => {
      answered.set(i, (answered.get(i) ?? 0) + 1);
      if (result !== i && refused?.code !== 'overloaded') wrong++;
    });
    if (i % 37 === 0) await nextTurn();
  }
  await batcher.idle();
  expect([answered.size, wrong, Math.max(...answered.values())]).toEqual([5_000, 0, 1]);
  expect(most).toBe(3);
});
