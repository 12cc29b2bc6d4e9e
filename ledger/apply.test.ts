import type { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { decodeReservationId } from '../kernel/ids.ts';
import type { ServiceSet } from '../services/services.ts';
import { waitUntil } from '../services/waiting.ts';
import { applyBatches, ShardStopped } from './apply.ts';
import { createAuthority, findReservation } from './authority.ts';
import type { Batch } from './events.ts';
import { createLedgerStore, readWatermark } from './postgres.ts';
import {
  balanceOf,
  batchOf,
  createLedger,
  emptyLedger,
  type Happening,
  happenings,
  history,
  reservationAt,
  startTestServices,
  wrongsOf,
} from './testing.ts';

const { set, restocked, reserved, ended, extended, returned } = happenings;

let services: ServiceSet;
let pool: Pool;
let together: Pool;

beforeAll(async () => {
  services = await startTestServices(['postgres']);
  pool = await createLedger(services);
  together = await createLedger(services);
});
afterAll(async () => {
  await Promise.all([pool.end(), together.end()]);
  await services.stop();
});
beforeEach(async () => {
  await emptyLedger(pool, [0, 1]);
});
afterEach(async () => {
  expect(await wrongsOf(pool)).toEqual([]);
});

const journal = async (): Promise<number> =>
  Number((await pool.query('select count(*) from ledger.batch')).rows[0].count);

describe('exactly once', () => {
  test.each<[string, (all: Batch[]) => Batch[][]]>([
    ['the same twice', (all) => [all, all]],
    ['one by one, then all again', (all) => [...all.map((one) => [one]), all]],
    ['overlapping re-reads', (all) => [all.slice(0, 4), all.slice(2, 7), all.slice(1), all.slice(5)]],
    ['the same batch twice in one delivery', (all) => [all.flatMap((one) => [one, one])]],
    ['a whole re-read behind the first reading in one delivery', (all) => [[...all, ...all]]],
    ['a re-read in the middle of one delivery', (all) => [[...all.slice(0, 6), ...all.slice(3)]]],
  ])('%s', async (_name, deliveries) => {
    const all = history(10);
    for (const delivery of deliveries(all)) await applyBatches(createLedgerStore(pool), 0, delivery);
    expect(await readWatermark(pool, 0)).toMatchObject({ watermark: 12, stopped: null });
    expect(await balanceOf(pool)).toBe('90/10/0');
    expect(await journal()).toBe(11);
  });

  test('two appliers at once on one shard, both with everything, in other pieces', async () => {
    const all = history(60);
    const apply = async (size: number): Promise<void> => {
      for (let i = 0; i < all.length; i += size) await applyBatches(createLedgerStore(pool), 0, all.slice(i, i + size));
    };
    await Promise.all([apply(1), apply(7), apply(61)]);
    expect(await readWatermark(pool, 0)).toMatchObject({ watermark: 62, stopped: null });
    expect(await balanceOf(pool)).toBe('40/60/0');
  });

  test('answers what it did', async () => {
    const all = history(3);
    expect(await applyBatches(createLedgerStore(pool), 0, all.slice(0, 2))).toEqual({
      watermark: 3,
      events: 3,
      known: 0,
      setAside: 0,
      quarantined: 0,
    });
    expect(await applyBatches(createLedgerStore(pool), 0, all)).toMatchObject({
      watermark: 5,
      events: 2,
      known: 2,
      setAside: 0,
    });
    expect(await applyBatches(createLedgerStore(pool), 0, [])).toMatchObject({
      watermark: 5,
      events: 0,
      known: 0,
      setAside: 0,
    });
  });
});

describe('an event ahead', () => {
  test('is set aside, and applied when it comes again after the missing one', async () => {
    const [opening, first, second] = history(2) as [Batch, Batch, Batch];
    await applyBatches(createLedgerStore(pool), 0, [opening]);
    expect(await applyBatches(createLedgerStore(pool), 0, [second])).toMatchObject({
      watermark: 2,
      setAside: 1,
      events: 0,
    });
    expect(await applyBatches(createLedgerStore(pool), 0, [first])).toMatchObject({ watermark: 3 });
    expect(await applyBatches(createLedgerStore(pool), 0, [second])).toMatchObject({ watermark: 4 });
  });

  test('does not hold up what is in order in the same delivery', async () => {
    const [opening, first, second] = history(2) as [Batch, Batch, Batch];
    expect(await applyBatches(createLedgerStore(pool), 0, [opening, second, first])).toMatchObject({
      watermark: 3,
      setAside: 1,
    });
    expect(await balanceOf(pool)).toBe('99/1/0');
  });
});

describe('what a reservation became', () => {
  test.each<[string, Happening[], string, string]>([
    ['held', [], 'held', '98/2/0'],
    ['committed', [ended('committed', 3, 2)], 'committed', '98/0/2'],
    ['released', [ended('released', 3, 2)], 'released', '100/0/0'],
    ['expired', [ended('expired', 3, 2)], 'expired', '100/0/0'],
    ['extended, then committed', [extended(3), ended('committed', 3, 2)], 'committed', '98/0/2'],
    ['committed, one of two returned', [ended('committed', 3, 2), returned(3, 1)], 'committed', '99/0/1'],
  ])('%s, whether its events come together or one by one', async (_name, after, state, balance) => {
    const events = [set(), restocked(100), reserved(3, 2), ...after];
    await emptyLedger(together);
    await applyBatches(createLedgerStore(together), 0, [batchOf(1, events)]);
    for (const [i, event] of events.entries())
      await applyBatches(createLedgerStore(pool), 0, [batchOf(i + 1, [event])]);
    const ref = decodeReservationId(reservationAt(3));
    if (!ref) throw new Error('no reference');
    for (const one of [pool, together]) {
      expect(await balanceOf(one)).toBe(balance);
      expect(await findReservation(one, ref)).toMatchObject({
        saleId: 'sale',
        state,
        lines: [{ sku: 'shoe', warehouse: 'east', quantity: 2 }],
        expiresAt: after.some(({ type }) => type === 'extended')
          ? '2026-11-01T01:00:00.000Z'
          : '2026-11-01T00:30:00.000Z',
      });
    }
  });

  test('is null for another buyer', async () => {
    await applyBatches(createLedgerStore(pool), 0, history(1));
    const ref = decodeReservationId(reservationAt(3));
    expect(ref && (await findReservation(pool, { ...ref, buyer: 'somebody____' }))).toBeNull();
  });
});

describe('a history that cannot be stops its shard, with the reason, and no other', () => {
  const opening = [set(), restocked(5)];
  test.each<[string, Batch[][], RegExp]>([
    [
      'another digest at a known sequence',
      [[batchOf(1, opening)], [batchOf(1, opening, { digest: 'other' })]],
      /two histories at sequence 2/,
    ],
    [
      'another epoch at a known sequence',
      [[batchOf(1, opening)], [batchOf(1, opening, { epoch: 0 })]],
      /two histories at sequence 2/,
    ],
    ['a known sequence cut otherwise', [[batchOf(1, opening)], [batchOf(1, [set()])]], /two histories at sequence 1/],
    [
      'an overlap with what is known',
      [[batchOf(1, opening)], [batchOf(2, [restocked(5), reserved(3)])]],
      /overlaps what is known up to 2/,
    ],
    ['an epoch that was never granted', [[batchOf(1, opening, { epoch: 2 })]], /of epoch 2, and the shard is at 1/],
    ['fewer events than sequences', [[batchOf(1, opening, { seqLast: 3 })]], /has 2 events/],
    ['a second end', [[batchOf(1, [...opening, reserved(3), ended('released', 3), ended('committed', 3)])]], /ended/],
    [
      'a second end in a later delivery',
      [[batchOf(1, [...opening, reserved(3), ended('released', 3)])], [batchOf(5, [ended('committed', 3)])]],
      /ended twice|reserved_not_negative/,
    ],
    ['an end without a beginning', [[batchOf(1, [...opening, ended('released', 2)])]], /reserved|ended/],
    ['more reserved than there was', [[batchOf(1, [...opening, reserved(3, 6)])]], /available_not_negative/],
    [
      'more returned than sold',
      [[batchOf(1, [...opening, reserved(3), ended('committed', 3), returned(3, 2)])]],
      /sold_not_negative/,
    ],
    ['stock that was never opened', [[batchOf(1, [set(), reserved(2)])]], /never opened/],
    ['a reservation id of another sequence', [[batchOf(1, [...opening, reserved(4)])]], /another sequence/],
    [
      'a reservation extended after its end',
      [[batchOf(1, [...opening, reserved(3), ended('released', 3), extended(3)])]],
      /./,
    ],
    [
      'an epoch that goes back',
      [[batchOf(1, opening, { epoch: 2 })], [batchOf(3, [reserved(3)], { epoch: 1 })]],
      /epoch/,
    ],
  ])('%s', async (name, deliveries, reason) => {
    if (name === 'an epoch that goes back') await createAuthority(pool).grant(0, 1, 'run-2', 0);
    const last = deliveries.at(-1) ?? [];
    for (const delivery of deliveries.slice(0, -1)) await applyBatches(createLedgerStore(pool), 0, delivery);
    const before = [await balanceOf(pool), await journal()];
    await expect(applyBatches(createLedgerStore(pool), 0, last)).rejects.toBeInstanceOf(ShardStopped);
    expect([await balanceOf(pool), await journal()]).toEqual(before);
    expect((await readWatermark(pool, 0)).stopped).toMatch(reason);
    // It stays stopped, even for what would be right.
    await expect(applyBatches(createLedgerStore(pool), 0, [batchOf(1, opening)])).rejects.toThrow(/stopped/);
    const other = batchOf(1, opening, { shard: 1 });
    for (const event of other.events) event.saleId = 'another';
    expect(await applyBatches(createLedgerStore(pool), 1, [other])).toMatchObject({ watermark: 2 });
  });

  test('a shard without an epoch takes nothing', async () => {
    await expect(applyBatches(createLedgerStore(pool), 7, history(1))).rejects.toThrow(/no epoch/);
    expect(await readWatermark(pool, 7)).toEqual({ watermark: 0, stopped: null });
  });
});

describe('epochs that were closed', () => {
  /** Closes the epoch at the watermark and begins the next, as a rebuild does. */
  const close = () =>
    pool.query(
      'update ledger.shard set closed_epoch = epoch, closed_seq = watermark, epoch = epoch + 1 where shard = 0',
    );
  const kept = async () =>
    (
      await pool.query<{ kept: string }>(
        `select epoch || ': ' || seq_first || ' to ' || seq_last as kept from ledger.quarantine
          order by epoch, seq_last, seq_first`,
      )
    ).rows.map((row) => row.kept);
  const oneOf = (epoch: number, seq: number) => batchOf(seq, [reserved(seq)], { epoch, digest: `${epoch}:${seq}` });

  /** Epoch 1 was closed at 4, epoch 2 went on to 6 and was closed there, epoch 3 has come to 7. */
  async function closeTwo(): Promise<void> {
    await applyBatches(createLedgerStore(pool), 0, history(2));
    await close();
    await applyBatches(createLedgerStore(pool), 0, [oneOf(2, 5), oneOf(2, 6)]);
    await close();
    await applyBatches(createLedgerStore(pool), 0, [oneOf(3, 7)]);
  }

  test('what they still send is kept apart, of the last one and of those before, wherever its sequences are', async () => {
    await closeTwo();
    const before = await balanceOf(pool);
    const late = [
      ...[oneOf(1, 5), oneOf(1, 6), oneOf(1, 7), oneOf(1, 8), oneOf(2, 7)],
      batchOf(5, [reserved(5), reserved(6), reserved(7)], { epoch: 1 }),
    ];
    for (const batch of late)
      expect(await applyBatches(createLedgerStore(pool), 0, [batch])).toMatchObject({ quarantined: 1, events: 0 });
    expect(await applyBatches(createLedgerStore(pool), 0, late)).toMatchObject({
      quarantined: late.length,
      watermark: 7,
    });
    expect(await kept()).toEqual(['1: 5 to 5', '1: 6 to 6', '1: 5 to 7', '1: 7 to 7', '1: 8 to 8', '2: 7 to 7']);
    // What is history of them is known, and the shard goes on.
    expect(await applyBatches(createLedgerStore(pool), 0, [...history(2), oneOf(2, 5), oneOf(2, 6)])).toMatchObject({
      ...{ known: 5, quarantined: 0 },
    });
    expect(await applyBatches(createLedgerStore(pool), 0, [oneOf(1, 8), oneOf(3, 8)])).toMatchObject({
      watermark: 8,
      events: 1,
    });
    expect(await readWatermark(pool, 0)).toEqual({ watermark: 8, stopped: null });
    expect(before).toBe('95/5/0');
    expect(await balanceOf(pool)).toBe('94/6/0');
  });

  test('another history of the epoch that is not closed is a fork all the same', async () => {
    await closeTwo();
    const forked = [oneOf(1, 5), { ...oneOf(3, 7), digest: 'another' }];
    await expect(applyBatches(createLedgerStore(pool), 0, forked)).rejects.toBeInstanceOf(ShardStopped);
    expect((await readWatermark(pool, 0)).stopped).toMatch(/two histories at sequence 7/);
  });
});

describe('text that the contract allows and Postgres does not', () => {
  test.each<[string, Happening]>([
    ['a NUL in a sale’s title', { type: 'sale-set', settings: { title: 'A\u0000B' }, stockDigest: '' }],
    ['half a surrogate pair in a sale’s title', { type: 'sale-set', settings: { title: 'A\ud800B' }, stockDigest: '' }],
    [
      'a NUL in a reason',
      {
        type: 'adjusted',
        id: 'one',
        sku: 'shoe',
        warehouse: 'east',
        units: 1,
        reason: 'A\u0000B',
        after: { onHand: 6, reserved: 0, sold: 0 },
      },
    ],
  ])('%s holds nothing up for ever: it is written, or the shard is stopped', async (_name, event) => {
    await applyBatches(createLedgerStore(pool), 0, [batchOf(1, [set(), restocked(5)])]);
    const outcome = await applyBatches(createLedgerStore(pool), 0, [batchOf(3, [event])]).then(
      () => 'written',
      (error: unknown) => (error instanceof ShardStopped ? 'stopped' : String(error)),
    );
    expect(['written', 'stopped']).toContain(outcome);
  });
});

test('Postgres killed in the middle: no half batch, and it goes on', async () => {
  const all = history(80);
  let failures = 0;
  let lastError = '';
  const apply = (async () => {
    for (let i = 0; i < all.length; ) {
      const done = await applyBatches(createLedgerStore(pool), 0, all.slice(i, i + 1)).then(
        () => true,
        (error: unknown) => {
          failures++;
          lastError = String(error);
          if (error instanceof ShardStopped) throw error;
          return false;
        },
      );
      if (done) i++;
    }
  })();
  for (const target of [20, 50]) {
    await waitUntil(
      async () => (await readWatermark(pool, 0).catch(() => ({ watermark: 0 }))).watermark >= target,
      20_000,
    );
    const before = failures;
    await services.kill('postgres', 'SIGKILL');
    await waitUntil(async () => failures > before, 10_000);
    expect(failures, lastError).toBeGreaterThan(before);
    await services.startOne('postgres');
  }
  await apply;
  expect(await readWatermark(pool, 0)).toMatchObject({ watermark: 82, stopped: null });
  expect(await balanceOf(pool)).toBe('20/80/0');
}, 120_000);
