/** Which server serves a key: one, or a primary with a replica; and what happens when that changes. */
import { afterEach, expect, it, test } from 'vitest';
import { shardKey } from '../kernel/ids.ts';
import { replicateCommand, shardStatusCommand } from '../lua/bindings.ts';
import { openTestShard } from '../lua/testing.ts';
import { askStatus, createValkeyBench, eventually, header, noSuchShard, servedBy } from './testing.ts';
import { openLink } from './valkey-link.ts';

const bench = createValkeyBench();
afterEach(() => bench.end());
const key = shardKey(0);

it('one server that ends and comes again is another run behind another link', async () => {
  const services = await bench.start('single');
  const valkey = bench.connect(bench.urlOf('valkey'));
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(0);
  const [link, run] = [valkey.linkOf(key), valkey.runId(key)];
  expect(run).toBe(await bench.runIdOf('valkey'));
  await services.kill('valkey', 'SIGKILL');
  await expect.poll(() => valkey.linkOf(key), eventually).toBe(0);
  expect(() => valkey.runId(key)).toThrow(/broken/);
  await expect(askStatus(valkey, key)).rejects.toThrow(/broken/);
  await services.startOne('valkey');
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(link);
  expect(valkey.runId(key)).not.toBe(run);
  await expect(askStatus(valkey, key)).rejects.toThrow(noSuchShard);
});

it('a server that stands still without a word is given up, and found again when it goes on', async () => {
  const services = await bench.start('single');
  const valkey = bench.connect(bench.urlOf('valkey'));
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(0);
  const link = valkey.linkOf(key);
  await services.kill('valkey', 'SIGSTOP');
  await expect.poll(() => valkey.linkOf(key), eventually).toBe(0);
  await services.kill('valkey', 'SIGCONT');
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(link);
});

test('a primary and its replica, in any order; the replica promoted; two that both say they are the primary', async () => {
  await bench.start('replica');
  const [first, second] = [bench.urlOf('valkey'), bench.urlOf('valkey-replica')];
  const runs = [await bench.runIdOf('valkey'), await bench.runIdOf('valkey-replica')];
  for (const urls of [
    [first, second],
    [second, first],
  ]) {
    const valkey = bench.connect(...urls);
    await expect.poll(() => servedBy(valkey, key), eventually).toBe(runs[0]);
    expect((await valkey.settings(key))[0]?.get('replicas')).toBe('1');
  }
  const valkey = bench.connect(first, second);
  await expect.poll(() => servedBy(valkey, key), eventually).toBe(runs[0]);
  await expect(askStatus(valkey, key)).rejects.toThrow(noSuchShard);
  let changes = 0;
  valkey.onChange(() => {
    changes++;
  });
  // A switch by hand: the old primary stays there, and says READONLY to whoever still asks it to write.
  await bench.client('valkey-replica').replicaof('NO', 'ONE');
  await bench.client('valkey').replicaof('127.0.0.1', Number(new URL(second).port));
  const write = () => valkey.sync('replicate', key, replicateCommand.encode(header, {}), 1);
  await expect.poll(() => write().catch(String), eventually).toMatch(noSuchShard);
  expect(servedBy(valkey, key)).toBe(runs[1]);
  expect(changes).toBeGreaterThan(1);
  // Now both say so: none of them is taken, rather than the wrong one.
  await bench.client('valkey').replicaof('NO', 'ONE');
  const late = bench.connect(first, second);
  await expect.poll(() => late.complaint, eventually).toMatch(/several servers .* primary .*REPLICAOF/);
  expect(late.linkOf(key)).toBe(0);
});

test('sync: once it is on a replica’s disk; not without a replica, nor with one that stands still', async () => {
  const services = await bench.start('replica');
  const valkey = bench.connect(bench.urlOf('valkey'), bench.urlOf('valkey-replica'));
  await expect.poll(() => valkey.linkOf(key), eventually).toBeGreaterThan(0);
  const redis = bench.client('valkey');
  const shard = await openTestShard({ url: '', services, valkey, redis, stop: async () => undefined });
  const shardsKey = `${shard.prefix}shard`;
  const replicate = () => valkey.sync('replicate', shardsKey, replicateCommand.encode(header, {}), 1);
  const persisted = bench.client('valkey-replica');
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
  const refused = valkey.sync('replicate', shardsKey, replicateCommand.encode({ ...header, epoch: 7 }, {}), 1);
  await expect(refused).rejects.toThrow(/FENCED/);
});

it('a connection that has ended gives no answer any more, whatever the server still does', async () => {
  const services = await bench.start('single');
  const ends: number[] = [];
  const { link } = await openLink(bench.urlOf('valkey'), (ended) => ends.push(ended.id));
  await expect(link.call('shard_status', true, key, shardStatusCommand.encode(header, {}))).rejects.toThrow(
    noSuchShard,
  );
  await services.kill('valkey', 'SIGSTOP');
  const late = link.call('shard_status', true, key, shardStatusCommand.encode(header, {}));
  const wait = link.sync('replicate', key, replicateCommand.encode(header, {}), 0);
  const outcomes = Promise.allSettled([late, wait]);
  link.close();
  await services.kill('valkey', 'SIGCONT');
  expect(ends).toEqual([link.id]);
  for (const outcome of await outcomes)
    expect(String((outcome as PromiseRejectedResult).reason)).toMatch(/clos|ended/i);
});

it('one server under two names is one', async () => {
  await bench.start('single');
  const url = bench.urlOf('valkey');
  const valkey = bench.connect(url, url.replace('127.0.0.1', 'localhost'));
  await expect.poll(() => servedBy(valkey, key), eventually).toBe(await bench.runIdOf('valkey'));
});
