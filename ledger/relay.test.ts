import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { createLogger } from '../kernel/logger.ts';
import { openShardCommand, shardStatusCommand } from '../lua/bindings.ts';
import { makeSale, outboxOf, reserve } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { applyBatches } from './apply.ts';
import type { Batch } from './events.ts';
import { fillGap } from './gap.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import { type Carrier, type OutboxSource, type Relay, startRelay } from './relay.ts';
import {
  backUp,
  balanceOf,
  countingStats,
  createLedger,
  emptyStores,
  loadedSale,
  openTestEngine,
  randomLoad,
  randomOf,
  redisOf,
  startTestServices,
  stopTestServices,
  type TestEngine,
  wrongsOf,
} from './testing.ts';

let services: ServiceSet;
let pool: Pool;
let engine: TestEngine;
const relays: Relay[] = [];

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
});
afterEach(async () => {
  await Promise.all(relays.splice(0).map((relay) => relay.stop()));
  await engine.close();
  expect(await wrongsOf(pool)).toEqual([]);
});

const direct: Carrier = {
  deliver: async (shard, batches) => {
    await applyBatches(createLedgerStore(pool), shard, batches);
  },
  close: async () => undefined,
};

const logger = createLogger({ level: process.env.LOG_LEVEL ?? 'silent', name: 'test' });

function relay({ carrier = direct, source = engine.outbox as OutboxSource, stallMs = 200 } = {}) {
  const stats = countingStats();
  const watermark = (shard: number) => readWatermark(pool, shard);
  const gap = (shard: number, from: number, to: number) =>
    fillGap({ store: createLedgerStore(pool), shard, from, to, replay: null });
  const options = { shards: 2, source, carrier, watermark, fillGap: gap, clock: systemClock, logger, stats, stallMs };
  const started = startRelay(options);
  relays.push(started);
  return { ...stats, stop: () => started.stop() };
}

const seqOf = async (shard: number): Promise<number> => (await engine.shard(shard).call(shardStatusCommand, {})).seq;
const watermarkOf = async (shard: number): Promise<number> =>
  (await readWatermark(pool, shard).catch(() => ({ watermark: -1 }))).watermark;

const caughtUp = (timeout = 20_000) =>
  expect.poll(async () => (await seqOf(0)) - (await watermarkOf(0)), { timeout, interval: 20 }).toBe(0);

test('carries what there is, tells the shard, and keeps it as a tail', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, { stock: { shoe: { east: 3_000 } } });
  for (let i = 0; i < 10; i++)
    await reserve(
      shard,
      Array.from({ length: 100 }, (_, j) => ({ buyer: `b${i}-${j}` })),
    );
  const { counts } = relay();
  await caughtUp();
  await expect.poll(async () => (await shard.call(shardStatusCommand, {})).acked).toBe(1_002);
  // The tail is for a Postgres that comes back a little older.
  expect((await outboxOf(shard))[0]?.entry.seqFirst).toBe(1);
  expect(counts).toMatchObject({ relayed: 1_002, rewound: 0 });
  expect(await balanceOf(pool)).toBe('2000/1000/0');
});

test('what lies before the tail is dropped', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, { stock: { shoe: { east: 100_000 } } });
  for (let i = 0; i < 130; i++)
    await reserve(
      shard,
      Array.from({ length: 100 }, (_, j) => ({ buyer: `b${i}-${j}` })),
    );
  relay();
  await caughtUp();
  await expect.poll(async () => (await outboxOf(shard))[0]?.entry.seqFirst, { timeout: 10_000 }).toBeGreaterThan(1);
  const first = (await outboxOf(shard))[0]?.entry.seqFirst ?? 0;
  expect(first).toBeLessThanOrEqual(13_002 - 10_000);
});

test.each([[1], [2], [3]])(
  'a carrier that loses, doubles, delays and refuses batches (seed %i) still brings all, each once',
  async (seed) => {
    const random = randomOf(seed);
    const late: { shard: number; batches: Batch[] }[] = [];
    const under = new Set<Promise<unknown>>();
    const carrier: Carrier = {
      async deliver(shard, batches) {
        const kept = batches.filter(() => random() > 0.05).flatMap((one) => (random() < 0.2 ? [one, one] : [one]));
        if (random() < 0.3) kept.sort(() => random() - 0.5);
        if (random() < 0.04) throw new Error('refused');
        late.push({ shard, batches: kept });
        while (late.length > 0 && random() < 0.7) {
          const [one] = late.splice(Math.floor(random() * late.length), 1);
          if (!one) break;
          const applying = applyBatches(createLedgerStore(pool), one.shard, one.batches).catch((error: Error) => error);
          under.add(applying);
          if (random() < 0.5) await applying;
        }
        if (random() < 0.04) throw new Error('refused, and yet delivered');
      },
      close: async () => undefined,
    };
    const { counts } = relay({ carrier, stallMs: 100 });
    await makeSale(engine.shard(0), loadedSale);
    await randomLoad(engine.shard(0), { seed, calls: 150 });
    await caughtUp(30_000);
    expect((await Promise.all(under)).filter((found) => found instanceof Error)).toEqual([]);
    expect(counts.rewound).toBeGreaterThan(0);
    expect((await readWatermark(pool, 0)).stopped).toBeNull();
  },
);

test('two relays at once bring each event once', async () => {
  const both = [relay(), relay()];
  await makeSale(engine.shard(0), loadedSale);
  await randomLoad(engine.shard(0), { seed: 7, calls: 300 });
  await caughtUp();
  expect(both.map(({ counts }) => counts.failed)).toEqual([0, 0]);
  expect((await readWatermark(pool, 0)).stopped).toBeNull();
});

test('goes on after Postgres was away, however it went', async () => {
  const { counts } = relay();
  await makeSale(engine.shard(0), loadedSale);
  const enough = new AbortController();
  const load = randomLoad(engine.shard(0), { seed: 9, calls: 1_000_000, signal: enough.signal });
  for (const signal of ['SIGKILL', 'SIGQUIT'] as const) {
    const before = await watermarkOf(0);
    await expect.poll(() => watermarkOf(0), { timeout: 15_000 }).toBeGreaterThan(before);
    const failures = counts.failed;
    await services.kill('postgres', signal);
    await expect.poll(() => counts.failed, { timeout: 10_000 }).toBeGreaterThan(failures);
    await services.stopOne('postgres');
    await services.startOne('postgres');
  }
  enough.abort();
  await load;
  await caughtUp();
  expect((await readWatermark(pool, 0)).stopped).toBeNull();
}, 90_000);

test('a Postgres that came back a little older is filled again from the tail', async () => {
  const { stop } = relay();
  const shard = engine.shard(0);
  await makeSale(shard);
  await reserve(shard, [{ buyer: 'a' }, { buyer: 'b' }]);
  await caughtUp();
  const older = await balanceOf(pool);
  await pool.query('create schema kept');
  try {
    const tables = (await pool.query("select tablename from pg_tables where schemaname = 'ledger'")).rows;
    for (const { tablename } of tables) await pool.query(`create table kept.${tablename} as table ledger.${tablename}`);
    for (let i = 0; i < 10; i++) {
      const results = await reserve(shard, [{ buyer: `c${i}`, lines: { shoe: 1 } }]);
      if (i < 8) expect(results[0]?.status).toBe('ok');
    }
    await caughtUp();
    await expect.poll(async () => (await shard.call(shardStatusCommand, {})).acked).toBe(await seqOf(0));
    await stop();
    for (const name of ['shard', 'batch', 'balance', 'entry', 'reservation'])
      await pool.query(
        `truncate ledger.${name}; insert into ledger.${name} overriding system value select * from kept.${name}`,
      );
  } finally {
    await pool.query('drop schema kept cascade');
  }
  expect(await balanceOf(pool)).toBe(older);
  relay();
  await caughtUp();
  expect(await balanceOf(pool)).toBe('0/10/0');
});

test('a stopped shard holds up no other, and its events stay', async () => {
  const [one, two] = [engine.shard(0), engine.shard(1)];
  await makeSale(one, { id: 'one' });
  await makeSale(two, { id: 'two' });
  await pool.query("update ledger.shard set stopped = 'looked at' where shard = 0");
  const { counts } = relay();
  await reserve(one, [{}]);
  await reserve(two, [{}]);
  await expect.poll(() => watermarkOf(1)).toBe(3);
  await expect.poll(() => counts.failed).toBeGreaterThan(1);
  expect(await watermarkOf(0)).toBe(0);
  expect((await outboxOf(one)).length).toBe(2);
  await pool.query('update ledger.shard set stopped = null where shard = 0');
  await caughtUp();
});

test('gives no more to a carrier that brings nothing than it may be ahead', async () => {
  let given = 0;
  const carrier: Carrier = {
    deliver: async (_shard, batches) => {
      given += batches.reduce((sum, { events }) => sum + events.length, 0);
    },
    close: async () => undefined,
  };
  const source: OutboxSource = {
    // An outbox without end.
    read: async (shard, after) => ({
      seq: after + 100_000,
      acked: 0,
      batches:
        shard === 0
          ? [
              {
                ...{
                  format: 1 as const,
                  shard,
                  epoch: 1,
                  seqFirst: after + 1,
                  seqLast: after + 50_000,
                  at: '',
                  digest: '',
                },
                events: Array.from({ length: 50_000 }) as Batch['events'],
              },
            ]
          : [],
    }),
    trim: async () => undefined,
  };
  const { counts, stop } = relay({ carrier, source, stallMs: 600_000 });
  await expect.poll(() => given).toBeGreaterThanOrEqual(200_000);
  await stop();
  expect(given).toBeLessThanOrEqual(250_000);
  expect(counts.rewound).toBe(0);
});

test('an epoch that began in between is carried on', async () => {
  relay();
  const shard = engine.shard(0);
  await makeSale(shard);
  await caughtUp();
  await pool.query('update ledger.shard set epoch = 2 where shard = 0');
  await shard.call(openShardCommand, { epoch: 2, expected: 1, outboxEvents: 1_000, rememberMs: 1_000 });
  // The engine finds the new epoch by itself.
  await expect
    .poll(
      () =>
        reserve(shard, [{}]).then(
          ([result]) => result?.status,
          () => 'fenced',
        ),
      { timeout: 10_000 },
    )
    .toBe('ok');
  await caughtUp();
  const { rows } = await pool.query('select epoch from ledger.batch where shard = 0 order by seq_last');
  expect(rows.map(({ epoch }) => epoch)).toEqual([1, 2]);
});

test('Postgres restored from an old backup: the outbox’s tail brings it up to date', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, loadedSale);
  relay();
  await randomLoad(shard, { seed: 1, calls: 20 });
  await caughtUp();
  const restore = await backUp(pool);
  await randomLoad(shard, { seed: 2, calls: 40 });
  await caughtUp();
  await restore();
  expect(await watermarkOf(0)).toBeLessThan(await seqOf(0));
  await caughtUp();
  await randomLoad(shard, { seed: 3, calls: 10 });
  await caughtUp();
});

test('Postgres restored from a backup older than the outbox: the shard is stopped, and it says which events are gone', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, loadedSale);
  await makeSale(engine.shard(1), { id: 'another' });
  relay();
  await caughtUp();
  const old = await watermarkOf(0);
  const restore = await backUp(pool, 'old');
  await reserve(shard, [{}]);
  await reserve(shard, [{ key: 'l' }]);
  await caughtUp();
  const restoreNewer = await backUp(pool, 'newer');
  await redisOf(services).xtrim('{s0}:outbox', 'MAXLEN', 1);
  await restore();
  const stop = () => readWatermark(pool, 0).then(({ stopped }) => stopped);
  await expect.poll(stop).toMatch(new RegExp(`events ${old + 1} to ${old + 1} are gone.*nor has Kafka`));
  // The other shard goes on, and this one once a newer backup is there.
  await reserve(engine.shard(1), [{}]);
  await expect.poll(async () => (await seqOf(1)) - (await watermarkOf(1))).toBe(0);
  await restoreNewer();
  await reserve(shard, [{ key: 'm' }]);
  await caughtUp();
});
