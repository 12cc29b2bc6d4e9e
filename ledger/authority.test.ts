import type { Pool } from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { SetupError } from '../kernel/errors.ts';
import type { ServiceSet } from '../services/services.ts';
import { checkShardCount, createAuthority, writeAudit } from './authority.ts';
import { migrate, readMigrations } from './migrate.ts';
import { createPool } from './pool.ts';
import { createLedgerStore } from './postgres.ts';
import { createDatabase, createLedger, emptyLedger, silent, startTestServices, stopTestServices } from './testing.ts';

let services: ServiceSet;
let pool: Pool;
beforeAll(async () => {
  services = await startTestServices(['postgres']);
  pool = await createLedger(services, []);
});
afterAll(async () => {
  await stopTestServices(services, pool);
});
beforeEach(async () => {
  await emptyLedger(pool, []);
});

describe('epochs', () => {
  test.each([[0], [1]])('of 20 callers at once that grant what follows %i exactly one wins', async (from) => {
    const authority = createAuthority(pool);
    if (from === 1) await authority.grant(0, 0, 'first', 0);
    const grants = await Promise.all(Array.from({ length: 20 }, (_, i) => authority.grant(0, from, `run-${i}`, 7)));
    expect(grants.filter(Boolean)).toHaveLength(1);
    expect(await authority.current(0)).toEqual({
      epoch: from + 1,
      runId: `run-${grants.indexOf(true)}`,
      opened: false,
      watermark: 0,
      rebuilding: false,
      closedEpoch: 0,
    });
  });

  test('are granted one after the other, each shard by itself', async () => {
    const authority = createAuthority(pool);
    expect(await authority.current(0)).toBeNull();
    expect(await authority.grant(0, 1, 'a', 5)).toBe(false);
    expect(await authority.grant(0, 0, 'a', 0)).toBe(true);
    expect(await authority.grant(0, 0, 'b', 0)).toBe(false);
    expect(await authority.grant(0, 2, 'b', 5)).toBe(false);
    expect(await authority.grant(0, 1, 'b', 5)).toBe(true);
    await authority.markOpened(0);
    expect(await authority.current(0)).toMatchObject({ epoch: 2, runId: 'b', opened: true, watermark: 0 });
    expect(await authority.current(1)).toBeNull();
  });

  test('a history is the shard’s up to where a later epoch began that did begin', async () => {
    const authority = createAuthority(pool);
    for (const [from, seq] of [0, 7, 9].entries()) await authority.grant(0, from, `run-${from}`, seq);
    const until = () => Promise.all([1, 2, 3].map((epoch) => authority.sharedUntil(0, epoch)));
    expect(await until()).toEqual([Infinity, Infinity, Infinity]);
    await authority.report('an engine', 'run-1', [{ shard: 0, epoch: 2, seq: 8, open: true }], 1);
    expect(await until()).toEqual([7, Infinity, Infinity]);
    await pool.query("insert into ledger.batch values (0, 10, 10, 3, now(), '')");
    expect(await until()).toEqual([7, 9, Infinity]);
  });

  test('what an engine saw of an epoch beyond its end is noted as lost, unless a rebuild has said so', async () => {
    const authority = createAuthority(pool);
    const store = createLedgerStore(pool);
    const noted = async () =>
      (await pool.query('select epoch, engine, seq_first::int, seq_last::int from ledger.loss order by epoch, engine'))
        .rows;
    for (const [from, seq] of [0, 7].entries()) await authority.grant(0, from, `run-${from}`, seq);
    expect(await authority.noteEnd('too early to say', 0, 1, 9)).toBeNull();
    await authority.report('another', 'run-1', [{ shard: 0, epoch: 2, seq: 8, open: true }], 1);
    expect(await authority.noteEnd('all of it is there', 0, 1, 7)).toBeNull();
    expect(await authority.noteEnd('slow', 0, 1, 9)).toEqual({ from: 8, to: 9 });
    expect(await authority.noteEnd('slow', 0, 1, 9)).toEqual({ from: 8, to: 9 });
    expect(await noted()).toEqual([{ epoch: 1, engine: 'slow', seq_first: 8, seq_last: 9 }]);
    // A rebuild closes epoch 2 at 0, where the ledger is, and reports up to 12.
    await store.transaction(0, (on) => on.beginRebuild('token'));
    await store.closeEpoch(0, { token: 'token', runId: 'run-2', discard: false, most: 12, silentEngines: 1 });
    expect(await authority.noteEnd('reported', 0, 2, 12)).toBeNull();
    expect(await authority.noteEnd('frozen', 0, 2, 14)).toEqual({ from: 13, to: 14 });
    expect(await authority.noteEnd('of the new one', 0, 3, 14)).toBeNull();
    expect((await noted()).map(({ engine }) => engine)).toEqual(['slow', 'frozen']);
  });
});

describe('sightings', () => {
  /** Shard 0 at epoch 3, of which epoch 1 was closed at 10; the ledger is at 20. */
  async function shardAt20(): Promise<ReturnType<typeof createAuthority>> {
    const authority = createAuthority(pool);
    await authority.grant(0, 0, 'run', 0);
    await pool.query('update ledger.shard set epoch = 3, closed_epoch = 1, closed_seq = 10, watermark = 20');
    return authority;
  }
  const seenBy = async () =>
    (await pool.query<{ engine: string }>('select engine from ledger.sighting order by engine')).rows.map(
      ({ engine }) => engine,
    );

  test('an old one is dropped only when it proves nothing any more', async () => {
    const authority = await shardAt20();
    const at = { shard: 0, open: false };
    await authority.report('of a closed epoch', 'run', [{ ...at, epoch: 1, seq: 99 }], 2);
    await authority.report('known to the ledger', 'run', [{ ...at, epoch: 2, seq: 20 }], 3);
    await authority.report('beyond the ledger', 'run', [{ ...at, epoch: 2, seq: 21 }], 4);
    await authority.report('of the epoch that is sold from', 'run', [{ ...at, epoch: 3, seq: 22 }], 5);
    await authority.report('of a shard that is gone', 'run', [{ ...at, shard: 9, epoch: 1, seq: 1 }], 6);
    const all = await seenBy();
    const young = { ...at, epoch: 1, seq: 1 };
    await pool.query("update ledger.sighting set at = now() - interval '23 h'");
    await authority.report('another', 'run', [young], 7);
    expect(await seenBy()).toEqual(['another', ...all]);

    await pool.query("update ledger.sighting set at = now() - interval '25 h' where engine <> 'another'");
    await authority.report('another', 'run', [young], 8);
    expect(await seenBy()).toEqual([
      'another',
      'beyond the ledger',
      'of a shard that is gone',
      'of the epoch that is sold from',
    ]);
    expect(await authority.sightings(0, 1, 'run', 4_000)).toEqual({ seq: 22, awaited: 0 });
  });

  test('a report that comes late changes nothing: a newer one of the same engine is noted', async () => {
    const authority = await shardAt20();
    const at = { shard: 0, epoch: 3, open: true };
    await authority.report('an engine', 'old run', [{ ...at, seq: 25, open: false }], 7);
    await authority.report('an engine', 'old run', [{ ...at, seq: 24 }], 6);
    expect(await authority.sightings(0, 1, 'run', 4_000)).toEqual({ seq: 25, awaited: 0 });
  });

  test('only those of epochs after the closed one count, and only living engines on other runs are waited for', async () => {
    const authority = await shardAt20();
    const at = { shard: 0, epoch: 2, seq: 15, open: true };
    await authority.report('of a closed epoch', 'old run', [{ ...at, epoch: 1, seq: 99, open: false }], 9);
    await authority.report('on this run', 'run', [at], 10);
    expect(await authority.sightings(0, 1, 'run', 4_000)).toEqual({ seq: 15, awaited: 0 });
    await authority.report('on another run', 'old run', [{ ...at, seq: 17 }], 11);
    expect(await authority.sightings(0, 1, 'run', 4_000)).toEqual({ seq: 17, awaited: 1 });
    await pool.query("update ledger.sighting set at = now() - interval '5 s' where engine = 'on another run'");
    // Postgres may have been away, and nobody could report.
    expect(await authority.sightings(0, 1, 'run', 3_999)).toEqual({ seq: 17, awaited: 1 });
    expect(await authority.sightings(0, 1, 'run', 4_000)).toEqual({ seq: 17, awaited: 0 });
    await authority.report('on another run', 'old run', [{ ...at, seq: 18, open: false }], 12);
    expect(await authority.sightings(0, 1, 'run', 4_000)).toEqual({ seq: 18, awaited: 0 });
    expect(await authority.sightings(0, 2, 'run', 4_000)).toEqual({ seq: 0, awaited: 0 });
  });
});

test('the number of shards is fixed by the first who asks, of ten at once', async () => {
  const outcomes = await Promise.allSettled(Array.from({ length: 10 }, (_, i) => checkShardCount(pool, 1 + (i % 2))));
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected');
  expect(failed).toHaveLength(5);
  for (const { reason } of failed) {
    expect(reason).toBeInstanceOf(SetupError);
    expect(reason.message).toMatch(/^SHARDS=\d, but this ledger was begun with \d: set SHARDS=\d$/);
  }
});

test('operators’ calls are written down', async () => {
  await writeAudit(pool, { action: 'pause', saleId: 'sale', requestId: 'r', address: '127.0.0.1' });
  const { rows } = await pool.query('select action, sale_id, request_id, address from ledger.audit');
  expect(rows).toEqual([{ action: 'pause', sale_id: 'sale', request_id: 'r', address: '127.0.0.1' }]);
});

describe('migrations', () => {
  const names = readMigrations().map(({ name }) => name);

  test('are applied once, also by five processes at once', async () => {
    const pools = await createDatabase(services).then((url) =>
      Array.from({ length: 5 }, () => createPool(url, silent)),
    );
    const [first] = pools;
    if (!first) throw new Error('no pool');
    try {
      const applied = await Promise.all(pools.map((one) => migrate(one)));
      expect(applied.flat()).toEqual(names);
      expect(await migrate(first)).toEqual([]);
      const { rows } = await first.query('select name from ledger.migration order by name');
      expect(rows.map(({ name }) => name)).toEqual(names);
    } finally {
      await Promise.all(pools.map((one) => one.end()));
    }
  });

  test('an edited one is refused in one clear line, and the lock is let go', async () => {
    const one = createPool(await createDatabase(services), silent);
    try {
      await migrate(one);
      await one.query("update ledger.migration set digest = 'other' where name = $1", [names[0]]);
      for (let i = 0; i < 2; i++) {
        const refused = await migrate(one).catch((error: unknown) => error);
        expect(refused).toBeInstanceOf(SetupError);
        expect(String(refused)).toContain(`${names[0]} was edited after it was applied`);
        expect(String(refused)).not.toContain('\n');
      }
      const { rows } = await one.query("select count(*)::int as locks from pg_locks where locktype = 'advisory'");
      expect(rows[0].locks).toBe(0);
    } finally {
      await one.end();
    }
  });

  test('have names in order, each saying what it breaks', () => {
    expect(names).toEqual(names.toSorted());
    for (const [i, { name, sql }] of readMigrations().entries()) {
      expect(name).toMatch(new RegExp(`^${String(i + 1).padStart(3, '0')}-[a-z0-9-]+\\.sql$`));
      expect(sql).toMatch(/^-- Breaks: /);
    }
  });
});

describe('what the database itself refuses', () => {
  const entryOf = (values: string): string =>
    `insert into ledger.entry (shard, line, sale, sku, warehouse, seq_first, seq_last, debit, credit, units)
     values (0, 0, 1, 's', 'w', ${values})`;
  test.each([
    ['units below zero', "insert into ledger.balance values (0, 1, 's', 'w', 0, -1, 1, 0, 1)"],
    ['units that do not add up', "insert into ledger.balance values (0, 1, 's', 'w', 5, 1, 1, 1, 1)"],
    ['an entry of nothing', entryOf("1, 1, 'outside', 'available', 0")],
    ['an entry to itself', entryOf("1, 1, 'sold', 'sold', 1")],
    ['an unknown account', entryOf("1, 1, 'sold', 'lost', 1")],
    ['an entry that ends before it begins', entryOf("2, 1, 'available', 'reserved', 1")],
    ['two numbers of shards', 'insert into ledger.deployment (shards) values (1), (2)'],
  ])('%s', async (_name, sql) => {
    await expect(pool.query(sql)).rejects.toThrow(/violates check|duplicate/);
  });
});
