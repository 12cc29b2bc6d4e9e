/** The ledger's consumer loses its connection just as it asks for its group's coordinator, and reads on afterwards. */
import { mkdtempSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createLogger } from '../kernel/logger.ts';
import { createKafkaCarrier, startKafkaConsumer } from '../ledger/kafka.ts';
import { environmentWithoutServices } from '../lua/testing.ts';
import { type ServiceSet, startServices } from '../services/services.ts';

/** Kafka's protocol: a request is its length, then its kind. https://kafka.apache.org/protocol#protocol_api_keys */
const findCoordinator = 10;
const kindOf = (request: Buffer): number => (request.length >= 6 ? request.readInt16BE(4) : -1);

let services: ServiceSet | undefined;
let breaks = 0;
const proxy = createServer((client) => {
  const broker = connect({ host: '127.0.0.1', port: Number(services?.services.kafka?.url.split(':')[1]) });
  const end = (): void => {
    client.destroy();
    broker.destroy();
  };
  client.on('data', (request: Buffer) => {
    if (kindOf(request) === findCoordinator && breaks > 0) {
      breaks--;
      client.resetAndDestroy();
    } else broker.write(request);
  });
  broker.on('data', (answer: Buffer) => client.write(answer));
  for (const socket of [client, broker]) socket.on('error', end).on('close', end);
});
let port = 0;

beforeAll(async () => {
  await new Promise<void>((resolve) => proxy.listen({ host: '127.0.0.1', port: 0 }, resolve));
  ({ port } = proxy.address() as AddressInfo);
  services = await startServices({
    names: ['kafka'],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-coordinator-')),
    removeDataDir: true,
    env: environmentWithoutServices(),
    kafka: { advertisedPort: port },
  });
});
afterAll(async () => {
  await services?.stop();
  proxy.close();
});

it('a consumer that can’t find its group’s coordinator is replaced by another', async () => {
  const to = { brokers: [`127.0.0.1:${port}`], name: 'lost', logger: createLogger({ level: 'silent', name: 'test' }) };
  const carrier = createKafkaCarrier(to);
  const event = { type: 'sale-state', seq: 1, saleId: 'drop', sale: 1, state: 'open' } as const;
  const batch = { format: 1, shard: 0, epoch: 1, seqFirst: 1, seqLast: 1, at: new Date().toISOString() } as const;
  await carrier.deliver(0, [{ ...batch, digest: 'first', events: [event] }]);
  breaks = 3;
  const read: number[] = [];
  const consumer = await startKafkaConsumer({
    ...to,
    apply: async (_shard, batches) => {
      read.push(...batches.map(({ seqLast }) => seqLast));
      return { watermark: 1, events: 1, known: 0, setAside: 0, quarantined: 0 };
    },
    stats: { applied: () => undefined, stoppedShard: () => undefined },
  });
  try {
    await expect.poll(() => read.length, { timeout: 30_000 }).toBeGreaterThan(0);
    expect(breaks).toBe(0);
  } finally {
    await consumer.stop();
    await carrier.close();
  }
}, 120_000);
