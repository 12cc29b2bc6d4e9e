/** Puts the parts together: the one place that knows them all. */
import { connect } from 'node:net';
import type { Pool } from 'pg';
import { Registry } from 'prom-client';
import { createBuilder } from '../engine/builder.ts';
import { createLineStats } from '../engine/line-stats.ts';
import { createOutbox, type Outbox } from '../engine/outbox.ts';
import { type Dependency, type Engine, startEngine } from '../engine/server.ts';
import { openShards, type Shards } from '../engine/shards.ts';
import { createEngineStats, createRate, type EngineStats } from '../engine/stats.ts';
import { startSweeper } from '../engine/sweeper.ts';
import { startUsher } from '../engine/usher.ts';
import { connectValkey, type Valkey } from '../engine/valkey.ts';
import { systemClock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { createLogger, type Logger } from '../kernel/logger.ts';
import { applyBatches } from '../ledger/apply.ts';
import {
  checkShardCount,
  createAuthority,
  expectShardCount,
  findReservation,
  writeAudit,
} from '../ledger/authority.ts';
import type { Batch } from '../ledger/events.ts';
import { fillGap } from '../ledger/gap.ts';
import { createKafkaCarrier, createKafkaProbe, replayFromKafka, startKafkaConsumer } from '../ledger/kafka.ts';
import { createLedgerStats } from '../ledger/metrics.ts';
import { migrate } from '../ledger/migrate.ts';
import { createPool } from '../ledger/pool.ts';
import { createLedgerStore } from '../ledger/postgres.ts';
import { type RebuildProgress, type RebuildReport, rebuildShard } from '../ledger/rebuild.ts';
import { type Carrier, startRelay } from '../ledger/relay.ts';
import type { LedgerStore } from '../ledger/store.ts';

export const roles = ['http', 'relay', 'ledger', 'sweeper'] as const;
export type Role = (typeof roles)[number];

export type Stores = {
  /** The deployment's, under which its topic and consumer group go. */
  name: string;
  /** Whether Kafka, where it is used, has nothing of a shard that the ledger has not. */
  drained(shard: number): Promise<boolean>;
  valkey: Valkey;
  pool: Pool;
  ledger: LedgerStore;
  shards: Shards;
  outbox: Outbox;
  close(): Promise<void>;
};

/** Connects to Valkey and Postgres, and opens the shards (or only looks at them). */
export async function openStores(
  config: Config,
  logger: Logger,
  options: { observe?: boolean; sells?: boolean; replicaWaited?: EngineStats['replicaWaited'] } = {},
): Promise<Stores> {
  const pool = createPool(config.databaseUrl, logger);
  let complaint = '';
  const valkey = connectValkey(config.valkeyUrls, (error) => {
    if (error.message !== complaint) logger.warn({ error: error.message }, 'the connection to Valkey broke');
    complaint = error.message;
  });
  try {
    // Of the two stores, the one that can't be reached is named.
    if (options.observe) await expectShardCount(pool, config.shards);
    else {
      await migrate(pool);
      await checkShardCount(pool, config.shards);
    }
    // Topics are named after the deployment, so that two on one broker don't mix.
    const { rows } = await pool.query<{ name: string }>('select name from ledger.deployment');
    const name = rows[0]?.name ?? '';
    const probe =
      config.transport === 'kafka' ? createKafkaProbe({ brokers: config.kafkaBrokers, name, logger }) : null;
    const shards = await openShards({
      valkey,
      authority: createAuthority(pool),
      count: config.shards,
      outboxEvents: config.outboxEvents,
      rememberSeconds: config.rememberSeconds,
      ...options,
      ...(probe ? { drained: probe.drained } : {}),
      clock: systemClock,
      logger,
    });
    return {
      name,
      drained: probe?.drained ?? (() => Promise.resolve(true)),
      valkey,
      pool,
      ledger: createLedgerStore(pool),
      shards,
      outbox: createOutbox(shards),
      async close() {
        await shards.close();
        await pool.end();
      },
    };
  } catch (error) {
    await valkey.close();
    await pool.end();
    throw error;
  }
}

const kafkaCarrier = (config: Config, name: string, logger: Logger): Carrier =>
  createKafkaCarrier({ brokers: config.kafkaBrokers, name, logger });

const drainSeconds = 60;
const replaySeconds = 600;

/** Reads a shard's batches from `from` to `to` out of Kafka once more; null where there is no Kafka. */
function replayOf(
  config: Config,
  name: string,
  logger: Logger,
  shard: number,
  from: number,
  to: number,
): ((take: (batches: Batch[]) => Promise<void>) => Promise<void>) | null {
  if (config.transport !== 'kafka') return null;
  const range = { brokers: config.kafkaBrokers, name, logger, shard, from, to, limitMs: replaySeconds * 1000 };
  return (take) => replayFromKafka({ ...range, take });
}

/** Rebuilds one shard from the ledger, if nobody else does just now: docs/how-to/rebuild-a-shard.md. */
export async function rebuild(
  config: Config,
  stores: Stores,
  shard: number,
  logger: Logger,
  more: { discard?: boolean; progress?: RebuildProgress } = {},
): Promise<RebuildReport> {
  const lock = await stores.pool.connect();
  const carrier = config.transport === 'kafka' ? kafkaCarrier(config, stores.name, logger) : null;
  try {
    const taken = await lock.query<{ ok: boolean }>(
      "select pg_try_advisory_lock(hashtext('stampede.rebuild'), $1) as ok",
      [shard],
    );
    if (!taken.rows[0]?.ok) throw new RebuildUnderWay(shard);
    return await rebuildLocked(config, stores, shard, logger, carrier, more);
  } finally {
    await carrier?.close();
    // Ends the connection, and the lock with it.
    lock.release(true);
  }
}

class RebuildUnderWay extends Error {
  constructor(shard: number) {
    super(`another process is rebuilding shard ${shard} just now`);
  }
}

function rebuildLocked(
  config: Config,
  stores: Stores,
  shard: number,
  logger: Logger,
  carrier: Carrier | null,
  more: { discard?: boolean; progress?: RebuildProgress },
): Promise<RebuildReport> {
  const { valkey, ledger } = stores;
  const { outboxEvents, rememberSeconds } = config;
  return rebuildShard({
    ...{ store: ledger, shard, rememberSeconds, clock: systemClock, logger },
    target: (token) => createBuilder({ valkey, shard, token, outboxEvents, rememberSeconds, clock: systemClock }),
    async drained() {
      for (const untilMs = Date.now() + drainSeconds * 1000; !(await stores.drained(shard)); ) {
        if (Date.now() > untilMs)
          throw new SetupError(
            'kafka-not-drained',
            'Kafka has events that no ledger reads: let `stampede serve --roles ledger` run beside, and rebuild again',
          );
        await systemClock.wait(200);
      }
      // What the group has read the ledger may have lost since, or passed over while it had stopped the shard.
      const { watermark } = await ledger.watermark(shard);
      const replay = replayOf(config, stores.name, logger, shard, watermark + 1, Number.MAX_SAFE_INTEGER);
      await replay?.(async (batches) => {
        await applyBatches(ledger, shard, batches);
      });
    },
    async forward(batches) {
      await carrier?.deliver(shard, batches);
    },
    ...more,
  });
}

/** Rebuilds by itself every shard that only a rebuild can help. One process at a time does it for a shard. */
function startAutoRebuild(config: Config, stores: Stores, logger: Logger): { stop(): Promise<void> } {
  const stopped = new AbortController();
  const complaints = new Map<number, string>();
  const loop = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      for (const { shard } of stores.shards.fenced().filter(({ lost }) => lost)) {
        if (stopped.signal.aborted) return;
        try {
          // The list is as old as the rebuilds before this one took.
          await stores.shards.refresh();
          if (!stores.shards.fenced().some((one) => one.shard === shard && one.lost)) continue;
          await rebuild(config, stores, shard, logger);
        } catch (error) {
          if (error instanceof RebuildUnderWay || complaints.get(shard) === String(error)) continue;
          complaints.set(shard, String(error));
          logger.error({ shard, error: String(error) }, 'the shard could not be rebuilt; it is tried again');
        }
      }
      await systemClock.wait(1_000, stopped.signal);
    }
  };
  const running = loop();
  return {
    async stop() {
      stopped.abort();
      await running;
    },
  };
}

/** Whether somebody listens at `host:port`. */
function reachable(address: string): Promise<void> {
  const at = address.lastIndexOf(':');
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address.slice(0, at), port: Number(address.slice(at + 1)), timeout: 1_500 });
    const end = (error?: Error): void => {
      socket.destroy();
      if (error) reject(error);
      else resolve();
    };
    socket.on('connect', () => end());
    socket.on('error', end);
    socket.on('timeout', () => end(new Error('no answer')));
  });
}

export type RunningProcess = {
  /** Where it listens; null without the role http. */
  engine: Engine | null;
  registry: Registry;
  /** Answers to purchase calls so far. */
  purchases(): number;
  stop(): Promise<void>;
};

/** One process with the roles that it is given. `shared`: other processes listen on its port. */
export async function startProcess(
  config: Config,
  wanted: readonly Role[],
  options: {
    shared?: boolean;
    /** The metrics of all processes, where there are several. */
    metrics?: () => Promise<string>;
    answersPerSecond?: () => number;
    /** Whether shards that only a rebuild can help are rebuilt without being told. */
    autoRebuild?: boolean;
  } = {},
): Promise<RunningProcess> {
  const logger = createLogger({ level: config.logLevel, name: 'stampede' });
  const registry = new Registry();
  const stats = createEngineStats(registry);
  const stores = await openStores(config, logger, {
    replicaWaited: stats.replicaWaited,
    sells: wanted.includes('http'),
  });
  const { shards, pool, ledger, outbox } = stores;
  const ledgerStats = createLedgerStats(registry);
  const has = (role: Role): boolean => wanted.includes(role);
  const stops: (() => Promise<void>)[] = [() => stores.close()];
  const stop = async (): Promise<void> => {
    for (const each of stops.reverse()) await each();
  };

  try {
    const apply = async (shard: number, batches: Parameters<typeof applyBatches>[2]) => {
      const applied = await applyBatches(ledger, shard, batches);
      ledgerStats.applied(applied);
      return applied;
    };
    const { name } = stores;
    if (has('ledger') && config.transport === 'kafka') {
      const consumer = await startKafkaConsumer({
        brokers: config.kafkaBrokers,
        name,
        apply,
        logger,
        stats: ledgerStats,
      });
      stops.push(() => consumer.stop());
    }
    if (has('relay')) {
      const direct: Carrier = {
        deliver: async (shard, batches) => {
          await apply(shard, batches);
        },
        close: async () => {},
      };
      const relay = startRelay({
        shards: config.shards,
        source: outbox,
        carrier: config.transport === 'kafka' ? kafkaCarrier(config, name, logger) : direct,
        watermark: (shard) => ledger.watermark(shard),
        fillGap: (shard, from, to) =>
          fillGap({ store: ledger, shard, from, to, replay: replayOf(config, name, logger, shard, from, to) }),
        clock: systemClock,
        logger,
        stats: ledgerStats,
      });
      stops.push(() => relay.stop());
    }
    if (has('sweeper')) {
      const sweeper = startSweeper({ shards, clock: systemClock, logger, swept: stats.swept });
      stops.push(() => sweeper.stop());
      const usher = startUsher({ shards, clock: systemClock, logger, stats: createLineStats(registry) });
      stops.push(() => usher.stop());
    }

    if (options.autoRebuild) {
      const rebuilder = startAutoRebuild(config, stores, logger);
      stops.push(() => rebuilder.stop());
    }

    let engine: Engine | null = null;
    if (has('http')) {
      const dependencies: Dependency[] = [
        {
          name: 'postgres',
          check: async () => {
            await pool.query('select 1');
          },
        },
      ];
      if (config.transport === 'kafka')
        dependencies.push({
          name: 'kafka',
          check: () => Promise.any(config.kafkaBrokers.map(reachable)),
        });
      const rate = createRate(() => stats.purchases);
      engine = await startEngine({
        config,
        shards,
        valkey: stores.valkey,
        archive: { find: (ref) => findReservation(pool, ref) },
        audit: (entry) => {
          logger.info({ ...entry }, 'operator call');
          writeAudit(pool, entry).catch((error: unknown) =>
            logger.error({ error: String(error), ...entry }, 'an operator call could not be written to the audit log'),
          );
        },
        dependencies,
        stats,
        metrics: options.metrics ?? (() => registry.metrics()),
        answersPerSecond: options.answersPerSecond ?? rate.perSecond,
        shared: options.shared ?? false,
        clock: systemClock,
        logger,
      });
      const started = engine;
      stops.push(async () => {
        rate.stop();
        await started.stop();
      });
    } else {
      stats.observe({ shards });
    }
    return { engine, registry, purchases: () => stats.purchases, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
