import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Valkey } from '../engine/valkey.ts';
import { systemClock } from '../kernel/clock.ts';
import {
  adjustCommand,
  commitCommand,
  extendCommand,
  readReservationsCommand,
  reserveCommand,
  returnUnitsCommand,
  shardStatusCommand,
} from '../lua/bindings.ts';
import { decodeLines } from '../lua/outbox.ts';
import {
  connectReady,
  contentOf,
  counters,
  makeSale,
  reference,
  reserve,
  reserveArgs,
  short,
  statusName,
  type TestShard,
  unitsOf,
} from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { applyBatches, ShardStopped } from './apply.ts';
import type { Batch } from './events.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import { reconcile } from './reconcile.ts';
import { readStops, retryStopped } from './stops.ts';
import {
  createLedger,
  emptyStores,
  interrupt,
  level,
  openTestEngine,
  type Rebuild,
  randomLoad,
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
  engine = await openTestEngine(services, pool);
});
afterEach(async () => {
  await engine.close();
  expect(await wrongsOf(pool)).toEqual([]);
});

const stock = { shoe: { east: 300, west: 500 }, hat: { west: 200, east: 100 }, cap: { south: 5 } };
const settings = {
  ...{ id: 'sale', title: 'A sale', opensAt: null, closesAt: null, perBuyer: 40, holdSeconds: 600 },
  ...{ extendSeconds: 300, extensions: 2, durability: 'fsync', waitingRoom: null },
};
const sale = { stock, settings: JSON.stringify(settings), perBuyer: 40, holdMs: 600_000, extensions: 2 };

const open = () => expect.poll(() => engine.shards.fenced(), { timeout: 10_000 }).toEqual([]);
const forget = () => redisOf(services).flushall();

/** All that a buyer or an operator can find out about the shard. */
async function known(shard: TestShard): Promise<unknown> {
  const { rows } = await pool.query<{ seq: string; buyer: string; key: string }>(
    'select seq, buyer, key from ledger.reservation order by seq',
  );
  const references = rows.map(({ seq, buyer, key }) => reference(Number(seq), { buyer, key }));
  const { results } = await shard.call(readReservationsCommand, { references });
  const buyers = [...new Set(rows.map((row) => row.buyer))];
  return {
    counters: await counters(shard),
    reservations: results.map(({ lines, ...rest }) => ({ ...rest, lines: decodeLines(lines) })),
    units: Object.fromEntries(await Promise.all(buyers.map(async (buyer) => [buyer, await unitsOf(shard, buyer)]))),
    live: (await shard.call(shardStatusCommand, {})).live,
  };
}

const adjustment = { sale: 1, id: 'count-1', sku: 'shoe', warehouse: 'west', delta: -7, reason: 'counted', open: 0 };
const ofReturn = (seq: number) => ({
  ...{ sale: 1, buyer: short('rita'), key: short('k'), seq, id: 'return-1' },
  lines: [{ sku: 'cap', warehouse: 'south', quantity: 2 }],
});

test('a shard that was lost is as it was: counters, holds with their extensions, units of buyers, keys, ids', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await randomLoad(shard, { seed: 7, calls: 400 });
  const [rita, ed] = await reserve(shard, [
    { buyer: 'rita', lines: { cap: 3 } },
    { buyer: 'ed', lines: { shoe: 2 } },
  ]);
  const ritas = { buyer: 'rita' };
  await shard.call(commitCommand, { references: [reference(rita?.seq ?? 0, ritas)] });
  expect((await shard.call(returnUnitsCommand, ofReturn(rita?.seq ?? 0))).status).toBe(0);
  await shard.call(extendCommand, { references: [reference(ed?.seq ?? 0, { buyer: 'ed' }, 120)] });
  const adjusted = await shard.call(adjustCommand, adjustment);
  const seq = await level(engine, pool);
  const before = await known(shard);

  await forget();
  const report = await rebuild();
  expect(report).toMatchObject({ epoch: 2, seq, lost: null, sales: 1 });
  await open();
  expect(await known(shard)).toEqual(before);

  // Keys and ids still stand for what they stood for.
  const again = await reserve(shard, [
    { buyer: 'ed', lines: { shoe: 2 } },
    { buyer: 'ed', lines: { shoe: 3 } },
  ]);
  expect(again.map(({ status, seq: at }) => [status, at])).toEqual([
    ['replay', ed?.seq],
    ['mismatch', 0],
  ]);
  expect(await shard.call(adjustCommand, adjustment)).toEqual({ ...adjusted, status: 1 });
  expect(statusName((await shard.call(adjustCommand, { ...adjustment, delta: -8 })).status)).toBe('mismatch');
  expect(statusName((await shard.call(returnUnitsCommand, ofReturn(rita?.seq ?? 0))).status)).toBe('replay');
  // One more extension of two, and no third; a limit is a limit; the opening stock is the same.
  const extended = async () =>
    statusName(
      (await shard.call(extendCommand, { references: [reference(ed?.seq ?? 0, { buyer: 'ed' }, 60)] })).results[0]
        ?.status ?? -1,
    );
  expect([await extended(), await extended()]).toEqual(['ok', 'notAllowed']);
  expect((await reserve(shard, [{ buyer: 'rita', key: 'l', lines: { shoe: 40 } }]))[0]?.status).toBe('purchaseLimit');
  await expect(makeSale(shard, { ...sale, digest: 'other' })).rejects.toThrow(/conflict/);
  await makeSale(shard, sale);

  // And it goes on: sequences follow, the ledger takes them, and nothing drifts.
  await randomLoad(shard, { seed: 8, calls: 200 });
  expect(await level(engine, pool)).toBeGreaterThan(seq);
  const found = await reconcile({ pool, source: engine.outbox, shards: 1, waitMs: 5_000, clock: systemClock });
  expect([found.drift, found.shards[0]?.epoch]).toEqual([0, 2]);
}, 60_000);

test('rebuilding a shard that has all its data gives the ledger what it had not, and loses nothing', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await randomLoad(shard, { seed: 3, calls: 100 });
  const { seq } = await shard.call(shardStatusCommand, {});
  expect(await rebuild()).toMatchObject({ seq, lost: null, silentEngines: 0 });
  await open();
  expect((await readWatermark(pool, 0)).watermark).toBe(seq);
  expect((await reserve(shard, [{ buyer: 'zoe' }]))[0]).toMatchObject({ status: 'ok', seq: seq + 1 });
});

test('a relay or a sweeper tells buyers nothing: a rebuild neither waits for it nor counts it once it is dead', async () => {
  const relay = await openTestEngine(services, pool, { sells: false });
  const { rows } = await pool.query<{ open: boolean }>('select open from ledger.sighting order by open');
  await relay.close();
  expect(rows).toEqual([{ open: false }, { open: true }]);
}, 60_000);

test('what the ledger gets from a rebuild alone has been sent on before: who reads the topic misses nothing', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await randomLoad(shard, { seed: 4, calls: 60 });
  const watermark = await level(engine, pool);
  await reserve(shard, [{ buyer: 'ann' }]);
  await reserve(shard, [{ buyer: 'bob' }]);
  const away = async (): Promise<void> => {
    throw new Error('the topic is away');
  };
  await expect(rebuild(targetOf, { forward: away })).rejects.toThrow('the topic is away');
  expect((await readWatermark(pool, 0)).watermark).toBe(watermark);
  const sent: number[] = [];
  const forward = async (batches: Batch[]): Promise<void> => {
    sent.push(...batches.flatMap(({ events }) => events.map(({ seq }) => seq)));
  };
  expect(await rebuild(targetOf, { forward })).toMatchObject({ seq: watermark + 2, lost: null });
  expect(sent).toEqual([watermark + 1, watermark + 2]);
  await open();
}, 60_000);

test('what the ledger had not is reported, and what was sold of it is on sale again', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await reserve(shard, [{ buyer: 'ann' }]);
  const seq = await level(engine, pool);
  await reserve(shard, [{ buyer: 'bob' }, { buyer: 'cem' }]);
  const late = (await engine.outbox.read(0, seq, 10)).batches;
  await forget();
  expect(await rebuild()).toMatchObject({ seq, lost: { from: seq + 1, to: seq + 2 }, liveReservations: 1 });
  await open();
  expect(await unitsOf(shard, 'bob')).toBe(0);
  // The old epoch's events come after all: they are kept apart, and the new history stands.
  const [bob] = await reserve(shard, [{ buyer: 'bob' }]);
  expect(bob).toMatchObject({ status: 'ok', seq: seq + 1 });
  expect(await applyBatches(createLedgerStore(pool), 0, late)).toMatchObject({ quarantined: 1, events: 0 });
  await level(engine, pool);
  expect(await applyBatches(createLedgerStore(pool), 0, late)).toMatchObject({ quarantined: 1, events: 0 });
  expect(await readWatermark(pool, 0)).toEqual({ watermark: seq + 1, stopped: null });
  expect((await pool.query('select 1 from ledger.quarantine')).rowCount).toBe(1);
});

test('interrupted at any of its steps, it is fenced, and can be done again', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await randomLoad(shard, { seed: 5, calls: 60 });
  const seq = await level(engine, pool);
  const before = await known(shard);
  const steps = ['begin', 'read', 'clear', 'sale', 'book', 'changes', 'finish'] as const;
  for (const step of steps) {
    for (const when of ['before', 'after'] as const) {
      const broken = (token: string) => withStep(targetOf(token), step, when, interrupt);
      await expect(rebuild(broken)).rejects.toThrow('interrupted');
      const touched = !(step === 'begin' && when === 'before');
      if (touched)
        await expect(reserve(shard, [{ buyer: 'eve', key: `${step}-${when}` }]), `${step} ${when}`).rejects.toThrow();
    }
  }
  expect((await rebuild()).seq).toBe(seq);
  await open();
  expect(await known(shard)).toEqual(before);
}, 120_000);

test('of two rebuilds at once the later one counts', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await randomLoad(shard, { seed: 6, calls: 60 });
  await level(engine, pool);
  const before = await known(shard);
  const outcomes = await Promise.allSettled([rebuild(), rebuild()]);
  expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  expect(String(failed?.reason)).toMatch(/rebuild/);
  await open();
  expect(await known(shard)).toEqual(before);
});

test('two rebuilds that fence at the same time do not end each other', async () => {
  await makeSale(engine.shard(0), sale);
  await level(engine, pool);
  const isHeldUp = async () =>
    (await pool.query(`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`))
      .rowCount === 1;
  let other: Promise<PromiseSettledResult<unknown>[]> | undefined;
  let otherReads = false;
  const noticed = (token: string) =>
    withStep(targetOf(token), 'read', 'before', async () => {
      otherReads = true;
    });
  // The first has fenced Valkey, and no more: the other either waits for it, or has fenced everything.
  const overtaken = (token: string) =>
    withStep(targetOf(token), 'begin', 'after', async () => {
      other = Promise.allSettled([rebuild(noticed)]);
      await expect.poll(async () => otherReads || (await isHeldUp()), { timeout: 10_000 }).toBe(true);
    });
  const [first] = await Promise.allSettled([rebuild(overtaken)]);
  const [second] = (await other) ?? [];
  expect([first.status, second?.status]).toEqual(['rejected', 'fulfilled']);
  await open();
});

test('a shard that is being rebuilt takes no call, and says so', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await level(engine, pool);
  const content = await contentOf(shard);
  const target = targetOf('twelve-chars');
  await target.begin();
  await expect(reserve(shard, [{}])).rejects.toThrow();
  const direct = reserveCommand.encode({ epoch: 1, seen: 0, deadlineMs: 1e15 }, reserveArgs([{}]));
  await expect(valkey.call('reserve', false, '{s0}:shard', direct)).rejects.toThrow(/FENCED/);
  await targetOf('another-char').begin();
  await expect(target.clear()).rejects.toThrow(/rebuild/);
  const { [`${shard.prefix}shard`]: _frame, ...rest } = await contentOf(shard);
  const { [`${shard.prefix}shard`]: _before, ...restBefore } = content;
  expect(rest).toEqual(restBefore);
});

test('an event that cannot be stops the shard after the last good one; it is shown, tried again, or left out', async () => {
  const shard = engine.shard(0);
  await makeSale(shard, sale);
  await reserve(shard, [{ buyer: 'ann' }]);
  // Postgres can't hold a NUL in jsonb.
  await makeSale(shard, { ...sale, id: 'bad', settings: JSON.stringify({ ...settings, id: 'bad', title: 'A\0B' }) });
  await reserve(shard, [{ buyer: 'bob' }]);
  const { batches } = await engine.outbox.read(0, 0, 100);
  const good = batches[1]?.seqLast ?? 0;
  await expect(applyBatches(createLedgerStore(pool), 0, batches)).rejects.toBeInstanceOf(ShardStopped);
  expect((await readWatermark(pool, 0)).watermark).toBe(good);
  const [stop] = await readStops(pool);
  expect(stop).toMatchObject({ shard: 0, watermark: good });
  expect(JSON.parse(stop?.batch ?? '{}')).toEqual(batches[2]);

  expect(await retryStopped(pool, 0)).toBe(true);
  expect(await retryStopped(pool, 0)).toBe(false);
  expect(await readStops(pool)).toEqual([]);
  await expect(applyBatches(createLedgerStore(pool), 0, batches.slice(2))).rejects.toBeInstanceOf(ShardStopped);

  // The shard sells on, until a rebuild is told to leave the event out.
  await expect(rebuild()).rejects.toBeInstanceOf(ShardStopped);
  expect((await reserve(shard, [{ buyer: 'cem' }]))[0]?.status).toBe('ok');
  const { seq } = await shard.call(shardStatusCommand, {});
  expect(await rebuild(targetOf, { discard: true })).toMatchObject({
    seq: good,
    lost: { from: good + 1, to: seq },
    sales: 1,
  });
  await open();
  expect(await readStops(pool)).toEqual([]);
  expect(await Promise.all(['ann', 'bob', 'cem'].map((buyer) => unitsOf(shard, buyer)))).toEqual([1, 0, 0]);
  const kept = await pool.query<{ seq_first: string }>('select seq_first from ledger.quarantine order by seq_first');
  expect(Number(kept.rows[0]?.seq_first)).toBe(good + 1);
  expect(kept.rowCount).toBe(batches.length - 2 + 1);
  expect((await reserve(shard, [{ buyer: 'bob' }]))[0]).toMatchObject({ status: 'ok', seq: good + 1 });
  await level(engine, pool);
});
