import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  adjustCommand,
  commitCommand,
  expireCommand,
  extendCommand,
  factCodes,
  listSalesCommand,
  openShardCommand,
  outboxReadCommand,
  outboxTrimCommand,
  putSaleCommand,
  readReservationsCommand,
  readSaleCommand,
  releaseCommand,
  reserveCommand,
  returnUnitsCommand,
  saleCodes,
  setSaleStateCommand,
  shardStatusCommand,
  snapshotCommand,
} from './bindings.ts';
import {
  type CallOptions,
  contentOf,
  holdTime,
  makeSale,
  openTestShard,
  outboxOf,
  reference,
  reserve,
  reserveArgs,
  saleArgs,
  shardOn,
  short,
  startTestValkey,
  type TestShard,
  type TestValkey,
} from './testing.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(async () => {
  await server.stop();
});

type Call = (shard: TestShard, options?: CallOptions) => Promise<unknown>;

/** A call of every command that would change something, on a shard with a sale and Ann's hold at sequence 3. */
const writes: [string, Call][] = [
  ['reserve', (shard, o) => shard.call(reserveCommand, reserveArgs([{ key: 'new' }]), o)],
  ['commit', (shard, o) => shard.call(commitCommand, { references: [reference(3)] }, o)],
  ['release', (shard, o) => shard.call(releaseCommand, { references: [reference(3)] }, o)],
  ['extend', (shard, o) => shard.call(extendCommand, { references: [reference(3, {}, 1)] }, o)],
  ['expire', (shard, o) => shard.call(expireCommand, { max: 100 }, o)],
  [
    'adjust',
    (shard, o) =>
      shard.call(
        adjustCommand,
        { sale: 1, id: 'a', sku: 'shoe', warehouse: 'east', delta: 1, reason: 'found', open: 0 },
        o,
      ),
  ],
  ['put_sale', (shard, o) => shard.call(putSaleCommand, saleArgs({ id: 'other' }), o)],
  ['set_sale_state', (shard, o) => shard.call(setSaleStateCommand, { sale: 1, state: saleCodes.paused }, o)],
  [
    'return_units',
    (shard, o) =>
      shard.call(
        returnUnitsCommand,
        {
          ...{ sale: 1, buyer: short('bob'), key: short('k'), seq: 4, id: 'r' },
          lines: [{ sku: 'shoe', warehouse: 'east', quantity: 1 }],
        },
        o,
      ),
  ],
  ['outbox_trim', (shard, o) => shard.call(outboxTrimCommand, { acked: 1, keep: 0 }, o)],
];
const reads: [string, Call][] = [
  ['list_sales', (shard, o) => shard.call(listSalesCommand, {}, o)],
  ['outbox_read', (shard, o) => shard.call(outboxReadCommand, { after: 0, max: 10 }, o)],
  ['read_reservations', (shard, o) => shard.call(readReservationsCommand, { references: [reference(3)] }, o)],
  ['read_sale', (shard, o) => shard.call(readSaleCommand, { id: 'sale' }, o)],
  ['shard_status', (shard, o) => shard.call(shardStatusCommand, {}, o)],
  ['snapshot', (shard, o) => shard.call(snapshotCommand, {}, o)],
];

/** Sequences: 1 and 2 the sale, 3 Ann's hold, 4 Bob's, 5 Bob has bought. One more hold has lapsed, not swept: 6. */
async function prepared(): Promise<{ shard: TestShard; now: number; seq: number }> {
  const shard = await openTestShard(server);
  await makeSale(shard, { holdMs: 50_000 });
  const [, bob] = await reserve(shard, [{}, { buyer: 'bob' }]);
  await shard.call(commitCommand, { references: [reference(bob?.seq ?? 0, { buyer: 'bob' })] });
  await makeSale(shard, { id: 'short', holdMs: 1_000 });
  await reserve(shard, [{ sale: 2, buyer: 'cem' }]);
  const status = await shard.call(shardStatusCommand, {});
  return { shard, now: await holdTime(shard, status.now + 2_000), seq: status.seq };
}

describe('every command', () => {
  test.each([...writes, ...reads])(
    '%s is fenced and late as it should be, and leaves nothing then',
    async (_, call) => {
      const { shard, now, seq } = await prepared();
      const before = await contentOf(shard);
      const refused: [CallOptions, RegExp][] = [
        [{ epoch: 2 }, /^FENCED the shard is at epoch 1/],
        [{ epoch: 0 }, /^FENCED/],
        [{ seen: seq + 1 }, /^FENCED the shard is at sequence/],
        [{ deadlineMs: now - 1 }, /^LATE/],
        [{ deadlineMs: 0 }, /^LATE/],
      ];
      for (const [options, message] of refused)
        await expect(call(shard, options), JSON.stringify(options)).rejects.toThrow(message);
      expect(await contentOf(shard)).toEqual(before);
      const missing = shardOn(server, 9_999);
      await expect(call(missing)).rejects.toThrow(/^FENCED this Valkey has no such shard/);
      expect(await contentOf(missing)).toEqual({});
    },
  );

  test.each([...writes, ...reads])('%s is taken at its deadline, by who has seen all', async (_, call) => {
    const { shard, now, seq } = await prepared();
    await expect(call(shard, { deadlineMs: now, seen: seq })).resolves.toBeDefined();
  });

  test.each(writes)('%s changes something here (so the tests above say something)', async (_, call) => {
    const { shard } = await prepared();
    const before = await contentOf(shard);
    await call(shard);
    expect(await contentOf(shard)).not.toEqual(before);
  });

  test.each(reads)('%s changes nothing', async (_, call) => {
    const { shard } = await prepared();
    const before = [await contentOf(shard), await shard.redis.hgetall(`${shard.prefix}shard`)];
    await call(shard);
    expect([await contentOf(shard), await shard.redis.hgetall(`${shard.prefix}shard`)]).toEqual(before);
  });

  test.each(writes)('%s with its argument cut short anywhere changes nothing', async (name, call) => {
    const { shard, seq } = await prepared();
    let sent = Buffer.alloc(0);
    const probe: TestShard = {
      ...shard,
      call: async (command, args) => {
        sent = Buffer.from(command.encode({ epoch: 1, seen: seq, deadlineMs: Number.MAX_SAFE_INTEGER }, args));
        throw new Error('only looked at');
      },
    };
    await call(probe).catch(() => undefined);
    expect(sent.length).toBeGreaterThan(20);
    const before = await contentOf(shard);
    for (let bytes = 0; bytes < sent.length; bytes++)
      await expect(
        server.valkey.call(name, false, `${shard.prefix}shard`, sent.subarray(0, bytes)),
        `${bytes} of ${sent.length} bytes`,
      ).rejects.toThrow();
    expect(await contentOf(shard)).toEqual(before);
  });
});

describe('the shard’s time', () => {
  test('is the server’s while that goes on', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    const [seconds, micros] = await server.redis.time();
    const { now } = await shard.call(shardStatusCommand, {});
    expect(now).toBeGreaterThanOrEqual(Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000));
    expect(now).toBeLessThan(Date.now() + 1_000);
  });

  test('stands still while the server’s clock is behind it', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard, { holdMs: 1_000 });
    const at = await holdTime(shard);
    const [first] = await reserve(shard, [{}]);
    expect(first?.expiresAt).toBe(at + 1_000);
    expect(await shard.call(shardStatusCommand, {})).toMatchObject({ now: at });
    const { results } = await shard.call(commitCommand, { references: [reference(first?.seq ?? 0)] });
    expect(results[0]?.status).toBe(0);
    expect((await outboxOf(shard)).at(-1)?.entry.atMs).toBe(at);
  });

  test('is never behind what an entry of the outbox says', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    for (let i = 0; i < 20; i++) await reserve(shard, [{ buyer: `b${i}`, lines: { shoe: 1 } }]);
    const times = (await outboxOf(shard)).map(({ entry }) => entry.atMs);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
  });
});

describe('the outbox', () => {
  test('has an entry a call, its id the last sequence in it; sequences grow by exactly one', async () => {
    const { shard, now } = await prepared();
    for (const [, call] of writes) await call(shard);
    await shard.call(expireCommand, { max: 100 });
    const { seq } = await shard.call(shardStatusCommand, {});
    let last = 0;
    for (const { id, entry } of await outboxOf(shard)) {
      expect(entry.epoch).toBe(1);
      expect(entry.atMs).toBeLessThanOrEqual(now);
      expect(entry.seqFirst).toBe(last + 1);
      expect(entry.facts.length).toBeGreaterThan(0);
      last += entry.facts.length;
      expect(id).toBe(`${last}-0`);
      for (const fact of entry.facts) {
        expect(Object.values(factCodes)).toContain(fact.kind);
        expect(['sale', 'short', 'other']).toContain(fact.saleId);
      }
    }
    expect(last).toBe(seq);
  });

  test('is read from any sequence on, a bounded number at a time', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    for (let i = 0; i < 5; i++) await reserve(shard, [{ buyer: `a${i}` }, { buyer: `b${i}` }]);
    const ids = async (after: number, max: number) =>
      (await shard.call(outboxReadCommand, { after, max })).entries.map(({ id }) => id);
    expect(await ids(0, 100)).toEqual([2, 4, 6, 8, 10, 12]);
    expect(await ids(4, 2)).toEqual([6, 8]);
    expect(await ids(12, 100)).toEqual([]);
    // In the middle of an entry: the whole entry.
    expect(await ids(5, 1)).toEqual([6]);
    expect(await shard.call(outboxReadCommand, { after: 0, max: 1 })).toMatchObject({ epoch: 1, seq: 12, acked: 0 });
  });

  test('is read in bounded pieces, but an entry is never cut', async () => {
    const shard = await openTestShard(server);
    const skus = Array.from({ length: 50 }, (_, i) => `sku-${i}-`.padEnd(64, 'x'));
    await makeSale(shard, { stock: Object.fromEntries(skus.map((sku) => [sku, { east: 1_000 }])) });
    const buyers = Array.from({ length: 400 }, (_, i) => ({ buyer: `b${i}` }));
    const lines = Object.fromEntries(skus.map((sku) => [sku, 1]));
    const held = await reserve(
      shard,
      buyers.map(({ buyer }) => ({ buyer, lines })),
    );
    const references = held.map(({ seq }, i) => reference(seq, buyers[i]));
    // One entry of more than a piece, then many that make more than one together.
    await shard.call(releaseCommand, { references });
    await makeSale(shard, { id: 'other', stock: { hat: { east: 100_000 } } });
    for (let i = 0; i < 120; i++)
      await reserve(
        shard,
        buyers.map(({ buyer }) => ({ sale: 2, buyer: `${buyer}-${i}`, lines: { hat: 1 } })),
      );
    const pieces: { id: number; body: Buffer }[][] = [];
    for (let after = 0; ; after = pieces.at(-1)?.at(-1)?.id ?? 0) {
      const { entries } = await shard.call(outboxReadCommand, { after, max: 2_000 });
      if (entries.length === 0) break;
      pieces.push(entries);
    }
    const bytes = pieces.map((entries) => entries.reduce((sum, { body }) => sum + body.length, 0));
    const mostBytes = 1_048_576;
    const large = bytes.findIndex((size) => size > mostBytes);
    expect(pieces[large]?.length).toBe(1);
    expect(bytes.filter((size) => size > mostBytes)).toHaveLength(1);
    expect(bytes.filter((size) => size > mostBytes * 0.9).length).toBeGreaterThan(1);
    expect(pieces.flat().map(({ id }) => `${id}-0`)).toEqual((await outboxOf(shard)).map(({ id }) => id));
  });

  test('keeps a tail of what the ledger has, and everything that it has not', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard, { stock: { shoe: { east: 10_000 } } });
    for (let i = 0; i < 1_000; i++) await reserve(shard, [{ buyer: `b${i}` }]);
    await shard.call(outboxTrimCommand, { acked: 900, keep: 100 });
    const kept = (await outboxOf(shard)).map(({ id }) => Number.parseInt(id, 10));
    expect(kept[0]).toBeLessThanOrEqual(800);
    expect(kept[0]).toBeGreaterThan(600);
    expect(kept.at(-1)).toBe(1_002);
    expect(await shard.call(shardStatusCommand, {})).toMatchObject({ acked: 900 });
    // A relay that is behind another takes nothing back.
    expect(await shard.call(outboxTrimCommand, { acked: 500, keep: 0 })).toMatchObject({ acked: 900 });
    expect(await shard.call(shardStatusCommand, {})).toMatchObject({ acked: 900 });
    expect((await outboxOf(shard)).length).toBe(kept.length);
  });

  test('a ledger that is ahead of the shard fences it', async () => {
    const { shard, seq } = await prepared();
    const before = await contentOf(shard);
    await expect(shard.call(outboxTrimCommand, { acked: seq + 1, keep: 0 })).rejects.toThrow(
      /^FENCED the ledger is ahead/,
    );
    expect(await contentOf(shard)).toEqual(before);
  });

  test('refuses what it cannot read', async () => {
    const shard = await openTestShard(server);
    await makeSale(shard);
    const [entry] = await shard.redis.xrangeBuffer(`${shard.prefix}outbox`, '-', '+');
    const body = entry?.[1]?.[1] ?? Buffer.alloc(0);
    const { decodeOutboxEntry } = await import('./outbox.ts');
    expect(decodeOutboxEntry(body).facts).toHaveLength(2);
    expect(() => decodeOutboxEntry(Buffer.concat([Buffer.from([9]), body.subarray(1)]))).toThrow(/format 9/);
    expect(() => decodeOutboxEntry(Buffer.concat([body, Buffer.from([0])]))).toThrow(/left over/);
    for (let bytes = 0; bytes < body.length; bytes++)
      expect(() => decodeOutboxEntry(body.subarray(0, bytes))).toThrow();
  });
});

describe('opening a shard', () => {
  const limits = { outboxEvents: 100, rememberMs: 1_000 };
  // A shard at epoch 2 with a sale in it (sequence 2), or none at all.
  test.each<
    [string, boolean, { epoch: number; expected: number }, { state: number; found: number; seq: number }, number]
  >([
    ['makes the first', false, { epoch: 1, expected: 0 }, { state: 0, found: 1, seq: 0 }, 1],
    ['makes none where one was expected', false, { epoch: 3, expected: 2 }, { state: 1, found: 0, seq: 0 }, 0],
    [
      'makes none where its own epoch was expected',
      false,
      { epoch: 2, expected: 2 },
      { state: 1, found: 0, seq: 0 },
      0,
    ],
    ['moves from the expected epoch', true, { epoch: 3, expected: 2 }, { state: 0, found: 3, seq: 2 }, 3],
    ['again changes nothing', true, { epoch: 2, expected: 1 }, { state: 0, found: 2, seq: 2 }, 2],
    ['moves from no other', true, { epoch: 4, expected: 3 }, { state: 2, found: 2, seq: 2 }, 2],
    ['makes no first over another', true, { epoch: 1, expected: 0 }, { state: 2, found: 2, seq: 2 }, 2],
    ['never goes back', true, { epoch: 1, expected: 1 }, { state: 2, found: 2, seq: 2 }, 2],
  ])('%s', async (_name, there, { epoch, expected }, answer, after) => {
    const shard = there ? await openTestShard(server) : shardOn(server, 5_000 + epoch * 10 + expected);
    if (there) {
      await makeSale(shard);
      await shard.call(openShardCommand, { epoch: 2, expected: 1, ...limits });
    }
    expect(await shard.call(openShardCommand, { epoch, expected, ...limits })).toEqual(answer);
    expect(Number(await shard.redis.hget(`${shard.prefix}shard`, 'epoch'))).toBe(after);
    if (answer.state === 0)
      expect(await shard.call(shardStatusCommand, {}, { epoch })).toMatchObject({ seq: answer.seq });
  });
});
