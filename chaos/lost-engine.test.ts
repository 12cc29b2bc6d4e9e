/** Engines die in mid-sale. What they told buyers is Valkey's to keep, unless Valkey is put back in time as well. */
import { afterEach, expect, it } from 'vitest';
import { runCommand } from '../cli/testbed-command.ts';
import { copyFiles } from './old-copy.ts';
import { type Selling, type Sold, startBuyers, startSelling } from './selling.ts';

let selling: Selling | undefined;
afterEach(async () => {
  await selling?.stop();
  selling = undefined;
});

const statesOf = (sold: Sold[]): Promise<string[]> =>
  Promise.all(
    sold.map(async ({ id, token }) => {
      const { body } = await (selling as Selling).on.request<{ state: string }>('GET', `/v1/reservations/${id}`, {
        token,
      });
      return body.code ?? body.state;
    }),
  );

it('the only engine, under `memory`: everything that buyers were told is there', async () => {
  selling = await startSelling({ durability: 'memory' });
  const { on } = selling;
  const buyers = startBuyers(on);
  await buyers.more(200);
  expect(await on.restartServe('SIGKILL')).toBe('SIGKILL');
  await buyers.more(50);
  await buyers.stop();
  expect(new Set(await statesOf(buyers.sold))).toEqual(new Set(['held']));
  await on.serve(['--roles', 'relay,ledger']);
  const reconcile = runCommand(['reconcile', '--json'], on.env);
  expect(await reconcile.ended, reconcile.stdout()).toBe(0);
}, 120_000);

/** The limit of the fence, as docs/reference/guarantees.md says it: should this fail, the promise has grown. */
it('all engines, and an old copy of Valkey’s files put back: what nobody alive has seen is lost unnoticed', async () => {
  selling = await startSelling();
  const { on } = selling;
  const first = startBuyers(on);
  await first.more(50);
  await first.stop();
  await on.services.stopOne('valkey');
  const putBack = copyFiles(on.services.services.valkey?.dataDir ?? '');
  await on.services.startOne('valkey');
  await expect.poll(async () => (await on.request('GET', '/readyz')).status, { timeout: 20_000 }).toBe(200);
  // No report of what the engine sees now can reach Postgres, as in the last second before an end.
  await on.services.kill('postgres', 'SIGKILL');
  const last = startBuyers(on);
  await last.more(50);
  await last.stop();
  await on.restartServe('SIGKILL', async () => {
    await on.services.kill('valkey', 'SIGKILL');
    putBack();
    await Promise.all([on.services.startOne('valkey'), on.services.startOne('postgres')]);
  });
  const fenced = async () => (await on.request<{ fenced: unknown[] }>('GET', '/readyz')).body.fenced;
  await expect.poll(fenced, { timeout: 20_000 }).toEqual([]);
  expect(new Set(await statesOf(first.sold))).toEqual(new Set(['held']));
  expect(new Set(await statesOf(last.sold))).toEqual(new Set(['not-found']));
}, 120_000);
