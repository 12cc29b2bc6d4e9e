/** For fault tests: one sale on one shard, buyers who come without end, and what they may have lost. */
import { Pool } from 'pg';
import { expect } from 'vitest';
import { startTestbed, type Testbed, type TestbedOptions } from '../cli/testbed.ts';
import { runCommand } from '../cli/testbed-command.ts';
import { decodeReservationId } from '../kernel/ids.ts';
import type { RebuildReport } from '../ledger/rebuild.ts';

const supply = 100_000;
const clients = 8;
const wanted = { saleId: 'drop', lines: [{ sku: 'shoe', quantity: 1 }] };

export type Sold = { id: string; token: string; key: string; seq: number };

/** The roles that bring events into the ledger, and rebuild what was lost. */
export const background = ['--roles', 'relay,ledger,sweeper', '--auto-rebuild'];

/** Buyers who reserve one unit each, one after the other, `clients` at a time, until told to stop. */
export function startBuyers(on: Testbed) {
  const sold: Sold[] = [];
  const refused = new Map<string, number>();
  let over = false;
  const buy = async (): Promise<void> => {
    // Whose agent is destroyed is refused without a pause.
    while (!over && !on.agent.destroyed) {
      const session = await on.session().catch(() => null);
      if (session === null) continue;
      const { token } = session;
      const key = 'once';
      const answer = await on.reserve(token, key, wanted).catch(() => null);
      const code = answer?.status === 201 ? '201' : String(answer?.body.code);
      refused.set(code, (refused.get(code) ?? 0) + 1);
      if (answer?.status !== 201) continue;
      const { id } = answer.body;
      sold.push({ id, token, key, seq: decodeReservationId(id)?.seq ?? 0 });
    }
  };
  const all = Promise.all(Array.from({ length: clients }, buy));
  // A test that fails stops the engine under them; one that goes on hears of it by `stop`.
  all.catch(() => undefined);
  return {
    sold,
    refused,
    more: (count: number) => {
      const before = sold.length;
      return expect.poll(() => sold.length, { timeout: 60_000, interval: 10 }).toBeGreaterThan(before + count);
    },
    async stop() {
      over = true;
      await all;
    },
  };
}

export type Buyers = ReturnType<typeof startBuyers>;
export type Selling = Awaited<ReturnType<typeof startSelling>>;

/** The sale `drop` on shard 0, the only one, behind an engine that does nothing but HTTP. */
export async function startSelling(options: Pick<TestbedOptions, 'valkey'> & { durability?: string } = {}) {
  const { durability = 'fsync', ...more } = options;
  const on = await startTestbed({ ...more, env: { SHARDS: '1', LOG_LEVEL: 'silent' }, serve: ['--roles', 'http'] });
  const pool = new Pool({ connectionString: on.services.services.postgres?.url ?? '' });
  const put = await on.putSale('drop', {
    title: 'Drop',
    holdSeconds: 3_600,
    durability,
    stock: [{ sku: 'shoe', warehouse: 'east', quantity: supply }],
  });
  expect(put.status, JSON.stringify(put.body)).toBe(201);
  const reports = async (): Promise<RebuildReport[]> => {
    const { rows } = await pool.query<{ report: RebuildReport }>(
      'select report from ledger.rebuild where finished_at is not null order by epoch',
    );
    return rows.map(({ report }) => report);
  };
  return {
    on,
    pool,
    /** The one rebuild's report, once it has ended. */
    async rebuilt(): Promise<RebuildReport> {
      await expect.poll(reports, { timeout: 60_000, interval: 20 }).toHaveLength(1);
      return (await reports())[0] as RebuildReport;
    },
    async stop() {
      await pool.end();
      await on.stop();
    },
  };
}

/** Something went wrong just now: within a second of it nothing is sold any more, and /readyz says so. */
export async function expectFenced(on: Testbed, sinceMs: number): Promise<void> {
  const fenced = async (): Promise<number> =>
    (await on.request<{ fenced: unknown[] }>('GET', '/readyz')).body.fenced.length;
  await expect.poll(fenced, { timeout: 5_000, interval: 10 }).toBe(1);
  expect(Date.now() - sinceMs).toBeLessThan(1_000);
}

/**
 * Looks for every reservation that a buyer was told of. Those that are gone must be in the report, which covers little more;
 * what is there is answered again; counters and ledger agree. Answers how many are gone.
 */
export async function expectOnlyReportedLosses(on: Testbed, buyers: Buyers, report: RebuildReport): Promise<number> {
  const held = await Promise.all(
    buyers.sold.map(async (one) => {
      const { status } = await on.request('GET', `/v1/reservations/${one.id}`, { token: one.token });
      return { ...one, status };
    }),
  );
  const lost = held.filter(({ status }) => status !== 200);
  const { from, to } = report.lost ?? { from: 0, to: -1 };
  expect(lost.filter(({ seq }) => seq < from || seq > to)).toEqual([]);
  expect(to - from + 1).toBeLessThanOrEqual(lost.length + clients);
  expect(report.silentEngines).toBe(0);
  // Whoever lost a hold may ask again with the same key, and who kept it gets the same answer.
  const [one] = lost;
  if (one) {
    const again = await on.reserve(one.token, one.key, wanted);
    expect(again.status).toBe(201);
    expect(again.headers['idempotency-replayed']).toBeUndefined();
  }
  const kept = held.find(({ status, seq }) => status === 200 && seq < report.seq) as Sold;
  const replay = await on.reserve(kept.token, kept.key, wanted);
  expect(replay).toMatchObject({ status: 201, body: { id: kept.id } });
  expect(replay.headers['idempotency-replayed']).toBe('true');

  const [row] = (await on.sale('drop')).stock;
  // Who got no answer, or `unavailable`, may hold a unit without knowing.
  const unknown = ['unavailable', 'undefined'].reduce((sum, code) => sum + (buyers.refused.get(code) ?? 0), 0);
  const told = held.length - lost.length + (one ? 1 : 0);
  expect(row?.reserved).toBeGreaterThanOrEqual(told);
  expect(row?.reserved).toBeLessThanOrEqual(told + unknown);
  expect((row?.available ?? 0) + (row?.reserved ?? 0)).toBe(supply);
  const reconcile = runCommand(['reconcile', '--json'], on.env);
  expect(await reconcile.ended, reconcile.stdout()).toBe(0);
  for (const code of buyers.refused.keys())
    expect(['201', 'shard-fenced', 'unavailable', 'overloaded', 'undefined']).toContain(code);
  return lost.length;
}
