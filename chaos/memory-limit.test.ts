/** Valkey at its `maxmemory`, and its append-only log under load that goes on: both stay bounded, and nothing is half done. */
import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { limits } from '../kernel/limits.ts';
import { reconcile } from '../ledger/reconcile.ts';
import { contentOf } from '../lua/testing.ts';
import {
  askEach,
  endAll,
  eventsKept,
  type Guest,
  load,
  newGuest,
  readGauges,
  reserveMany,
  type Stage,
  setStage,
  watchGauges,
} from './pressure.ts';

let stage: Stage | undefined;
afterEach(async () => {
  await stage?.stop();
  stage = undefined;
});

const patient = { timeout: 120_000, interval: 50 };

async function expectAllDrains(on: Stage): Promise<void> {
  await expect.poll(async () => Object.values(await lagOf(on)), patient).toEqual([0]);
  const { pool, outbox } = on.stores;
  const found = await reconcile({ pool, source: outbox, shards: 1, waitMs: 60_000, clock: systemClock });
  expect({ drift: found.drift, unread: found.shards[0]?.unread }).toEqual({ drift: 0, unread: null });
}
const lagOf = async (on: Stage): Promise<{ lag: number }> => {
  const { seq, acked } = await on.status();
  return { lag: seq - acked };
};

it('at maxmemory new holds are refused and take nothing; endings, sweep and trim go through, and all drains', async () => {
  const maxmemoryBytes = 24 * 1024 ** 2;
  const on = await setStage({ outboxEvents: limits.outboxEvents, maxmemoryBytes });
  stage = on;
  const used = async (): Promise<number> => (await readGauges(on)).usedMemoryBytes;
  const guests: [Guest, Guest] = [await newGuest(on), await newGuest(on)];
  await on.bed.services.stopOne('postgres');
  const { left, code } = await load(on, async (refused) => refused);
  expect(code).toBe('overloaded');
  const full = await on.status();
  // Not the outbox is full, but the memory.
  expect(full.seq - full.acked + full.live).toBeLessThan(limits.outboxEvents / 2);

  // From here on the load's own ups and downs don't bring the memory below the limit any more.
  const ended = left.splice(0, 4 * limits.batchRequests);
  expect(await endAll(on, ended)).toBe(ended.length);
  const lapsing = async (): Promise<number> => (await on.units('brief')).reserved;
  expect(await lapsing()).toBeGreaterThan(0);
  await expect.poll(lapsing, patient).toBe(0);
  expect(await used()).toBeGreaterThan(maxmemoryBytes);

  const shard = { number: 0, prefix: '{s0}:', redis: on.redis, call: () => Promise.reject(new Error('not used')) };
  const before = await contentOf(shard);
  for (const count of [1, 2, limits.batchRequests])
    expect(await reserveMany(on, 'long', count)).toEqual({ held: [], refused: count, code: 'overloaded' });
  const after = await contentOf(shard);
  expect(Object.keys(after)).toEqual(Object.keys(before));
  expect(Object.keys(after).filter((key) => after[key] !== before[key])).toEqual([]);

  expect(await askEach(on, guests)).toEqual({
    // The call took nothing, though an earlier one of the same key has.
    ...{ reserve: 'overloaded', 'the same key again': 'overloaded', extend: 'overloaded' },
    ...{ commit: '200', release: '200' },
  });
  // What endings add to the memory is bounded by the holds that lived: a few hundred bytes each, alone in its call too.
  const beforeBytes = await used();
  const alone = left.splice(0, 500);
  expect(await endAll(on, alone, 1)).toBe(alone.length);
  expect((await used()) - beforeBytes).toBeLessThan(alone.length * 300);
  expect(left.length).toBeGreaterThan(10_000);
  expect(await endAll(on, left)).toBe(left.length);
  expect((await on.status()).live).toBe(0);
  expect((await used()) - beforeBytes).toBeLessThan((alone.length + left.length) * 300);

  await on.bed.services.startOne('postgres');
  await expectAllDrains(on);
  expect(await eventsKept(on)).toBeLessThan(limits.outboxTailEvents + 1_000);
  expect(await used()).toBeLessThan(maxmemoryBytes);
  await newGuest(on);
}, 180_000);

it('under load that goes on Valkey’s log is rewritten again and again, and its files stay bounded', async () => {
  const minBytes = 1024 ** 2;
  const mostEvents = 500_000;
  const on = await setStage({ outboxEvents: 20_000, maxmemoryBytes: 256 * 1024 ** 2, rememberSeconds: 1 });
  stage = on;
  await on.redis.config('SET', 'auto-aof-rewrite-min-size', String(minBytes));
  const watch = watchGauges(on);
  const wanted = 4;
  const enough = async (): Promise<boolean> => watch.most.logRewrites >= wanted || (await on.status()).seq > mostEvents;
  await load(on, enough, { ending: 1 });
  await watch.stop();
  expect(watch.most.logRewrites).toBeGreaterThanOrEqual(wanted);
  // A rewrite begins at twice what the last one left; until it ends, there is the old and the new.
  expect(watch.most.logBytes).toBeLessThan(2 * minBytes + 4 * watch.most.usedMemoryBytes);
  await expectAllDrains(on);
  await expect.poll(() => on.status(), patient).toMatchObject({ live: 0 });
}, 180_000);
