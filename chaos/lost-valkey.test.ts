/**
 * Valkey loses what it had, in the middle of a sale: it is fenced, rebuilt from the ledger, and the sale goes on. What
 * clients saw lost is in the rebuild's report, and little more is.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { afterEach, expect, it } from 'vitest';
import type { Testbed } from '../cli/testbed.ts';
import { runCommand } from '../cli/testbed-command.ts';
import { copyFiles } from './old-copy.ts';
import {
  background,
  expectFenced,
  expectOnlyReportedLosses,
  type Selling,
  startBuyers,
  startSelling,
} from './selling.ts';

let selling: Selling | undefined;
afterEach(async () => {
  await selling?.stop();
  selling = undefined;
});

type Loss = (on: Testbed, more: (count: number) => Promise<void>) => Promise<void>;
const losses: [string, Loss][] = [
  [
    'its files are gone',
    async (on) => {
      await on.services.kill('valkey', 'SIGKILL');
      rmSync(join(on.services.services.valkey?.dataDir ?? '', 'appendonlydir'), { recursive: true });
      await on.services.startOne('valkey');
    },
  ],
  [
    'FLUSHALL',
    async (on) => {
      const redis = new Redis(on.services.services.valkey?.url ?? '');
      await redis.flushall();
      redis.disconnect();
    },
  ],
  [
    'an old copy is put back, ahead of the ledger and behind what was sold',
    async (on, more) => {
      await on.services.kill('valkey', 'SIGKILL');
      const putBack = copyFiles(on.services.services.valkey?.dataDir ?? '');
      await on.services.startOne('valkey');
      await more(100);
      await on.services.kill('valkey', 'SIGKILL');
      putBack();
      await on.services.startOne('valkey');
    },
  ],
];

it.each(losses)(
  'Valkey loses what it had in mid-sale: %s',
  async (_name, lose) => {
    selling = await startSelling();
    const { on } = selling;
    const first = await on.serve(['--roles', 'relay,ledger']);
    const buyers = startBuyers(on);
    await buyers.more(100);
    await first.stop();
    // From here on the ledger stands still: what is sold now is known to Valkey, and to the engine that sold it.
    await buyers.more(100);
    await lose(on, buyers.more);
    await expectFenced(on, Date.now());
    await on.serve(background);
    const report = await selling.rebuilt();
    await buyers.more(100);
    await buyers.stop();
    expect(await expectOnlyReportedLosses(on, buyers, report)).toBeGreaterThan(90);
  },
  180_000,
);

it('stampede rebuild, told what to do: --json, the exit codes, and what it refuses', async () => {
  selling = await startSelling();
  const { on } = selling;
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
  selling = await startSelling();
  const { on, pool } = selling;
  await on.serve(['--roles', 'relay,ledger']);
  const run = async (...args: string[]) => {
    const command = runCommand(['stops', ...args], on.env);
    return { code: await command.ended, out: command.stdout() + command.stderr() };
  };
  expect(await run()).toMatchObject({ code: 0, out: 'No shard is stopped.\n' });
  await pool.query("update ledger.shard set stopped = 'a test says so'");
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
