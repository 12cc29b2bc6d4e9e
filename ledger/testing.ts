/** For tests: real Postgres, with a migrated database for every test file that asks. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { Client, type Pool } from 'pg';
import { createBuilder } from '../engine/builder.ts';
import { createOutbox, type Outbox } from '../engine/outbox.ts';
import { openShards, type Shards } from '../engine/shards.ts';
import { connectValkey, type Valkey } from '../engine/valkey.ts';
import { systemClock } from '../kernel/clock.ts';
import { encodeReservationId, shardKey } from '../kernel/ids.ts';
import { createLogger } from '../kernel/logger.ts';
import { commitCommand, releaseCommand } from '../lua/bindings.ts';
import { environmentWithoutServices, reference, reserve, type TestShard } from '../lua/testing.ts';
import { type ServiceName, type ServiceSet, startServices } from '../services/services.ts';
import { type Applied, applyBatches } from './apply.ts';
import { createAuthority } from './authority.ts';
import type { Batch, LedgerEvent } from './events.ts';
import { migrate } from './migrate.ts';
import { createPool } from './pool.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import { type RebuildReport, rebuildShard } from './rebuild.ts';
import type { RebuildTarget } from './rebuild-content.ts';

export const silent = createLogger({ level: process.env.TEST_LOG_LEVEL ?? 'silent', name: 'test' });

export async function startTestServices(names: ServiceName[]): Promise<ServiceSet> {
  const env = environmentWithoutServices();
  return startServices({ names, dataDir: mkdtempSync(join(tmpdir(), 'stampede-ledger-')), removeDataDir: true, env });
}

let databases = 0;

/** The URL of a new, empty database. */
export async function createDatabase(services: ServiceSet): Promise<string> {
  const url = new URL(String(services.services.postgres?.url));
  const client = new Client({ connectionString: url.href });
  await client.connect();
  try {
    const name = `test_${databases++}`;
    await client.query(`create database ${name}`);
    url.pathname = `/${name}`;
    return url.href;
  } finally {
    await client.end();
  }
}

/** A pool on a new, migrated database; the shards named are granted epoch 1. */
export async function createLedger(services: ServiceSet, shards: number[] = [0]): Promise<Pool> {
  const pool = createPool(await createDatabase(services), silent);
  await migrate(pool);
  for (const shard of shards) await createAuthority(pool).grant(shard, 0, 'run-1', 0);
  return pool;
}

/** Empties a ledger for the next test: quicker than a new database. */
export async function emptyLedger(pool: Pool, shards: number[] = [0]): Promise<void> {
  const { rows } = await pool.query<{ name: string }>(
    "select 'ledger.' || tablename as name from pg_tables where schemaname = 'ledger' and tablename <> 'migration'",
  );
  await pool.query(`truncate ${rows.map(({ name }) => name).join(', ')}`);
  for (const shard of shards) await createAuthority(pool).grant(shard, 0, 'run-1', 0);
}

type Without<Event> = Event extends LedgerEvent ? Omit<Event, 'seq' | 'saleId' | 'sale'> : never;
/** An event without what `batchOf` adds. */
export type Happening = Without<LedgerEvent>;

const at = '2026-11-01T00:00:00.000Z';
const expiresAt = '2026-11-01T00:30:00.000Z';
const lines = (quantity: number) => [{ sku: 'shoe', warehouse: 'east', quantity }];

/** The id of the reservation that was made at `seq`. */
export const reservationAt = (seq: number, shard = 0): string =>
  encodeReservationId({ shard, sale: 1, seq, buyer: 'buyer_______', key: 'key_________' });

export const happenings = {
  set: (): Happening => ({ type: 'sale-set', settings: { title: 'A sale' }, stockDigest: 'opening' }),
  restocked: (units: number, sku = 'shoe'): Happening => ({
    type: 'restocked',
    id: 'opening',
    sku,
    warehouse: 'east',
    units,
    reason: 'opening stock',
    after: { onHand: units, reserved: 0, sold: 0 },
  }),
  reserved: (seq: number, quantity = 1): Happening => ({
    type: 'reserved',
    reservationId: reservationAt(seq),
    buyerId: 'buyer_______',
    lines: lines(quantity),
    expiresAt,
    durability: 'fsync',
  }),
  ended: (type: 'committed' | 'released' | 'expired', seq: number, quantity = 1): Happening => ({
    type,
    reservationId: reservationAt(seq),
    buyerId: 'buyer_______',
    lines: lines(quantity),
  }),
  extended: (seq: number): Happening => ({
    type: 'extended',
    reservationId: reservationAt(seq),
    buyerId: 'buyer_______',
    lines: lines(1),
    expiresAt: '2026-11-01T01:00:00.000Z',
  }),
  returned: (seq: number, quantity = 1): Happening => ({
    type: 'returned',
    reservationId: reservationAt(seq),
    buyerId: 'buyer_______',
    lines: lines(quantity),
    id: `return-${seq}`,
  }),
};

/** A batch of shard 0 from `seqFirst` on. Its digest is made of its content. */
export function batchOf(seqFirst: number, events: Happening[], more: Partial<Batch> = {}): Batch {
  return {
    format: 1,
    shard: 0,
    epoch: 1,
    seqFirst,
    seqLast: seqFirst + events.length - 1,
    at,
    digest: `${seqFirst}:${JSON.stringify(events).length}`,
    events: events.map((one, i) => ({ ...one, seq: seqFirst + i, saleId: 'sale', sale: 1 }) as LedgerEvent),
    ...more,
  };
}

/** A sale of 100 shoes (sequences 1 and 2), then `count` batches of one reservation of one shoe. */
export function history(count: number): Batch[] {
  const opening = batchOf(1, [happenings.set(), happenings.restocked(100)]);
  return [opening, ...Array.from({ length: count }, (_, i) => batchOf(3 + i, [happenings.reserved(3 + i)]))];
}

/** `available/reserved/sold` of an allotment. */
export async function balanceOf(pool: Pool, sku = 'shoe'): Promise<string> {
  const { rows } = await pool.query<{ counts: string }>(
    `select available || '/' || reserved || '/' || sold as counts from ledger.balance where sku = $1`,
    [sku],
  );
  return rows[0]?.counts ?? 'none';
}

/** Rows that must agree with one another, whatever happened: the ledger's own invariants. Answers what is wrong. */
export async function wrongsOf(pool: Pool): Promise<string[]> {
  const checks: [string, string][] = [
    [
      'entries and balances differ',
      `select 1 from ledger.balance b left join (
         select shard, sale, sku, warehouse,
                sum(case when credit = 'available' then moved when debit = 'available' then -moved else 0 end) a,
                sum(case when credit = 'reserved' then moved when debit = 'reserved' then -moved else 0 end) r,
                sum(case when credit = 'sold' then moved when debit = 'sold' then -moved else 0 end) s
           from (select *, units * (seq_last - seq_first + 1) as moved from ledger.entry) e group by 1, 2, 3, 4) e using (shard, sale, sku, warehouse)
        where (b.available, b.reserved, b.sold) <> (coalesce(a, 0), coalesce(r, 0), coalesce(s, 0))`,
    ],
    [
      'batches have a gap',
      `select 1 from (select seq_first, lag(seq_last, 1, 0::bigint) over (partition by shard order by seq_last) before
                        from ledger.batch) b where seq_first <> before + 1`,
    ],
    [
      'the watermark is not the last batch',
      `select 1 from ledger.shard s where watermark <> coalesce((select max(seq_last) from ledger.batch b where b.shard = s.shard), 0)`,
    ],
  ];
  const wrongs: string[] = [];
  for (const [name, sql] of checks) if ((await pool.query(sql)).rowCount) wrongs.push(name);
  return wrongs;
}

/** An engine's view of real shards, with this ledger as its authority. */
export type TestEngine = { shards: Shards; outbox: Outbox; shard(number: number): TestShard; close(): Promise<void> };

const plainClients = new WeakMap<ServiceSet, Redis>();

/** A plain client of the set's Valkey. */
export function redisOf(services: ServiceSet): Redis {
  let redis = plainClients.get(services);
  if (!redis) {
    redis = new Redis(String(services.services.valkey?.url), { maxRetriesPerRequest: 20 });
    redis.on('error', () => undefined);
    plainClients.set(services, redis);
  }
  return redis;
}

export async function openTestEngine(
  services: ServiceSet,
  pool: Pool,
  more: { count?: number; observe?: boolean; sells?: boolean; drained?: (shard: number) => Promise<boolean> } = {},
): Promise<TestEngine> {
  const shards = await openShards({
    valkey: connectValkey([String(services.services.valkey?.url)], () => undefined),
    authority: createAuthority(pool),
    ...{ count: 1, outboxEvents: 1_000_000, rememberSeconds: 3_600, ...more },
    clock: systemClock,
    logger: silent,
  });
  return {
    shards,
    outbox: createOutbox(shards),
    shard: (number) => ({
      number,
      prefix: shardKey(number).slice(0, -'shard'.length),
      redis: redisOf(services),
      call: (command, args) => shards.call(number, command, args),
    }),
    close: () => shards.close(),
  };
}

/** Both stores as on the first day. */
export async function emptyStores(services: ServiceSet, pool: Pool): Promise<void> {
  await emptyLedger(pool, []);
  await redisOf(services).flushall();
}

/** Ends services and what this file opened on them. */
export async function stopTestServices(services: ServiceSet, ...pools: Pool[]): Promise<void> {
  await Promise.all(pools.map((pool) => pool.end()));
  plainClients.get(services)?.disconnect();
  await services.stop();
}

/** Keeps the ledger's tables as they are now; what it answers puts them back: Postgres restored from a backup. */
export async function backUp(pool: Pool, schema = 'backup'): Promise<() => Promise<void>> {
  const { rows } = await pool.query<{ name: string }>(
    "select tablename as name from pg_tables where schemaname = 'ledger' and tablename not in ('migration', 'audit')",
  );
  const copies = rows.map(({ name }) => `create table ${schema}.${name} as table ledger.${name};`);
  // In one transaction, as a backup is.
  const begin = 'begin isolation level repeatable read;';
  await pool.query(
    `${begin} drop schema if exists ${schema} cascade; create schema ${schema}; ${copies.join(' ')} commit`,
  );
  return async () => {
    const all = rows.map(({ name }) => `truncate ledger.${name}; insert into ledger.${name} table ${schema}.${name};`);
    await pool.query(`begin; ${all.join(' ')} commit`);
  };
}

/** A sale for makeSale, its settings as an engine writes them: a rebuild reads those. */
export function rebuildableSale(id = 'sale') {
  const settings = {
    ...{ id, title: 'A sale', opensAt: null, closesAt: null, perBuyer: null, holdSeconds: 3_600, extendSeconds: 300 },
    ...{ extensions: 1, durability: 'fsync', waitingRoom: null },
  };
  return { id, settings: JSON.stringify(settings), holdMs: settings.holdSeconds * 1_000 };
}

/** Gives the ledger all that shard 0's outbox has; answers how far it is then. */
export async function level(engine: TestEngine, pool: Pool): Promise<number> {
  for (;;) {
    const { watermark } = await readWatermark(pool, 0);
    const { batches } = await engine.outbox.read(0, watermark, 200);
    if (batches.length === 0) return watermark;
    await applyBatches(createLedgerStore(pool), 0, batches);
  }
}

export type Rebuild = (
  target?: (token: string) => RebuildTarget,
  more?: { discard?: boolean; rememberSeconds?: number; forward?(batches: Batch[]): Promise<void> },
) => Promise<RebuildReport>;

/** Rebuilds of shard 0, on a target of the test's own if it gives one. */
export function rebuildsOn(pool: Pool, valkey: Valkey): { targetOf: typeof targetOf; rebuild: Rebuild } {
  const targetOf = (token: string): RebuildTarget =>
    createBuilder({
      ...{ valkey, shard: 0, token, outboxEvents: 1_000_000, rememberSeconds: 3_600, clock: systemClock },
    });
  return {
    targetOf,
    rebuild: (target = targetOf, more = {}) =>
      rebuildShard({
        ...{
          store: createLedgerStore(pool),
          shard: 0,
          target,
          rememberSeconds: 3_600,
          clock: systemClock,
          logger: silent,
        },
        drained: async () => undefined,
        forward: async () => undefined,
        ...more,
      }),
  };
}

export type RebuildStep = 'begin' | 'read' | 'clear' | 'sale' | 'book' | 'changes' | 'finish';

/** A target with something of the test's own before or after each call of a step: to break it off, or to be late. */
export function withStep(
  target: RebuildTarget,
  step: RebuildStep,
  when: 'before' | 'after',
  work: (answer?: unknown) => Promise<void>,
): RebuildTarget {
  const steps = target as unknown as Record<RebuildStep, (...args: never[]) => Promise<unknown>>;
  const original = steps[step];
  const changed = async (...args: never[]): Promise<unknown> => {
    if (when === 'before') await work();
    const answer = await original(...args);
    if (when === 'after') await work(answer);
    return answer;
  };
  return { ...target, [step]: changed };
}

/** Breaks a rebuild off. */
export const interrupt = async (): Promise<void> => {
  throw new Error('interrupted');
};

export function countingStats() {
  const counts = { relayed: 0, failed: 0, rewound: 0, applied: 0, known: 0, setAside: 0, quarantined: 0, stopped: 0 };
  return {
    counts,
    relayed: (events: number) => {
      counts.relayed += events;
    },
    failed: () => {
      counts.failed++;
    },
    rewound: () => {
      counts.rewound++;
    },
    applied: (applied: Applied) => {
      counts.applied += applied.events;
      counts.known += applied.known;
      counts.setAside += applied.setAside;
      counts.quarantined += applied.quarantined;
    },
    stoppedShard: () => {
      counts.stopped++;
    },
  };
}

/** Numbers from 0 to 1, the same ones for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/**
 * Buyers who reserve, commit, release and come again, at random, until the signal aborts or `calls` were made. Refusals
 * are part of it. The sale 1 must be there, with shoes and hats.
 */
export async function randomLoad(
  shard: TestShard,
  options: { seed: number; calls: number; signal?: AbortSignal },
): Promise<void> {
  const random = randomOf(options.seed);
  const upTo = (most: number): number => Math.floor(random() * most);
  const held: { seq: number; buyer: string; key: string }[] = [];
  for (let call = 0; call < options.calls && !options.signal?.aborted; call++) {
    const one = held.splice(upTo(held.length), 1)[0];
    if (one && random() < 0.5) {
      const command = random() < 0.6 ? commitCommand : releaseCommand;
      await shard.call(command, { references: [reference(one.seq, one)] });
    } else {
      if (one) held.push(one);
      const wishes = Array.from({ length: 1 + upTo(4) }, (_, i) => ({
        buyer: `s${options.seed}-${upTo(50)}`,
        key: `${call}-${i}`,
        lines: random() < 0.5 ? { shoe: 1 + upTo(3) } : { hat: 1 + upTo(2), shoe: 1 },
      }));
      for (const [i, { status, seq }] of (await reserve(shard, wishes)).entries()) {
        const { buyer = '', key = '' } = wishes[i] ?? {};
        if (status === 'ok') held.push({ seq, buyer, key });
      }
    }
  }
}

export const loadedSale = { stock: { shoe: { east: 300, west: 500 }, hat: { west: 200, east: 100 } } };
