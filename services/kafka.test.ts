import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Kafka, logLevel } from 'kafkajs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { processStart } from './records.ts';
import { type ServiceSet, startServices } from './services.ts';

const TIMEOUT_MS = 600_000;
const TOPIC = 'kept';
const dataDir = mkdtempSync(join(tmpdir(), 'stampede-kafka-'));
let set: ServiceSet;

beforeAll(async () => {
  const { KAFKA_BROKERS: _given, ...env } = process.env;
  set = await startServices({ names: ['kafka'], dataDir, removeDataDir: true, env });
}, TIMEOUT_MS);

afterAll(async () => {
  const pid = Number(set.services.kafka?.pid);
  await set.stop();
  rmSync(dataDir, { recursive: true, force: true });
  expect(await processStart(pid)).toBeNull();
  expect(existsSync(dataDir)).toBe(false);
}, TIMEOUT_MS);

const client = () =>
  new Kafka({ brokers: [String(set.services.kafka?.url)], logLevel: logLevel.NOTHING, retry: { retries: 10 } });

const readAll = async (count: number): Promise<string[]> => {
  const consumer = client().consumer({ groupId: 'reader', maxWaitTimeInMs: 100 });
  const values: string[] = [];
  try {
    await consumer.connect();
    await consumer.subscribe({ topic: TOPIC, fromBeginning: true });
    await new Promise<void>((resolve, reject) => {
      const eachMessage = async ({ message }: { message: { value: Buffer | null } }) => {
        values.push(String(message.value));
        if (values.length === count) resolve();
      };
      consumer.run({ eachMessage }).catch(reject);
    });
  } finally {
    await consumer.disconnect();
  }
  return values;
};

test('serves topics, and makes none by itself', { timeout: TIMEOUT_MS }, async () => {
  const admin = client().admin();
  await admin.connect();
  try {
    const topics = [{ topic: TOPIC, numPartitions: 3, replicationFactor: 1 }];
    expect(await admin.createTopics({ topics, waitForLeaders: true })).toBe(true);
    expect(await admin.listTopics()).toContain(TOPIC);
    await expect(admin.fetchTopicOffsets('never-made')).rejects.toThrow();
    expect(await admin.listTopics()).not.toContain('never-made');
  } finally {
    await admin.disconnect();
  }
});

test('keeps what it acknowledged over a stop and a kill', { timeout: TIMEOUT_MS }, async () => {
  const { url } = set.services.kafka ?? {};
  for (const [index, end] of (['stop', 'kill'] as const).entries()) {
    const producer = client().producer({ idempotent: true });
    await producer.connect();
    await producer.send({ topic: TOPIC, acks: -1, messages: [{ key: 'shard', value: `before ${end} ${index}` }] });
    await producer.disconnect();
    if (end === 'kill') await set.kill('kafka', 'SIGKILL');
    else await set.stopOne('kafka');
    expect((await set.startOne('kafka')).url).toBe(url);
  }
  expect(await readAll(2)).toEqual(['before stop 0', 'before kill 1']);
});
