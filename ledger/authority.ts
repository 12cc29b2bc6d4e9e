/** Epochs by compare-and-swap, the audit log, and reservations that ended long ago: what the engine asks of Postgres. */
import type { Pool } from 'pg';
import { timestamp } from '../kernel/clock.ts';
import { SetupError } from '../kernel/errors.ts';
import type { ReservationRef } from '../kernel/ids.ts';
import type { Lost } from './rebuild.ts';

export type Grant = {
  epoch: number;
  runId: string;
  opened: boolean;
  watermark: number;
  rebuilding: boolean;
  closedEpoch: number;
};

/** How far an engine has seen a shard; `open`: it may still get answers of this epoch. */
type Sighting = { shard: number; epoch: number; seq: number; open: boolean };

export type Authority = {
  current(shard: number): Promise<Grant | null>;
  /** Grants epoch `from + 1`, which begins after `seq`, to a run of Valkey if the shard is at `from` (0: it has none yet). */
  grant(shard: number, from: number, runId: string, seq: number): Promise<boolean>;
  /** Notes that the shard was made in Valkey: from now on, empty means lost. */
  markOpened(shard: number): Promise<void>;
  /** Notes what an engine has seen, unless it has noted a report of it with a higher `number`; answers how these shards stand. */
  report(
    engine: string,
    runId: string,
    sightings: Sighting[],
    number: number,
  ): Promise<{ shard: number; epoch: number; rebuilding: boolean }[]>;
  /**
   * The highest sequence that an engine has seen in epochs after `closedEpoch`, and how many living engines may yet get
   * answers from another run of Valkey than `runId`. (Not of one epoch: one may have been granted and never begun.)
   */
  sightings(
    shard: number,
    closedEpoch: number,
    runId: string,
    watchedMs: number,
  ): Promise<{ seq: number; awaited: number }>;
  /**
   * Up to which sequence a history that has not got beyond `epoch` is the shard's: where a later one began, of which there is
   * proof (a sighting, or a batch in the ledger) that it did begin; else Infinity.
   */
  sharedUntil(shard: number, epoch: number): Promise<number>;
  /**
   * Notes that an engine had seen an epoch up to `seq`. Answers what of it is lost: it is not the shard's, since the epoch had ended
   * before, and no rebuild has reported it; null for nothing.
   */
  noteEnd(engine: string, shard: number, epoch: number, seq: number): Promise<Lost>;
};

/** An engine that has not reported for this long is taken for ended: the fence in the function stops it should it wake. */
export const engineSilenceMs = 4_000;

/** Longer than any silence. */
const neverMs = 1e12;

/**
 * How long an engine must have been silent to be taken for ended, by who has had Postgres answering for `watchedMs` without a
 * break: before that, no silence is long enough. Nobody could report while Postgres was away.
 */
export const silenceFor = (watchedMs: number): number => (watchedMs < engineSilenceMs ? neverMs : engineSilenceMs);

export async function sharedUntil(pool: Pool, shard: number, epoch: number): Promise<number> {
  const { rows } = await pool.query<{ seq: string | null }>(
    `select min(seq) as seq from ledger.epoch_grant where shard = $1 and epoch > $2
        and $2 < greatest((select closed_epoch + 1 from ledger.shard where shard = $1),
                          (select max(epoch) from ledger.sighting where shard = $1),
                          (select epoch from ledger.batch where shard = $1 order by seq_last desc limit 1))`,
    [shard, epoch],
  );
  const seq = rows[0]?.seq ?? null;
  return seq === null ? Number.POSITIVE_INFINITY : Number(seq);
}

export function createAuthority(pool: Pool): Authority {
  return {
    async current(shard) {
      const { rows } = await pool.query<{
        epoch: number;
        run_id: string;
        opened: boolean;
        watermark: string;
        rebuilding: string | null;
        closed_epoch: number;
      }>('select epoch, run_id, opened, watermark, rebuilding, closed_epoch from ledger.shard where shard = $1', [
        shard,
      ]);
      const row = rows[0];
      if (!row) return null;
      return {
        ...{ epoch: row.epoch, runId: row.run_id, opened: row.opened, watermark: Number(row.watermark) },
        ...{ rebuilding: row.rebuilding !== null, closedEpoch: row.closed_epoch },
      };
    },
    async grant(shard, from, runId, seq) {
      const moved =
        from === 0
          ? `insert into ledger.shard (shard, epoch, run_id) select $1, $2 + 1, $3 on conflict do nothing`
          : `update ledger.shard set epoch = $2 + 1, run_id = $3 where shard = $1 and epoch = $2`;
      const { rowCount } = await pool.query(
        `with moved as (${moved} returning shard, epoch, run_id)
         insert into ledger.epoch_grant (shard, epoch, run_id, seq) select shard, epoch, run_id, $4 from moved`,
        [shard, from, runId, seq],
      );
      return rowCount === 1;
    },
    async markOpened(shard) {
      await pool.query('update ledger.shard set opened = true where shard = $1', [shard]);
    },
    async report(engine, runId, sightings, number) {
      const shards = sightings.map((one) => one.shard);
      await pool.query(
        // An old one is dropped only when it proves nothing any more.
        `with old as (delete from ledger.sighting g using ledger.shard s
                       where s.shard = g.shard and g.at < now() - interval '1 day'
                         and (g.epoch <= s.closed_epoch or g.seq <= s.watermark))
         insert into ledger.sighting (engine, shard, epoch, run_id, seq, open, report)
         select $1, d.shard, d.epoch, $2, d.seq, d.open, $7
           from unnest($3::int[], $4::int[], $5::bigint[], $6::boolean[]) as d(shard, epoch, seq, open)
         on conflict (engine, shard) do update
            set epoch = excluded.epoch, run_id = excluded.run_id, seq = excluded.seq, open = excluded.open, at = now(),
                report = excluded.report
          where ledger.sighting.report < excluded.report`,
        [
          engine,
          runId,
          shards,
          sightings.map((one) => one.epoch),
          sightings.map((one) => one.seq),
          sightings.map((one) => one.open),
          number,
        ],
      );
      // Afterwards: of a rebuild and a report that cross, one has to see the other.
      const { rows } = await pool.query<{ shard: number; epoch: number; rebuilding: boolean }>(
        'select shard, epoch, rebuilding is not null as rebuilding from ledger.shard where shard = any($1)',
        [shards],
      );
      return rows;
    },
    async sightings(shard, closedEpoch, runId, watchedMs) {
      const { rows } = await pool.query<{ seq: string | null; awaited: number }>(
        `select max(seq) as seq,
                count(*) filter (where open and run_id <> $3 and at > now() - $4 * interval '1 ms')::int as awaited
           from ledger.sighting where shard = $1 and epoch > $2`,
        [shard, closedEpoch, runId, silenceFor(watchedMs)],
      );
      return { seq: Number(rows[0]?.seq ?? 0), awaited: rows[0]?.awaited ?? 0 };
    },
    sharedUntil: (shard, epoch) => sharedUntil(pool, shard, epoch),
    async noteEnd(engine, shard, epoch, seq) {
      const shared = await sharedUntil(pool, shard, epoch);
      if (seq <= shared) return null;
      const { rows } = await pool.query<{ seq_first: string }>(
        `insert into ledger.loss (shard, epoch, engine, seq_first, seq_last)
         select $1, $2, $3, begins, $4
           from (select 1 + greatest($5::bigint, max((report->'lost'->>'to')::bigint)) as begins
                   from ledger.rebuild where shard = $1 and epoch > $2) as reported
          where begins <= $4
             on conflict (shard, epoch, engine) do update set seq_last = greatest(ledger.loss.seq_last, excluded.seq_last)
         returning seq_first`,
        [shard, epoch, engine, seq, shared],
      );
      return rows[0] ? { from: Number(rows[0].seq_first), to: seq } : null;
    },
  };
}

/**
 * The number of shards is part of where a sale is: it can't change once the ledger was begun.
 * Throws a SetupError when `shards` is another number than the ledger's.
 */
export async function checkShardCount(pool: Pool, shards: number): Promise<void> {
  await pool.query('insert into ledger.deployment (shards) values ($1) on conflict do nothing', [shards]);
  await expectShardCount(pool, shards);
}

/** Throws a SetupError when the ledger was begun with another number of shards. */
export async function expectShardCount(pool: Pool, shards: number): Promise<void> {
  const { rows } = await pool.query<{ shards: number }>('select shards from ledger.deployment');
  const known = rows[0]?.shards;
  if (known !== undefined && known !== shards)
    throw new SetupError(
      'shards-changed',
      `SHARDS=${shards}, but this ledger was begun with ${known}: set SHARDS=${known}`,
    );
}

/** What the ledger knows of a reservation; null when it never heard of it. */
export async function findReservation(
  pool: Pool,
  ref: ReservationRef,
): Promise<{
  saleId: string;
  state: 'held' | 'committed' | 'released' | 'expired';
  lines: { sku: string; warehouse: string; quantity: number }[];
  expiresAt: string;
  durability: string;
} | null> {
  const { rows } = await pool.query<{
    id: string;
    state: 'held' | 'committed' | 'released' | 'expired';
    lines: { sku: string; warehouse: string; quantity: number }[];
    expires_at: Date;
    durability: string;
  }>(
    `select s.id, r.state, r.lines, r.expires_at, r.durability
       from ledger.reservation r join ledger.sale s using (shard, sale)
      where r.shard = $1 and r.seq = $2 and r.sale = $3 and r.buyer = $4 and r.key = $5`,
    [ref.shard, ref.seq, ref.sale, ref.buyer, ref.key],
  );
  const row = rows[0];
  if (!row) return null;
  const { id, state, lines, expires_at, durability } = row;
  return { saleId: id, state, lines, expiresAt: timestamp(expires_at.getTime()), durability };
}

export async function writeAudit(
  pool: Pool,
  entry: {
    action: string;
    saleId: string;
    requestId: string;
    address: string;
    detail?: Record<string, unknown>;
  },
): Promise<void> {
  const { action, saleId, requestId, address, detail = null } = entry;
  await pool.query(
    'insert into ledger.audit (action, sale_id, request_id, address, detail) values ($1, $2, $3, $4, $5)',
    [...[action, saleId, requestId, address], detail],
  );
}
