import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  commitCommand,
  expireCommand,
  extendCommand,
  factCodes,
  readReservationsCommand,
  releaseCommand,
  reservationCodes,
  saleCodes,
  setSaleStateCommand,
} from './bindings.ts';
import { decodeLines } from './outbox.ts';
import {
  contentOf,
  counters,
  factsOf,
  holdTime,
  makeSale,
  openTestShard,
  reference,
  reserve,
  type SaleOptions,
  short,
  startTestValkey,
  statusName,
  type TestShard,
  type TestValkey,
  unitsOf,
} from './testing.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(async () => {
  await server.stop();
});

const commands = {
  commit: commitCommand,
  release: releaseCommand,
  extend: extendCommand,
  read: readReservationsCommand,
};
type Act = keyof typeof commands;
const states = new Map(Object.entries(reservationCodes).map(([name, code]) => [code as number, name]));

/** Answers `status state` of each reference. */
async function act(shard: TestShard, name: Act, references: ReturnType<typeof reference>[]): Promise<string[]> {
  const { results } = await shard.call(commands[name], { references });
  return results.map(({ status, state }) => `${statusName(status)} ${states.get(state) ?? '-'}`);
}

/** A hold of three shoes (two in the east, one in the west) and one hat by Ann, in a time that stands still. */
async function hold(options: SaleOptions = {}) {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  await makeSale(shard, {
    holdMs: 60_000,
    stock: { shoe: { east: 2, west: 2 }, hat: { east: 4 } },
    ...options,
  });
  const [first] = await reserve(shard, [{ lines: { shoe: 3, hat: 1 } }]);
  if (first?.status !== 'ok') throw new Error('not held');
  return { shard, now, ref: reference(first.seq), expiresAt: first.expiresAt, seq: first.seq };
}

describe('what can follow what', () => {
  test.each<[string, Act[], string[]]>([
    ['committed', ['commit'], ['ok committed']],
    ['committed twice', ['commit', 'commit'], ['ok committed', 'replay committed']],
    ['committed, not released after', ['commit', 'release'], ['ok committed', 'ended committed']],
    ['released', ['release'], ['ok released']],
    ['released twice', ['release', 'release'], ['ok released', 'replay released']],
    ['released, not committed after', ['release', 'commit'], ['ok released', 'ended released']],
    ['extended once', ['extend', 'extend'], ['ok held', 'notAllowed held']],
    ['extended, then committed', ['extend', 'commit'], ['ok held', 'ok committed']],
    ['not extended once committed', ['commit', 'extend'], ['ok committed', 'ended committed']],
    ['not extended once released', ['release', 'extend'], ['ok released', 'ended released']],
    ['read as it stands', ['read', 'commit', 'read'], ['ok held', 'ok committed', 'ok committed']],
  ])('%s, in calls of their own and in one', async (_name, acts, expected) => {
    const { shard, ref } = await hold();
    const found: string[] = [];
    for (const name of acts) found.push(...(await act(shard, name, [{ ...ref, seconds: 60 }])));
    expect(found).toEqual(expected);
    const [first, second] = acts;
    if (first === undefined || first !== second) return;
    const twice = await hold();
    const references = [
      { ...twice.ref, seconds: 60 },
      { ...twice.ref, seconds: 60 },
    ];
    expect(await act(twice.shard, first, references)).toEqual(expected);
  });

  test.each<[Act, string, number, number]>([
    ['commit', 'ended expired', 0, 0],
    ['release', 'ended expired', 0, 0],
    ['extend', 'ended expired', 0, 0],
    ['read', 'ok expired', 0, 0],
    ['commit', 'ok committed', -1, 1],
    ['release', 'ok released', -1, 1],
    ['extend', 'ok held', -1, 1],
    ['read', 'ok held', -1, 0],
  ])('%s answers %s at its time %+d ms, swept or not', async (name, expected, offset, facts) => {
    const { shard, ref, expiresAt, seq } = await hold();
    await holdTime(shard, expiresAt + offset);
    const before = await contentOf(shard);
    expect(await act(shard, name, [{ ...ref, seconds: 1 }])).toEqual([expected]);
    expect((await factsOf(shard)).length - seq).toBe(facts);
    if (offset === 0) {
      expect(await contentOf(shard)).toEqual(before);
      await holdTime(shard, expiresAt + 100);
      expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 1 });
      expect(await act(shard, name, [{ ...ref, seconds: 1 }])).toEqual([expected]);
    }
  });

  test.each<[Act, Record<string, string>, number, string]>([
    ['commit', { '1/shoe/east': '0/0/2', '1/shoe/west': '1/0/1', '1/hat/east': '3/0/1' }, 4, 'committed'],
    ['release', { '1/shoe/east': '2/0/0', '1/shoe/west': '2/0/0', '1/hat/east': '4/0/0' }, 0, 'released'],
    ['extend', { '1/shoe/east': '2/2/0', '1/shoe/west': '2/1/0', '1/hat/east': '4/1/0' }, 4, 'extended'],
  ])('%s moves counters, buyer’s units and writes one fact', async (name, expected, owned, kind) => {
    const { shard, ref, now, seq } = await hold();
    await act(shard, name, [{ ...ref, seconds: 120 }]);
    expect(await counters(shard)).toEqual(expected);
    expect(await unitsOf(shard, 'ann')).toBe(owned);
    const fact = (await factsOf(shard)).at(-1);
    expect(fact).toMatchObject({
      kind: factCodes[kind as keyof typeof factCodes],
      buyer: short('ann'),
      key: short('k'),
      saleId: 'sale',
      reservation: seq,
      expiresAt: name === 'extend' ? now + 180_000 : 0,
    });
    expect(decodeLines(fact?.lines ?? Buffer.alloc(0))).toEqual([
      { sku: 'shoe', warehouse: 'east', quantity: 2 },
      { sku: 'shoe', warehouse: 'west', quantity: 1 },
      { sku: 'hat', warehouse: 'east', quantity: 1 },
    ]);
  });
});

test.each<[string, Partial<ReturnType<typeof reference>>]>([
  ['another sequence', { seq: 99 }],
  ['another buyer', { buyer: short('bob') }],
  ['another key', { key: short('other') }],
  ['another sale', { sale: 7 }],
])('%s is an unknown reservation to all of them, and nothing changes', async (_name, change) => {
  const { shard, ref } = await hold();
  const before = await contentOf(shard);
  for (const name of Object.keys(commands) as Act[])
    expect(await act(shard, name, [{ ...ref, ...change }])).toEqual(['unknownReservation -']);
  expect(await contentOf(shard)).toEqual(before);
});

test('bad references among good ones, of several sales, each with its own answer', async () => {
  const shard = await openTestShard(server);
  await makeSale(shard, { id: 'one' });
  await makeSale(shard, { id: 'two' });
  const held = await reserve(shard, [
    { sale: 1, key: 'a' },
    { sale: 2, key: 'a' },
    { sale: 1, key: 'b' },
  ]);
  const [a = 0, b = 0, c = 0] = held.map(({ seq }) => seq);
  expect(
    await act(shard, 'commit', [
      reference(a, { sale: 1, key: 'a' }),
      reference(a, { sale: 9 }),
      reference(b, { sale: 2, key: 'a' }),
      reference(99, { sale: 1, key: 'b' }),
      reference(c, { sale: 1, key: 'b' }),
    ]),
  ).toEqual(['ok committed', 'unknownReservation -', 'ok committed', 'unknownReservation -', 'ok committed']);
  expect(await counters(shard)).toEqual({ '1/shoe/east': '8/0/2', '2/shoe/east': '9/0/1' });
});

describe('extending', () => {
  test.each<[string, SaleOptions, number[], string[]]>([
    ['by as much as the sale allows', { extendMs: 60_000 }, [60], ['ok held']],
    ['not by more', { extendMs: 60_000 }, [61, 60], ['notAllowed held', 'ok held']],
    ['as often as the sale allows', { extensions: 2 }, [1, 1, 1], ['ok held', 'ok held', 'notAllowed held']],
    ['never where it allows none', { extensions: 0 }, [1], ['notAllowed held']],
  ])('%s', async (_name, options, seconds, expected) => {
    const { shard, ref } = await hold(options);
    const found: string[] = [];
    for (const one of seconds) found.push(...(await act(shard, 'extend', [{ ...ref, seconds: one }])));
    expect(found).toEqual(expected);
  });

  test('moves the time to which it can be committed, and when it is swept', async () => {
    const { shard, ref, expiresAt } = await hold();
    await act(shard, 'extend', [{ ...ref, seconds: 10 }]);
    await holdTime(shard, expiresAt + 9_999);
    expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 0 });
    expect(await act(shard, 'read', [ref])).toEqual(['ok held']);
    const { results } = await shard.call(readReservationsCommand, { references: [ref] });
    expect(results[0]?.expiresAt).toBe(expiresAt + 10_000);
    await holdTime(shard, expiresAt + 10_000);
    expect(await act(shard, 'commit', [ref])).toEqual(['ended expired']);
    await holdTime(shard, expiresAt + 10_100);
    expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 1 });
  });

  test('what it was extended to is told after its end too', async () => {
    const { shard, ref, expiresAt } = await hold();
    await act(shard, 'extend', [{ ...ref, seconds: 10 }]);
    const { results } = await shard.call(commitCommand, { references: [ref] });
    expect(results[0]?.expiresAt).toBe(expiresAt + 10_000);
  });
});

test.each([[saleCodes.paused], [saleCodes.closed]])('a hold outlives its sale’s state %i', async (state) => {
  const { shard, ref } = await hold();
  await shard.call(setSaleStateCommand, { sale: 1, state });
  expect(await act(shard, 'extend', [{ ...ref, seconds: 1 }])).toEqual(['ok held']);
  expect(await act(shard, 'commit', [ref])).toEqual(['ok committed']);
});

test('the time at which a hold was read as expired is kept: the clock may go back, what was told may not', async () => {
  const shard = await openTestShard(server);
  await makeSale(shard, { holdMs: 50, stock: { shoe: { east: 1 } } });
  const [held] = await reserve(shard, [{}]);
  const at = async (): Promise<number> => Number(await shard.redis.hget(`${shard.prefix}shard`, 'at'));
  const keptMs = await at();
  const ref = reference(held?.seq ?? 0);
  expect(await act(shard, 'read', [ref])).toEqual(['ok held']);
  expect(await at()).toBe(keptMs);
  await expect.poll(() => act(shard, 'read', [ref]), { interval: 5 }).toEqual(['ok expired']);
  expect(await at()).toBeGreaterThanOrEqual(held?.expiresAt ?? Number.POSITIVE_INFINITY);
});
