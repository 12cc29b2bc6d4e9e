/** Which server serves a key: one, a primary with a replica, a cluster; and what happens when that changes. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { afterEach, expect, it, test } from 'vitest';
import { shardKey } from '../kernel/ids.ts';
import { replicateCommand, shardStatusCommand } from '../lua/bindings.ts';
import { environmentWithoutServices, openTestShard } from '../lua/testing.ts';
import {
  type ServiceName,
  type ServiceSet,
  startServices,
  type ValkeyLayout,
  type ValkeyOptions,
  valkeyLayouts,
} from '../services/services.ts';
import { connectValkey, type Valkey } from './valkey.ts';

const ending: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
});

async function start(layout: ValkeyLayout, options: ValkeyOptions = {}): Promise<ServiceSet> {
  const services = await startServices({
    names: valkeyLayouts[layout],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-valkey-')),
    removeDataDir: true,
    env: environmentWithoutServices(),
    valkey: options,
  });
  ending.push(() => services.stop());
  return services;
}

const urlOf = (services: ServiceSet, name: ServiceName): string => services.services[name]?.url ?? '';

function clientOf(services: ServiceSet, name: ServiceName): Redis {
  const client = new Redis(urlOf(services, name));
  client.on('error', () => undefined);
  ending.push(() => client.disconnect());
  return client;
}

function connect(...urls: string[]): Valkey {
  const valkey = connectValkey(urls, () => undefined);
  ending.push(() => valkey.close());
  return valkey;
}

async function runIdOf(services: ServiceSet, name: ServiceName): Promise<string> {
  return /^run_id:(\w+)/m.exec(await clientOf(services, name).info('server'))?.[1] ?? 'none';
}

const eventually = { timeout: 20_000, interval: 20 };
const servedBy = (valkey: Valkey, key: string): string => (valkey.linkOf(key) === 0 ? '' : valkey.runId(key));
const header = { epoch: 1, seen: 0, deadlineMs: Number.MAX_SAFE_INTEGER };
/** Any call, on a shard that isn't there: the function says so, and so it ran. */
const askStatus = (valkey: Valkey, key: string): Promise<Buffer> =>
  valkey.call('shard_status', false, key, shardStatusCommand.encode(header, {}));
const key = shardKey(0);

it('one server that ends and comes again is another run behind another link', async () => {
  const services = await start('single');
  const valkey = connect(urlOf(services, 'valkey'));
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(0);
  const [link, run] = [valkey.linkOf(key), valkey.runId(key)];
  expect(run).toBe(await runIdOf(services, 'valkey'));
  await services.kill('valkey', 'SIGKILL');
  await expect.poll(() => valkey.linkOf(key), eventually).toBe(0);
  expect(() => valkey.runId(key)).toThrow(/broken/);
  await expect(askStatus(valkey, key)).rejects.toThrow(/broken/);
  await services.startOne('valkey');
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(link);
  expect(valkey.runId(key)).not.toBe(run);
  await expect(askStatus(valkey, key)).rejects.toThrow(/FENCED this Valkey has no such shard/);
});

it('a server that stands still without a word is given up, and found again when it goes on', async () => {
  const services = await start('single');
  const valkey = connect(urlOf(services, 'valkey'));
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(0);
  const link = valkey.linkOf(key);
  await services.kill('valkey', 'SIGSTOP');
  await expect.poll(() => valkey.linkOf(key), eventually).toBe(0);
  await services.kill('valkey', 'SIGCONT');
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(link);
});

test('a primary and its replica, in any order; the replica promoted; two that both say they are the primary', async () => {
  const services = await start('replica');
  const [first, second] = [urlOf(services, 'valkey'), urlOf(services, 'valkey-replica')];
  const runs = [await runIdOf(services, 'valkey'), await runIdOf(services, 'valkey-replica')];
  for (const urls of [
    [first, second],
    [second, first],
  ]) {
    const valkey = connect(...urls);
    await expect.poll(() => servedBy(valkey, key), eventually).toBe(runs[0]);
    expect((await valkey.settings(key))[0]?.get('replicas')).toBe('1');
  }
  const valkey = connect(first, second);
  await expect.poll(() => servedBy(valkey, key), eventually).toBe(runs[0]);
  await expect(askStatus(valkey, key)).rejects.toThrow(/FENCED this Valkey has no such shard/);
  let changes = 0;
  valkey.onChange(() => {
    changes++;
  });
  // A switch by hand: the old primary stays there, and says READONLY to whoever still asks it to write.
  await clientOf(services, 'valkey-replica').replicaof('NO', 'ONE');
  await clientOf(services, 'valkey').replicaof('127.0.0.1', Number(new URL(second).port));
  const write = () => valkey.replicate('replicate', key, replicateCommand.encode(header, {}));
  await expect.poll(() => write().catch(String), eventually).toMatch(/FENCED this Valkey has no such shard/);
  expect(servedBy(valkey, key)).toBe(runs[1]);
  expect(changes).toBeGreaterThan(1);
  // Now both say so: none of them is taken, rather than the wrong one.
  await clientOf(services, 'valkey').replicaof('NO', 'ONE');
  const late = connect(first, second);
  await expect.poll(() => late.complaint, eventually).toMatch(/several servers .* primary .*REPLICAOF/);
  expect(late.linkOf(key)).toBe(0);
});

test('replicate: once it is on a replica’s disk; not without a replica, nor with one that stands still', async () => {
  const services = await start('replica');
  const valkey = connect(urlOf(services, 'valkey'), urlOf(services, 'valkey-replica'));
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(0);
  const redis = clientOf(services, 'valkey');
  const shard = await openTestShard({ url: '', services, valkey, redis, stop: async () => undefined });
  const shardsKey = `${shard.prefix}shard`;
  const replicate = () => valkey.replicate('replicate', shardsKey, replicateCommand.encode(header, {}));
  const persisted = clientOf(services, 'valkey-replica');
  for (let i = 0; i < 20; i++) {
    await redis.set(`${shard.prefix}probe`, i);
    await replicate();
    expect(await persisted.get(`${shard.prefix}probe`)).toBe(String(i));
  }
  await services.kill('valkey-replica', 'SIGSTOP');
  await expect(replicate()).rejects.toThrow(/NOREPLICA/);
  // What was waited for in vain stops nobody else.
  const [, status] = await Promise.all([
    expect(replicate()).rejects.toThrow(/NOREPLICA/),
    valkey.call('shard_status', true, shardsKey, shardStatusCommand.encode(header, {})),
  ]);
  expect(status.length).toBeGreaterThan(0);
  await services.kill('valkey-replica', 'SIGCONT');
  await expect.poll(() => replicate().then(() => 'done', String), eventually).toBe('done');
  // A replica that has it in memory alone is none.
  await persisted.config('SET', 'appendonly', 'no');
  await expect(replicate()).rejects.toThrow(/NOREPLICA/);
  const refused = valkey.replicate('replicate', shardsKey, replicateCommand.encode({ ...header, epoch: 7 }, {}));
  await expect(refused).rejects.toThrow(/FENCED/);
});

test('a cluster: each key’s node; one node away takes only its own keys along; a slot that moves is followed', async () => {
  const services = await start('cluster');
  const [first = '', second = ''] = valkeyLayouts.cluster.map((name) => urlOf(services, name));
  // One node that answers is enough to find the others.
  const valkey = connect('redis://127.0.0.1:1', first);
  const keys = Array.from({ length: 30 }, (_, shard) => shardKey(shard));
  const unserved = (): string[] => keys.filter((one) => valkey.linkOf(one) === 0);
  await expect.poll(unserved, eventually).toEqual([]);
  const runs = await Promise.all(valkeyLayouts.cluster.map((name) => runIdOf(services, name)));
  expect(new Set(keys.map((one) => valkey.runId(one)))).toEqual(new Set(runs));
  for (const one of keys) await expect(askStatus(valkey, one)).rejects.toThrow(/FENCED this Valkey has no such shard/);

  await services.kill('valkey-3', 'SIGKILL');
  const onThird = keys.filter((one) => valkey.linkOf(one) === 0 || valkey.runId(one) === runs[2]);
  await expect.poll(unserved, eventually).toEqual(onThird);
  expect(onThird.length).toBeGreaterThan(0);
  await services.startOne('valkey-3');
  await expect.poll(unserved, eventually).toEqual([]);

  const moved = keys.find((one) => valkey.runId(one) === runs[0]) ?? '';
  const slot = String(await clientOf(services, 'valkey-1').cluster('KEYSLOT', moved));
  const id = String(await clientOf(services, 'valkey-2').cluster('MYID'));
  for (const name of ['valkey-2', 'valkey-1', 'valkey-3'] as const)
    await clientOf(services, name).call('CLUSTER', 'SETSLOT', slot, 'NODE', id);
  await expect(askStatus(valkey, moved)).rejects.toThrow(/MOVED/);
  await expect.poll(() => servedBy(valkey, moved), eventually).toBe(runs[1]);
  await expect(askStatus(valkey, moved)).rejects.toThrow(/FENCED this Valkey has no such shard/);
  expect(second).not.toBe('');
});
