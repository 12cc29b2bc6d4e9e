/** Shards on a cluster: one node that hangs is no matter of the others. */
import type { Pool } from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { systemClock } from '../kernel/clock.ts';
import { createAuthority, engineSilenceMs } from '../ledger/authority.ts';
import { createLedger, silent, startTestServices, stopTestServices } from '../ledger/testing.ts';
import { type ServiceSet, valkeyLayouts, valkeyUrlOf } from '../services/services.ts';
import { openShards, type Shards } from './shards.ts';
import { connectValkey } from './valkey.ts';

let services: ServiceSet;
let pool: Pool;
let shards: Shards;
beforeAll(async () => {
  services = await startTestServices([...valkeyLayouts.cluster, 'postgres']);
  pool = await createLedger(services, []);
  shards = await openShards({
    valkey: connectValkey((valkeyUrlOf(services.services) ?? '').split(','), () => undefined),
    authority: createAuthority(pool),
    ...{ count: 8, outboxEvents: 1_000_000, rememberSeconds: 3_600, clock: systemClock, logger: silent },
  });
});
afterAll(async () => {
  await shards?.close();
  await stopTestServices(services, pool);
});

it('a node that hangs: its shards close, and the engine goes on to report what it sees of the others', async () => {
  expect(shards.fenced()).toEqual([]);
  await services.kill('valkey-3', 'SIGSTOP');
  let silentMs = 0;
  const sinceLast = async (): Promise<number> => {
    const { rows } = await pool.query<{ ms: number }>(
      'select extract(epoch from clock_timestamp() - max(at))::float8 * 1000 as ms from ledger.sighting',
    );
    return rows[0]?.ms ?? 0;
  };
  const closed = async (): Promise<number> => {
    silentMs = Math.max(silentMs, await sinceLast());
    return shards.fenced().length;
  };
  await expect.poll(closed, { timeout: 30_000, interval: 50 }).toBeGreaterThan(0);
  const fenced = shards.fenced();
  expect(fenced.length).toBeLessThan(8);
  expect(shards.sellable()).toBe(true);
  expect(silentMs).toBeLessThan(engineSilenceMs);
  await services.kill('valkey-3', 'SIGCONT');
  await expect.poll(() => shards.fenced(), { timeout: 30_000, interval: 50 }).toEqual([]);
});
