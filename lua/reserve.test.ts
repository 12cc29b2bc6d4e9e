import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  adjustCommand,
  commitCommand,
  expireCommand,
  extendCommand,
  openShardCommand,
  outboxTrimCommand,
  releaseCommand,
  reserveCommand,
  saleCodes,
  setSaleStateCommand,
  statusCodes,
} from './bindings.ts';
import {
  contentOf,
  counters,
  factsOf,
  holdTime,
  makeSale,
  openTestShard,
  outboxOf,
  reference,
  reserve,
  reserveArgs,
  type SaleOptions,
  type StatusName,
  type Stock,
  startTestValkey,
  type TestValkey,
  unitsOf,
  type Wish,
} from './testing.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(async () => {
  await server.stop();
});

describe('which warehouse serves', () => {
  test.each<[string, Record<string, number>, number, string]>([
    ['the first that can serve it whole', { a: 2, b: 5, c: 9 }, 4, 'b4'],
    ['the first listed, when it can', { a: 5, b: 5 }, 5, 'a5'],
    ['a later one whole, before a split', { a: 3, b: 3, c: 4 }, 4, 'c4'],
    ['split in listed order', { a: 2, b: 3, c: 1 }, 4, 'a2 b2'],
    ['split over all', { a: 2, b: 3, c: 1 }, 6, 'a2 b3 c1'],
    ['split past an empty one', { a: 2, b: 0, c: 3 }, 5, 'a2 c3'],
    ['the order of listing, not of names', { z: 1, a: 1 }, 1, 'z1'],
  ])('%s', async (_name, warehouses, quantity, expected) => {
    const shard = await openTestShard(server);
    await makeSale(shard, { stock: { shoe: warehouses } });
    const [result] = await reserve(shard, [{ lines: { shoe: quantity } }]);
    expect(result?.lines.map((line) => line.warehouse + line.quantity).join(' ')).toBe(expected);
    expect(result?.lines.every((line) => line.sku === 'shoe')).toBe(true);
  });

  test('what is held in a warehouse is not there for others', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard, { stock: { shoe: { a: 3, b: 3 } } });
    const results = await reserve(shard, [
      { buyer: 'ann', lines: { shoe: 2 } },
      { buyer: 'bob', lines: { shoe: 2 } },
      { buyer: 'cem', lines: { shoe: 2 } },
    ]);
    expect(results.map(({ lines }) => lines.map((line) => line.warehouse + line.quantity).join(' '))).toEqual([
      'a2',
      'b2',
      'a1 b1',
    ]);
    expect(await counters(shard)).toEqual({ '1/shoe/a': '3/3/0', '1/shoe/b': '3/3/0' });
  });
});

type Case = [name: string, sale: SaleOptions, wishes: Wish[], statuses: StatusName[], line?: number];
const two: Stock = { shoe: { east: 2 }, hat: { east: 5 } };

describe('what each request of a call is told', () => {
  test.each<Case>([
    ['one line', {}, [{}], ['ok']],
    ['several lines', { stock: two }, [{ lines: { shoe: 2, hat: 5 } }], ['ok']],
    [
      'all lines or none',
      { stock: two },
      [{ lines: { hat: 1, shoe: 3 } }, { buyer: 'bob', lines: { hat: 5 } }],
      ['insufficientStock', 'ok'],
      1,
    ],
    ['the last unit once', { stock: { shoe: { east: 1 } } }, [{ buyer: 'ann' }, { buyer: 'bob' }], ['ok', 'soldOut']],
    [
      'sold out before insufficient',
      { stock: { shoe: { east: 0 }, hat: { east: 1 } } },
      [{ lines: { hat: 2, shoe: 1 } }],
      ['soldOut'],
      1,
    ],
    ['sold out for more than one too', { stock: { shoe: { east: 0 } } }, [{ lines: { shoe: 5 } }], ['soldOut'], 0],
    ['less than asked for', {}, [{ lines: { shoe: 11 } }, { lines: { shoe: 10 } }], ['insufficientStock', 'ok']],
    ['an unknown SKU', {}, [{ lines: { boot: 1 } }], ['unknownSku'], 0],
    ['an unknown SKU beside a known one', {}, [{ lines: { shoe: 1, boot: 1 } }], ['unknownSku'], 1],
    ['an unknown sale', {}, [{ sale: 9 }], ['unknownSale']],
    [
      'bad ones among good ones',
      {},
      [{ sale: 9 }, { key: 'a' }, { lines: { boot: 1 } }, { key: 'b' }, { lines: { shoe: 99 } }, { key: 'c' }],
      ['unknownSale', 'ok', 'unknownSku', 'ok', 'insufficientStock', 'ok'],
    ],
    [
      'the limit over several requests of a call',
      { perBuyer: 3 },
      [
        { key: 'a', lines: { shoe: 2 } },
        { key: 'b', lines: { shoe: 2 } },
        { key: 'c' },
        { key: 'd' },
        { buyer: 'bob', lines: { shoe: 3 } },
      ],
      ['ok', 'purchaseLimit', 'ok', 'purchaseLimit', 'ok'],
    ],
    [
      'the limit over all SKUs',
      { perBuyer: 3, stock: two },
      [{ lines: { shoe: 2, hat: 2 } }, { lines: { shoe: 1, hat: 2 } }],
      ['purchaseLimit', 'ok'],
    ],
    [
      'the limit before sold out',
      { perBuyer: 1, stock: { shoe: { east: 0 } } },
      [{ lines: { shoe: 2 } }],
      ['purchaseLimit'],
    ],
    ['not open before the limit', { perBuyer: 1, opensAt: 1e15 }, [{ lines: { shoe: 2 } }], ['saleNotOpen']],
    ['an unknown SKU before not open', { opensAt: 1e15 }, [{ lines: { boot: 1 } }], ['unknownSku']],
    ['the same key twice in a call', {}, [{}, {}], ['ok', 'replay']],
    ['the same key twice in a call with another body', {}, [{}, { lines: { shoe: 2 } }], ['ok', 'mismatch']],
    [
      'a refused key again in the same call',
      {},
      [{ lines: { shoe: 99 } }, { lines: { shoe: 1 } }, { lines: { shoe: 1 } }],
      ['insufficientStock', 'ok', 'replay'],
    ],
    ['a key is one buyer’s', {}, [{ buyer: 'ann' }, { buyer: 'bob' }], ['ok', 'ok']],
  ])('%s', async (_name, sale, wishes, statuses, line) => {
    const shard = await openTestShard(server);
    await makeSale(shard, sale);
    const results = await reserve(shard, wishes);
    expect(results.map(({ status }) => status)).toEqual(statuses);
    if (line !== undefined) expect(results[0]?.line).toBe(line);
    const units = new Map<string, number>();
    for (const [i, { buyer = 'ann', lines = { shoe: 1 } }] of wishes.entries()) {
      if (statuses[i] !== 'ok') expect(results[i]?.lines.length ?? 0).toBe(statuses[i] === 'replay' ? 1 : 0);
      const wanted = Object.values(lines).reduce((sum, quantity) => sum + quantity, 0);
      units.set(buyer, (units.get(buyer) ?? 0) + (statuses[i] === 'ok' ? wanted : 0));
    }
    for (const [buyer, owned] of units) expect(await unitsOf(shard, buyer)).toBe(owned);
    const reserved = Object.values(await counters(shard)).reduce((sum, text) => sum + Number(text.split('/')[1]), 0);
    expect(reserved).toBe([...units.values()].reduce((sum, owned) => sum + owned, 0));
  });

  test('several sales in one call, each with its own stock, keys, limits and hold time', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard, { id: 'one', perBuyer: 1, holdMs: 1_000 });
    await makeSale(shard, { id: 'two', stock: { shoe: { west: 1 } }, holdMs: 9_000 });
    const results = await reserve(shard, [{ sale: 1 }, { sale: 2 }, { sale: 1, key: 'b' }, { sale: 2, key: 'b' }]);
    expect(results.map(({ status }) => status)).toEqual(['ok', 'ok', 'purchaseLimit', 'soldOut']);
    expect(results[0]?.lines[0]?.warehouse).toBe('east');
    expect(results[1]?.lines[0]?.warehouse).toBe('west');
    expect(Number(results[1]?.expiresAt) - Number(results[0]?.expiresAt)).toBe(8_000);
    expect(await counters(shard)).toEqual({ '1/shoe/east': '10/1/0', '2/shoe/west': '1/1/0' });
    const [, , entry] = await outboxOf(shard);
    expect(entry?.entry.facts.map(({ saleId }) => saleId)).toEqual(['one', 'two']);
  });
});

describe('replays', () => {
  test.each<[string, Record<string, number>, StatusName]>([
    ['the same', { shoe: 3, hat: 1 }, 'replay'],
    ['the same in another order', { hat: 1, shoe: 3 }, 'replay'],
    ['another quantity', { shoe: 2, hat: 1 }, 'mismatch'],
    ['a line less', { shoe: 3 }, 'mismatch'],
    ['a line more', { shoe: 3, hat: 1, scarf: 1 }, 'mismatch'],
    ['an unknown line more', { shoe: 3, hat: 1, boot: 1 }, 'unknownSku'],
    ['another SKU', { shoe: 3, scarf: 1 }, 'mismatch'],
  ])('%s', async (_name, lines, expected) => {
    const shard = await openTestShard(server);
    await makeSale(shard, { stock: { shoe: { a: 2, b: 2 }, hat: { a: 4 }, scarf: { a: 1 } } });
    const [first] = await reserve(shard, [{ lines: { shoe: 3, hat: 1 } }]);
    const before = await contentOf(shard);
    const [again] = await reserve(shard, [{ lines }]);
    expect(again?.status).toBe(expected);
    if (expected === 'replay') expect(again).toEqual({ ...first, status: 'replay' });
    expect(await contentOf(shard)).toEqual(before);
  });

  test.each([['paused'], ['sold out'], ['committed'], ['released'], ['expired'], ['at the limit'], ['extended']])(
    'the first answer comes again when the sale or the reservation is %s',
    async (change) => {
      const shard = await openTestShard(server);
      await makeSale(shard, { perBuyer: 1, stock: { shoe: { east: 1 } } });
      const [first] = await reserve(shard, [{}]);
      const references = [reference(first?.seq ?? 0, {}, 60)];
      if (change === 'paused') await shard.call(setSaleStateCommand, { sale: 1, state: saleCodes.paused });
      if (change === 'committed') await shard.call(commitCommand, { references });
      if (change === 'released') await shard.call(releaseCommand, { references });
      if (change === 'extended') await shard.call(extendCommand, { references });
      if (change === 'expired') {
        await holdTime(shard, (first?.expiresAt ?? 0) + 100);
        expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 1 });
      }
      const [again] = await reserve(shard, [{}]);
      expect(again).toEqual({ ...first, status: 'replay' });
    },
  );

  test('a replay writes, so that a wait for its durability has something to wait for', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    await reserve(shard, [{}]);
    const dirty = async (): Promise<number> =>
      Number(/rdb_changes_since_last_save:(\d+)/.exec(await server.redis.info('persistence'))?.[1]);
    const before = await dirty();
    await reserve(shard, [{}]);
    expect(await dirty()).toBeGreaterThan(before);
  });
});

describe('when a sale sells', () => {
  test.each<[string, { opens?: number; closes?: number }, boolean]>([
    ['opens now', { opens: 0 }, true],
    ['opens in a millisecond', { opens: 1 }, false],
    ['closes in a millisecond', { closes: 1 }, true],
    ['closes now', { closes: 0 }, false],
    ['opened and not yet closed', { opens: -1, closes: 1 }, true],
  ])('%s', async (_name, { opens, closes }, open) => {
    const shard = await openTestShard(server);
    const now = await holdTime(shard);
    await makeSale(shard, {
      opensAt: opens === undefined ? 0 : now + opens,
      closesAt: closes === undefined ? 0 : now + closes,
    });
    expect((await reserve(shard, [{}]))[0]?.status).toBe(open ? 'ok' : 'saleNotOpen');
  });

  test('not while it is paused, again when it is resumed, never when it is closed', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    const found: string[] = [];
    for (const state of [saleCodes.paused, saleCodes.open, saleCodes.closed, saleCodes.open]) {
      await shard.call(setSaleStateCommand, { sale: 1, state });
      found.push(String((await reserve(shard, [{ key: `k${found.length}` }]))[0]?.status));
    }
    expect(found).toEqual(['saleNotOpen', 'ok', 'saleNotOpen', 'saleNotOpen']);
  });
});

describe('room in the outbox', () => {
  test('new holds are shed; commits, releases and expiries go through; trimming makes room', async () => {
    const shard = await openTestShard(server, { outboxEvents: 10 });
    await makeSale(shard, { holdMs: 1_000 });
    // Two events made the sale; each hold takes one now and one for its ending.
    const results = await reserve(
      shard,
      Array.from({ length: 6 }, (_, i) => ({ key: `k${i}` })),
    );
    expect(results.map(({ status }) => status)).toEqual(['ok', 'ok', 'ok', 'ok', 'overloaded', 'overloaded']);
    const before = await contentOf(shard);
    const ref = (i: number, seconds = 0) => reference(results[i]?.seq ?? 0, { key: `k${i}` }, seconds);
    const { results: extended } = await shard.call(extendCommand, { references: [ref(0, 1)] });
    expect(extended[0]?.status).toBe(statusCodes.overloaded);
    const adjust = { sale: 1, id: 'a', sku: 'shoe', warehouse: 'east', delta: 1, reason: 'found', open: 0 };
    expect((await shard.call(adjustCommand, adjust)).status).toBe(statusCodes.overloaded);
    expect(await contentOf(shard)).toEqual(before);
    const { results: committed } = await shard.call(commitCommand, { references: [ref(0)] });
    const { results: released } = await shard.call(releaseCommand, { references: [ref(1)] });
    expect([committed[0]?.status, released[0]?.status]).toEqual([statusCodes.ok, statusCodes.ok]);
    await holdTime(shard);
    expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 2, more: 0 });
    expect((await reserve(shard, [{ key: 'new' }]))[0]?.status).toBe('overloaded');
    await shard.call(outboxTrimCommand, { acked: 10, keep: 0 });
    expect((await reserve(shard, [{ key: 'new' }]))[0]?.status).toBe('ok');
  });

  test('pausing takes no room from the endings of holds', async () => {
    const shard = await openTestShard(server, { outboxEvents: 4 });
    await makeSale(shard);
    expect((await reserve(shard, [{}]))[0]?.status).toBe('ok');
    expect((await shard.call(setSaleStateCommand, { sale: 1, state: saleCodes.paused })).status).toBe(statusCodes.ok);
    const { results } = await shard.call(commitCommand, { references: [reference(3)] });
    expect(results[0]?.status).toBe(statusCodes.ok);
  });
});

test('a whole batch of 512 requests of 50 lines each is answered, and its facts add up', async () => {
  const shard = await openTestShard(server);
  const skus = Array.from({ length: 50 }, (_, i) => `sku-${i}`);
  await makeSale(shard, { stock: Object.fromEntries(skus.map((sku) => [sku, { east: 500, west: 12 }])) });
  const lines = Object.fromEntries(skus.map((sku) => [sku, 1]));
  const results = await reserve(
    shard,
    Array.from({ length: 513 }, (_, i) => ({ buyer: `b${i}`, lines })),
  );
  expect(results.slice(0, 512).every(({ status }) => status === 'ok')).toBe(true);
  expect(results[512]?.status).toBe('soldOut');
  expect(Object.values(await counters(shard)).every((text) => text === '500/500/0' || text === '12/12/0')).toBe(true);
  expect((await factsOf(shard)).filter(({ kind }) => kind === 1)).toHaveLength(512);
});

test('lines that are split over many warehouses with long names stay whole in answer, record and outbox, or are refused', async () => {
  const shard = await openTestShard(server);
  const name = (kind: string, i: number): string => `${kind}-${i}-`.padEnd(64, 'x');
  const warehouses = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [name('warehouse', i), 20]));
  const skus = Array.from({ length: 50 }, (_, i) => name('sku', i));
  await makeSale(shard, { stock: Object.fromEntries(skus.map((sku) => [sku, warehouses])) });
  const before = await contentOf(shard);
  const wishes = [{ lines: Object.fromEntries(skus.map((sku) => [sku, 1_000])) }];
  const { grants, results } = await shard.call(reserveCommand, reserveArgs(wishes));
  if (results[0]?.status !== statusCodes.ok) {
    expect(await contentOf(shard)).toEqual(before);
    return;
  }
  const facts = await factsOf(shard);
  expect(grants[0]?.lines.length).toBeGreaterThan(300_000);
  expect(facts.at(-1)?.lines.length).toBe(grants[0]?.lines.length);
});

test('a refusal leaves nothing behind', async () => {
  const shard = await openTestShard(server);
  await makeSale(shard, { perBuyer: 5 });
  await makeSale(shard, { id: 'closed' });
  await shard.call(setSaleStateCommand, { sale: 2, state: saleCodes.closed });
  const before = await contentOf(shard);
  const results = await reserve(shard, [
    { lines: { shoe: 6 } },
    { lines: { boot: 1 } },
    { sale: 2 },
    { sale: 3 },
    { lines: { shoe: 1, boot: 1 } },
  ]);
  expect(results.some(({ status }) => status === 'ok')).toBe(false);
  expect(await contentOf(shard)).toEqual(before);
});

test('opening again with other limits changes them', async () => {
  const shard = await openTestShard(server, { outboxEvents: 4 });
  await makeSale(shard);
  expect((await reserve(shard, [{ key: 'a' }, { key: 'b' }])).map(({ status }) => status)).toEqual([
    'ok',
    'overloaded',
  ]);
  await shard.call(openShardCommand, { epoch: 1, expected: 1, outboxEvents: 100, rememberMs: 1 });
  expect((await reserve(shard, [{ key: 'b' }]))[0]?.status).toBe('ok');
});
