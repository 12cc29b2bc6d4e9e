/** A rebuild reads the ledger in pages: what lies across a page's end is built as whole as the rest. */
import type { Pool } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Valkey } from '../engine/valkey.ts';
import { adjustCommand, commitCommand, readReservationsCommand, shardStatusCommand } from '../lua/bindings.ts';
import { connectReady, counters, makeSale, reference, reserve, unitsOf, type Wish } from '../lua/testing.ts';
import type { ServiceSet } from '../services/services.ts';
import { pageRows } from './rebuild-content.ts';
import {
  createLedger,
  level,
  openTestEngine,
  rebuildableSale,
  rebuildsOn,
  redisOf,
  startTestServices,
  stopTestServices,
  type TestEngine,
} from './testing.ts';

let services: ServiceSet;
let pool: Pool;
let valkey: Valkey;
let engine: TestEngine;
beforeAll(async () => {
  services = await startTestServices(['valkey', 'postgres']);
  pool = await createLedger(services, []);
  valkey = await connectReady(String(services.services.valkey?.url));
  engine = await openTestEngine(services, pool);
});
afterAll(async () => {
  await engine.close();
  await valkey.close();
  await stopTestServices(services, pool);
});

const saleOf = (id: string) => ({ ...rebuildableSale(id), stock: { shoe: { east: 100_000 } } });

/** Reserves in calls of 500; answers the sequence of each. */
async function reserveAll(wishes: Wish[]): Promise<number[]> {
  const seqs: number[] = [];
  for (let i = 0; i < wishes.length; i += 500)
    for (const { status, seq } of await reserve(engine.shard(0), wishes.slice(i, i + 500))) {
      expect(status).toBe('ok');
      seqs.push(seq);
    }
  return seqs;
}

async function commitAll(wishes: Wish[], seqs: number[]): Promise<void> {
  for (let i = 0; i < wishes.length; i += 500) {
    const references = wishes.slice(i, i + 500).map((wish, j) => reference(seqs[i + j] ?? 0, wish));
    await engine.shard(0).call(commitCommand, { references });
  }
}

test('more buyers, reservations and stock changes than a page, some of one buyer on both sides of its end', async () => {
  let shard = engine.shard(0);
  await makeSale(shard, saleOf('sale'));
  await makeSale(shard, saleOf('other'));
  // Forgotten: each buyer bought in both sales; Rita often, so that she isn't one row of what is added up.
  const bought: Wish[] = Array.from({ length: pageRows + 200 }, (_, i) => [
    { buyer: `b${i}`, sale: 1, key: 'old', lines: { shoe: 1 + (i % 3) } },
    { buyer: i % 4 === 0 ? 'rita' : `b${i}`, sale: 2, key: `old${i}` },
  ]).flat();
  await commitAll(bought, await reserveAll(bought));
  await level(engine, pool);
  await pool.query("update ledger.reservation set ended_at = ended_at - interval '2 h' where state = 'committed'");
  // Remembered: the first page's last row and the next one's first are Rita's, of two sales.
  const remembered: Wish[] = Array.from({ length: 2 * pageRows + 100 }, (_, i) =>
    Math.abs(i - pageRows) < 20
      ? { buyer: 'rita', key: `r${i}`, sale: 1 + (i % 2), lines: { shoe: 2 } }
      : { buyer: `b${i % 1_100}`, key: `r${i}`, sale: 1 + (i % 2) },
  );
  const seqs = await reserveAll(remembered);
  const paid = remembered.map((wish, i) => ({ wish, seq: seqs[i] ?? 0 })).filter((_, i) => i % 3 === 0);
  await commitAll(
    paid.map(({ wish }) => wish),
    paid.map(({ seq }) => seq),
  );
  const adjustments = Array.from({ length: pageRows + 5 }, (_, i) => ({
    ...{ sale: 1 + (i % 2), id: `count-${i}`, sku: 'shoe', warehouse: 'east', delta: 1, reason: 'counted', open: 0 },
  }));
  const adjustAll = async () =>
    new Set((await Promise.all(adjustments.map((one) => shard.call(adjustCommand, one)))).map(({ status }) => status));
  expect([...(await adjustAll())]).toEqual([0]);
  await level(engine, pool);
  const { rows } = await pool.query<{ buyer: string }>(
    `select buyer from ledger.reservation where state = 'held' or ended_at > now() - interval '1 h'
      order by seq offset $1 limit 2`,
    [pageRows - 1],
  );
  expect(rows.map(({ buyer }) => buyer.replaceAll('_', ''))).toEqual(['rita', 'rita']);

  const buyers = [...new Set([...bought, ...remembered].map(({ buyer = '' }) => buyer))];
  const known = async () => ({
    counters: await counters(shard),
    units: await Promise.all(buyers.flatMap((buyer) => [unitsOf(shard, buyer, 1), unitsOf(shard, buyer, 2)])),
    live: (await shard.call(shardStatusCommand, {})).live,
  });
  const before = await known();
  await engine.close();
  await redisOf(services).flushall();
  const { rebuild } = rebuildsOn(pool, valkey);
  expect(await rebuild()).toMatchObject({
    ...{ lost: null, sales: 2, liveReservations: remembered.length - paid.length },
    rememberedReservations: paid.length,
  });
  engine = await openTestEngine(services, pool);
  shard = engine.shard(0);
  expect(await known()).toEqual(before);
  for (let i = 0; i < remembered.length; i += 500) {
    const references = remembered.slice(i, i + 500).map((wish, j) => reference(seqs[i + j] ?? 0, wish));
    const { results } = await shard.call(readReservationsCommand, { references });
    expect(results.map(({ status, state }) => [status, state])).toEqual(
      references.map((_, j) => [0, (i + j) % 3 === 0 ? 2 : 1]),
    );
  }
  expect([...(await adjustAll())]).toEqual([1]);
});
