/** Kafka: the only file that knows the client. Why kafkajs: docs/decisions/0002. */
import { CompressionTypes, Kafka, logLevel, Partitioners, type Producer } from 'kafkajs';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import { Compile } from 'typebox/compile';
import { within } from '../kernel/clock.ts';
import { newBuyerId } from '../kernel/ids.ts';
import type { Logger } from '../kernel/logger.ts';
import { type Applied, ShardStopped } from './apply.ts';
import { type Batch, BatchSchema } from './events.ts';
import type { Carrier } from './relay.ts';

// kafkajs 2.2.4 looks each millisecond, with nothing to do, whether a request waits (its issue 1751): a twelfth of a processor, and a
// warning of Node's. It has to look when one waits; whatever comes to wait has it look by itself.
const lookAgain = RequestQueue.prototype.scheduleCheckPendingRequests;
RequestQueue.prototype.scheduleCheckPendingRequests = function (this: RequestQueue): void {
  if (this.pending.length > 0) lookAgain.call(this);
};

/** The topic of a deployment; a message is a Batch as JSON, its key the shard. */
export const topicOf = (name: string): string => `stampede.${name}.events`;
const groupOf = (name: string): string => `stampede.${name}.ledger`;

const partitionsDefault = 8;
/** What is sent at once: a broker takes a million bytes unless told otherwise, and refuses more for good. */
const sendBytes = 800_000;
const messageOverheadBytes = 100;
/** The ledger waits for so much, so long at most: an event for itself costs Postgres fifty times what it costs among a thousand. */
const fetching = { minBytes: 256 << 10, maxWaitTimeInMs: 50 };
const letGoMs = 5_000;
const batchValidator = Compile(BatchSchema);

function connect(brokers: string[], logger: Logger): Kafka {
  return new Kafka({
    clientId: 'stampede',
    brokers,
    connectionTimeout: 2_000,
    requestTimeout: 10_000,
    retry: { initialRetryTime: 100, maxRetryTime: 1_000, retries: 4 },
    logLevel: logLevel.WARN,
    logCreator: () => (entry) => {
      const { message, error } = entry.log as { message: string; error?: string };
      logger.debug({ kafka: entry.namespace, error }, message);
    },
  });
}

/** Makes the topic when it isn't there; answers how many partitions it has. Relay and ledger each may come first. */
async function ensureTopic(kafka: Kafka, topic: string): Promise<number> {
  const admin = kafka.admin();
  try {
    await admin.connect();
    await admin.createTopics({ topics: [{ topic, numPartitions: partitionsDefault }], waitForLeaders: true });
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    return topics[0]?.partitions.length ?? 0;
  } finally {
    await admin.disconnect();
  }
}

type Outgoing = { key: string; value: string; partition: number };

/**
 * Messages in the order given, in pieces that a broker takes at once. A message that is too large for that goes alone and
 * compressed: what makes it large says the same over and over.
 */
function piecesOf(messages: Outgoing[]): { messages: Outgoing[]; compressed: boolean }[] {
  const pieces: { messages: Outgoing[]; compressed: boolean }[] = [];
  let room = 0;
  for (const message of messages) {
    const bytes = Buffer.byteLength(message.value) + messageOverheadBytes;
    room -= bytes;
    if (room >= 0) pieces.at(-1)?.messages.push(message);
    else {
      pieces.push({ messages: [message], compressed: bytes > sendBytes });
      room = sendBytes - bytes;
    }
  }
  return pieces;
}

/**
 * Sends batches to the topic, made when it isn't there: `acks=all`, idempotent, each shard in one partition. Connects at
 * the first delivery and again after a failure, so that a broker that is away only delays.
 */
export function createKafkaCarrier(options: { brokers: string[]; name: string; logger: Logger }): Carrier {
  const topic = topicOf(options.name);
  const kafka = connect(options.brokers, options.logger);
  type Line = { producer: Producer; partitions: number };
  let line: Promise<Line> | null = null;

  const open = async (): Promise<Line> => {
    const partitions = await ensureTopic(kafka, topic);
    // A new one each time: an idempotent producer's numbers belong to the topic as it was.
    const producer = kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      createPartitioner: Partitioners.DefaultPartitioner,
      retry: { retries: 4, initialRetryTime: 100, maxRetryTime: 1_000 },
    });
    await producer.connect();
    return { producer, partitions };
  };

  const hangUp = async (failed: Promise<Line>): Promise<void> => {
    if (line === failed) line = null;
    const producer = await failed.then((opened) => opened.producer).catch(() => null);
    await within(Promise.resolve(producer?.disconnect()), 2_000, 'Kafka did not let go in time').catch(() => undefined);
  };

  return {
    async deliver(shard, batches) {
      line ??= open();
      const current = line;
      try {
        const { producer, partitions } = await current;
        const messages = batches.map((batch) => ({
          key: String(shard),
          value: JSON.stringify(batch),
          partition: shard % partitions,
        }));
        for (const piece of piecesOf(messages)) {
          const compression = piece.compressed ? CompressionTypes.GZIP : CompressionTypes.None;
          const sending = producer.send({ acks: -1, compression, topic, messages: piece.messages });
          await within(sending, 20_000, 'Kafka did not take the events in time');
        }
      } catch (error) {
        // The topic may be gone with all of Kafka: the next delivery begins anew, and makes it again.
        await hangUp(current);
        throw error;
      }
    },
    async close() {
      if (line) await hangUp(line);
    },
  };
}

/** Looks whether the ledger has read all that the topic has of a shard's partition. `drained` rejects when Kafka is away. */
export function createKafkaProbe(options: { brokers: string[]; name: string; logger: Logger }): {
  drained(shard: number): Promise<boolean>;
} {
  const topic = topicOf(options.name);
  const kafka = connect(options.brokers, options.logger);
  return {
    async drained(shard) {
      const admin = kafka.admin();
      try {
        await within(admin.connect(), 5_000, 'Kafka cannot be reached');
        if (!(await admin.listTopics()).includes(topic)) return true;
        const ends = await admin.fetchTopicOffsets(topic);
        const [read] = await admin.fetchOffsets({ groupId: groupOf(options.name), topics: [topic] });
        const end = ends.find(({ partition }) => partition === shard % ends.length);
        const at = read?.partitions.find(({ partition }) => partition === end?.partition);
        if (!end || Number(end.high) === Number(end.low)) return true;
        return Number(at?.offset ?? -1) >= Number(end.high);
      } finally {
        await admin.disconnect().catch(() => undefined);
      }
    },
  };
}

function parseBatch(value: Buffer | null): Batch | null {
  try {
    const batch: unknown = JSON.parse(value?.toString('utf8') ?? '');
    return batchValidator.Check(batch) ? batch : null;
  } catch {
    return null;
  }
}

/**
 * Gives `take` the batches of a shard from sequence `from` to `to` that the topic still has, in the topic's order: for a
 * ledger that has gone back, by a group of its own. Rejects when Kafka doesn't bring them within `limitMs`.
 */
export async function replayFromKafka(options: {
  brokers: string[];
  name: string;
  shard: number;
  from: number;
  to: number;
  take(batches: Batch[]): Promise<void>;
  limitMs: number;
  logger: Logger;
}): Promise<void> {
  const { shard, from, to } = options;
  const topic = topicOf(options.name);
  const kafka = connect(options.brokers, options.logger);
  const admin = kafka.admin();
  const groupId = `${groupOf(options.name)}.replay.${newBuyerId()}`;
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 100 });
  try {
    await within(admin.connect(), 5_000, 'Kafka cannot be reached');
    if (!(await admin.listTopics()).includes(topic)) return;
    const ends = await admin.fetchTopicOffsets(topic);
    const end = ends.find(({ partition }) => partition === shard % ends.length);
    if (!end || Number(end.high) === Number(end.low)) return;
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    const reading = new Promise<void>((resolve, reject) => {
      consumer.on('consumer.crash', ({ payload }) => reject(payload.error));
      void consumer.run({
        eachBatch: async ({ batch }) => {
          if (batch.partition !== end.partition) return;
          const wanted = batch.messages
            .flatMap(({ value }) => parseBatch(value) ?? [])
            .filter((found) => found.shard === shard && found.seqLast >= from && found.seqFirst <= to);
          if (wanted.length > 0) await options.take(wanted);
          if (Number(batch.lastOffset()) >= Number(end.high) - 1) resolve();
        },
      });
    });
    await within(reading, options.limitMs, 'Kafka did not bring its events in time');
  } finally {
    await within(consumer.disconnect(), 8_000, 'Kafka did not let go in time').catch(() => undefined);
    await admin.deleteGroups([groupId]).catch(() => undefined);
    await admin.disconnect().catch(() => undefined);
  }
}

export type ConsumerStats = { applied(applied: Applied): void; stoppedShard(shard: number): void };

/**
 * Reads the topic into the ledger. A shard that is stopped is passed over (its events stay in its outbox); while
 * Postgres can't be reached nothing is passed over.
 */
export async function startKafkaConsumer(options: {
  brokers: string[];
  name: string;
  apply(shard: number, batches: Batch[]): Promise<Applied>;
  logger: Logger;
  stats: ConsumerStats;
}): Promise<{ stop(): Promise<void> }> {
  const { logger } = options;
  const topic = topicOf(options.name);
  const kafka = connect(options.brokers, logger);
  const stopped = new AbortController();

  const parse = (value: Buffer | null): Batch | null => {
    const batch = parseBatch(value);
    if (!batch) logger.error({ topic }, 'a message that is no batch of events was passed over');
    return batch;
  };

  const over = new Promise<void>((resolve) => stopped.signal.addEventListener('abort', () => resolve()));

  /** Resolves when it is told to stop. */
  const consume = async (): Promise<void> => {
    const current = kafka.consumer({
      groupId: groupOf(options.name),
      ...fetching,
      sessionTimeout: 10_000,
      rebalanceTimeout: 5_000,
      heartbeatInterval: 1_000,
      retry: { retries: 10, initialRetryTime: 100, maxRetryTime: 1_000, restartOnFailure: async () => true },
    });
    // What it takes for final ends it for good (no coordinator to be found, say): then another one has to begin.
    const crashed = new Promise<never>((_, reject) => {
      current.on('consumer.crash', ({ payload }) => {
        if (!payload.restart) reject(payload.error);
      });
    });
    crashed.catch(() => undefined);
    try {
      await ensureTopic(kafka, topic);
      await current.connect();
      await current.subscribe({ topic, fromBeginning: true });
      await current.run({
        partitionsConsumedConcurrently: partitionsDefault,
        eachBatchAutoResolve: true,
        eachBatch: async ({ batch, heartbeat }) => {
          const byShard = Map.groupBy(
            batch.messages.flatMap((message) => parse(message.value) ?? []),
            (found) => found.shard,
          );
          for (const [shard, batches] of byShard) {
            try {
              options.stats.applied(await options.apply(shard, batches));
            } catch (error) {
              if (!(error instanceof ShardStopped)) throw error;
              options.stats.stoppedShard(shard);
              logger.error({ shard, reason: error.message }, 'a stopped shard’s events were passed over');
            }
            await heartbeat();
          }
        },
      });
      await Promise.race([crashed, over]);
    } finally {
      await within(current.disconnect(), letGoMs, 'Kafka did not let go in time').catch(() => undefined);
    }
  };

  const run = async (): Promise<void> => {
    let waitMs = 200;
    while (!stopped.signal.aborted) {
      try {
        await consume();
      } catch (error) {
        logger.warn({ error: String(error) }, 'the ledger cannot reach Kafka; it keeps trying');
        await new Promise((resolve) => setTimeout(resolve, waitMs));
        waitMs = Math.min(waitMs * 2, 2_000);
      }
    }
  };
  const running = run();

  return {
    async stop() {
      stopped.abort();
      await within(running, 2 * letGoMs, 'Kafka did not let go in time').catch(() => undefined);
    },
  };
}
