/**
 * Valkey loses what it had, in the middle of a sale: it is fenced, rebuilt from the ledger, and the sale goes on. What
 * clients saw lost is in the rebuild's report, and little more is.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { Pool } from 'pg';
import { afterEach, expect, it } from 'vitest';
import { startTestbed, type Testbed } from '../cli/testbed.ts';
import { runCommand } from '../cli/testbed-command.ts';
import { decodeReservationId } from '../kernel/ids.ts';
import type { RebuildReport } from '../ledger/rebuild.ts';

const supply = 100_000;
const clients = 8;
let bed: Testbed | undefined;
let pool: Pool | undefined;
afterEach(async () => {
  await pool?.end();
  await bed?.stop();
  bed = undefined;
});

type Sold = { id: string; token: string; key: string; seq: number };

/** Buyers who reserve one unit each, one after the other, `clients` at a time, until told to stop. */
function startBuyers(on: Testbed) {
  const sold: Sold[] = [];
  const refused = new Map<string, number>();
  let over = false;
  const buy = async (): Promise<void> => {
    while (!over) {
      const { token } = await on.session();
      const key = 'once';
      const answer = await on
        .reserve(token, key, { saleId: 'drop', lines: [{ sku: 'shoe', quantity: 1 }] })
        .catch(() => null);
      const code = answer?.status === 201 ? '201' : String(answer?.body.code);
      refused.set(code, (refused.get(code) ?? 0) + 1);
      if (answer?.status !== 201) continue;
      const { id } = answer.body;
      sold.push({ id, token, key, seq: decodeReservationId(id)?.seq ?? 0 });
    }
  };
  const all = Promise.all(Array.from({ length: clients }, buy));
  return {
    sold,
    refused,
    more: (count: number) => {
      const wanted = sold.length + count;
      return expect.poll(() => sold.length, { timeout: 60_000, interval: 10 }).toBeGreaterThan(wanted);
    },
    async stop() {
      over = true;
      await all;
    },
  };
}

const background = ['--roles', 'relay,ledger,sweeper', '--auto-rebuild'];

async function start(): Promise<Testbed> {
  const started = await startTestbed({ env: { SHARDS: '1', LOG_LEVEL: 'silent' }, serve: ['--roles', 'http'] });
  bed = started;
  pool = new Pool({ connectionString: started.services.services.postgres?.url ?? '' });
  await started.putSale('drop', {
    title: 'Drop',
    holdSeconds: 3_600,
    stock: [{ sku: 'shoe', warehouse: 'east', quantity: supply }],
  });
  return started;
}

const reports = async (): Promise<RebuildReport[]> =>
  (
    await pool?.query<{ report: RebuildReport }>(
      'select report from ledger.rebuild where finished_at is not null order by epoch',
    )
  )?.rows.map(({ report }) => report) ?? [];

const rebuilt = async (): Promise<RebuildReport> => {
  await expect.poll(reports, { timeout: 60_000, interval: 20 }).toHaveLength(1);
  return (await reports())[0] as RebuildReport;
};

const valkeyFolder = (on: Testbed): string => on.services.services.valkey?.dataDir ?? '';

type Loss = (on: Testbed, more: (count: number) => Promise<void>) => Promise<void>;
const losses: [string, Loss][] = [
  [
    'its files are gone',
    async (on) => {
      await on.serve(background);
      await on.services.kill('valkey', 'SIGKILL');
      rmSync(join(valkeyFolder(on), 'appendonlydir'), { recursive: true });
      await on.services.startOne('valkey');
    },
  ],
  [
    'FLUSHALL',
    async (on) => {
      await on.serve(background);
      const redis = new Redis(on.services.services.valkey?.url ?? '');
      await redis.flushall();
      redis.disconnect();
    },
  ],
  [
    'an old copy is put back, ahead of the ledger and behind what was sold',
    async (on, more) => {
      await on.services.kill('valkey', 'SIGKILL');
      const copy = mkdtempSync(join(tmpdir(), 'stampede-old-copy-'));
      cpSync(valkeyFolder(on), copy, { recursive: true });
      await on.services.startOne('valkey');
      await more(100);
      await on.services.kill('valkey', 'SIGKILL');
      rmSync(join(valkeyFolder(on), 'appendonlydir'), { recursive: true });
      cpSync(join(copy, 'appendonlydir'), join(valkeyFolder(on), 'appendonlydir'), { recursive: true });
      rmSync(copy, { recursive: true });
      await on.services.startOne('valkey');
      await on.serve(background);
    },
  ],
];

it.each(losses)(
  'Valkey loses what it had in mid-sale: %s',
  async (_name, lose) => {
    const on = await start();
    const first = await on.serve(['--roles', 'relay,ledger']);
    const buyers = startBuyers(on);
    await buyers.more(100);
    await first.stop();
    // From here on the ledger stands still: what is sold now is known to Valkey, and to the engine that sold it.
    await buyers.more(100);
    await lose(on, buyers.more);
    const report = await rebuilt();
    await buyers.more(100);
    await buyers.stop();

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
      const again = await on.reserve(one.token, one.key, { saleId: 'drop', lines: [{ sku: 'shoe', quantity: 1 }] });
      expect(again.status).toBe(201);
      expect(again.headers['idempotency-replayed']).toBeUndefined();
    }
    const kept = held.find(({ status, seq }) => status === 200 && seq < report.seq) as Sold;
    const replay = await on.reserve(kept.token, kept.key, { saleId: 'drop', lines: [{ sku: 'shoe', quantity: 1 }] });
    expect(replay).toMatchObject({ status: 201, body: { id: kept.id } });
    expect(replay.headers['idempotency-replayed']).toBe('true');

    const sale = await on.sale('drop');
    const [row] = sale.stock;
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
  },
  180_000,
);

it('stampede rebuild, told what to do: --json, the exit codes, and what it refuses', async () => {
  const on = await start();
  const buyers = startBuyers(on);
  await buyers.more(50);
  await buyers.stop();
  const run = async (...args: string[]) => {
    const command = runCommand(['rebuild', ...args], on.env);
    return { code: await command.ended, out: command.stdout(), err: command.stderr() };
  };
  expect((await run()).code).toBe(2);
  expect((await run('--shard', '7')).err).toMatch(/there are 1 shards/);
  // Nothing is lost, although no relay ever ran: the outbox was all there.
  const whole = await run('--all', '--json');
  expect(whole.code, whole.out + whole.err).toBe(0);
  expect(JSON.parse(whole.out)).toMatchObject({
    rebuilt: [{ shard: 0, epoch: 2, lost: null, liveReservations: buyers.sold.length }],
    failed: [],
  });
  await expect.poll(async () => (await on.sale('drop')).stock?.[0]?.reserved).toBe(buyers.sold.length);
  const again = startBuyers(on);
  await again.more(20);
  await again.stop();
  const redis = new Redis(on.services.services.valkey?.url ?? '');
  await redis.flushall();
  redis.disconnect();
  const part = await run('--shard', '0');
  expect(part.code, part.out + part.err).toBe(1);
  expect(part.out).toMatch(/may be lost/);
});

it('stampede stops shows a shard that the ledger has stopped, and goes on with it', async () => {
  const on = await start();
  await on.serve(['--roles', 'relay,ledger']);
  const run = async (...args: string[]) => {
    const command = runCommand(['stops', ...args], on.env);
    return { code: await command.ended, out: command.stdout() + command.stderr() };
  };
  expect(await run()).toMatchObject({ code: 0, out: 'No shard is stopped.\n' });
  await pool?.query("update ledger.shard set stopped = 'a test says so'");
  const buyers = startBuyers(on);
  await buyers.more(5);
  await buyers.stop();
  const shown = await run();
  expect(shown.code).toBe(1);
  expect(shown.out).toMatch(/Shard 0 is stopped at sequence \d+: a test says so\n.*stops --retry 0\n.*--discard/s);
  expect((await run('--json')).out).toMatch(/"reason":"a test says so"/);
  expect(await run('--retry', '0')).toMatchObject({ code: 0, out: 'Shard 0 goes on.\n' });
  const reconcile = runCommand(['reconcile', '--json'], on.env);
  expect(await reconcile.ended, reconcile.stdout()).toBe(0);
});
