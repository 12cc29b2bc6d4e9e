/** The primary dies in mid-sale, and a replica is promoted. */
import { Redis } from 'iovalkey';
import { afterEach, expect, it } from 'vitest';
import { request } from '../cli/testbed.ts';
import { runCommand } from '../cli/testbed-command.ts';
import type { RebuildReport } from '../ledger/rebuild.ts';
import {
  background,
  expectFenced,
  expectOnlyReportedLosses,
  type Selling,
  startBuyers,
  startSelling,
} from './selling.ts';

let selling: Selling | undefined;
let replica: Redis | undefined;
afterEach(async () => {
  replica?.disconnect();
  await selling?.stop();
});

async function start(durability: string, { ledger = true } = {}): Promise<Selling> {
  const started = await startSelling({ valkey: 'replica', durability });
  selling = started;
  replica = new Redis(started.on.services.services['valkey-replica']?.url ?? '');
  replica.on('error', () => undefined);
  if (ledger) await started.on.serve(background);
  return started;
}

const promote = () => replica?.replicaof('NO', 'ONE');

it('one that lagged: fenced within a second, rebuilt, and the report covers what buyers lost', async () => {
  const { on, rebuilt } = await start('fsync');
  const buyers = startBuyers(on);
  await buyers.more(100);
  // From here on it lags: the primary sells on, and nobody is told.
  await promote();
  await buyers.more(200);
  await on.services.kill('valkey', 'SIGKILL');
  const killedMs = Date.now();
  const before = buyers.refused.get('201') ?? 0;
  await expectFenced(on, killedMs);
  const told = () => buyers.refused.get('201') ?? 0;
  expect(told() - before).toBeLessThanOrEqual(8);
  const report = await rebuilt();
  await buyers.more(100);
  await buyers.stop();
  await expectOnlyReportedLosses(on, buyers, report);
}, 180_000);

it('one that acknowledged, under `replicated`: nothing is lost that a buyer was told', async () => {
  // No ledger yet: what was told is on the primary's disk and the replica's, and nowhere else.
  const { on, pool, rebuilt } = await start('replicated', { ledger: false });
  const buyers = startBuyers(on);
  const unavailable = (): number => buyers.refused.get('unavailable') ?? 0;
  const moreUnavailable = (count: number) =>
    expect.poll(unavailable, { timeout: 60_000, interval: 10 }).toBeGreaterThan(unavailable() + count);
  await buyers.more(300);
  // Cut off, it lags from here on; so nobody is told of anything any more.
  await promote();
  await moreUnavailable(8);
  const told = buyers.sold.length;
  await on.services.kill('valkey', 'SIGKILL');
  await on.serve(background);
  // Holds that nobody was told of are lost with the primary, and the report says which.
  expect((await rebuilt()).lost).not.toBeNull();
  // The promoted one has no replica of its own yet.
  await moreUnavailable(8);
  await buyers.stop();
  expect(buyers.sold.length).toBe(told);
  const ids = buyers.sold.map(({ seq }) => seq);
  const { rowCount } = await pool.query('select from ledger.reservation where seq = any($1)', [ids]);
  expect(rowCount).toBe(told);
  const reconcile = runCommand(['reconcile', '--json'], on.env);
  expect(await reconcile.ended, reconcile.stdout()).toBe(0);
}, 180_000);

it('a replica promoted while an engine sells on from the old primary, which another can’t reach: sold from one of them', async () => {
  selling = await startSelling({ valkey: 'replica' });
  const { on, pool } = selling;
  replica = new Redis(on.services.services['valkey-replica']?.url ?? '');
  await on.serve(['--roles', 'relay,ledger,sweeper']);
  const buyers = startBuyers(on);
  await buyers.more(50);
  await promote();
  await buyers.more(50);
  const { url } = await on.serve(['--auto-rebuild'], {
    VALKEY_URL: `redis://127.0.0.1:1,${on.services.services['valkey-replica']?.url}`,
  });
  const other = () => request<{ fenced: { reason: string }[] }>(on.agent, url, 'GET', '/readyz');
  await expect
    .poll(async () => (await other()).body.fenced[0]?.reason, { timeout: 20_000 })
    .toMatch(/another engine still/);
  await buyers.more(50);
  // Told to by hand, the rebuild has the engine leave the old primary first.
  const rebuild = runCommand(['rebuild', '--all', '--json'], {
    ...on.env,
    VALKEY_URL: on.services.services['valkey-replica']?.url ?? '',
  });
  expect([0, 1]).toContain(await rebuild.ended);
  await expect.poll(async () => (await other()).status, { timeout: 20_000 }).toBe(200);
  // Nothing is lost for the first engine to rebuild: its shard is sold from elsewhere now.
  const fenced = async () => (await on.request<{ fenced: { lost: boolean }[] }>('GET', '/readyz')).body.fenced;
  await expect.poll(fenced, { timeout: 20_000 }).toMatchObject([{ lost: false }]);
  await buyers.stop();
  // What the ledger had not by then is lost with the old primary, and the report says so.
  const [report] = (JSON.parse(rebuild.stdout()) as { rebuilt: RebuildReport[] }).rebuilt;
  const { rows } = await pool.query<{ seq: string }>('select seq from ledger.reservation');
  const kept = new Set(rows.map(({ seq }) => Number(seq)));
  const { from, to } = report?.lost ?? { from: 0, to: -1 };
  expect(buyers.sold.filter(({ seq }) => !kept.has(seq) && (seq < from || seq > to))).toEqual([]);
}, 180_000);
