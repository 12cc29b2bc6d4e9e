/** A process of Stampede in the simulated world: the real engine, relay, sweeper and rebuild on simulated wires. */
import { createBuilder } from '../../engine/builder.ts';
import { createOutbox } from '../../engine/outbox.ts';
import { openShards, type Shards } from '../../engine/shards.ts';
import { startSweeper } from '../../engine/sweeper.ts';
import type { Valkey } from '../../engine/valkey.ts';
import type { Logger } from '../../kernel/logger.ts';
import { applyBatches } from '../../ledger/apply.ts';
import type { Authority } from '../../ledger/authority.ts';
import type { Batch } from '../../ledger/events.ts';
import { fillGap } from '../../ledger/gap.ts';
import { rebuildShard } from '../../ledger/rebuild.ts';
import type { RebuildTarget } from '../../ledger/rebuild-content.ts';
import { type Carrier, type OutboxSource, startRelay } from '../../ledger/relay.ts';
import type { LedgerStore } from '../../ledger/store.ts';
import type { Random } from '../random.ts';
import type { SimKafka } from './kafka.ts';
import type { Process, Scheduler } from './scheduler.ts';
import type { Database, Wire } from './store.ts';
import type { Answered, SimValkey } from './valkey.ts';

export type Role = 'http' | 'relay' | 'sweeper' | 'ledger' | 'rebuild';

/** Where a planted fault sits: between the code under test and the world. */
export type Seams = {
  store?(store: LedgerStore): LedgerStore;
  authority?(authority: Authority): Authority;
  carrier?(carrier: Carrier): Carrier;
  source?(source: OutboxSource): OutboxSource;
  /** What an opening shard, and what a rebuild waits for. */
  drained?(drained: () => Promise<boolean>): () => Promise<boolean>;
  rebuildDrained?(drained: () => Promise<void>): () => Promise<void>;
  valkey?(valkey: Valkey): Valkey;
  target?(target: RebuildTarget): RebuildTarget;
};

export type Node = {
  name: string;
  process: Process;
  roles: readonly Role[];
  /** Null until they were opened. */
  shards: Shards | null;
  /** The id under which it reports. */
  engine: string;
  /** What the last answer that reached it was of. */
  answered: Answered | null;
};

export type NodeOptions = {
  name: string;
  roles: readonly Role[];
  scheduler: Scheduler;
  random: Random;
  valkey: SimValkey;
  database: Database;
  wire(process: Process): Wire;
  kafka: SimKafka | null;
  seams: Seams;
  outboxEvents: number;
  /** How many events the outbox keeps at the most that the ledger has. */
  tailEvents: number;
  rememberSeconds: number;
  /** Who rebuilds a shard just now. */
  rebuilding: { by: Process | null };
  failed(node: Node, error: unknown): void;
  began(node: Node): void;
};

const drainSeconds = 60;

function loggerOf(scheduler: Scheduler, name: string): Logger {
  const note = (about: Record<string, unknown>, text: string): void => {
    const { error, reason, epoch, seq, lost } = about;
    const details = Object.entries({ error, reason, epoch, seq, lost }).flatMap(([key, value]) =>
      value === undefined ? [] : `${key}=${typeof value === 'object' ? JSON.stringify(value) : value}`,
    );
    scheduler.note(`${name}: ${text} ${details.join(' ')}`);
  };
  return { info: note, warn: note, error: note, debug: () => undefined } as unknown as Logger;
}

export function startNode(options: NodeOptions): Node {
  const { name, roles, scheduler, random, database, kafka, seams, rebuilding } = options;
  const process = scheduler.start(name);
  const { clock } = process;
  // Loops that turn many times a second turn slower here: the same code, with fewer idle turns.
  const slower = (ms: number): number => {
    if (ms > 100) return ms;
    return ms * (random.chance(0.3) ? random.between(1, 4) : random.between(4, 30));
  };
  const slow = { ...clock, wait: (ms: number, signal?: AbortSignal) => clock.wait(slower(ms), signal) };
  const logger = loggerOf(scheduler, name);
  const wire = options.wire(process);
  const plainStore = database.store(wire);
  const store = seams.store?.(plainStore) ?? plainStore;
  const plainAuthority = database.authority(wire);
  const watched: Authority = {
    ...plainAuthority,
    report: (engine, ...rest) => {
      node.engine = engine;
      return plainAuthority.report(engine, ...rest);
    },
  };
  const authority = seams.authority?.(watched) ?? watched;
  const plainValkey = options.valkey.connectProcess(process, (answered) => {
    node.answered = answered;
  });
  const valkey = seams.valkey?.(plainValkey) ?? plainValkey;
  const node: Node = { name, process, roles, shards: null, engine: '', answered: null };
  const drained = () => kafka?.drained(process) ?? Promise.resolve(true);
  const { outboxEvents, tailEvents, rememberSeconds } = options;

  const apply = (shard: number, batches: Batch[]) => applyBatches(store, shard, batches);
  const replayOf = (from: number, to: number) =>
    kafka ? (take: (batches: Batch[]) => Promise<void>) => kafka.replay(process, from, to, take) : null;

  /** As cli/compose.ts does it. */
  const rebuild = async (shard: number): Promise<void> => {
    if (rebuilding.by) return;
    rebuilding.by = process;
    const release = (): void => {
      if (rebuilding.by === process) rebuilding.by = null;
    };
    const stopListening = process.onEnd(release);
    options.began(node);
    const allDrained = async (): Promise<void> => {
      for (const untilMs = clock.monotonicMs() + drainSeconds * 1000; !(await drained()); ) {
        if (clock.monotonicMs() > untilMs) throw new Error('Kafka has events that no ledger reads');
        await clock.wait(200);
      }
      const { watermark } = await store.watermark(shard);
      await replayOf(
        watermark + 1,
        Number.MAX_SAFE_INTEGER,
      )?.(async (batches) => {
        await apply(shard, batches);
      });
    };
    try {
      await rebuildShard({
        ...{ store, shard, rememberSeconds, clock, logger },
        target: (token) => {
          const target = createBuilder({ valkey, shard, token, outboxEvents, rememberSeconds, clock });
          return seams.target?.(target) ?? target;
        },
        drained: seams.rebuildDrained?.(allDrained) ?? allDrained,
        async forward(batches) {
          await kafka?.carrierFor(process).deliver(shard, batches);
        },
      });
    } finally {
      stopListening();
      release();
    }
  };

  const rebuildAlone = async (shards: Shards): Promise<void> => {
    for (;;) {
      for (const { shard } of shards.fenced().filter(({ lost }) => lost))
        try {
          await shards.refresh();
          if (shards.fenced().some((one) => one.shard === shard && one.lost)) await rebuild(shard);
        } catch (error) {
          scheduler.note(`${name}: the rebuild failed: ${error}`);
        }
      await clock.wait(1_000);
    }
  };

  const direct: Carrier = {
    deliver: async (shard, batches) => {
      await apply(shard, batches);
    },
    close: async () => undefined,
  };

  const begin = async (): Promise<void> => {
    const shards = await openShards({
      ...{ valkey, authority, count: 1, outboxEvents, rememberSeconds, clock, logger },
      drained: seams.drained?.(drained) ?? drained,
      sells: roles.includes('http'),
    });
    node.shards = shards;
    scheduler.note(`${name} serves`);
    if (roles.includes('ledger')) kafka?.startConsumer(process, apply);
    if (roles.includes('relay')) {
      const plain = kafka?.carrierFor(process) ?? direct;
      const outbox = createOutbox(shards);
      const source: OutboxSource = {
        read: outbox.read,
        trim: (shard, acked, keep) => outbox.trim(shard, acked, Math.min(keep, tailEvents)),
      };
      startRelay({
        shards: 1,
        source: seams.source?.(source) ?? source,
        carrier: seams.carrier?.(plain) ?? plain,
        watermark: (shard) => store.watermark(shard),
        fillGap: (shard, from, to) => fillGap({ store, shard, from, to, replay: replayOf(from, to) }),
        ...{ clock: slow, logger },
        stats: { relayed: () => undefined, failed: () => undefined, rewound: () => undefined },
      });
    }
    if (roles.includes('sweeper')) startSweeper({ shards, clock: slow, logger, swept: () => undefined });
    if (roles.includes('rebuild')) void rebuildAlone(shards);
  };
  begin().catch((error: unknown) => options.failed(node, error));
  return node;
}
