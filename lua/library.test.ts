import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { packRoom, type WaitingRoom } from '../engine/room.ts';
import * as bindings from './bindings.ts';
import { generateBindings } from './generate.ts';
import { parseLayout, readLibrary } from './library.ts';
import { Reader, Writer } from './packing.ts';
import {
  holdTime,
  makeSale,
  openTestShard,
  reference,
  reserve,
  saleArgs,
  shardOn,
  short,
  startTestValkey,
  statusName,
  type TestShard,
  type TestValkey,
} from './testing.ts';

const {
  actionCodes,
  adjustCommand,
  changeTicketCommand,
  commitCommand,
  correctCommand,
  expireCommand,
  extendCommand,
  joinLineCommand,
  listSalesCommand,
  openShardCommand,
  outboxReadCommand,
  outboxTrimCommand,
  placeTicketsCommand,
  putSaleCommand,
  readDrawCommand,
  readLineCommand,
  readPoolCommand,
  readReservationsCommand,
  readSaleCommand,
  rebuildBeginCommand,
  rebuildBookCommand,
  rebuildChangesCommand,
  rebuildClearCommand,
  rebuildFinishCommand,
  rebuildReadCommand,
  rebuildSaleCommand,
  releaseCommand,
  replicateCommand,
  returnUnitsCommand,
  seeTicketsCommand,
  setSaleStateCommand,
  shardStatusCommand,
  snapshotCommand,
  tendLinesCommand,
} = bindings;

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(async () => {
  await server.stop();
});

const library = readLibrary();
const adjustment = { sale: 1, id: 'a', sku: 'shoe', warehouse: 'east', delta: 5, reason: 'found', open: 0 };

/** Runs every command once, to some effect. */
async function runRoom(shard: TestShard, now: number): Promise<void> {
  const room: WaitingRoom = {
    ...{ order: 'shuffle', state: 'open', admissionSeconds: 60, graceSeconds: 10, whenDown: 'closed', challenge: null },
    inlet: { maxInside: null, perMinute: null, stock: true },
    lanes: [1, 2].map((weight) => ({ name: `lane-${weight}`, weight })),
  };
  const sale = await makeSale(shard, { id: 'room', opensAt: now + 1_000, room: packRoom(room), seed: 'seed' });
  const [ann, bob, cid] = ['ann', 'bob', 'cid'].map(short) as [string, string, string];
  const of = { sale, from: 0, max: 10 };
  await shard.call(joinLineCommand, { sale, buyers: [ann, bob], lanes: [1, 2] });
  await shard.call(changeTicketCommand, { sale, buyer: bob, number: 2, action: actionCodes.leave, position: 0 });
  await holdTime(shard, now + 1_000);
  await shard.call(tendLinesCommand, { max: 10 });
  const { tickets } = await shard.call(readPoolCommand, of);
  await shard.call(placeTicketsCommand, { sale, from: 0, done: 1, tickets });
  await shard.call(readDrawCommand, of);
  await shard.call(joinLineCommand, { sale, buyers: [bob, cid], lanes: [1, 1] });
  await shard.call(changeTicketCommand, { sale, buyer: cid, number: 4, action: actionCodes.move, position: 1 });
  await shard.call(tendLinesCommand, { max: 10 });
  await shard.call(seeTicketsCommand, { sale, tickets: [{ buyer: ann, number: 1 }] });
  await shard.call(readLineCommand, { sale, cursor: 0 });
  await reserve(shard, [{ sale, buyer: 'ann' }]);
  await shard.call(putSaleCommand, saleArgs({ id: 'room', digest: '' }));
}

async function runAll(shard: TestShard): Promise<void> {
  const now = await holdTime(shard);
  await makeSale(shard, { id: 'one', holdMs: 1_000, stock: { shoe: { east: 5, west: 5 }, hat: { east: 5 } } });
  await makeSale(shard, { id: 'two' });
  const held = await reserve(shard, [
    { key: 'a', lines: { shoe: 6, hat: 1 } },
    { key: 'b' },
    { key: 'c' },
    { sale: 2, key: 'd' },
  ]);
  const ref = (i: number, key: string, seconds = 0) => [reference(held[i]?.seq ?? 0, { key }, seconds)];
  await shard.call(commitCommand, { references: ref(0, 'a') });
  await shard.call(releaseCommand, { references: ref(1, 'b') });
  await shard.call(extendCommand, { references: ref(2, 'c', 10) });
  await shard.call(readReservationsCommand, { references: ref(2, 'c') });
  await shard.call(adjustCommand, adjustment);
  const none = { sale: 1, id: 'c', sku: 'hat', warehouse: 'east', onHand: 0, reserved: 0, sold: 0 };
  await shard.call(correctCommand, none);
  await shard.call(returnUnitsCommand, {
    ...{ sale: 1, buyer: short('ann'), key: short('a'), seq: held[0]?.seq ?? 0, id: 'r' },
    lines: [{ sku: 'hat', warehouse: 'east', quantity: 1 }],
  });
  await holdTime(shard, now + 20_000);
  await shard.call(expireCommand, { max: 1 });
  await shard.call(expireCommand, { max: 100 });
  await holdTime(shard, now + 4_000_000);
  await shard.call(expireCommand, { max: 100 });
  await runRoom(shard, now + 4_000_000);
  await shard.call(setSaleStateCommand, { sale: 1, state: 2 });
  await shard.call(outboxReadCommand, { after: 0, max: 100 });
  await shard.call(outboxTrimCommand, { acked: 5, keep: 1 });
  await shard.call(listSalesCommand, {});
  await shard.call(readSaleCommand, { id: 'one' });
  await shard.call(snapshotCommand, {});
  await shard.call(shardStatusCommand, {});
  await shard.call(replicateCommand, {});
  await shard.call(openShardCommand, { epoch: 2, expected: 1, outboxEvents: 1_000, rememberMs: 1_000 });

  const of = { token: 'a-rebuild---', no: 1 };
  await shard.call(rebuildBeginCommand, of);
  await shard.call(rebuildReadCommand, { ...of, after: 0, max: 10 });
  await shard.call(rebuildClearCommand, of);
  const stock = [{ sku: 'shoe', warehouse: 'east', onHand: 5, reserved: 1, sold: 1 }];
  await shard.call(rebuildSaleCommand, { ...of, ...saleArgs(), state: 1, stock });
  const one = { key: short('k'), state: 1, seq: 3, expiresAt: now, extended: 0, durability: 2, extensions: 0 };
  await shard.call(rebuildBookCommand, {
    ...of,
    owners: [{ buyer: short('bob'), units: 1 }],
    reservations: [{ ...one, buyer: short('ann'), forgetAt: 0, units: 1, lines: Buffer.alloc(0) }],
  });
  const ids = { id: 'x', buyer: short('ann'), key: short('k'), seq: 3, lines: Buffer.alloc(0) };
  await shard.call(rebuildChangesCommand, { ...of, adjustments: [], returns: [ids] });
  const end = { epoch: 3, seq: 9, at: now, live: 1, outboxEvents: 1_000, rememberMs: 1_000 };
  await shard.call(rebuildFinishCommand, { ...of, ...end });
}

describe('bindings', () => {
  test('are what the generator writes', () => {
    const written = readFileSync(join(import.meta.dirname, 'bindings.ts'), 'utf8');
    const biome = join(import.meta.dirname, '../node_modules/.bin/biome');
    const formatted = spawnSync(biome, ['format', '--stdin-file-path=lua/bindings.ts'], {
      input: generateBindings(),
      encoding: 'utf8',
      cwd: join(import.meta.dirname, '..'),
    });
    expect(formatted.stdout).toBe(written);
  });

  test('every command has one, which says whether it only reads', () => {
    const commands = Object.values(bindings).filter((one) => 'encode' in one);
    expect(commands.map(({ name, readOnly }) => [name, readOnly]).sort()).toEqual(
      library.commands.map(({ name, flags }) => [name, flags.includes('no-writes')]).sort(),
    );
  });

  test('a layout is read with its lists', () => {
    expect(parseLayout('a u8, b { c str8, d[u32] { e f64 } }, f raw16')).toEqual([
      { kind: 'scalar', name: 'a', type: 'u8' },
      {
        kind: 'list',
        name: 'b',
        count: 'u16',
        fields: [
          { kind: 'scalar', name: 'c', type: 'str8' },
          { kind: 'list', name: 'd', count: 'u32', fields: [{ kind: 'scalar', name: 'e', type: 'f64' }] },
        ],
      },
      { kind: 'scalar', name: 'f', type: 'raw16' },
    ]);
    expect(parseLayout('')).toEqual([]);
  });
});

describe('packing', () => {
  test('what was written is read again, over the writer’s first size too', () => {
    const w = new Writer(1);
    w.u8(255);
    w.u16(65_535);
    w.u32(4_294_967_295);
    w.f64(2 ** 53 - 1);
    w.chars('twelve chars', 12);
    w.str8('靴'.repeat(85));
    w.str16('x'.repeat(65_535));
    const r = new Reader(w.done());
    expect([r.u8(), r.u16(), r.u32(), r.f64(), r.chars(12), r.str8(), r.str16().length, r.left]).toEqual([
      255,
      65_535,
      4_294_967_295,
      2 ** 53 - 1,
      'twelve chars',
      '靴'.repeat(85),
      65_535,
      0,
    ]);
  });

  test.each<[string, (w: Writer) => void]>([
    ['a string that is too long', (w) => w.str8('靴'.repeat(86))],
    ['a long string that is too long', (w) => w.str16('x'.repeat(65_536))],
    ['too few characters', (w) => w.chars('short', 12)],
    ['a number that is too large', (w) => w.u16(65_536)],
    ['a number below zero', (w) => w.u32(-1)],
    ['a small number that is too large', (w) => w.u8(256)],
  ])('%s is refused', (_name, write) => {
    expect(() => write(new Writer())).toThrow(RangeError);
  });

  test('reading past the end throws', () => {
    expect(() => new Reader(Buffer.from([5, 65])).str8()).toThrow(RangeError);
    expect(() => new Reader(Buffer.alloc(3)).u32()).toThrow(RangeError);
    expect(() => new Reader(Buffer.alloc(0)).u8()).toThrow(RangeError);
  });
});

test('every key that any command touches carries the shard’s hash tag', async () => {
  const shard = await openTestShard(server);
  const client = new Redis(server.url);
  const monitor = await client.monitor();
  const lines: { source: string; args: string[] }[] = [];
  monitor.on('monitor', (_time: string, args: string[], source: string) => lines.push({ source, args }));
  await runAll(shard);
  const end = 'that was all';
  await server.redis.echo(end);
  await expect.poll(() => lines.some(({ args }) => args[1] === end)).toBe(true);
  monitor.disconnect();
  client.disconnect();
  const inner = lines.filter(({ source }) => source === 'lua').map(({ args }) => args);
  const keyless = new Set(['time']);
  const firstKey = new Set(
    'exists hget hset hsetnx hmget hgetall hlen hdel hvals hrandfield xadd xtrim xrange rpush llen lindex lrange ltrim del unlink sadd srem smembers scard zadd zrem zcard zrank zrange zrangebyscore'.split(
      ' ',
    ),
  );
  const seen = new Set<string>();
  for (const [command = '', ...args] of inner) {
    const name = command.toLowerCase();
    seen.add(name);
    if (keyless.has(name)) continue;
    expect(firstKey, `where the keys of ${name} are`).toContain(name);
    const keys = name === 'del' || name === 'unlink' ? args : args.slice(0, 1);
    for (const key of keys) expect(key.startsWith(shard.prefix), `${name} ${key}`).toBe(true);
  }
  expect(seen.size).toBeGreaterThan(12);
  const outer = lines.filter(({ args }) => /^fcall/i.test(args[0] ?? ''));
  expect(new Set(outer.map(({ args }) => args[1]))).toEqual(
    new Set(library.commands.map(({ name }) => `${name}_${library.hash}`)),
  );
  for (const { args } of outer) expect(args.slice(2, 4)).toEqual(['1', `${shard.prefix}shard`]);
});

describe('functions’ flags', () => {
  test.each(library.commands.filter(({ flags }) => !flags.includes('no-writes')).map(({ name }) => [name]))(
    '%s is no read',
    async (name) => {
      const shard = await openTestShard(server);
      await expect(
        server.redis.call('FCALL_RO', `${name}_${library.hash}`, '1', `${shard.prefix}shard`, ''),
      ).rejects.toThrow(/write/i);
    },
  );

  test('at the memory limit new holds and stock are refused; endings, sweep, trim, pause and reads go through', async () => {
    const shard = await openTestShard(server);
    const now = await holdTime(shard);
    await makeSale(shard);
    await makeSale(shard, { id: 'short', holdMs: 1_000 });
    const held = await reserve(shard, [{ key: 'a' }, { key: 'b' }, { key: 'c' }, { sale: 2, key: 'd' }]);
    const ref = (i: number, key: string, seconds = 0) => ({
      references: [reference(held[i]?.seq ?? 0, { key }, seconds)],
    });
    await holdTime(shard, now + 1_100);
    await server.redis.config('SET', 'maxmemory', '1');
    try {
      const oom = /OOM/;
      await expect(reserve(shard, [{ key: 'e' }])).rejects.toThrow(oom);
      await expect(shard.call(extendCommand, ref(2, 'c', 1))).rejects.toThrow(oom);
      await expect(shard.call(adjustCommand, adjustment)).rejects.toThrow(oom);
      await expect(shard.call(putSaleCommand, saleArgs({ id: 'other' }))).rejects.toThrow(oom);
      const { results: committed } = await shard.call(commitCommand, ref(0, 'a'));
      const { results: released } = await shard.call(releaseCommand, ref(1, 'b'));
      expect([committed[0]?.status, released[0]?.status]).toEqual([0, 0]);
      expect(await shard.call(expireCommand, { max: 10 })).toMatchObject({ expired: 1 });
      expect(await shard.call(outboxTrimCommand, { acked: 3, keep: 0 })).toMatchObject({ acked: 3 });
      expect(statusName((await shard.call(setSaleStateCommand, { sale: 1, state: 2 })).status)).toBe('ok');
      expect(await shard.call(shardStatusCommand, {})).toMatchObject({ live: 1 });
      expect((await shard.call(outboxReadCommand, { after: 3, max: 10 })).entries.length).toBeGreaterThan(0);
    } finally {
      await server.redis.config('SET', 'maxmemory', '0');
    }
  });
});

test('two releases run side by side on one server and one shard', async () => {
  const shard = await openTestShard(server);
  await makeSale(shard);
  const other = 'abcdef012345';
  await server.redis.call('FUNCTION', 'LOAD', library.source.replaceAll(library.hash, other));
  const args = commitCommand.encode(
    { epoch: 1, seen: 0, deadlineMs: Number.MAX_SAFE_INTEGER },
    { references: [reference((await reserve(shard, [{}]))[0]?.seq ?? 0)] },
  );
  const answer = (await server.redis.callBuffer('FCALL', `commit_${other}`, 1, `${shard.prefix}shard`, args)) as Buffer;
  expect(commitCommand.decode(answer).results[0]?.status).toBe(0);
  expect((await reserve(shard, [{}]))[0]?.status).toBe('replay');
});

test('a server that lost the functions is given them again, by many callers at once', async () => {
  const shard = await openTestShard(server);
  await makeSale(shard);
  await server.redis.call('FUNCTION', 'FLUSH');
  const all = await Promise.all(Array.from({ length: 20 }, (_, i) => reserve(shard, [{ buyer: `b${i}` }])));
  expect(all.filter(([result]) => result?.status === 'ok')).toHaveLength(10);
  expect(all.filter(([result]) => result?.status === 'soldOut')).toHaveLength(10);
});

test('a shard touches no other', async () => {
  const [one, two] = [await openTestShard(server), await openTestShard(server)];
  await makeSale(one);
  await makeSale(two);
  await reserve(one, [{ lines: { shoe: 10 } }]);
  expect((await reserve(two, [{ lines: { shoe: 10 } }]))[0]?.status).toBe('ok');
  expect(await shardOn(server, two.number).call(shardStatusCommand, {})).toMatchObject({ seq: 3 });
});
