import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type AdjustArgs,
  adjustCommand,
  commitCommand,
  expireCommand,
  factCodes,
  listSalesCommand,
  putSaleCommand,
  readSaleCommand,
  returnUnitsCommand,
  saleCodes,
  setSaleStateCommand,
} from './bindings.ts';
import { decodeSaleSet, decodeStockChange } from './outbox.ts';
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
  type StatusName,
  saleArgs,
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

const adjustment: AdjustArgs = {
  sale: 1,
  id: 'a',
  sku: 'shoe',
  warehouse: 'east',
  delta: 0,
  reason: 'counted',
  open: 0,
};

describe('adjust', () => {
  // Ten in the east, of which three are held.
  test.each<[string, Partial<AdjustArgs>[], StatusName[], string]>([
    ['more', [{ delta: 5 }], ['ok'], '15/3/0'],
    ['fewer', [{ delta: -5 }], ['ok'], '5/3/0'],
    ['down to what is held', [{ delta: -7 }], ['ok'], '3/3/0'],
    ['never below it', [{ delta: -8 }], ['insufficientStock'], '10/3/0'],
    ['nothing', [{ delta: 0 }], ['ok'], '10/3/0'],
    ['the same id again', [{ delta: 5 }, { delta: 5 }], ['ok', 'replay'], '15/3/0'],
    ['the same id with another delta', [{ delta: 5 }, { delta: 6 }], ['ok', 'mismatch'], '15/3/0'],
    ['the same id in another warehouse', [{ delta: 5 }, { delta: 5, warehouse: 'west' }], ['ok', 'mismatch'], '15/3/0'],
    ['another id', [{ delta: 5 }, { delta: 5, id: 'b' }], ['ok', 'ok'], '20/3/0'],
    ['a refused id may be tried again', [{ delta: -8 }, { delta: -7 }], ['insufficientStock', 'ok'], '3/3/0'],
    ['an unknown warehouse', [{ delta: 5, warehouse: 'north' }], ['unknownSku'], '10/3/0'],
    ['an unknown SKU', [{ delta: 5, sku: 'boot' }], ['unknownSku'], '10/3/0'],
    ['an unknown sale', [{ delta: 5, sale: 4 }], ['unknownSale'], '10/3/0'],
    ['nothing into what is not there', [{ delta: 0, sku: 'boot', open: 1 }], ['unknownSku'], '10/3/0'],
    ['more than the format holds', [{ delta: 1_000_000_000 }], ['tooMany'], '10/3/0'],
    ['as much as it holds', [{ delta: 999_999_990 }], ['ok'], '1000000000/3/0'],
  ])('%s', async (_name, changes, expected, east) => {
    const shard = await openTestShard(server);
    await makeSale(shard, { stock: { shoe: { east: 10, west: 1 } } });
    await reserve(shard, [{ lines: { shoe: 3 } }]);
    for (const [i, change] of changes.entries()) {
      const before = await contentOf(shard);
      const { status } = await shard.call(adjustCommand, { ...adjustment, ...change });
      expect(statusName(status)).toBe(expected[i]);
      if (status !== 0) expect(await contentOf(shard)).toEqual(before);
    }
    expect(await counters(shard)).toEqual({ '1/shoe/east': east, '1/shoe/west': '1/0/0' });
  });

  test('a replay answers the first counters', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    const first = await shard.call(adjustCommand, { ...adjustment, delta: 5 });
    await reserve(shard, [{}]);
    const again = await shard.call(adjustCommand, { ...adjustment, delta: 5 });
    expect({ ...again, status: 0 }).toEqual(first);
  });

  test.each([
    ['a new SKU', 'boot', 'east'],
    ['a known SKU in a new warehouse', 'shoe', 'north'],
  ])('opens %s when told to, last in serving order, and sells from it', async (_name, sku, warehouse) => {
    const shard = await openTestShard(server);
    await makeSale(shard, { stock: { shoe: { east: 1 } } });
    await shard.call(adjustCommand, { ...adjustment, sku, warehouse, delta: 5, open: 1 });
    const [result] = await reserve(shard, [{ lines: { [sku]: 5 } }]);
    expect(result?.lines).toEqual([{ sku, warehouse, quantity: 5 }]);
    const fact = (await factsOf(shard)).find(({ kind, note }) => kind === factCodes.restocked && note[0] === 1);
    expect(fact && decodeStockChange(fact.note)).toEqual({
      ...{ id: 'a', sku, warehouse, units: 5, reason: 'counted' },
      after: { onHand: 5, reserved: 0, sold: 0 },
    });
  });
});

describe('returning sold units', () => {
  const returned = (shard: TestShard, lines: [string, string, number][], more = {}) =>
    shard
      .call(returnUnitsCommand, {
        ...{ sale: 1, buyer: short('ann'), key: short('k'), seq: 4, id: 'r1', ...more },
        lines: lines.map(([sku, warehouse, quantity]) => ({ sku, warehouse, quantity })),
      })
      .then(({ status }) => statusName(status));

  /** Ann has bought three shoes: two from the east, one from the west; Bob one from the west. */
  const bought = async (): Promise<TestShard> => {
    const shard = await openTestShard(server);
    await makeSale(shard, { perBuyer: 3, stock: { shoe: { east: 2, west: 2 } } });
    const held = await reserve(shard, [{ lines: { shoe: 3 } }, { buyer: 'bob' }]);
    const references = held.map(({ seq }, i) => reference(seq, { buyer: i === 0 ? 'ann' : 'bob' }));
    await shard.call(commitCommand, { references });
    return shard;
  };

  test.each<[string, [string, string, number][], StatusName, Record<string, string>, number]>([
    [
      'all',
      [
        ['shoe', 'east', 2],
        ['shoe', 'west', 1],
      ],
      'ok',
      { '1/shoe/east': '2/0/0', '1/shoe/west': '1/0/1' },
      0,
    ],
    ['some', [['shoe', 'east', 1]], 'ok', { '1/shoe/east': '1/0/1', '1/shoe/west': '0/0/2' }, 2],
    [
      'two lines of one allotment',
      [
        ['shoe', 'east', 1],
        ['shoe', 'east', 1],
      ],
      'ok',
      { '1/shoe/east': '2/0/0', '1/shoe/west': '0/0/2' },
      1,
    ],
    [
      'more than was sold there',
      [['shoe', 'east', 3]],
      'insufficientStock',
      { '1/shoe/east': '0/0/2', '1/shoe/west': '0/0/2' },
      3,
    ],
    [
      'more than was sold there, in two lines',
      [
        ['shoe', 'east', 2],
        ['shoe', 'east', 1],
      ],
      'insufficientStock',
      { '1/shoe/east': '0/0/2', '1/shoe/west': '0/0/2' },
      3,
    ],
    [
      'more than the buyer owns',
      [
        ['shoe', 'east', 2],
        ['shoe', 'west', 2],
      ],
      'insufficientStock',
      { '1/shoe/east': '0/0/2', '1/shoe/west': '0/0/2' },
      3,
    ],
    [
      'an unknown SKU among known ones',
      [
        ['shoe', 'east', 1],
        ['boot', 'east', 1],
      ],
      'unknownSku',
      { '1/shoe/east': '0/0/2', '1/shoe/west': '0/0/2' },
      3,
    ],
  ])('%s', async (_name, lines, expected, stock, owned) => {
    const shard = await bought();
    const before = await contentOf(shard);
    expect(await returned(shard, lines)).toBe(expected);
    expect(await counters(shard)).toEqual(stock);
    expect(await unitsOf(shard, 'ann')).toBe(owned);
    if (expected !== 'ok') expect(await contentOf(shard)).toEqual(before);
  });

  test('once per id, and the units can be bought again within the limit', async () => {
    const shard = await bought();
    expect(await returned(shard, [['shoe', 'east', 1]])).toBe('ok');
    const before = await contentOf(shard);
    expect(await returned(shard, [['shoe', 'east', 1]])).toBe('replay');
    expect(await returned(shard, [['shoe', 'east', 2]])).toBe('mismatch');
    expect(await returned(shard, [['shoe', 'east', 1]], { seq: 5 })).toBe('mismatch');
    expect(await contentOf(shard)).toEqual(before);
    expect((await reserve(shard, [{ key: 'new' }]))[0]?.status).toBe('ok');
    expect(await returned(shard, [['shoe', 'east', 1]], { sale: 3 })).toBe('unknownSale');
    const fact = (await factsOf(shard)).find(({ kind }) => kind === factCodes.returned);
    expect(fact).toMatchObject({ buyer: short('ann'), key: short('k'), reservation: 4, note: Buffer.from('r1') });
  });

  test('units that a buyer only holds can’t be returned out of what another bought, and still end', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    const [, bob] = await reserve(shard, [{}, { buyer: 'bob' }]);
    await shard.call(commitCommand, { references: [reference(bob?.seq ?? 0, { buyer: 'bob' })] });
    expect(await returned(shard, [['shoe', 'east', 1]], { seq: 3 })).toBe('insufficientStock');
    await holdTime(shard);
    expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 1 });
    expect(await unitsOf(shard, 'ann')).toBe(0);
  });

  test('units that are only held are not sold, so they can’t be returned', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    await reserve(shard, [{}]);
    expect(await returned(shard, [['shoe', 'east', 1]])).toBe('insufficientStock');
  });
});

describe('putting a sale', () => {
  const put = (shard: TestShard, options: SaleOptions = {}) => shard.call(putSaleCommand, saleArgs(options));

  test.each<[string, SaleOptions, StatusName, number]>([
    ['again with the same stock', {}, 'ok', 0],
    ['again without stock', { digest: '', stock: {} }, 'ok', 0],
    ['again with other stock', { digest: 'other', stock: { shoe: { east: 11 } } }, 'conflict', 0],
    ['another with stock', { id: 'other' }, 'ok', 1],
    ['another without stock', { id: 'other', digest: '', stock: {} }, 'unknownSale', 0],
  ])('%s', async (_name, options, expected, created) => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    await reserve(shard, [{}]);
    const before = await contentOf(shard);
    const answer = await put(shard, options);
    expect([statusName(answer.status), answer.created]).toEqual([expected, created]);
    expect((await counters(shard))['1/shoe/east']).toBe('10/1/0');
    if (expected !== 'ok') expect(await contentOf(shard)).toEqual(before);
  });

  test('changes the rules for what comes after, and not for what is held', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard, { perBuyer: 1, holdMs: 1_000 });
    const [first] = await reserve(shard, [{}]);
    expect((await reserve(shard, [{ key: 'b' }]))[0]?.status).toBe('purchaseLimit');
    await put(shard, { perBuyer: 2, holdMs: 500_000, settings: '{"title":"B"}' });
    const [second] = await reserve(shard, [{ key: 'b' }]);
    expect(second?.status).toBe('ok');
    expect(Number(second?.expiresAt)).toBeGreaterThan(Number(first?.expiresAt) + 400_000);
    expect((await reserve(shard, [{}]))[0]?.expiresAt).toBe(first?.expiresAt);
    expect(await shard.call(readSaleCommand, { id: 'sale' })).toMatchObject({
      settings: '{"title":"B"}',
      no: 1,
      state: 1,
    });
  });

  test('does not reopen what was paused or closed', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    await shard.call(setSaleStateCommand, { sale: 1, state: saleCodes.closed });
    await put(shard, { perBuyer: 9 });
    expect((await reserve(shard, [{}]))[0]?.status).toBe('saleNotOpen');
  });

  test('needs room for all its events, and leaves nothing where there is none', async () => {
    const shard = await openTestShard(server, { outboxEvents: 5 });
    const before = await contentOf(shard);
    const stock = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`s${i}`, { east: 1 }]));
    expect(statusName((await put(shard, { stock })).status)).toBe('overloaded');
    expect(await contentOf(shard)).toEqual(before);
  });

  test('20,000 allotments, some with nothing in them', async () => {
    const shard = await openTestShard(server);
    const stock = Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`s${i}`, { east: i % 3 }]));
    expect(statusName((await put(shard, { stock })).status)).toBe('ok');
    const { stock: read, no } = await shard.call(readSaleCommand, { id: 'sale' });
    expect([read.length, no]).toEqual([20_000, 1]);
    expect(await factsOf(shard)).toHaveLength(20_001);
  });

  test('sales have numbers of their own, are listed, and what is not there reads as state 0', async () => {
    const shard = await openTestShard(server);
    expect([await makeSale(shard, { id: 'one' }), await makeSale(shard, { id: 'two' })]).toEqual([1, 2]);
    const { sales } = await shard.call(listSalesCommand, {});
    expect(sales.sort((a, b) => a.no - b.no)).toEqual([
      { no: 1, id: 'one' },
      { no: 2, id: 'two' },
    ]);
    expect(await shard.call(readSaleCommand, { id: 'three' })).toMatchObject({ state: 0, no: 0, stock: [] });
  });

  test('text in other scripts comes back as it went in', async () => {
    const shard = await openTestShard(server);
    const settings = JSON.stringify({ title: 'Schuhe & 靴 👟' });
    await makeSale(shard, { settings });
    expect((await shard.call(readSaleCommand, { id: 'sale' })).settings).toBe(settings);
    expect(decodeSaleSet((await factsOf(shard))[0]?.note ?? Buffer.alloc(0)).settings).toBe(settings);
  });
});

test.each<[number[], StatusName[]]>([
  [
    [2, 2],
    ['ok', 'replay'],
  ],
  [[1], ['replay']],
  [
    [2, 1, 2],
    ['ok', 'ok', 'ok'],
  ],
  [
    [3, 3],
    ['ok', 'replay'],
  ],
  [
    [3, 1],
    ['ok', 'notAllowed'],
  ],
  [
    [2, 3, 2],
    ['ok', 'ok', 'notAllowed'],
  ],
])('states of a sale: %j answers %j', async (states, expected) => {
  const shard = await openTestShard(server);
  await makeSale(shard);
  for (const [i, state] of states.entries()) {
    const before = await contentOf(shard);
    const { status } = await shard.call(setSaleStateCommand, { sale: 1, state });
    expect(statusName(status)).toBe(expected[i]);
    if (status !== 0) expect(await contentOf(shard)).toEqual(before);
  }
  expect(statusName((await shard.call(setSaleStateCommand, { sale: 2, state: 2 })).status)).toBe('unknownSale');
});
