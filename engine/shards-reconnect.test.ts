/** The connection to Valkey breaks, and stands again, while shards are being opened: nothing is sold unseen. */
import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { RefusalError } from '../kernel/errors.ts';
import { shardKey } from '../kernel/ids.ts';
import { createAuthority } from '../ledger/authority.ts';
import {
  createLedger,
  emptyStores,
  openTestEngine,
  redisOf,
  silent,
  startTestServices,
  stopTestServices,
} from '../ledger/testing.ts';
import { makeSale, outboxOf, reserve, type TestShard } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import type { EpochAuthority } from './epochs.ts';
import { openShards, type Shards } from './shards.ts';
import { connectValkey, type Valkey } from './valkey.ts';

let services: ServiceSet;
let pool: Pool;
const open: Shards[] = [];
beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres']);
  pool = await createLedger(services, []);
});
afterAll(async () => {
  await stopTestServices(services, pool);
});
beforeEach(async () => {
  await emptyStores(services, pool);
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((shards) => shards.close()));
});

const soon = { timeout: 20_000, interval: 20 };

/** A gate on the way to Valkey: it holds what comes to it until it is opened, or broken. */
type Gate = { reached: Promise<void>; open(): void; fail(): void };

/** Valkey, with calls that a test holds up. */
function gatedValkey() {
  const real = connectValkey([String(services.services.valkey?.url)], () => undefined);
  const gates = new Map<string, { arrive(): void; passed: Promise<void> }>();
  const valkey: Valkey = {
    ...real,
    get complaint() {
      return real.complaint;
    },
    async call(name, readOnly, key, argument) {
      const gate = gates.get(`${name} ${key}`);
      gates.delete(`${name} ${key}`);
      gate?.arrive();
      await gate?.passed;
      return real.call(name, readOnly, key, argument);
    },
  };
  return {
    valkey,
    /** Holds the next call of a function for a shard. */
    hold(name: string, shard: number): Gate {
      const reached = Promise.withResolvers<void>();
      const passed = Promise.withResolvers<void>();
      gates.set(`${name} ${shardKey(shard)}`, { arrive: reached.resolve, passed: passed.promise });
      return {
        reached: reached.promise,
        open: passed.resolve,
        fail: () => passed.reject(new Error('the connection broke')),
      };
    },
  };
}
type Gated = ReturnType<typeof gatedValkey>;

async function openOn(gated: Gated, count = 2, authority: EpochAuthority = createAuthority(pool)): Promise<Shards> {
  const shards = await openShards({
    valkey: gated.valkey,
    authority,
    ...{ count, outboxEvents: 1_000, rememberSeconds: 60, clock: systemClock, logger: silent },
  });
  open.push(shards);
  return shards;
}

/** Another run of Valkey with the same data, to which the connection has come back. */
async function restartValkey({ valkey }: Gated): Promise<void> {
  const before = valkey.linkOf(shardKey(0));
  await services.kill('valkey', 'SIGKILL');
  await services.startOne('valkey');
  await expect.poll(() => [0, before].includes(valkey.linkOf(shardKey(0))), soon).toBe(false);
}

const shardOf = (shards: Shards, number: number): TestShard => ({
  number,
  prefix: shardKey(number).slice(0, -'shard'.length),
  redis: redisOf(services),
  call: (command, args) => shards.call(number, command, args),
});
const sell = (shards: Shards, number: number, key: string): Promise<string> =>
  reserve(shardOf(shards, number), [{ key }]).then(
    ([result]) => String(result?.status),
    (error: unknown) => (error instanceof RefusalError ? error.refusal.code : String(error)),
  );
const sellBoth = (shards: Shards, key: string) => Promise.all([0, 1].map((number) => sell(shards, number, key)));
/** The epochs of a shard's outbox, oldest first. */
const epochsOf = async (shards: Shards, number: number): Promise<number[]> =>
  (await outboxOf(shardOf(shards, number))).map(({ entry }) => entry.epoch);

/** A sale on each of two shards, made by an engine that has gone again. */
async function makeSales(): Promise<void> {
  const engine = await openTestEngine(services, pool, { count: 2 });
  for (const number of [0, 1]) await makeSale(engine.shard(number), { id: `sale ${number}` });
  await engine.close();
}

test('at the start: once it says that the shards are open, all of them are, at the epoch of the run that is there', async () => {
  await makeSales();
  const gated = gatedValkey();
  const gate = gated.hold('open_shard', 1);
  const opening = openOn(gated);
  await gate.reached;
  await restartValkey(gated);
  gate.open();
  const shards = await opening;
  expect(shards.fenced()).toEqual([]);
  expect(await sellBoth(shards, 'k')).toEqual(['ok', 'ok']);
  expect(await Promise.all([0, 1].map((number) => epochsOf(shards, number)))).toEqual([
    [1, 2],
    [1, 2],
  ]);
});

test('later: what was opened on the old connection is not sold from, and all is looked at anew', async () => {
  await makeSales();
  const gated = gatedValkey();
  const shards = await openOn(gated);
  expect(await sellBoth(shards, 'first run')).toEqual(['ok', 'ok']);
  const opening = gated.hold('open_shard', 1);
  await restartValkey(gated);
  await opening.reached;
  expect(await sellBoth(shards, 'second run')).toEqual(['ok', 'shard-fenced']);
  await restartValkey(gated);
  expect(await sellBoth(shards, 'third run')).toEqual(['shard-fenced', 'shard-fenced']);
  const anew = gated.hold('open_shard', 0);
  opening.open();
  await anew.reached;
  expect(await sellBoth(shards, 'third run')).toEqual(['shard-fenced', 'shard-fenced']);
  expect(shards.sellable()).toBe(false);
  anew.open();
  await expect.poll(() => shards.fenced(), soon).toEqual([]);
  expect(await sellBoth(shards, 'third run')).toEqual(['ok', 'ok']);
  // An epoch for each run that was sold from: the second shard saw nothing of the second run.
  expect(await Promise.all([0, 1].map((number) => epochsOf(shards, number)))).toEqual([
    [1, 1, 2, 3],
    [1, 1, 2],
  ]);
});

test('what an engine has seen it still knows when the connection breaks as it enters a new epoch', async () => {
  const gated = gatedValkey();
  const shards = await openOn(gated, 1);
  await makeSale(shardOf(shards, 0));
  const redis = redisOf(services);
  const keys = await redis.keys('{s0}*');
  const copies = await Promise.all(keys.map(async (key) => [key, await redis.dumpBuffer(key)] as const));
  expect(await sell(shards, 0, 'sold')).toBe('ok');
  // It comes to the new epoch, and is cut off before it has seen how far the shard is.
  const entering = gated.hold('shard_status', 0);
  await restartValkey(gated);
  await entering.reached;
  await expect.poll(() => redis.flushall(), soon).toBe('OK');
  for (const [key, dump] of copies) await redis.restore(key, 0, dump ?? '');
  entering.fail();
  await expect.poll(() => shards.fenced()[0]?.reason, soon).toMatch(/sequence 2, an engine has seen 3/);
  expect(shards.fenced()[0]?.lost).toBe(true);
  expect(await sell(shards, 0, 'again')).toBe('shard-fenced');
});

test('nothing is sold before Postgres knows of it: a rebuild would neither wait for this engine nor report what it told', async () => {
  await makeSales();
  const real = createAuthority(pool);
  const reported = Promise.withResolvers<void>();
  const held = Promise.withResolvers<'noted' | 'lost'>();
  let first = true;
  const opening = openOn(gatedValkey(), 2, {
    ...real,
    async report(...args) {
      const mayBeOpen = args[2].some(({ open }) => open);
      if (mayBeOpen && first) {
        first = false;
        reported.resolve();
        if ((await held.promise) === 'lost') throw new Error('Postgres is away');
      }
      return real.report(...args);
    },
  });
  await reported.promise;
  const noted = () => pool.query('select 1 from ledger.sighting where open').then(({ rowCount }) => rowCount);
  expect(await noted()).toBe(0);
  held.resolve('lost');
  const shards = await opening;
  // What could not be noted stays closed, and is opened once it can.
  expect(shards.fenced()).toMatchObject([{ shard: 0, reason: expect.stringContaining('Postgres is away') }]);
  await expect.poll(() => shards.fenced(), soon).toEqual([]);
  expect(await noted()).toBe(2);
  expect(await sellBoth(shards, 'known')).toEqual(['ok', 'ok']);
});
