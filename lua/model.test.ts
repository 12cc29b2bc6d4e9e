/**
 * The functions beside a plain model of a shard: random commands, the same answers and the same counters after each.
 * STAMPEDE_MODEL_RUNS sets how many sequences are tried, STAMPEDE_MODEL_COMMANDS how many commands at least (npm run model).
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createOutbox } from '../engine/outbox.ts';
import type { Shards } from '../engine/shards.ts';
import { decodeReservationId } from '../kernel/ids.ts';
import type { Batch } from '../ledger/events.ts';
import { rowsOf } from '../ledger/rows.ts';
import { shardStatusCommand, snapshotCommand } from './bindings.ts';
import { agree, commandStep, framed, type Run } from './model-steps.ts';
import { outboxEvents, rememberMs, ShardModel } from './shard-model.ts';
import {
  holdTime,
  makeSale,
  openTestShard,
  type SaleOptions,
  type Stock,
  short,
  startTestValkey,
  type TestValkey,
} from './testing.ts';

const runs = Number(process.env.STAMPEDE_MODEL_RUNS ?? 120);
const wantedCommands = Number(process.env.STAMPEDE_MODEL_COMMANDS ?? 0);
if (!Number.isInteger(wantedCommands) || wantedCommands < 0)
  throw new Error('STAMPEDE_MODEL_COMMANDS: give a whole number of commands');
// Long runs look further each time.
const seed = Number(process.env.STAMPEDE_MODEL_SEED ?? (wantedCommands > 0 ? Math.floor(Math.random() * 2 ** 31) : 1));
const path = process.env.STAMPEDE_MODEL_PATH ?? '';
async function compare({ model, shard }: Run): Promise<void> {
  const [snapshot, ...books] = await Promise.all([
    shard.call(snapshotCommand, {}),
    ...[...model.sales].map(async ([no, sale]) => {
      const book = await shard.redis.hgetallBuffer(`${shard.prefix}book:${no}`);
      return { no, sale, book };
    }),
  ]);
  const found: Record<string, string> = {};
  for (const { no, stock } of snapshot.sales)
    for (const { sku, warehouse, onHand, reserved, sold } of stock) {
      found[`${no}/${sku}/${warehouse}`] = `${onHand}/${reserved}/${sold}`;
      // Never oversold: every unit of the supply is available, reserved or sold; none of them below zero.
      agree(onHand - reserved >= 0, true, 'available');
      agree(onHand + sold, model.sales.get(no)?.supply.get(`${sku}/${warehouse}`), 'the supply');
    }
  agree(found, model.counters(), 'counters');
  agree([snapshot.seq, snapshot.live, snapshot.now], [model.seq, model.live(), model.now], 'sequence, holds, time');
  for (const { no, sale, book } of books) {
    const entries = Object.entries(book).filter(([field]) => field.length === 12);
    const owners = entries.map(([buyer, entry]) => [buyer, entry.readUIntLE(0, 6), entry.readUIntLE(6, 6)] as const);
    agree(
      Object.fromEntries(owners.filter(([, units]) => units > 0).map(([buyer, ...units]) => [buyer, units])),
      Object.fromEntries(
        [...sale.units]
          .filter(([, owned]) => owned > 0)
          .map(([buyer, owned]) => [short(buyer), [owned, sale.bought.get(buyer) ?? 0]]),
      ),
      'buyers’ units',
    );
    const [own, others] = [entries.filter(([, entry]) => entry.length > 16), Object.keys(book).length - entries.length];
    agree(own.length + others, sale.book.size, 'reservations remembered');
    const said = entries.reduce((sum, [, entry]) => sum + entry.readUInt32LE(12), 0);
    agree(said, others, 'as many as buyers’ entries say');
    const empty = entries.filter(([, entry]) => entry.readUIntLE(0, 6) + entry.readUInt32LE(12) + entry.length <= 16);
    agree(empty.length, 0, 'entries of buyers who have nothing');
    // The first sale's rules never change.
    if (no === 1) agree(Math.max(0, ...sale.units.values()) <= 6, true, 'the limit per buyer');
  }
}

/** The ledger's balances, out of the outbox alone, must be the shard's counters. */
async function replay({ model, shard }: Run): Promise<void> {
  const call: Shards['call'] = (_number, command, args) => shard.call(command, args);
  const { batches } = await createOutbox({ call } as Shards).read(shard.number, 0, 10_000);
  const rows = rowsOf(batches as Batch[], decodeReservationId);
  const balances = rows.balances.filter(({ supply, sold, reserved }) => supply !== 0 || sold !== 0 || reserved !== 0);
  const replayed = Object.fromEntries(
    balances.map((b) => [`${b.sale}/${b.sku}/${b.warehouse}`, `${b.available + b.reserved}/${b.reserved}/${b.sold}`]),
  );
  const live = Object.entries(model.counters()).filter(([, text]) => text !== '0/0/0');
  expect(replayed).toEqual(Object.fromEntries(live));
  expect(balances.every((b) => b.supply === b.available + b.reserved + b.sold)).toBe(true);
  expect(rows.reservations.filter(({ state }) => state === 'held')).toHaveLength(model.live());
}

const sales: { options: SaleOptions & { stock: Stock } }[] = [
  {
    options: {
      ...{ id: 'one', perBuyer: 6, holdMs: 2_000, extensions: 1, extendMs: 2_000 },
      stock: { shoe: { east: 3, west: 4 }, hat: { west: 2, east: 2, north: 1 }, scarf: { east: 8 } },
    },
  },
  {
    options: {
      ...{ id: 'two', perBuyer: 0, holdMs: 1_000, extensions: 2, extendMs: 3_000 },
      stock: { shoe: { east: 6 }, hat: { north: 0, east: 3 }, scarf: { west: 1, east: 1, north: 1 } },
    },
  },
];

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey({ appendfsync: 'everysec' });
});
afterAll(async () => {
  await server.stop();
});

/** Sequences that go on beside one another, each on a shard of its own. */
const lanes = path === '' ? 4 : 1;

/** The shard `number`, empty but for the two sales, and its model. */
async function beginOn(number: number): Promise<Run> {
  const old = await server.redis.keys(`{s${number}}:*`);
  if (old.length > 0) await server.redis.unlink(old);
  const shard = await openTestShard(server, { rememberMs, outboxEvents }, number);
  const model = new ShardModel();
  await holdTime(shard, model.now);
  for (const { options } of sales) {
    await makeSale(shard, options);
    model.putSale(options);
  }
  return { model, shard, made: [], returned: new Map() };
}

test('any sequence of commands answers and counts as the model does', { timeout: 24 * 3_600_000 }, async () => {
  const counts = { commands: 0, requests: 0 };
  const kinds = new Map<string, number>();
  let saidMs = performance.now();
  const propertyOn = (number: number) =>
    fc.asyncProperty(fc.array(commandStep, { minLength: 1, maxLength: 80, size: 'max' }), async (steps) => {
      const run = await beginOn(number);
      const { model, shard } = run;
      let seen = model.seq;
      // The narrowest frame that is right: taken at its deadline, from who has seen all.
      const acting = { ...run, shard: framed(shard, () => ({ seen, deadlineMs: model.now })) };
      for (const one of steps) {
        seen = model.seq;
        await one.run(acting);
        await compare(run);
        counts.commands++;
        counts.requests += one.requests;
        const kind = one.text.replace(/^\d+ ms/, 'time').split(' ')[0] ?? '';
        kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      }
      await replay(run);
      const { seq } = await shard.call(shardStatusCommand, {});
      expect(seq).toBe(model.seq);
      if (performance.now() - saidMs > 10_000) {
        saidMs = performance.now();
        process.stderr.write(`${counts.commands} commands, ${counts.requests} requests in them\n`);
      }
    });
  // A failing run prints its seed and path: the same again with STAMPEDE_MODEL_SEED and STAMPEDE_MODEL_PATH.
  const lane = async (number: number): Promise<void> => {
    for (let turn = 0; turn === 0 || counts.commands < wantedCommands; turn++) {
      const parameters = { numRuns: Math.ceil(runs / lanes), seed: seed + turn * lanes + number };
      await fc.assert(propertyOn(number), path === '' ? parameters : { ...parameters, path });
    }
  };
  await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)));
  const listed = [...kinds].map(([name, count]) => `${name} ${count}`).join(', ');
  process.stderr.write(`${counts.commands} commands, ${counts.requests} requests in them, seed ${seed}: ${listed}\n`);
  if (path !== '') return;
  expect(kinds.size).toBeGreaterThanOrEqual(10);
  expect(counts.commands).toBeGreaterThan(runs * 10);
});
