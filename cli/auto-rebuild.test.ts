/** `serve --auto-rebuild`: which shards it rebuilds, and which it leaves alone. */
import type { Pool, PoolClient } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import type { Valkey } from '../engine/valkey.ts';
import { type Config, readConfig } from '../kernel/config.ts';
import { shardKey } from '../kernel/ids.ts';
import { createAuthority } from '../ledger/authority.ts';
import { migrate } from '../ledger/migrate.ts';
import { createPool } from '../ledger/pool.ts';
import {
  backUp,
  createDatabase,
  emptyStores,
  interrupt,
  level,
  openTestEngine,
  rebuildableSale,
  rebuildsOn,
  redisOf,
  silent,
  startTestServices,
  stopTestServices,
  type TestEngine,
  withStep,
} from '../ledger/testing.ts';
import { connectReady, contentOf, counters, makeSale, reserve } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { openStores, type RunningProcess, rebuild, startProcess } from './compose.ts';

let services: ServiceSet;
let pool: Pool;
let env: Record<string, string>;
let valkey: Valkey;
const stops: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres']);
  const url = await createDatabase(services);
  env = { VALKEY_URL: String(services.services.valkey?.url), DATABASE_URL: url, LOG_LEVEL: 'silent' };
  pool = createPool(url, silent);
  await migrate(pool);
  valkey = await connectReady(env.VALKEY_URL ?? '');
});
afterAll(async () => {
  await valkey.close();
  await stopTestServices(services, pool);
});
beforeEach(async () => {
  await emptyStores(services, pool);
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

const soon = { timeout: 30_000, interval: 50 };
const configOf = (shards: number): Config => readConfig({ ...env, SHARDS: String(shards) });

/** A process that does nothing but watch its shards, and rebuild them. */
async function startRebuilder(config: Config): Promise<RunningProcess> {
  const started = await startProcess(config, [], { autoRebuild: true });
  stops.push(() => started.stop());
  return started;
}

async function open(count: number): Promise<TestEngine> {
  const engine = await openTestEngine(services, pool, { count });
  stops.push(() => engine.close());
  return engine;
}

/** Shards and to which epoch each was rebuilt, in the order in which that was done. */
const rebuilt = async (): Promise<[number, number][]> =>
  (
    await pool.query<{ shard: number; epoch: number }>(
      'select shard, epoch from ledger.rebuild where finished_at is not null order by finished_at, epoch',
    )
  ).rows.map(({ shard, epoch }) => [shard, epoch]);

it('takes up a rebuild that another process has begun and not ended', async () => {
  const engine = await open(1);
  await makeSale(engine.shard(0), rebuildableSale());
  await reserve(engine.shard(0), [{ buyer: 'ann' }]);
  await level(engine, pool);
  const before = await counters(engine.shard(0));
  await engine.close();
  await redisOf(services).flushall();
  const { rebuild: rebuildOnce, targetOf } = rebuildsOn(pool, valkey);
  const broken = (token: string) => withStep(targetOf(token), 'book', 'before', interrupt);
  await expect(rebuildOnce(broken)).rejects.toThrow('interrupted');
  expect(await createAuthority(pool).current(0)).toMatchObject({ rebuilding: true, epoch: 2 });

  await startRebuilder(configOf(1));
  await expect.poll(rebuilt, soon).toEqual([
    [0, 2],
    [0, 3],
  ]);
  const after = await open(1);
  expect(after.shards.fenced()).toEqual([]);
  expect(await counters(after.shard(0))).toEqual(before);
});

/** Holds up what changes a shard's row in the ledger, until the connection is given back. */
async function holdShard(shard: number): Promise<PoolClient> {
  const client = await pool.connect();
  await client.query('begin');
  await client.query('select 1 from ledger.shard where shard = $1 for update', [shard]);
  return client;
}

const waitingRebuilds = async (): Promise<number | null> =>
  (
    await pool.query(
      `select 1 from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '%from ledger.shard%for update%'`,
    )
  ).rowCount;

it('looks again before it acts: a shard that was rebuilt by hand meanwhile is left as it is', async () => {
  const engine = await open(3);
  for (const shard of [0, 1, 2]) await makeSale(engine.shard(shard), rebuildableSale(`sale-${shard}`));
  await engine.close();
  await redisOf(services).flushall();
  const config = configOf(3);
  // All three are lost when it begins with the first, which takes long.
  const held = await holdShard(0);
  try {
    await startRebuilder(config);
    await expect.poll(waitingRebuilds, soon).toBe(1);
    const stores = await openStores(config, silent, { observe: true });
    stops.push(() => stores.close());
    expect(await rebuild(config, stores, 1, silent)).toMatchObject({ shard: 1, epoch: 2 });
    await held.query('commit');
  } finally {
    held.release(true);
  }
  await expect.poll(rebuilt, soon).toContainEqual([2, 2]);
  expect(await rebuilt()).toEqual([
    [1, 2],
    [0, 2],
    [2, 2],
  ]);
});

it('leaves a shard alone that is only ahead of a Postgres that has gone back', async () => {
  const engine = await open(2);
  await makeSale(engine.shard(0), rebuildableSale());
  await level(engine, pool);
  const restore = await backUp(pool);
  await services.kill('valkey', 'SIGKILL');
  await services.startOne('valkey');
  await expect.poll(async () => (await createAuthority(pool).current(0))?.epoch, soon).toBe(2);
  await expect.poll(() => engine.shards.fenced(), soon).toEqual([]);
  await reserve(engine.shard(0), [{ buyer: 'ann' }]);
  await engine.close();
  await restore();
  // The other one has lost what it had: once that was rebuilt, this one's turn has been before.
  await redisOf(services).del(shardKey(1));
  const content = await contentOf(engine.shard(0));
  await startRebuilder(configOf(2));
  await expect.poll(rebuilt, soon).toEqual([[1, 2]]);
  expect(await contentOf(engine.shard(0))).toEqual(content);
  expect(await createAuthority(pool).current(0)).toMatchObject({ epoch: 1, rebuilding: false });
  const late = await open(2);
  expect(late.shards.fenced()).toMatchObject([{ shard: 0, lost: false, reason: expect.stringMatching(/gone back/) }]);
});
