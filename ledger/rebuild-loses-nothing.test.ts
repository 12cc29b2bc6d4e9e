/** What a rebuild must not do: clear what the ledger has not, end another's work, or forget what was lost before it. */
import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Valkey } from '../engine/valkey.ts';
import { connectReady, contentOf, counters, makeSale, reserve, type TestShard, unitsOf } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { applyBatches, ShardStopped } from './apply.ts';
import { createAuthority } from './authority.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import { readStops, retryStopped } from './stops.ts';
import {
  createLedger,
  emptyStores,
  interrupt,
  level,
  openTestEngine,
  type Rebuild,
  type RebuildStep,
  rebuildableSale,
  rebuildsOn,
  redisOf,
  startTestServices,
  stopTestServices,
  type TestEngine,
  withStep,
  wrongsOf,
} from './testing.ts';

let services: ServiceSet;
let pool: Pool;
let valkey: Valkey;
let engine: TestEngine;
let shard: TestShard;
let targetOf: ReturnType<typeof rebuildsOn>['targetOf'];
let rebuild: Rebuild;

beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres']);
  pool = await createLedger(services, []);
  valkey = await connectReady(String(services.services.valkey?.url));
  ({ targetOf, rebuild } = rebuildsOn(pool, valkey));
});
afterAll(async () => {
  await valkey.close();
  await stopTestServices(services, pool);
});
beforeEach(async () => {
  await emptyStores(services, pool);
  await reopen();
  await makeSale(shard, rebuildableSale());
  await reserve(shard, [{ buyer: 'ann' }]);
});
afterEach(async () => {
  await engine.close();
  expect(await wrongsOf(pool)).toEqual([]);
});

/** Keeps all that Valkey has of the shard now; what it answers puts that back, and nothing else. */
async function copy(): Promise<() => Promise<void>> {
  const redis = redisOf(services);
  const keys = await redis.keys('{s0}*');
  const copies = await Promise.all(keys.map(async (key) => [key, await redis.dumpBuffer(key)] as const));
  return async () => {
    await redis.flushall();
    for (const [key, dump] of copies) await redis.restore(key, 0, dump ?? '');
  };
}

/** Another engine: the one before has said what it has seen, so that no rebuild waits for it. */
async function reopen(): Promise<void> {
  engine = await openTestEngine(services, pool);
  shard = engine.shard(0);
}

/** All that the shard has, less its frame. */
async function holdings(): Promise<Record<string, string>> {
  const { [`${shard.prefix}shard`]: _frame, ...rest } = await contentOf(shard);
  return rest;
}

const broken = (step: RebuildStep, when: 'before' | 'after') => (token: string) =>
  withStep(targetOf(token), step, when, interrupt);

/** A target whose rebuild is late: `meanwhile` happens once, after it has read the outbox to its end. */
const lateAfterDraining = (meanwhile: () => Promise<unknown>) => (token: string) => {
  let done = false;
  return withStep(targetOf(token), 'read', 'after', async (batches) => {
    if (done || !Array.isArray(batches) || batches.length > 0) return;
    done = true;
    await meanwhile();
  });
};

type Lost = { from: number; to: number } | null;
const losses = async (): Promise<{ epoch: number; lost: Lost; finished: boolean }[]> =>
  (
    await pool.query(
      `select epoch, report->'lost' as lost, finished_at is not null as finished from ledger.rebuild order by epoch`,
    )
  ).rows;

describe('events that neither the ledger nor the outbox has', () => {
  test.each<[string, (redis: ReturnType<typeof redisOf>) => Promise<unknown>, number]>([
    ['the outbox goes on after a hole', (redis) => redis.xtrim('{s0}:outbox', 'MAXLEN', 1), 1],
    ['the outbox ends too early', (redis) => redis.del('{s0}:outbox'), 2],
  ])('%s: the shard is stopped, nothing is cleared, and to leave them out must be said', async (_name, lose, gone) => {
    const had = await level(engine, pool);
    await reserve(shard, [{ buyer: 'bob' }]);
    await reserve(shard, [{ buyer: 'cem' }]);
    const { batches } = await engine.outbox.read(0, had, 10);
    await engine.close();
    await lose(redisOf(services));
    const before = await holdings();
    for (let i = 0; i < 2; i++) await expect(rebuild()).rejects.toBeInstanceOf(ShardStopped);
    expect(await holdings()).toEqual(before);
    expect(await readStops(pool)).toMatchObject([
      { epoch: 1, watermark: had, reason: expect.stringContaining(`events ${had + 1} to ${had + gone} are gone`) },
    ]);
    expect(await losses()).toEqual([]);

    const report = await rebuild(targetOf, { discard: true });
    expect(report).toMatchObject({ epoch: 2, seq: had, lost: { from: had + 1, to: had + 2 }, liveReservations: 1 });
    expect(await readStops(pool)).toEqual([]);
    const kept = await pool.query<{ seq_last: string }>('select seq_last from ledger.quarantine');
    expect(kept.rows.map(({ seq_last }) => Number(seq_last))).toEqual(gone === 1 ? [batches[1]?.seqLast] : []);
    await reopen();
    expect(engine.shards.fenced()).toEqual([]);
    expect(await Promise.all(['ann', 'bob', 'cem'].map((buyer) => unitsOf(shard, buyer)))).toEqual([1, 0, 0]);
  });

  test('once a newer backup has them the rebuild is done again, and nothing is lost', async () => {
    await reserve(shard, [{ buyer: 'bob' }]);
    const { batches } = await engine.outbox.read(0, 0, 10);
    await applyBatches(createLedgerStore(pool), 0, batches.slice(0, 1));
    await reserve(shard, [{ buyer: 'cem' }]);
    const before = await counters(shard);
    await engine.close();
    await redisOf(services).xtrim('{s0}:outbox', 'MAXLEN', 1);
    await expect(rebuild()).rejects.toBeInstanceOf(ShardStopped);
    expect(await retryStopped(pool, 0)).toBe(true);
    await applyBatches(createLedgerStore(pool), 0, batches.slice(1));
    expect(await rebuild()).toMatchObject({ seq: 5, lost: null, liveReservations: 3 });
    await reopen();
    expect(await counters(shard)).toEqual(before);
  });

  test('a shard that is stopped while it is drained is not cleared', async () => {
    await engine.close();
    const before = await holdings();
    await expect(rebuild(lateAfterDraining(() => createLedgerStore(pool).stop(0, 'a test says so')))).rejects.toThrow(
      /was stopped/,
    );
    expect(await holdings()).toEqual(before);
    expect(await readStops(pool)).toMatchObject([{ epoch: 1, reason: 'a test says so' }]);
    expect(await losses()).toEqual([]);
  });
});

describe('an older rebuild, after a newer one has begun', () => {
  test('does not close the newer one’s epoch', async () => {
    const before = await counters(shard);
    await engine.close();
    await expect(rebuild(lateAfterDraining(() => rebuild()))).rejects.toThrow(/another rebuild of it has begun/);
    expect(await createAuthority(pool).current(0)).toMatchObject({ epoch: 2, closedEpoch: 1, rebuilding: false });
    expect(await losses()).toMatchObject([{ epoch: 2, finished: true }]);
    await reopen();
    expect(engine.shards.fenced()).toEqual([]);
    expect(await counters(shard)).toEqual(before);
  });

  test('does not open what the newer one is still building', async () => {
    await engine.close();
    const overtaken = (token: string) =>
      withStep(targetOf(token), 'finish', 'after', () =>
        expect(rebuild(broken('clear', 'after'))).rejects.toThrow('interrupted'),
      );
    await expect(rebuild(overtaken)).rejects.toThrow(/another rebuild of shard 0 has begun/);
    expect(await createAuthority(pool).current(0)).toMatchObject({ epoch: 3, closedEpoch: 2, rebuilding: true });
    expect((await losses()).map(({ finished }) => finished)).toEqual([false, false]);
    expect(await rebuild()).toMatchObject({ epoch: 4, lost: null, liveReservations: 1 });
  });
});

describe('what may be lost', () => {
  test('is noted as the epoch is closed, and stands in the report of the rebuild that ends it, once', async () => {
    const had = await level(engine, pool);
    await reserve(shard, [{ buyer: 'bob' }, { buyer: 'cem' }]);
    await engine.close();
    await redisOf(services).flushall();
    const lost = { from: had + 1, to: had + 2 };
    await expect(rebuild(broken('clear', 'before'))).rejects.toThrow('interrupted');
    expect(await losses()).toEqual([{ epoch: 2, lost, finished: false }]);
    await expect(rebuild(broken('book', 'after'))).rejects.toThrow('interrupted');
    expect(await losses()).toMatchObject([{ lost }, { epoch: 3, lost: null, finished: false }]);

    expect(await rebuild()).toMatchObject({ epoch: 4, lost });
    expect(await losses()).toMatchObject([
      { lost, finished: true },
      { epoch: 3, finished: true },
      { epoch: 4, lost, finished: true },
    ]);
    // It is told once.
    expect(await rebuild()).toMatchObject({ epoch: 5, lost: null });
  });

  test('a rebuild that was told to leave events out, and was interrupted, is ended without being told again', async () => {
    const had = await level(engine, pool);
    await reserve(shard, [{ buyer: 'bob' }, { buyer: 'cem' }]);
    await engine.close();
    await createLedgerStore(pool).stop(0, 'a test says so');
    const lost = { from: had + 1, to: had + 2 };
    const interrupted = rebuild(broken('clear', 'before'), { discard: true });
    await expect(interrupted).rejects.toThrow('interrupted');
    expect(await losses()).toEqual([{ epoch: 2, lost, finished: false }]);
    expect(await rebuild()).toMatchObject({ epoch: 3, seq: had, lost, liveReservations: 1 });
    expect((await readWatermark(pool, 0)).stopped).toBeNull();
    await reopen();
    expect(await counters(shard)).toEqual({ '1/shoe/east': '10/1/0' });
    expect((await reserve(shard, [{ buyer: 'bob' }]))[0]).toMatchObject({ status: 'ok', seq: had + 1 });
  });

  test('Valkey’s old files are put back, from before a rebuild: what they have is no history, and is kept apart', async () => {
    const had = await level(engine, pool);
    await reserve(shard, [{ buyer: 'bob' }]);
    await reserve(shard, [{ buyer: 'cem' }]);
    await engine.close();
    const putBack = await copy();
    await redisOf(services).flushall();
    expect(await rebuild()).toMatchObject({ epoch: 2, seq: had, lost: { from: had + 1, to: had + 2 } });
    await reopen();
    await reserve(shard, [{ buyer: 'dan' }]);
    expect(await level(engine, pool)).toBe(had + 1);
    const before = await counters(shard);
    await engine.close();

    await putBack();
    await reopen();
    expect(engine.shards.fenced()).toMatchObject([{ lost: true }]);
    await engine.close();
    await expect(rebuild(broken('clear', 'before'))).rejects.toThrow('interrupted');
    expect(await rebuild()).toMatchObject({ epoch: 4, seq: had + 1, lost: null, liveReservations: 2 });
    const kept = await pool.query<{ seq_last: string }>('select seq_last from ledger.quarantine order by seq_last');
    expect(kept.rows.map(({ seq_last }) => Number(seq_last))).toEqual([had + 1, had + 2]);
    await reopen();
    expect(await counters(shard)).toEqual(before);
  });

  test('its files of another history are put back, that goes further than what was sold since: it is no history', async () => {
    const had = await level(engine, pool);
    const without = await copy();
    await reserve(shard, [{ buyer: 'bob' }]);
    await reserve(shard, [{ buyer: 'cem' }]);
    const withBoth = await copy();
    await engine.close();
    // A second Valkey, to which bob and cem did not get; nor has any engine lived to say that there was more.
    await pool.query("delete from ledger.sighting; update ledger.shard set run_id = 'the first'");
    await without();
    await reopen();
    expect((await reserve(shard, [{ buyer: 'dan' }]))[0]).toMatchObject({ status: 'ok', seq: had + 1 });
    await engine.close();

    await withBoth();
    await reopen();
    expect(engine.shards.fenced()).toMatchObject([{ lost: true }]);
    await engine.close();
    expect(await rebuild()).toMatchObject({ epoch: 3, seq: had, lost: { from: had + 1, to: had + 2 } });
    expect((await pool.query('select 1 from ledger.quarantine')).rowCount).toBe(2);
    await reopen();
    expect(await unitsOf(shard, 'bob')).toBe(0);
    expect((await reserve(shard, [{ buyer: 'eve' }]))[0]).toMatchObject({ status: 'ok', seq: had + 1 });
  });
});
