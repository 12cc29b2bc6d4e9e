import type { Pool } from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { RefusalError } from '../kernel/errors.ts';
import { shardKey } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import { applyBatches } from '../ledger/apply.ts';
import { createAuthority } from '../ledger/authority.ts';
import { createLedgerStore } from '../ledger/postgres.ts';
import {
  createLedger,
  emptyStores,
  openTestEngine,
  redisOf,
  silent,
  startTestServices,
  stopTestServices,
  type TestEngine,
} from '../ledger/testing.ts';
import { commitCommand, readSaleCommand, reserveCommand, shardStatusCommand } from '../lua/bindings.ts';
import { connectReady, counters, makeSale, reference, reserve, reserveArgs } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { openShards } from './shards.ts';
import { connectValkey } from './valkey.ts';

let services: ServiceSet;
let pool: Pool;
const engines: TestEngine[] = [];

beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres']);
  pool = await createLedger(services, []);
});
afterAll(async () => {
  await stopTestServices(services, pool);
});
beforeEach(async () => {
  await emptyStores(services, pool);
  return async () => {
    await Promise.all(engines.splice(0).map((engine) => engine.close()));
  };
});

async function open(options: { count?: number; observe?: boolean } = {}): Promise<TestEngine> {
  const engine = await openTestEngine(services, pool, options);
  engines.push(engine);
  return engine;
}

/** What a call came to: `ok`, or the code of its refusal. */
const outcome = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'ok',
    (error: unknown) => (error instanceof RefusalError ? error.refusal.code : String(error)),
  );
const sell = (engine: TestEngine, key: string): Promise<string> =>
  reserve(engine.shard(0), [{ key }]).then(
    ([result]) => String(result?.status),
    (error: unknown) => (error instanceof RefusalError ? error.refusal.code : String(error)),
  );
const epochs = async (): Promise<number[]> =>
  (await pool.query('select epoch from ledger.shard order by shard')).rows.map(({ epoch }) => epoch);
const soon = { timeout: 20_000, interval: 50 };

async function carry(engine: TestEngine): Promise<void> {
  await applyBatches(createLedgerStore(pool), 0, (await engine.outbox.read(0, 0, 1_000)).batches);
}

describe('opening', () => {
  test('makes each shard once, under its first epoch', async () => {
    const engine = await open({ count: 3 });
    expect(engine.shards.fenced()).toEqual([]);
    expect(engine.shards.sellable()).toBe(true);
    expect(await epochs()).toEqual([1, 1, 1]);
    expect((await pool.query('select distinct opened from ledger.shard')).rows).toEqual([{ opened: true }]);
    expect(engine.shards.status(2)).toMatchObject({ seq: 0, live: 0 });
  });

  test('by five engines at once comes to one epoch, and all of them sell', async () => {
    const all = await Promise.all(Array.from({ length: 5 }, () => open()));
    await expect.poll(() => all.flatMap((engine) => engine.shards.fenced()), soon).toEqual([]);
    expect(await epochs()).toEqual([1]);
    const [first] = all;
    if (first) await makeSale(first.shard(0));
    expect(await Promise.all(all.map((engine, i) => sell(engine, `k${i}`)))).toEqual(Array(5).fill('ok'));
  });

  test('an observer reads and grants nothing; where nothing was granted it is fenced', async () => {
    const observer = await open({ observe: true });
    expect(observer.shards.fenced()).toEqual([{ shard: 0, reason: 'no epoch of it was ever granted', lost: false }]);
    expect(await epochs()).toEqual([]);
    const engine = await open();
    await makeSale(engine.shard(0));
    await expect.poll(() => observer.shards.fenced(), soon).toEqual([]);
    expect(await counters(observer.shard(0))).toEqual({ '1/shoe/east': '10/0/0' });
  });

  test('a shard that was granted and never made is made (its first engine died in between)', async () => {
    await createAuthority(pool).grant(0, 0, 'a run that is over', 0);
    const engine = await open();
    expect(engine.shards.fenced()).toEqual([]);
    expect(await epochs()).toEqual([2]);
    await makeSale(engine.shard(0));
    expect(await sell(engine, 'k')).toBe('ok');
  });

  test('an unknown shard and a sale’s shard', async () => {
    const engine = await open({ count: 4 });
    expect(await outcome(engine.shards.call(4, shardStatusCommand, {}))).toBe('not-found');
    expect(engine.shards.shardOf('sale')).toBe(engine.shards.shardOf('sale'));
    expect(engine.shards.shardOf('sale')).toBeLessThan(4);
  });
});

describe('another run of Valkey', () => {
  test.each([['stopped'], ['killed']])('%s and started again: a new epoch, and what was held is held', async (how) => {
    const engine = await open();
    await makeSale(engine.shard(0));
    expect(await sell(engine, 'before')).toBe('ok');
    if (how === 'killed') await services.kill('valkey', 'SIGKILL');
    else await services.stopOne('valkey');
    expect(['unavailable', 'shard-fenced']).toContain(await sell(engine, 'during'));
    await expect.poll(() => engine.shards.sellable(), soon).toBe(false);
    await services.startOne('valkey');
    await expect.poll(() => sell(engine, 'after'), soon).toMatch(/ok|replay/);
    expect(await epochs()).toEqual([2]);
    expect(await sell(engine, 'before')).toBe('replay');
    expect(await counters(engine.shard(0))).toEqual({ '1/shoe/east': '10/2/0' });
    const { batches } = await engine.outbox.read(0, 0, 100);
    expect(batches.map(({ epoch }) => epoch)).toEqual([1, 1, 2]);
    expect(batches.map(({ seqFirst }) => seqFirst)).toEqual([1, 3, 4]);
  });

  test('two engines find the same new epoch', async () => {
    const [one, two] = [await open(), await open()];
    await makeSale(one.shard(0));
    await services.kill('valkey', 'SIGKILL');
    await services.startOne('valkey');
    await expect.poll(() => sell(one, 'one'), soon).toMatch(/ok|replay/);
    await expect.poll(() => sell(two, 'two'), soon).toMatch(/ok|replay/);
    expect(await epochs()).toEqual([2]);
  });

  test('Postgres away at that moment: fenced until it is back', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    await services.kill('postgres', 'SIGKILL');
    expect(await sell(engine, 'no ledger')).toBe('ok');
    await services.kill('valkey', 'SIGKILL');
    await services.startOne('valkey');
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/could not be opened/);
    expect(await sell(engine, 'new run')).toBe('shard-fenced');
    await services.startOne('postgres');
    await expect.poll(() => sell(engine, 'new run'), soon).toMatch(/ok|replay/);
    expect(await epochs()).toEqual([2]);
  });
});

describe('the fence', () => {
  test('everything gone from Valkey is not sold from empty, by who was there and by who comes', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    await redisOf(services).flushall();
    expect(await sell(engine, 'k')).toBe('shard-fenced');
    const late = await open();
    await expect.poll(() => late.shards.fenced()[0]?.reason, soon).toMatch(/gone/);
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/gone/);
    expect([engine.shards.sellable(), late.shards.sellable()]).toEqual([false, false]);
    expect(await redisOf(services).dbsize()).toBe(0);
  });

  test('an engine that began to open before another did makes no second empty shard after a loss', async () => {
    const real = createAuthority(pool);
    let frozen: (() => void) | undefined;
    const wasFrozen = new Promise<void>((resolve) => {
      frozen = resolve;
    });
    let thaw: (() => void) | undefined;
    const thawed = new Promise<void>((resolve) => {
      thaw = resolve;
    });
    let first = true;
    await real.grant(
      0,
      0,
      await (async () => {
        const connection = await connectReady(String(services.services.valkey?.url));
        const runId = connection.runId(shardKey(0));
        await connection.close();
        return runId;
      })(),
      0,
    );
    const opening = openShards({
      valkey: connectValkey([String(services.services.valkey?.url)], () => undefined),
      authority: {
        ...real,
        async current(shard) {
          const grant = await real.current(shard);
          if (first) {
            first = false;
            frozen?.();
            await thawed;
          }
          return grant;
        },
      },
      ...{ count: 1, outboxEvents: 1_000, rememberSeconds: 60, clock: systemClock, logger: silent },
    });
    await wasFrozen;
    const other = await open();
    await makeSale(other.shard(0));
    await carry(other);
    await redisOf(services).flushall();
    thaw?.();
    const shards = await opening;
    try {
      expect(shards.sellable()).toBe(false);
    } finally {
      await shards.close();
    }
  });

  test('data put back in time, behind the ledger: fenced, by who was there and by who comes', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    expect(await sell(engine, 'early')).toBe('ok');
    const redis = redisOf(services);
    const keys = await redis.keys('{s0}*');
    const copies = await Promise.all(keys.map(async (key) => [key, await redis.dumpBuffer(key)] as const));
    expect(await sell(engine, 'late')).toBe('ok');
    await carry(engine);
    await redis.flushall();
    for (const [key, dump] of copies) await redis.restore(key, 0, dump ?? '');
    expect(await sell(engine, 'again')).toBe('shard-fenced');
    const fresh = await open();
    expect(await sell(fresh, 'again')).toBe('shard-fenced');
    expect(fresh.shards.fenced()[0]?.reason).toMatch(/sequence 3, the ledger at 4/);
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/sequence 3/);
  });

  test('data put back in time, behind what this engine saw and the ledger did not: fenced', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    const redis = redisOf(services);
    const keys = await redis.keys('{s0}*');
    const copies = await Promise.all(keys.map(async (key) => [key, await redis.dumpBuffer(key)] as const));
    expect(await sell(engine, 'late')).toBe('ok');
    await redis.flushall();
    for (const [key, dump] of copies) await redis.restore(key, 0, dump ?? '');
    expect(await sell(engine, 'again')).toBe('shard-fenced');
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/an engine has seen 3/);
    expect(engine.shards.fenced()[0]?.lost).toBe(true);
    expect(await sell(engine, 'again')).toBe('shard-fenced');
    // Nor is it sold by an engine that comes later and has seen nothing itself.
    const fresh = await open();
    expect(await sell(fresh, 'again')).toBe('shard-fenced');
    expect(fresh.shards.fenced()[0]).toMatchObject({
      lost: true,
      reason: expect.stringMatching(/an engine has seen 3/),
    });
  });

  test('a new run waits for living engines to say what they have seen, and does not open behind them', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    const authority = createAuthority(pool);
    const sighting = { shard: 0, epoch: 1, seq: 2, open: true };
    await authority.report('another', 'the old run', [sighting], 1);
    await services.kill('valkey', 'SIGKILL');
    await services.startOne('valkey');
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/have not said yet/);
    await authority.report('another', 'the old run', [{ ...sighting, seq: 9, open: false }], 2);
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/an engine has seen 9/);
    await authority.report('another', 'the old run', [{ ...sighting, open: false }], 3);
    await expect.poll(() => sell(engine, 'k'), soon).toBe('ok');
    expect(await epochs()).toEqual([2]);
  });

  test('Valkey at an epoch that Postgres never granted', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    await redisOf(services).hset(shardKey(0), 'epoch', '7');
    expect(await sell(engine, 'k')).toBe('shard-fenced');
    await expect.poll(() => engine.shards.fenced()[0]?.reason, soon).toMatch(/epoch 7, the grant at 1/);
    // Postgres has gone back, and Valkey has lost nothing: no rebuild may clear it.
    expect(engine.shards.fenced()[0]?.lost).toBe(false);
  });

  test('a rebuild that has begun and not ended: closed to who comes, and another rebuild is what it needs', async () => {
    await open();
    await pool.query("update ledger.shard set rebuilding = 'broken off'");
    const late = await open();
    expect(late.shards.fenced()).toEqual([{ shard: 0, reason: 'it is being rebuilt', lost: true }]);
    expect(await epochs()).toEqual([1]);
  });

  test('one fenced shard leaves the others open', async () => {
    const engine = await open({ count: 2 });
    await makeSale(engine.shard(1));
    await redisOf(services).del(shardKey(0));
    expect(await outcome(engine.shards.call(0, shardStatusCommand, {}))).toBe('shard-fenced');
    expect((await reserve(engine.shard(1), [{}]))[0]?.status).toBe('ok');
    expect(engine.shards.sellable()).toBe(true);
    expect(engine.shards.fenced().map(({ shard }) => shard)).toEqual([0]);
  });
});

describe('time', () => {
  test('a call whose deadline passed while its engine was frozen is late, and nothing was taken', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    const { now } = await engine.shard(0).call(shardStatusCommand, {});
    const args = reserveArgs([{ key: 'frozen' }]);
    const argument = reserveCommand.encode({ epoch: 1, seen: 2, deadlineMs: now - 1 }, args);
    const connection = await connectReady(String(services.services.valkey?.url));
    try {
      await expect(connection.call('reserve', false, shardKey(0), argument)).rejects.toThrow(/^LATE/);
    } finally {
      await connection.close();
    }
    expect(await counters(engine.shard(0))).toEqual({ '1/shoe/east': '10/0/0' });
  });

  test('an engine whose time is behind is told so as overloaded, and learns the time again', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    await redisOf(services).hset(shardKey(0), 'at', String(Date.now() + 3_600_000));
    expect(await sell(engine, 'k')).toBe('overloaded');
    await expect.poll(() => sell(engine, 'k'), soon).toBe('ok');
  });

  test('Valkey that stands still: unavailable within the time limit; afterwards all is well', async () => {
    const engine = await open();
    await makeSale(engine.shard(0));
    await services.kill('valkey', 'SIGSTOP');
    const start = performance.now();
    const during = await Promise.all(Array.from({ length: 20 }, (_, i) => sell(engine, `k${i}`)));
    const tookMs = performance.now() - start;
    await services.kill('valkey', 'SIGCONT');
    expect(new Set(during)).toEqual(new Set(['unavailable']));
    expect(tookMs).toBeLessThan(limits.callMs + 2_000);
    // What came late was not done, or was done once: the same keys tell.
    await expect.poll(() => sell(engine, 'k0'), soon).toMatch(/ok|replay/);
    const after = await Promise.all(Array.from({ length: 20 }, (_, i) => sell(engine, `k${i}`)));
    expect(after.filter((status) => status === 'ok' || status === 'replay')).toHaveLength(10);
    expect(await counters(engine.shard(0))).toEqual({ '1/shoe/east': '10/10/0' });
    expect(await epochs()).toEqual([1]);
  });
});

test('at Valkey’s memory limit new holds are overloaded, endings go through', async () => {
  const engine = await open();
  await makeSale(engine.shard(0));
  const [held] = await reserve(engine.shard(0), [{ key: 'k' }]);
  await redisOf(services).config('SET', 'maxmemory', '1');
  try {
    expect(await sell(engine, 'new')).toBe('overloaded');
    const references = [reference(held?.seq ?? 0)];
    const { results } = await engine.shards.call(0, commitCommand, { references });
    expect(results[0]?.status).toBe(0);
  } finally {
    await redisOf(services).config('SET', 'maxmemory', '0');
  }
});

test('an answer that is not what its layout says is unavailable, and hurts no later call', async () => {
  const engine = await open();
  await makeSale(engine.shard(0));
  const broken = { ...readSaleCommand, decode: () => readSaleCommand.decode(Buffer.alloc(3)) };
  expect(await outcome(engine.shards.call(0, broken, { id: 'sale' }))).toBe('unavailable');
  expect(await sell(engine, 'k')).toBe('ok');
});
