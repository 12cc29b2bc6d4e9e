/**
 * What may happen beside a whole sale: Kafka goes away and comes back; somebody reconciles all the while; a counter is
 * changed by hand. STAMPEDE_UNITS and STAMPEDE_BUYERS make the sale larger.
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { afterEach, expect, it } from 'vitest';
import { type Command, runCommand } from '../cli/testbed-command.ts';
import { shardOfSale } from '../kernel/ids.ts';
import { type ServiceSet, startServices } from '../services/services.ts';
import { waitUntil } from '../services/waiting.ts';

const units = Number(process.env.STAMPEDE_UNITS ?? 200);
const buyers = Number(process.env.STAMPEDE_BUYERS ?? 1_500);
const shards = 4;
const size = ['--units', String(units), '--buyers', String(buyers), '--hold', '4', '--json'];
const limitMs = 240_000;

let set: ServiceSet | undefined;
afterEach(async () => {
  await set?.stop();
  set = undefined;
});

async function start(names: ('valkey' | 'postgres' | 'kafka')[]): Promise<Record<string, string>> {
  const dataDir = mkdtempSync(join(tmpdir(), 'stampede-live-sale-'));
  set = await startServices({ names, dataDir, removeDataDir: true });
  const { valkey, postgres, kafka } = set.services;
  return {
    VALKEY_URL: `unix://${valkey?.socketPath}`,
    DATABASE_URL: postgres?.url ?? '',
    KAFKA_BROKERS: kafka?.url ?? '',
    SHARDS: String(shards),
    STAMPEDE_MODE: 'development',
  };
}

const lastLine = (command: Command): Record<string, unknown> =>
  JSON.parse(command.stdout().trimEnd().split('\n').at(-1) ?? '{}') as Record<string, unknown>;

/** The sales that Valkey knows, and what each has left of its stock. */
async function findSale(
  redis: Redis,
): Promise<{ id: string; stockKey: string; reserved: number; sold: number } | null> {
  for (let shard = 0; shard < shards; shard++) {
    for (const [id, no] of Object.entries(await redis.hgetall(`{s${shard}}:sales`))) {
      expect(shardOfSale(id, shards)).toBe(shard);
      const stockKey = `{s${shard}}:stock:${no}`;
      const [packed] = await redis.hvalsBuffer(stockKey);
      if (!packed) continue;
      const at = 1 + (packed[0] ?? 0);
      return { id, stockKey, reserved: packed.readUInt32LE(at + 4), sold: packed.readUInt32LE(at + 8) };
    }
  }
  return null;
}

const verdict = { sold: units, oversold: 0, stranded: 0, drift: 0 };

it(
  'Kafka stops in the middle of a sale and comes back: the sale goes on, the ledger catches up',
  async () => {
    const env = await start(['valkey', 'postgres', 'kafka']);
    const redis = new Redis(String(set?.services.valkey?.url));
    const sale = runCommand(['sale', ...size, '--transport', 'kafka'], env);
    try {
      expect(await waitUntil(async () => ((await findSale(redis))?.reserved ?? 0) > 0, limitMs), sale.stderr()).toBe(
        true,
      );
      await set?.stopOne('kafka');
      // Every unit is sold while there is no Kafka.
      expect(await waitUntil(async () => (await findSale(redis))?.sold === units, limitMs), sale.stderr()).toBe(true);
      await set?.startOne('kafka');
      expect(await sale.ended, sale.stderr()).toBe(0);
      expect(lastLine(sale)).toMatchObject({ ...verdict, transport: 'kafka' });
    } finally {
      redis.disconnect();
      await sale.stop('SIGKILL');
    }
  },
  limitMs,
);

it(
  'reconcile finds no drift again and again during a sale, and a counter changed by hand after it',
  async () => {
    const env = await start(['valkey', 'postgres']);
    const redis = new Redis(String(set?.services.valkey?.url));
    const sale = runCommand(['sale', ...size], env);
    let over = false;
    void sale.ended.then(() => {
      over = true;
    });
    try {
      expect(await waitUntil(async () => (await findSale(redis)) !== null, limitMs), sale.stderr()).toBe(true);
      const seen: unknown[] = [];
      while (!over) {
        const nextMs = performance.now() + 1_000;
        const command = runCommand(['reconcile', '--json'], env);
        const code = await command.ended;
        seen.push({ code, drift: lastLine(command).drift });
        await waitUntil(async () => over || performance.now() >= nextMs, 5_000);
      }
      expect(await sale.ended, sale.stderr()).toBe(0);
      expect(lastLine(sale)).toMatchObject(verdict);
      expect(seen.length).toBeGreaterThanOrEqual(4);
      expect(seen).toEqual(seen.map(() => ({ code: 0, drift: 0 })));

      // Nobody sweeps or sells any more, and one unit appears out of nowhere.
      const found = await findSale(redis);
      if (!found) throw new Error('the sale is gone');
      const [sku = ''] = await redis.hkeys(found.stockKey);
      const packed = await redis.hgetBuffer(found.stockKey, sku);
      if (!packed) throw new Error('its stock is gone');
      const at = 1 + (packed[0] ?? 0);
      packed.writeUInt32LE(packed.readUInt32LE(at) + 1, at);
      await redis.hset(found.stockKey, sku, packed);
      const command = runCommand(['reconcile', '--json'], env);
      expect(await command.ended).toBe(1);
      expect(lastLine(command)).toMatchObject({ drift: 1 });
    } finally {
      redis.disconnect();
      await sale.stop('SIGKILL');
    }
  },
  limitMs,
);
