import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  commitCommand,
  expireCommand,
  extendCommand,
  factCodes,
  readReservationsCommand,
  releaseCommand,
  shardStatusCommand,
} from './bindings.ts';
import {
  contentOf,
  counters,
  factsOf,
  holdTime,
  makeSale,
  openTestShard,
  reference,
  reserve,
  startTestValkey,
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

const many = (count: number, lines: Record<string, number> = { shoe: 1 }) =>
  Array.from({ length: count }, (_, i) => ({ buyer: `b${i}`, lines }));

/** Sweeps until nothing is due; answers the calls that it took. */
async function sweep(shard: TestShard, max: number) {
  const found = { expired: 0, forgotten: 0, calls: 0, most: 0 };
  for (;;) {
    const answer = await shard.call(expireCommand, { max });
    found.expired += answer.expired;
    found.forgotten += answer.forgotten;
    found.most = Math.max(found.most, answer.expired + answer.forgotten);
    found.calls++;
    if (answer.more === 0) return found;
  }
}

test('puts units of lapsed holds back on sale, and nothing before its time', async () => {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 1_000, stock: { shoe: { east: 3 } } });
  await reserve(shard, many(3));
  await holdTime(shard, now + 999);
  expect(await sweep(shard, 100)).toMatchObject({ expired: 0 });
  expect((await reserve(shard, [{ buyer: 'late' }]))[0]?.status).toBe('soldOut');
  await holdTime(shard, now + 1_100);
  expect(await sweep(shard, 100)).toMatchObject({ expired: 3, forgotten: 0 });
  expect(await counters(shard)).toEqual({ '1/shoe/east': '3/0/0' });
  expect(await unitsOf(shard, 'b0')).toBe(0);
  expect((await shard.call(shardStatusCommand, {})).live).toBe(0);
  expect((await reserve(shard, [{ buyer: 'late' }]))[0]?.status).toBe('ok');
  expect((await factsOf(shard)).filter(({ kind }) => kind === factCodes.expired)).toHaveLength(3);
});

test('is bounded a call, in whole elements, however many are due', async () => {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 1_000, stock: { shoe: { east: 10_000 } } });
  for (let i = 0; i < 20; i++)
    await reserve(
      shard,
      Array.from({ length: 100 }, (_, j) => ({ buyer: `b${i}-${j}` })),
    );
  await holdTime(shard, now + 1_100);
  const found = await sweep(shard, 250);
  expect(found.expired).toBe(2_000);
  // An element holds what one call reserved: 100 here, so 250 come to three elements.
  expect(found.most).toBeLessThanOrEqual(300);
  expect(found.calls).toBeGreaterThanOrEqual(7);
  expect(await counters(shard)).toEqual({ '1/shoe/east': '10000/0/0' });
});

test('1,000 holds of 50 SKUs each, all SKUs different, due at once', async () => {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  const sku = (i: number): string => `sku-${i}`;
  for (let sale = 1; sale <= 4; sale++)
    await makeSale(shard, {
      id: `sale-${sale}`,
      holdMs: 1_000,
      stock: Object.fromEntries(Array.from({ length: 12_500 }, (_, i) => [sku(i), { east: 1 }])),
    });
  for (let sale = 1; sale <= 4; sale++) {
    const results = await reserve(
      shard,
      Array.from({ length: 250 }, (_, i) => ({
        sale,
        buyer: `b${i}`,
        lines: Object.fromEntries(Array.from({ length: 50 }, (_, j) => [sku(i * 50 + j), 1])),
      })),
    );
    expect(results.every(({ status }) => status === 'ok')).toBe(true);
  }
  await holdTime(shard, now + 1_100);
  expect(await shard.call(expireCommand, { max: 1_000 })).toMatchObject({ expired: 1_000 });
  const all = Object.values(await counters(shard));
  expect(all).toHaveLength(50_000);
  expect(all.every((text) => text === '1/0/0')).toBe(true);
});

test('10,000 units due are on sale again within a second', async () => {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 1_000, stock: { shoe: { east: 10_000 } } });
  for (let i = 0; i < 20; i++)
    await reserve(
      shard,
      Array.from({ length: 500 }, (_, j) => ({ buyer: `b${i}-${j}` })),
    );
  await holdTime(shard, now + 1_100);
  // The server's processor time: a busy machine must not decide.
  const spentSeconds = async (): Promise<number> =>
    [...(await server.redis.info('cpu')).matchAll(/^used_cpu_(?:user|sys):([\d.]+)/gm)].reduce(
      (sum, [, seconds]) => sum + Number(seconds),
      0,
    );
  const before = await spentSeconds();
  expect(await sweep(shard, 1_000)).toMatchObject({ expired: 10_000 });
  expect((await spentSeconds()) - before).toBeLessThan(0.5);
});

test('more buckets due than one call looks at, each of its own tenth of a second', async () => {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 1_000, stock: { shoe: { east: 100 } } });
  for (let i = 0; i < 65; i++) {
    await holdTime(shard, now + i * 100);
    await reserve(shard, [{ buyer: `b${i}` }]);
  }
  await holdTime(shard, now + 100_000);
  expect(await sweep(shard, 1_000)).toMatchObject({ expired: 65 });
  expect(await counters(shard)).toEqual({ '1/shoe/east': '100/0/0' });
});

test('two sweepers at once end each hold once', async () => {
  const shard = await openTestShard(server);
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 1_000, stock: { shoe: { east: 500 } } });
  for (let i = 0; i < 50; i++)
    await reserve(
      shard,
      Array.from({ length: 10 }, (_, j) => ({ buyer: `b${i}-${j}` })),
    );
  await holdTime(shard, now + 1_100);
  const both = await Promise.all([sweep(shard, 7), sweep(shard, 13)]);
  expect(both.reduce((sum, { expired }) => sum + expired, 0)).toBe(500);
  expect(await counters(shard)).toEqual({ '1/shoe/east': '500/0/0' });
});

test('ended reservations and their keys are remembered for their time, then forgotten', async () => {
  const shard = await openTestShard(server, { rememberMs: 5_000 });
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 60_000, perBuyer: 3 });
  const held = await reserve(shard, [{ key: 'sold' }, { key: 'given' }]);
  const [sold = 0, given = 0] = held.map(({ seq }) => seq);
  const references = [reference(sold, { key: 'sold' })];
  await shard.call(commitCommand, { references });
  await shard.call(releaseCommand, { references: [reference(given, { key: 'given' })] });
  await holdTime(shard, now + 4_999);
  expect(await sweep(shard, 10)).toMatchObject({ forgotten: 0 });
  expect((await reserve(shard, [{ key: 'sold' }]))[0]?.status).toBe('replay');
  await holdTime(shard, now + 5_100);
  expect(await sweep(shard, 10)).toMatchObject({ expired: 0, forgotten: 2 });
  const read = await shard.call(readReservationsCommand, { references });
  expect(read.results[0]?.state).toBe(0);
  // What was bought still counts; the key is free again.
  expect(await unitsOf(shard, 'ann')).toBe(1);
  const [again] = await reserve(shard, [{ key: 'sold' }]);
  expect(again?.status).toBe('ok');
  // The first hold's own due time passes: the second hold under the same key is not touched by it.
  await holdTime(shard, now + 60_100);
  expect(await sweep(shard, 10)).toMatchObject({ expired: 0, forgotten: 0 });
  expect(await counters(shard)).toEqual({ '1/shoe/east': '9/1/1' });
});

test('nothing of a reservation stays once it is forgotten', async () => {
  const shard = await openTestShard(server, { rememberMs: 100 });
  const now = await holdTime(shard);
  await makeSale(shard, { holdMs: 1_000, extensions: 3 });
  const { [`${shard.prefix}outbox`]: _o, [`${shard.prefix}shard`]: _s, ...before } = await contentOf(shard);
  const held = await reserve(shard, many(4));
  const refs = held.map(({ seq }, i) => reference(seq, { buyer: `b${i}` }, 1));
  await shard.call(extendCommand, { references: refs.slice(0, 2) });
  await shard.call(releaseCommand, { references: refs.slice(1, 3) });
  for (const ms of [1_100, 2_200, 3_300, 4_400]) {
    await holdTime(shard, now + ms);
    await sweep(shard, 10);
  }
  const { [`${shard.prefix}outbox`]: _o2, [`${shard.prefix}shard`]: _s2, ...after } = await contentOf(shard);
  expect(after).toEqual(before);
});
