/**
 * Stock in Postgres, as textbooks do it; `node bench/peers/postgres.ts PORT MANNER`, DATABASE_URL names an empty database.
 *
 * - `row-lock`: `SELECT … FOR UPDATE`, decrement, insert, commit.
 * - `optimistic`: read, then decrement where the version is still the same; else back off and try again.
 * - `as-printed`: read, compare, decrement what was read, without a lock: it oversells, and says by how much.
 *
 * A pool of 20; `synchronous_commit` as Postgres has it: on disk before each answer.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool, type PoolClient } from 'pg';
import { atEnd, type Order, type Outcome, serveFront } from './front.ts';

const poolSize = 20;
const attemptsMax = 200;
const backOffMs = { first: 1, most: 64 };
const stock = Number(process.env.BENCH_STOCK ?? 1_000_000_000);

type Manner = (client: PoolClient, order: Order, sku: string, quantity: number) => Promise<Outcome>;

const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: poolSize });
await pool.query(`create table if not exists stock (sku text primary key, available bigint not null, version bigint not null default 0);
  create table if not exists reservation (
    id bigint generated always as identity primary key, sku text not null, quantity int not null, buyer text not null,
    key text not null, expires_at timestamptz not null, unique (buyer, key));
  truncate stock, reservation`);
await pool.query('insert into stock (sku, available) values ($1, $2)', ['hot', stock]);

const insert = (client: PoolClient, { buyer, key }: Order, sku: string, quantity: number) =>
  client.query({
    name: 'insert',
    text: "insert into reservation (sku, quantity, buyer, key, expires_at) values ($1, $2, $3, $4, now() + interval '10 minutes')",
    values: [sku, quantity, buyer, key],
  });

async function inTransaction(client: PoolClient, work: () => Promise<Outcome>): Promise<Outcome> {
  await client.query('begin');
  try {
    const outcome = await work();
    await client.query(outcome === 'held' ? 'commit' : 'rollback');
    return outcome;
  } catch (error) {
    await client.query('rollback');
    throw error;
  }
}

const manners: Record<string, Manner> = {
  'row-lock': (client, order, sku, quantity) =>
    inTransaction(client, async () => {
      const { rows } = await client.query<{ available: string }>({
        name: 'lock',
        text: 'select available from stock where sku = $1 for update',
        values: [sku],
      });
      if (Number(rows[0]?.available ?? 0) < quantity) return 'sold-out';
      await client.query({
        name: 'take',
        text: 'update stock set available = available - $2 where sku = $1',
        values: [sku, quantity],
      });
      await insert(client, order, sku, quantity);
      return 'held';
    }),
  async optimistic(client, order, sku, quantity) {
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      const { rows } = await client.query<{ available: string; version: string }>({
        name: 'look',
        text: 'select available, version from stock where sku = $1',
        values: [sku],
      });
      if (Number(rows[0]?.available ?? 0) < quantity) return 'sold-out';
      const outcome = await inTransaction(client, async () => {
        const { rowCount } = await client.query({
          name: 'compare',
          text: 'update stock set available = available - $2, version = version + 1 where sku = $1 and version = $3',
          values: [sku, quantity, rows[0]?.version],
        });
        if (rowCount === 0) return 'failed';
        await insert(client, order, sku, quantity);
        return 'held';
      });
      if (outcome !== 'failed') return outcome;
      await sleep(Math.random() * Math.min(backOffMs.most, backOffMs.first * 2 ** attempt));
    }
    return 'failed';
  },
  async 'as-printed'(client, order, sku, quantity) {
    const { rows } = await client.query<{ available: string }>({
      name: 'read',
      text: 'select available from stock where sku = $1',
      values: [sku],
    });
    const available = Number(rows[0]?.available ?? 0);
    if (available < quantity) return 'sold-out';
    await client.query({
      name: 'write',
      text: 'update stock set available = $2 where sku = $1',
      values: [sku, available - quantity],
    });
    await insert(client, order, sku, quantity);
    return 'held';
  },
};

const name = process.argv[3] ?? '';
const manner = manners[name];
if (!manner) throw new Error(`the manner is one of ${Object.keys(manners).join(', ')}`);

async function decide(order: Order): Promise<Outcome> {
  const client = await pool.connect();
  try {
    const [line] = order.lines;
    return line ? await (manner as Manner)(client, order, line.sku, line.quantity) : 'failed';
  } catch {
    return 'failed';
  } finally {
    client.release();
  }
}

serveFront((order, answer) => {
  void decide(order).then(answer);
});
atEnd(async () => {
  const { rows } = await pool.query<{ held: string }>('select coalesce(sum(quantity), 0) as held from reservation');
  await pool.end();
  return { held: Number(rows[0]?.held ?? 0), stock };
});
