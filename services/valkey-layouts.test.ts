/** Valkey with a replica, and as a cluster, as the launcher starts them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { afterEach, expect, test } from 'vitest';
import { environmentWithoutServices } from '../lua/testing.ts';
import { down, status, up } from './local.ts';
import { type ServiceName, type ServiceSet, startServices, valkeyLayouts, valkeyUrlOf } from './services.ts';
import { waitUntil } from './waiting.ts';

const root = mkdtempSync(join(tmpdir(), 'stampede-layouts-'));
const env = { ...environmentWithoutServices(), XDG_STATE_HOME: root };
const ending: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
  rmSync(root, { recursive: true, force: true });
});

async function start(names: readonly ServiceName[], more: NodeJS.ProcessEnv = env): Promise<ServiceSet> {
  const set = await startServices({ names, dataDir: join(root, 'set'), removeDataDir: true, env: more });
  ending.push(() => set.stop());
  return set;
}

function client(set: ServiceSet, name: ServiceName): Redis {
  const redis = new Redis(set.services[name]?.url ?? '', { maxRetriesPerRequest: 20 });
  redis.on('error', () => undefined);
  ending.push(() => redis.disconnect());
  return redis;
}

test('a replica has what its primary has, on a disk of its own, and again after both were killed', async () => {
  const set = await start(valkeyLayouts.replica);
  expect(valkeyUrlOf(set.services)).toBe(`${set.services.valkey?.url},${set.services['valkey-replica']?.url}`);
  const [primary, replica] = [client(set, 'valkey'), client(set, 'valkey-replica')];
  const has = (value: string) => waitUntil(async () => (await replica.get('k')) === value, 10_000);
  await primary.set('k', 'first');
  expect(await has('first')).toBe(true);
  expect(await replica.config('GET', 'append*')).toEqual(expect.arrayContaining(['yes', 'always']));
  for (const name of valkeyLayouts.replica) await set.kill(name, 'SIGKILL');
  for (const name of valkeyLayouts.replica) await set.startOne(name);
  expect(await has('first')).toBe(true);
  await primary.set('k', 'second');
  expect(await has('second')).toBe(true);
});

test('a replica alone says what it needs; a Valkey of somebody’s is taken for the whole layout', async () => {
  await expect(start(['valkey-replica'])).rejects.toThrow(/valkey-replica needs a valkey of the same set/);
  const set = await start(valkeyLayouts.cluster, { ...env, VALKEY_URL: 'redis://valkey.example:7000' });
  expect(valkeyUrlOf(set.services)).toBe('redis://valkey.example:7000');
});

test('up makes a cluster of three, which keeps its slots and data from one up to the next', async () => {
  const names = [...valkeyLayouts.cluster];
  ending.push(() => down({ env }));
  const first = await up({ names, env });
  const url = first['valkey-1']?.url ?? '';
  const shards = async (): Promise<unknown[]> => {
    const redis = new Redis(url);
    try {
      return (await redis.cluster('SLOTS')) as unknown[];
    } finally {
      redis.disconnect();
    }
  };
  expect((await shards()).map((range) => (range as unknown[]).slice(0, 2))).toEqual([
    [0, 5_460],
    [5_461, 10_921],
    [10_922, 16_383],
  ]);
  expect(Object.keys(await status({ env })).sort()).toEqual([...names].sort());
  expect(Object.keys(await down({ env })).sort()).toEqual([...names].sort());
  const again = await up({ names, env });
  expect(again['valkey-2']?.url).toBe(first['valkey-2']?.url);
  expect(await shards()).toHaveLength(3);
});
