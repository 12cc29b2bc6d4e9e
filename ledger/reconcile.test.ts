import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { makeSale, reserve } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { applyBatches } from './apply.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import { reconcile } from './reconcile.ts';
import { type Relay, startRelay } from './relay.ts';
import {
  countingStats,
  createLedger,
  emptyStores,
  loadedSale,
  openTestEngine,
  randomLoad,
  redisOf,
  silent,
  startTestServices,
  stopTestServices,
  type TestEngine,
} from './testing.ts';

let services: ServiceSet;
let pool: Pool;
let engine: TestEngine;
let relay: Relay;

beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres']);
  pool = await createLedger(services, []);
});
afterAll(async () => {
  await stopTestServices(services, pool);
});
beforeEach(async () => {
  await emptyStores(services, pool);
  engine = await openTestEngine(services, pool, { count: 2 });
  relay = startRelay({
    ...{ shards: 2, source: engine.outbox, clock: systemClock, logger: silent, stats: countingStats() },
    carrier: {
      deliver: async (shard, batches) => {
        await applyBatches(createLedgerStore(pool), shard, batches);
      },
      close: async () => undefined,
    },
    watermark: (shard) => readWatermark(pool, shard),
    fillGap: async () => undefined,
  });
  await makeSale(engine.shard(0), { id: 'one', ...loadedSale });
  await makeSale(engine.shard(1), { id: 'two', stock: { shoe: { east: 10 } } });
});
afterEach(async () => {
  await relay.stop();
  await engine.close();
});

const compare = (waitMs = 20_000) => reconcile({ pool, source: engine.outbox, shards: 2, waitMs, clock: systemClock });

test('agrees at every moment of a live load, with no false alarm', async () => {
  const enough = new AbortController();
  const loads = [1, 2].map((seed) => randomLoad(engine.shard(0), { seed, calls: 1_000_000, signal: enough.signal }));
  const seen = new Set<number>();
  try {
    for (let i = 0; i < 15; i++) {
      const found = await compare();
      expect(found.shards.map(({ unread }) => unread)).toEqual([null, null]);
      expect(found.rows.filter(({ drift }) => drift !== 0)).toEqual([]);
      expect(found.drift).toBe(0);
      for (const { valkey, supply } of found.rows)
        expect((valkey?.available ?? 0) + (valkey?.reserved ?? 0) + (valkey?.sold ?? 0)).toBe(supply);
      seen.add(found.shards[0]?.seq ?? 0);
    }
  } finally {
    enough.abort();
    await Promise.all(loads);
  }
  expect(seen.size).toBeGreaterThan(3);
  expect((await compare()).rows).toHaveLength(5);
});

test('finds a counter of Valkey that was changed by hand, and says which', async () => {
  await reserve(engine.shard(1), [{ lines: { shoe: 2 } }]);
  expect((await compare()).drift).toBe(0);
  const key = '{s1}:stock:1';
  const packed = await redisOf(services).hgetBuffer(key, 'shoe');
  if (!packed) throw new Error('no stock');
  // Warehouse, on hand, reserved, sold: one unit more is on hand.
  const at = 1 + (packed[0] ?? 0);
  packed.writeUInt32LE(packed.readUInt32LE(at) + 1, at);
  await redisOf(services).hset(key, 'shoe', packed);
  const found = await compare();
  expect(found.drift).toBe(1);
  expect(found.rows.filter(({ drift }) => drift !== 0)).toEqual([
    {
      ...{ shard: 1, sale: 1, saleId: 'two', sku: 'shoe', warehouse: 'east', supply: 10, drift: 1 },
      valkey: { available: 9, reserved: 2, sold: 0 },
      ledger: { available: 8, reserved: 2, sold: 0 },
    },
  ]);
});

test.each([
  ['a balance', 'update ledger.balance set available = available - 3, sold = sold + 3 where shard = 1', 6],
  ['a balance that is gone', 'delete from ledger.balance where shard = 1', 10],
  ['a balance that nobody knows', "insert into ledger.balance values (1, 1, 'boot', 'east', 4, 4, 0, 0, 1)", 4],
])('finds %s of the ledger that was changed by hand', async (_name, sql, drift) => {
  expect((await compare()).drift).toBe(0);
  await pool.query(sql);
  const found = await compare();
  expect(found.shards.map(({ unread }) => unread)).toEqual([null, null]);
  expect(found.drift).toBe(drift);
});

test('stock in Valkey that the ledger never heard of is drift', async () => {
  expect((await compare()).drift).toBe(0);
  const packed = await redisOf(services).hgetBuffer('{s1}:stock:1', 'shoe');
  await redisOf(services).hset('{s1}:stock:1', 'boot', packed ?? '');
  expect((await compare()).drift).toBe(10);
});

test('says why a shard could not be compared: stopped, behind, fenced', async () => {
  await compare();
  await pool.query("update ledger.shard set stopped = 'a fork' where shard = 1");
  const stopped = await compare();
  expect(stopped.shards.map(({ unread }) => unread)).toEqual([null, 'the ledger has stopped it: a fork']);
  await pool.query('update ledger.shard set stopped = null');
  await relay.stop();
  await reserve(engine.shard(1), [{}]);
  const behind = await compare(100);
  expect(behind.shards[0]?.unread).toBeNull();
  expect(behind.shards[1]).toMatchObject({ seq: 3, watermark: 2, unread: expect.stringMatching(/at 2 of 3/) });
  await redisOf(services).flushall();
  const lost = await compare(100);
  expect(lost.shards.map(({ unread }) => unread)).toEqual([
    expect.stringMatching(/could not be read: .*fenced/),
    expect.stringMatching(/could not be read: .*fenced/),
  ]);
});

test('compares as of the shard’s own sequence, though the ledger has gone on since', async () => {
  const snapshot = await engine.outbox.snapshot(0);
  await reserve(engine.shard(0), [{ lines: { shoe: 3 } }]);
  await expect.poll(async () => (await readWatermark(pool, 0)).watermark).toBeGreaterThan(snapshot.seq);
  const source = { snapshot: async (shard: number) => (shard === 0 ? snapshot : engine.outbox.snapshot(shard)) };
  const found = await reconcile({ pool, source, shards: 2, waitMs: 5_000, clock: systemClock });
  expect(found.drift).toBe(0);
});

test('compares as of a sequence in the middle of an entry of many', async () => {
  await expect.poll(async () => (await readWatermark(pool, 0)).watermark).toBeGreaterThan(0);
  const client = await pool.connect();
  const snapshots = [];
  // The ledger waits meanwhile, and then takes all in one transaction.
  await client.query('begin');
  await client.query('select 1 from ledger.shard where shard = 0 for update');
  try {
    for (const buyer of ['ann', 'bob', 'cem', 'dan']) {
      await reserve(engine.shard(0), [{ buyer, lines: { shoe: 2 } }]);
      snapshots.push(await engine.outbox.snapshot(0));
    }
  } finally {
    await client.query('commit');
    client.release();
  }
  const last = snapshots.at(-1)?.seq ?? 0;
  await expect.poll(async () => (await readWatermark(pool, 0)).watermark).toBe(last);
  const { rows } = await pool.query('select max(seq_last - seq_first)::int as more from ledger.entry where shard = 0');
  expect(rows[0].more).toBeGreaterThan(1);
  for (const snapshot of snapshots) {
    const source = { snapshot: async (shard: number) => (shard === 0 ? snapshot : engine.outbox.snapshot(shard)) };
    const found = await reconcile({ pool, source, shards: 2, waitMs: 5_000, clock: systemClock });
    expect(found.drift, `as of ${snapshot.seq}`).toBe(0);
  }
});

test('what was ever reported as lost is listed: by rebuilds, and by engines that were not heard in time', async () => {
  await pool.query("insert into ledger.loss (shard, epoch, engine, seq_first, seq_last) values (0, 1, 'frozen', 8, 9)");
  const report = (lost: unknown) => JSON.stringify({ lost });
  await pool.query('insert into ledger.rebuild (shard, epoch, report) values (0, 3, $1), (1, 2, $2)', [
    report({ from: 20, to: 23 }),
    report(null),
  ]);
  expect((await compare()).losses).toEqual([
    { shard: 0, epoch: 1, from: 8, to: 9, by: 'engine' },
    { shard: 0, epoch: 2, from: 20, to: 23, by: 'rebuild' },
  ]);
});
