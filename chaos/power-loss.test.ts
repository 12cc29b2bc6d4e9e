/**
 * Valkey's machine loses power in the middle of a sale: what was not synced is taken out of its files (power-loss.ts says
 * how). With `appendfsync always` everything that a buyer was told is there afterwards; with less, something is gone, and the
 * shard is fenced. STAMPEDE_CRASHES makes it longer.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { applyBatches } from '../ledger/apply.ts';
import { createLedgerStore, readWatermark } from '../ledger/postgres.ts';
import { reconcile } from '../ledger/reconcile.ts';
import { startRelay } from '../ledger/relay.ts';
import {
  countingStats,
  createLedger,
  openTestEngine,
  randomOf,
  redisOf,
  silent,
  startTestServices,
  stopTestServices,
  type TestEngine,
  wrongsOf,
} from '../ledger/testing.ts';
import { makeSale, reserve, type TestShard } from '../lua/testing.ts';
import type { ServiceSet, ValkeyOptions } from '../services/services.ts';
import { waitUntil } from '../services/waiting.ts';
import { type Crash, canCompile, type FragileValkey, type PowerLoss, startFragileValkey } from './power-loss.ts';
import { type Crowd, createCrowd, missingFrom, statesOf, type Told } from './power-loss-crowd.ts';

const clients = 8;
const crashes = Number(process.env.STAMPEDE_CRASHES ?? 20);
const limitMs = 600_000;
const waitMs = 60_000;

/** Each in turn: file systems differ in what they keep beyond what was synced. */
const powerLosses: PowerLoss[] = [
  { names: 'synced', tail: 'gone' },
  { names: 'found', tail: 'half' },
  { names: 'found', tail: 'gone' },
  { names: 'synced', tail: 'half' },
];
const lossOf = (crash: number): PowerLoss => powerLosses[crash % powerLosses.length] as PowerLoss;

type Stage = {
  power: FragileValkey;
  pool: Pool;
  engine: TestEngine;
  shard: TestShard;
  supply: number;
  crowd: Crowd;
  stop(): Promise<void>;
};

describe.skipIf(!canCompile())('power is lost in mid-sale (needs a C compiler: gcc and libc6-dev)', () => {
  let postgres: ServiceSet;
  let stage: Stage | undefined;

  beforeAll(async () => {
    postgres = await startTestServices(['postgres']);
  });
  afterAll(() => stopTestServices(postgres));
  afterEach(async () => {
    await stage?.stop();
    stage = undefined;
  });

  /** A new Valkey, an empty ledger, an engine in front of them, and a sale that nobody has bought from. */
  async function start(valkey: ValkeyOptions, supply: number, { relayed = true } = {}): Promise<Stage> {
    await stage?.stop();
    stage = undefined;
    const power = await startFragileValkey(valkey);
    const pool = await createLedger(postgres, []);
    const engine = await openTestEngine(power.services, pool);
    const relay = relayed ? relayOf(engine, pool) : null;
    const shard = engine.shard(0);
    stage = {
      ...{ power, pool, engine, shard, supply, crowd: createCrowd(shard, clients) },
      async stop() {
        await relay?.stop();
        await engine.close();
        await stopTestServices(power.services, pool);
      },
    };
    await makeSale(shard, { stock: { shoe: { east: supply / 2, west: supply / 2 } }, holdMs: 3_600_000 });
    return stage;
  }

  const relayOf = (engine: TestEngine, pool: Pool) =>
    startRelay({
      ...{ shards: 1, source: engine.outbox, clock: systemClock, logger: silent, stats: countingStats() },
      carrier: {
        deliver: async (shard, batches) => {
          await applyBatches(createLedgerStore(pool), shard, batches);
        },
        close: async () => undefined,
      },
      watermark: (shard) => readWatermark(pool, shard),
      fillGap: async () => undefined,
    });

  /** The power goes while clients wait for answers, and comes back. */
  async function crash({ power, crowd }: Stage, loss: PowerLoss): Promise<Crash & { inFlight: number }> {
    const inFlight = crowd.inFlight();
    const crashed = await power.losePower(loss);
    await crowd.ended();
    expect(inFlight).toBeGreaterThan(0);
    await power.powerOn();
    return { ...crashed, inFlight };
  }

  const syncsOf = (paths: string[], file: RegExp): number => paths.filter((path) => file.test(path)).length;

  const isOpen = async ({ engine: { shards } }: Stage): Promise<void> => {
    const decided = () => shards.sellable() || shards.fenced().some(({ lost }) => lost);
    await expect.poll(decided, { timeout: waitMs, interval: 10 }).toBe(true);
    expect(shards.fenced()).toEqual([]);
  };

  /** Valkey, ledger and what buyers were told agree. */
  async function everythingIsThere(on: Stage): Promise<void> {
    const { told } = on.crowd;
    await isOpen(on);
    expect(await missingFrom(on.shard, told)).toEqual([]);
    const found = await reconcile({
      ...{ pool: on.pool, source: on.engine.outbox, shards: 1, waitMs, clock: systemClock },
    });
    expect(found.shards.map(({ unread }) => unread)).toEqual([null]);
    expect(found.drift).toBe(0);
    const total = { available: 0, reserved: 0, sold: 0 };
    for (const { valkey } of found.rows)
      for (const name of ['available', 'reserved', 'sold'] as const) {
        expect(valkey?.[name]).toBeGreaterThanOrEqual(0);
        total[name] += valkey?.[name] ?? 0;
      }
    expect(total.available + total.reserved + total.sold).toBe(on.supply);
    expect(total.reserved + total.sold).toBeGreaterThanOrEqual(told.length);
    const { rows } = await on.pool.query<{ seq: string; state: string }>('select seq, state from ledger.reservation');
    const states = new Map(rows.map(({ seq, state }) => [Number(seq), state]));
    expect(told.filter((one) => !statesOf(one).some((state) => state === states.get(one.seq)))).toEqual([]);
    expect(await wrongsOf(on.pool)).toEqual([]);
  }

  /** The rest is sold; then every unit is some buyer's who was told so, and nobody else's. */
  async function everythingIsSold(on: Stage): Promise<void> {
    on.crowd.goOn();
    await on.crowd.ended();
    expect(on.crowd.soldOut()).toBeGreaterThan(0);
    expect(new Set(on.crowd.told.map(({ seq }) => seq)).size).toBe(on.crowd.told.length);
    expect(on.crowd.told).toHaveLength(on.supply);
    await everythingIsThere(on);
  }

  it(
    `appendfsync always: ${crashes} crashes, and nothing that a buyer was told is lost`,
    async ({ annotate }) => {
      const on = await start({ appendfsync: 'always' }, crashes * 800);
      const random = randomOf(20);
      const sums = { answers: 0, syncs: 0, inFlight: 0, unsynced: 0 };
      for (let number = 0; number < crashes; number++) {
        const before = on.crowd.answered();
        on.crowd.goOn();
        await on.crowd.more(60 + Math.floor(random() * 60));
        // Anywhere between two answers: Valkey runs functions, writes its log, syncs it, or answers.
        await sleep(random() * 5);
        const { inFlight, unsyncedBytes, notes } = await crash(on, lossOf(number));
        const answers = on.crowd.answered() - before;
        const syncs = syncsOf(notes.syncs, /\.incr\.aof$/);
        // A client has one call under way: what is answered together is of different clients, and was synced before.
        expect(syncs * clients).toBeGreaterThanOrEqual(answers);
        sums.answers += answers;
        sums.syncs += syncs;
        sums.inFlight += inFlight;
        if (unsyncedBytes > 0) sums.unsynced++;
        await everythingIsThere(on);
      }
      expect(on.crowd.told.length).toBeGreaterThan(crashes * 200);
      // Else no crash came at the time that matters.
      expect(sums.unsynced).toBeGreaterThan(0);
      await annotate(
        `${crashes} crashes, ${sums.unsynced} of them between a write and the end of its sync; ${on.crowd.told.length} ` +
          `reservations acknowledged (${sums.answers} answers, ${sums.syncs} syncs), ${sums.inFlight} calls in flight ` +
          'at the kills, 0 lost',
      );
      await everythingIsSold(on);
    },
    limitMs,
  );

  /** How far a rewrite of the append-only files is, by what was synced since the power came on. */
  const moments: [string, { delayUs: number; file: RegExp; times: number }][] = [
    ['while the child writes', { delayUs: 1_000_000, file: /manifest$/, times: 1 }],
    ['when the child has synced its file', { delayUs: 0, file: /temp-rewriteaof/, times: 1 }],
    ['when the manifest that names it is synced', { delayUs: 0, file: /manifest$/, times: 2 }],
    ['when the manifest that forgets the old files is synced', { delayUs: 0, file: /manifest$/, times: 3 }],
  ];

  it(
    'appendfsync always: crashes in the middle of a rewrite, and nothing that a buyer was told is lost',
    async ({ annotate }) => {
      const on = await start({ appendfsync: 'always' }, 100_000);
      const redis = redisOf(on.power.services);
      const sums = { inFlight: 0, during: 0 };
      for (const [name, { delayUs, file, times }] of moments) {
        for (const names of ['synced', 'found'] as const) {
          await redis.config('SET', 'rdb-key-save-delay', delayUs);
          on.crowd.goOn();
          await on.crowd.more(50);
          await redis.bgrewriteaof();
          const reached = async () => syncsOf(on.power.notes().syncs, file) >= times;
          expect(await waitUntil(reached, waitMs, 1), name).toBe(true);
          if (delayUs > 0) {
            await on.crowd.more(50);
            expect(await redis.info('persistence')).toContain('aof_rewrite_in_progress:1');
          }
          const { inFlight } = await crash(on, { names, tail: 'gone' });
          const manifest = readFileSync(join(on.power.folder, 'appendonly.aof.manifest'), 'utf8');
          if (delayUs > 0) expect(manifest.match(/ type i$/gm)?.length, name).toBeGreaterThanOrEqual(2);
          sums.inFlight += inFlight;
          sums.during++;
          await everythingIsThere(on);
        }
      }
      await annotate(
        `${sums.during} crashes in a rewrite; ${on.crowd.told.length} reservations acknowledged, ${sums.inFlight} calls in ` +
          'flight at the kills, 0 lost',
      );
    },
    limitMs,
  );

  /** What buyers were told, and Valkey has lost: its log is cut, so what it has is what came first. */
  async function lostBy({ power, crowd }: Stage): Promise<Told[]> {
    const seq = Number(await redisOf(power.services).hget('{s0}:shard', 'seq'));
    return crowd.told.filter((one) => one.seq > seq);
  }

  /** The engine has noticed, and nobody is sold anything. */
  async function isFenced({ engine, shard, crowd }: Stage, reason: RegExp): Promise<void> {
    await expect
      .poll(() => engine.shards.fenced(), { timeout: waitMs, interval: 10 })
      .toEqual([{ shard: 0, lost: true, reason: expect.stringMatching(reason) }]);
    await expect(reserve(shard, [{ buyer: 'late' }])).rejects.toMatchObject({ refusal: { code: 'shard-fenced' } });
    const before = crowd.told.length;
    crowd.goOn();
    await crowd.ended();
    expect(crowd.told).toHaveLength(before);
  }

  const behind = /^Valkey is at sequence \d+, an engine has seen \d+$/;

  const logs: [string, PowerLoss, RegExp][] = [
    ['all of the log', { names: 'synced', tail: 'gone' }, /^its data are gone from Valkey$/],
    ['half of the log', { names: 'found', tail: 'half' }, behind],
  ];
  it.for(logs)(
    'appendfsync no: a crash loses %s, and the shard is fenced',
    { timeout: limitMs },
    async ([, loss, reason], { annotate }) => {
      const on = await start({ appendfsync: 'no' }, 100_000, { relayed: false });
      on.crowd.goOn();
      await on.crowd.more(150);
      await crash(on, loss);
      expect(on.crowd.told.length).toBeGreaterThan(200);
      const lost = await lostBy(on);
      expect(lost.length).toBeGreaterThan(loss.tail === 'gone' ? on.crowd.told.length - 1 : 0);
      await isFenced(on, reason);
      await annotate(`${lost.length} of ${on.crowd.told.length} reservations lost`);
    },
  );

  it(
    'appendfsync everysec: crashes lose up to a second, and the shard is fenced',
    async ({ annotate }) => {
      const found: string[] = [];
      let sum = 0;
      for (let number = 0; number < 3; number++) {
        const on = await start({ appendfsync: 'everysec' }, 100_000, { relayed: false });
        on.crowd.goOn();
        // The next sync comes a second after this one.
        const { length } = on.power.notes().syncs;
        const synced = async () => syncsOf(on.power.notes().syncs.slice(length), /\.incr\.aof$/) > 0;
        expect(await waitUntil(synced, waitMs)).toBe(true);
        await on.crowd.more(50);
        await crash(on, { names: 'synced', tail: 'gone' });
        const lost = await lostBy(on);
        found.push(`${lost.length} of ${on.crowd.told.length}`);
        sum += lost.length;
        if (lost.length > 0) await isFenced(on, behind);
        else await isOpen(on);
      }
      expect(sum, found.join()).toBeGreaterThan(0);
      await annotate(`reservations lost: ${found.join(', ')}`);
    },
    limitMs,
  );
});
