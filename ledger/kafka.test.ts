import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Kafka, logLevel } from 'kafkajs';
import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { rebuild } from '../cli/compose.ts';
import { systemClock } from '../kernel/clock.ts';
import { readConfig } from '../kernel/config.ts';
import { shardStatusCommand } from '../lua/bindings.ts';
import { connectReady, counters, makeSale, reserve } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { applyBatches } from './apply.ts';
import type { Batch } from './events.ts';
import { fillGap } from './gap.ts';
import { createKafkaCarrier, createKafkaProbe, replayFromKafka, startKafkaConsumer, topicOf } from './kafka.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import { startRelay } from './relay.ts';
import {
  backUp,
  balanceOf,
  batchOf,
  countingStats,
  createLedger,
  emptyStores,
  happenings,
  loadedSale,
  openTestEngine,
  randomLoad,
  rebuildableSale,
  redisOf,
  silent,
  startTestServices,
  stopTestServices,
  type TestEngine,
  wrongsOf,
} from './testing.ts';

let services: ServiceSet;
let pool: Pool;
let engine: TestEngine;
let deployment = '';
let deployments = 0;
const stops: (() => Promise<void>)[] = [];

beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres', 'kafka']);
  pool = await createLedger(services, []);
}, 600_000);
afterAll(async () => {
  await stopTestServices(services, pool);
}, 60_000);
beforeEach(async () => {
  await emptyStores(services, pool);
  engine = await openTestEngine(services, pool, { count: 2 });
  deployment = `test${deployments++}`;
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
  await engine.close();
  expect(await wrongsOf(pool)).toEqual([]);
}, 60_000);

const brokers = (): string[] => [String(services.services.kafka?.url)];

async function consume(stats = countingStats()): Promise<void> {
  const apply = (shard: number, batches: Batch[]) => applyBatches(createLedgerStore(pool), shard, batches);
  const consumer = await startKafkaConsumer({ brokers: brokers(), name: deployment, logger: silent, apply, stats });
  stops.push(() => consumer.stop());
}

async function pipeline({ stallMs = 2_000, consuming = true } = {}) {
  const stats = countingStats();
  const common = { brokers: brokers(), name: deployment, logger: silent };
  if (consuming) await consume(stats);
  const relay = startRelay({
    ...{ shards: 2, source: engine.outbox, carrier: createKafkaCarrier(common), clock: systemClock, logger: silent },
    ...{ watermark: (shard: number) => readWatermark(pool, shard), stats, stallMs },
    fillGap: (shard, from, to) =>
      fillGap({
        ...{ store: createLedgerStore(pool), shard, from, to },
        replay: (take) => replayFromKafka({ ...common, shard, from, to, take, limitMs: 30_000 }),
      }),
  });
  stops.push(() => relay.stop());
  return stats.counts;
}

async function withAdmin<T>(work: (kafka: Kafka) => Promise<T>): Promise<T> {
  return work(new Kafka({ brokers: brokers(), logLevel: logLevel.NOTHING, retry: { retries: 10 } }));
}

const behind = async (shard = 0): Promise<number> =>
  (await engine.shard(shard).call(shardStatusCommand, {})).seq - (await readWatermark(pool, shard)).watermark;
const caughtUp = (shard = 0) => expect.poll(() => behind(shard), { timeout: 60_000, interval: 50 }).toBe(0);

test('events arrive, of all shards, each shard in one partition and in order', { timeout: 120_000 }, async () => {
  const counts = await pipeline();
  await Promise.all([
    makeSale(engine.shard(0), { id: 'one', ...loadedSale }),
    makeSale(engine.shard(1), { id: 'two', ...loadedSale }),
  ]);
  await Promise.all([0, 1].map((shard) => randomLoad(engine.shard(shard), { seed: shard, calls: 100 })));
  await Promise.all([caughtUp(0), caughtUp(1)]);
  expect(counts).toMatchObject({ stopped: 0 });
  expect(counts.applied).toBeGreaterThan(200);
});

test('Kafka stopped in the middle and started again: all arrives', { timeout: 180_000 }, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0), loadedSale);
  await randomLoad(engine.shard(0), { seed: 1, calls: 30 });
  await caughtUp();
  await services.kill('kafka', 'SIGKILL');
  await randomLoad(engine.shard(0), { seed: 2, calls: 60 });
  await expect.poll(() => counts.failed, { timeout: 60_000 }).toBeGreaterThan(0);
  expect(await behind()).toBeGreaterThan(0);
  await services.startOne('kafka');
  await caughtUp();
  await randomLoad(engine.shard(0), { seed: 3, calls: 30 });
  await caughtUp();
  expect(counts.stopped).toBe(0);
});

test('a backlog arrives that is more than a broker takes at once', { timeout: 120_000 }, async () => {
  const shard = engine.shard(0);
  const skus = Array.from({ length: 50 }, (_, i) => `sku-${i}-`.padEnd(64, 'x'));
  await makeSale(shard, { stock: Object.fromEntries(['shoe', ...skus].map((sku) => [sku, { east: 100_000 }])) });
  const call = (name: string, lines: Record<string, number>) =>
    reserve(
      shard,
      Array.from({ length: 512 }, (_, i) => ({ buyer: `${name}-${i}`, lines })),
    );
  for (let i = 0; i < 20; i++) await call(`b${i}`, { shoe: 1 });
  // Here a single call's events are more.
  await call('c', Object.fromEntries(skus.map((sku) => [sku, 1])));
  await call('d', { shoe: 1 });
  const counts = await pipeline({ stallMs: 20_000 });
  await caughtUp();
  expect(await balanceOf(pool)).toBe(`${100_000 - 21 * 512}/${21 * 512}/0`);
  expect(counts.failed).toBe(0);
});

test('the topic lost whole in the middle: the relay sends again, nothing is lost', { timeout: 180_000 }, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0), loadedSale);
  await randomLoad(engine.shard(0), { seed: 1, calls: 30 });
  await caughtUp();
  await withAdmin(async (kafka) => {
    const admin = kafka.admin();
    await admin.connect();
    await admin.deleteTopics({ topics: [topicOf(deployment)] });
    await admin.disconnect();
  });
  await randomLoad(engine.shard(0), { seed: 2, calls: 60 });
  await caughtUp();
  expect(counts.stopped).toBe(0);
});

test('what is no batch of events is passed over; what follows it arrives', { timeout: 120_000 }, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0));
  await caughtUp();
  await withAdmin(async (kafka) => {
    const producer = kafka.producer();
    await producer.connect();
    const values = [
      '',
      'no JSON',
      '{}',
      '[]',
      'null',
      JSON.stringify({ ...batchOf(3, [happenings.set()]), shard: -1 }),
    ];
    const messages = [...values.map((value) => ({ key: '0', value, partition: 0 })), { value: null, partition: 0 }];
    await producer.send({ topic: topicOf(deployment), messages });
    await producer.disconnect();
  });
  await reserve(engine.shard(0), [{}]);
  await caughtUp();
  expect(await balanceOf(pool)).toBe('9/1/0');
  expect(counts.stopped).toBe(0);
});

test('a forged batch of a shard stops that shard and no other, even in the same partition', {
  timeout: 120_000,
}, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0), { id: 'one' });
  await makeSale(engine.shard(1), { id: 'two' });
  await Promise.all([caughtUp(0), caughtUp(1)]);
  await withAdmin(async (kafka) => {
    const producer = kafka.producer();
    await producer.connect();
    const value = JSON.stringify(batchOf(1, [happenings.set(), happenings.restocked(1)]));
    await producer.send({ topic: topicOf(deployment), messages: [{ key: '0', value, partition: 1 }] });
    await producer.disconnect();
  });
  await expect.poll(() => counts.stopped, { timeout: 20_000 }).toBeGreaterThan(0);
  await reserve(engine.shard(1), [{}]);
  await caughtUp(1);
  expect((await readWatermark(pool, 0)).stopped).toMatch(/two histories/);
  expect((await readWatermark(pool, 1)).stopped).toBeNull();
});

test('Postgres away: nothing is passed over', { timeout: 120_000 }, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0), loadedSale);
  await randomLoad(engine.shard(0), { seed: 1, calls: 20 });
  await caughtUp();
  await services.kill('postgres', 'SIGKILL');
  await randomLoad(engine.shard(0), { seed: 2, calls: 40 });
  await services.startOne('postgres');
  await caughtUp();
  expect(counts.stopped).toBe(0);
});

test('Postgres restored from an old backup, and the outbox trimmed since: Kafka still has the events', {
  timeout: 120_000,
}, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0), loadedSale);
  await randomLoad(engine.shard(0), { seed: 1, calls: 30 });
  await caughtUp();
  const restore = await backUp(pool);
  await randomLoad(engine.shard(0), { seed: 2, calls: 60 });
  await caughtUp();
  const { watermark } = await readWatermark(pool, 0);
  await redisOf(services).xtrim('{s0}:outbox', 'MAXLEN', 0);
  await restore();
  expect((await readWatermark(pool, 0)).watermark).toBeLessThan(watermark);
  await caughtUp();
  await randomLoad(engine.shard(0), { seed: 3, calls: 20 });
  await caughtUp();
  expect(await readWatermark(pool, 0)).toMatchObject({ stopped: null });
  expect(counts.stopped).toBe(0);
});

test('Valkey’s files lost, and Postgres restored from an old backup: the rebuild has Kafka’s events in the ledger first', {
  timeout: 120_000,
}, async () => {
  const counts = await pipeline();
  await makeSale(engine.shard(0), { ...rebuildableSale(), ...loadedSale });
  await randomLoad(engine.shard(0), { seed: 1, calls: 30 });
  await caughtUp();
  const restore = await backUp(pool);
  await randomLoad(engine.shard(0), { seed: 2, calls: 60 });
  await caughtUp();
  const { watermark } = await readWatermark(pool, 0);
  const [before, { live }] = [await counters(engine.shard(0)), await engine.shard(0).call(shardStatusCommand, {})];
  // Nothing reads or relays now: what the ledger lacks afterwards, only the rebuild can bring.
  for (const stop of stops.splice(0).reverse()) await stop();
  await engine.close();
  await services.kill('valkey', 'SIGKILL');
  rmSync(join(services.services.valkey?.dataDir ?? '', 'appendonlydir'), { recursive: true });
  await services.startOne('valkey');
  await restore();
  expect((await readWatermark(pool, 0)).watermark).toBeLessThan(watermark);

  const env = { VALKEY_URL: String(services.services.valkey?.url), DATABASE_URL: 'postgres://the-pool', SHARDS: '2' };
  const config = readConfig({ ...env, KAFKA_BROKERS: brokers().join(',') });
  const valkey = await connectReady(env.VALKEY_URL);
  const common = { brokers: brokers(), name: deployment, logger: silent };
  const stores = {
    ...engine,
    ...createKafkaProbe(common),
    name: deployment,
    valkey,
    pool,
    ledger: createLedgerStore(pool),
  };
  const report = await rebuild(config, stores, 0, silent);
  await valkey.close();
  expect(report).toMatchObject({ seq: watermark, lost: null, liveReservations: live });
  expect((await pool.query('select 1 from ledger.quarantine')).rowCount).toBe(0);
  engine = await openTestEngine(services, pool, { count: 2 });
  // The backup knows of an engine that never said that it was done.
  await expect.poll(() => engine.shards.fenced(), { timeout: 20_000 }).toMatchObject([{ shard: 1, lost: true }]);
  expect(await counters(engine.shard(0))).toEqual(before);
  expect(counts.stopped).toBe(0);
});

test('a new run of Valkey is closed while Kafka has what the ledger has not, or can’t be asked', {
  timeout: 180_000,
}, async () => {
  const counts = await pipeline({ consuming: false });
  await makeSale(engine.shard(0), loadedSale);
  await randomLoad(engine.shard(0), { seed: 1, calls: 30 });
  const { seq } = await engine.shard(0).call(shardStatusCommand, {});
  await expect.poll(() => counts.relayed, { timeout: 60_000 }).toBeGreaterThanOrEqual(seq);
  for (const stop of stops.splice(0).reverse()) await stop();
  await engine.close();
  await services.stopOne('valkey');
  await services.startOne('valkey');
  const { drained } = createKafkaProbe({ brokers: brokers(), name: deployment, logger: silent });
  engine = await openTestEngine(services, pool, { count: 1, drained });
  const reasons = () => engine.shards.fenced().map(({ reason }) => reason);
  expect(reasons()).toEqual(['Kafka has events that the ledger has not yet']);
  await services.stopOne('kafka');
  await expect.poll(reasons, { timeout: 60_000, interval: 50 }).toEqual([expect.stringMatching(/could not be opened/)]);
  await services.startOne('kafka');
  await consume();
  await expect.poll(reasons, { timeout: 60_000, interval: 50 }).toEqual([]);
  expect((await readWatermark(pool, 0)).watermark).toBe(seq);
});
