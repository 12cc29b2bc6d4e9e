import { afterAll, beforeAll, expect, test } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { shardKey } from '../kernel/ids.ts';
import { rebuildableSale } from '../ledger/testing.ts';
import { commitCommand, readReservationsCommand, releaseCommand } from '../lua/bindings.ts';
import {
  counters,
  reference,
  reserve,
  shardOn,
  short,
  startTestValkey,
  statusName,
  type TestValkey,
  unitsOf,
} from '../lua/testing.ts';
import { createBuilder } from './builder.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(async () => {
  await server.stop();
});

const expiresAt = Date.now() + 3_600_000;
const keyOf = (seq: number): string => `k${seq}`;
/** A hold of one shoe by Ann, as a rebuild gives it. */
const holdOf = (seq: number) => ({
  ...{ buyer: short('ann'), key: short(keyOf(seq)), state: 'held' as const, seq, expiresAt, extendedSeconds: 0 },
  ...{ extensions: 0, durability: 'fsync', forgetAt: 0, units: 1 },
  lines: [{ sku: 'shoe', warehouse: 'east', quantity: 1 }],
});

test('a buyer with more reservations than 16 bits count is built whole: each is found, and ends', async () => {
  // One stands in the buyer's entry; the others are counted in it, and 65,536 of them would count as none.
  const held = 65_537;
  const builder = createBuilder({
    ...{ valkey: server.valkey, shard: 0, token: 'twelve-chars', outboxEvents: 1_000_000, rememberSeconds: 3_600 },
    clock: systemClock,
  });
  await builder.begin();
  await builder.clear();
  const stock = [{ sku: 'shoe', warehouse: 'east', onHand: 70_000, reserved: held, sold: 0 }];
  await builder.sale({
    no: 1,
    id: 'sale',
    settings: rebuildableSale().settings,
    stockDigest: '',
    state: 'open',
    stock,
  });
  for (let first = 1; first <= held; first += 1_000) {
    const count = Math.min(1_000, held - first + 1);
    await builder.book(
      1,
      [],
      Array.from({ length: count }, (_, i) => holdOf(first + i)),
    );
  }
  await builder.finish({ epoch: 1, seq: held, atMs: Date.now(), live: held });

  const shard = shardOn(server, 0);
  expect(await unitsOf(shard, 'ann')).toBe(held);
  const references = [1, 2, 65_535, 65_536, held].map((seq) => reference(seq, { key: keyOf(seq) }));
  const { results } = await shard.call(readReservationsCommand, { references });
  expect(results.map(({ status }) => statusName(status))).toEqual(references.map(() => 'ok'));
  const again = await reserve(shard, [{ key: keyOf(held) }, { key: keyOf(2) }, { key: 'new' }]);
  expect(again.map(({ status, seq }) => [status, seq])).toEqual([
    ['replay', held],
    ['replay', 2],
    ['ok', held + 1],
  ]);
  for (const [command, seq] of [
    [commitCommand, held],
    [releaseCommand, 2],
  ] as const) {
    const ended = await shard.call(command, { references: [reference(seq, { key: keyOf(seq) })] });
    expect(ended.results.map(({ status }) => statusName(status))).toEqual(['ok']);
  }
  expect(await unitsOf(shard, 'ann')).toBe(held);
  expect(await counters(shard)).toEqual({ '1/shoe/east': `69999/${held - 1}/1` });
});

test('another connection than the one it began on: the rebuild ends, rather than go on elsewhere', async () => {
  const builder = createBuilder({
    ...{ valkey: server.valkey, shard: 1, token: 'another-one-', outboxEvents: 1_000_000, rememberSeconds: 3_600 },
    clock: systemClock,
  });
  await builder.begin();
  await builder.clear();
  const link = server.valkey.linkOf(shardKey(1));
  await server.services.stopOne('valkey');
  await server.services.startOne('valkey');
  await expect.poll(() => server.valkey.linkOf(shardKey(1)), { timeout: 20_000 }).toBeGreaterThan(link);
  await expect(builder.finish({ epoch: 1, seq: 0, atMs: Date.now(), live: 0 })).rejects.toThrow(/has changed/);
});
