/** The primary dies in mid-sale, and a replica is promoted. */
import { Redis } from 'iovalkey';
import { afterEach, expect, it } from 'vitest';
import { runCommand } from '../cli/testbed-command.ts';
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
  const before = buyers.refused.get('201') ?? 0;
  await on.services.kill('valkey', 'SIGKILL');
  const killedMs = Date.now();
  await expectFenced(on, killedMs);
  expect((buyers.refused.get('201') ?? 0) - before).toBeLessThan(50);
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
