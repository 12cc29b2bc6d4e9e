/** Valkey in cluster mode: which node serves a key, and what happens when nodes and slots come and go. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { shardKey } from '../kernel/ids.ts';
import { contentOf, makeSale, openTestShard, reserve } from '../lua/testing.ts';
import { valkeyLayouts } from '../services/services.ts';
import { askStatus, createValkeyBench, eventually, noSuchShard, servedBy } from './testing.ts';
import type { Valkey } from './valkey.ts';

const names = valkeyLayouts.cluster;
const keys = Array.from({ length: 30 }, (_, shard) => shardKey(shard));
const bench = createValkeyBench();
let urls: string[] = [];
beforeEach(async () => {
  await bench.start('cluster');
  urls = names.map(bench.urlOf);
});
afterEach(() => bench.end());

const unserved = (valkey: Valkey): string[] => keys.filter((key) => valkey.linkOf(key) === 0);
const runIds = () => Promise.all(names.map(bench.runIdOf));
async function connect(...to: string[]): Promise<Valkey> {
  const valkey = bench.connect(...to);
  await expect.poll(() => unserved(valkey), eventually).toEqual([]);
  return valkey;
}
const myId = async (name: (typeof names)[number]) => String(await bench.client(name).cluster('MYID'));
const setSlot = (name: (typeof names)[number], ...words: string[]) =>
  bench.client(name).call('CLUSTER', 'SETSLOT', ...words);

it('each key’s node is found from any one; a node that is away takes only its own keys along', async () => {
  const valkey = await connect('redis://127.0.0.1:1', urls[0] ?? '');
  const runs = await runIds();
  expect(new Set(keys.map((key) => valkey.runId(key)))).toEqual(new Set(runs));
  for (const key of keys) await expect(askStatus(valkey, key)).rejects.toThrow(noSuchShard);
  const onThird = keys.filter((key) => valkey.runId(key) === runs[2]);
  expect(onThird.length).toBeGreaterThan(0);
  await bench.services().kill('valkey-3', 'SIGKILL');
  await expect.poll(() => unserved(valkey), eventually).toEqual(onThird);
  // Who comes now finds the others too.
  const late = bench.connect(...urls);
  await expect.poll(() => unserved(late), eventually).toEqual(onThird);
  expect(late.complaint).toMatch(/only \d+ of the cluster's 16384 slots/);
  await bench.services().startOne('valkey-3');
  for (const one of [valkey, late]) await expect.poll(() => unserved(one), eventually).toEqual([]);
});

it('a slot that has moved is followed', async () => {
  const valkey = await connect(...urls);
  const runs = await runIds();
  const moved = keys.find((key) => valkey.runId(key) === runs[0]) ?? '';
  const slot = String(await bench.client('valkey-1').cluster('KEYSLOT', moved));
  const id = await myId('valkey-2');
  for (const name of ['valkey-2', 'valkey-1', 'valkey-3'] as const) await setSlot(name, slot, 'NODE', id);
  await expect(askStatus(valkey, moved)).rejects.toThrow(/MOVED/);
  await expect.poll(() => servedBy(valkey, moved), eventually).toBe(runs[1]);
  await expect(askStatus(valkey, moved)).rejects.toThrow(noSuchShard);
});

it('while a slot is moving nothing is half done, and servers are not asked without a pause', async () => {
  const valkey = await connect(...urls);
  const runs = await runIds();
  const redis = bench.client('valkey-1');
  const number = keys.findIndex((key) => valkey.runId(key) === runs[0]);
  const server = { url: '', services: bench.services(), valkey, redis, stop: async () => undefined };
  const shard = await openTestShard(server, {}, number);
  await makeSale(shard);
  expect(await reserve(shard, [{ buyer: 'ann' }])).toMatchObject([{ status: 'ok' }]);
  const before = await contentOf(shard);
  const slot = String(await redis.cluster('KEYSLOT', keys[number] ?? ''));
  await setSlot('valkey-2', slot, 'IMPORTING', await myId('valkey-1'));
  await setSlot('valkey-1', slot, 'MIGRATING', await myId('valkey-2'));
  const looks = async () => Number(/cmdstat_info:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1]);
  const [fromMs, asked] = [performance.now(), await looks()];
  for (let i = 0; i < 100; i++) {
    await expect(reserve(shard, [{ buyer: `b${i}` }])).rejects.toThrow(/non local key|ASK/);
    await expect(askStatus(valkey, keys[number] ?? '')).rejects.toThrow(/non local key|ASK/);
  }
  expect((await looks()) - asked).toBeLessThan(3 + (performance.now() - fromMs) / 50);
  await setSlot('valkey-1', slot, 'STABLE');
  await setSlot('valkey-2', slot, 'STABLE');
  expect(await contentOf(shard)).toEqual(before);
  expect(await reserve(shard, [{ buyer: 'b1' }])).toMatchObject([{ status: 'ok', seq: 4 }]);
});

it('a node that was taken out, or that nobody can reach, spoils nothing for the others', async () => {
  await bench.client('valkey-3').config('SET', 'cluster-announce-port', '1');
  const others = [bench.client('valkey-1'), bench.client('valkey-2')];
  const announced = async () =>
    (await Promise.all(others.map((one) => one.cluster('NODES')))).every((text) =>
      String(text).includes('127.0.0.1:1@'),
    );
  await expect.poll(announced, eventually).toBe(true);
  const runs = await runIds();
  const valkey = bench.connect(...urls.slice(0, 2));
  const served = () => new Set(keys.map((key) => servedBy(valkey, key)));
  await expect.poll(served, eventually).toEqual(new Set([runs[0], runs[1], '']));
  await bench.client('valkey-1').flushall();
  await bench.client('valkey-1').call('CLUSTER', 'RESET', 'HARD');
  const late = bench.connect(...urls);
  await expect.poll(() => keys.filter((key) => servedBy(late, key) === runs[1]).length, eventually).toBeGreaterThan(0);
});
