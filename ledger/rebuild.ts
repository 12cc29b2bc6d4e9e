/**
 * Builds a shard anew from the ledger: fence, bring everything that is still on its way into the ledger, close the old
 * epochs there, build under a new one, and say what may be lost. Can be interrupted at any point and done again.
 */
import type { Pool } from 'pg';
import type { Clock } from '../kernel/clock.ts';
import { newBuyerId } from '../kernel/ids.ts';
import type { Logger } from '../kernel/logger.ts';
import { applyBatches, quarantine, readWatermark, ShardStopped } from './apply.ts';
import { engineSilenceMs } from './authority.ts';
import { goneReason } from './gap.ts';
import { buildShard, type RebuildTarget } from './rebuild-content.ts';
import { stopShard } from './stops.ts';

export type RebuildReport = {
  shard: number;
  /** The epoch it was sold from before, and the new one. */
  fromEpoch: number;
  epoch: number;
  /** The sequence at which the old epoch was closed: everything up to it is kept. */
  seq: number;
  /** Sequences that an engine had seen and that nobody has: what their buyers were told is lost. Null: none is known. */
  lost: Lost;
  /** Engines that ended, or don't answer, and may have told buyers more than they reported. */
  silentEngines: number;
  sales: number;
  liveReservations: number;
  rememberedReservations: number;
  seconds: number;
};

/** What to call while it runs: a stage's name, and how many reservations were built so far. */
export type RebuildProgress = (stage: string, reservations: number) => void;

/** Sightings of the epochs that are to be closed, once every living engine has reported that it is done with them. Rejects when one isn't. */
async function lastSightings(pool: Pool, shard: number, clock: Clock): Promise<{ seq: number; silent: number }> {
  const untilMs = clock.monotonicMs() + 2 * engineSilenceMs;
  for (;;) {
    const { rows } = await pool.query<{ seq: string | null; awaited: number; silent: number }>(
      `select max(g.seq) as seq,
              count(*) filter (where g.open and g.at > now() - $2 * interval '1 ms')::int as awaited,
              count(*) filter (where g.open and g.at <= now() - $2 * interval '1 ms')::int as silent
         from ledger.sighting g join ledger.shard s using (shard)
        where g.shard = $1 and g.epoch > s.closed_epoch`,
      [shard, engineSilenceMs],
    );
    const row = rows[0];
    if (!row?.awaited) return { seq: Number(row?.seq ?? 0), silent: row?.silent ?? 0 };
    // Not one that has fallen silent: it sells on, from a Valkey that this rebuild has not fenced.
    if (clock.monotonicMs() > untilMs)
      throw new Error(`an engine still sells from shard ${shard}, on another Valkey: stop it, or rebuild that one`);
    await clock.wait(50);
  }
}

type Lost = { from: number; to: number } | null;

/**
 * Closes all epochs so far at the ledger's watermark, begins the next, and notes what may be lost, all at once: who does an
 * interrupted rebuild again finds it there.
 */
async function closeEpoch(
  pool: Pool,
  shard: number,
  token: string,
  runId: string,
  discard: boolean,
  most: number,
): Promise<{ epoch: number; seq: number; atMs: number }> {
  const { rows } = await pool.query<{ epoch: number; watermark: string; watermark_at: Date | null }>(
    `with closed as (
       update ledger.shard
          set closed_epoch = epoch, closed_seq = watermark, epoch = epoch + 1, run_id = $3, opened = true, stopped = null
        where shard = $1 and rebuilding = $2 and (stopped is null or $4)
        returning shard, epoch, watermark, watermark_at),
     noted as (
       insert into ledger.rebuild (shard, epoch, report)
       select shard, epoch, jsonb_build_object('lost',
                case when $5::bigint > watermark then jsonb_build_object('from', watermark + 1, 'to', $5::bigint) end)
         from closed)
     select epoch, watermark, watermark_at from closed`,
    [shard, token, runId, discard, most],
  );
  const row = rows[0];
  if (!row) throw new Error(`shard ${shard} was stopped, or another rebuild of it has begun`);
  return { epoch: row.epoch, seq: Number(row.watermark), atMs: row.watermark_at?.getTime() ?? 0 };
}

/** Opens the shard for engines, and completes the report: with what rebuilds lost that were interrupted before. */
async function noteDone(pool: Pool, token: string, report: RebuildReport): Promise<void> {
  const { shard, epoch } = report;
  const unfinished = await pool.query<{ lost: Lost }>(
    "select report->'lost' as lost from ledger.rebuild where shard = $1 and finished_at is null",
    [shard],
  );
  const ranges = unfinished.rows.flatMap(({ lost }) => lost ?? []);
  if (ranges.length > 0)
    report.lost = {
      from: Math.min(...ranges.map((range) => range.from)),
      to: Math.max(...ranges.map((range) => range.to)),
    };
  const { rowCount } = await pool.query(
    `with opened as (
       update ledger.shard set rebuilding = null where shard = $1 and rebuilding = $2 returning shard),
     finished as (
       update ledger.rebuild r set finished_at = now() from opened o
        where r.shard = o.shard and r.finished_at is null and r.epoch <> $3),
     reported as (
       update ledger.rebuild r set finished_at = now(), report = $4 from opened o where r.shard = o.shard and r.epoch = $3)
     select 1 from opened`,
    [shard, token, epoch, JSON.stringify(report)],
  );
  if (rowCount !== 1) throw new Error(`another rebuild of shard ${shard} has begun`);
}

/** Gives the ledger what the fenced shard's outbox has, up to the shard's last sequence; else nothing may be cleared. */
async function drainOutbox(pool: Pool, shard: number, target: RebuildTarget, lastSeq: number): Promise<void> {
  let { watermark } = await applyBatches(pool, shard, []);
  for (;;) {
    const batches = await target.read(watermark);
    const next = batches[0]?.seqFirst ?? lastSeq + 1;
    if (next > watermark + 1) {
      const reason = goneReason(shard, watermark, next - 1);
      await stopShard(pool, shard, reason);
      throw new ShardStopped(shard, reason);
    }
    if (batches.length === 0) return;
    const applied = await applyBatches(pool, shard, batches);
    if (applied.watermark === watermark)
      throw new Error(`the ledger takes nothing of shard ${shard} after ${watermark}`);
    watermark = applied.watermark;
  }
}

/** Gives the ledger what the outbox has of a closed epoch: what it has not, it keeps apart. */
async function drainClosed(pool: Pool, shard: number, target: RebuildTarget): Promise<void> {
  for (let after = 0; ; ) {
    const batches = await target.read(after);
    const last = batches.at(-1);
    if (!last) return;
    await applyBatches(pool, shard, batches);
    after = last.seqLast;
  }
}

/**
 * Rebuilds one shard. `drained` resolves when whatever else carries its events (Kafka) has given the ledger all it had.
 * Rejects with ShardStopped when what is still on its way can't be applied.
 */
export async function rebuildShard(options: {
  pool: Pool;
  shard: number;
  target(token: string): RebuildTarget;
  drained(): Promise<void>;
  rememberSeconds: number;
  /** Of a stopped shard: leave out what can't be applied, and all that follows it. It is kept in `ledger.quarantine`. */
  discard?: boolean;
  clock: Clock;
  logger: Logger;
  progress?: RebuildProgress;
}): Promise<RebuildReport> {
  const { pool, shard, clock, logger } = options;
  const progress = options.progress ?? (() => undefined);
  const startedMs = clock.monotonicMs();
  const token = newBuyerId();
  const target = options.target(token);
  const rememberMs = options.rememberSeconds * 1000;

  const { stopped } = await readWatermark(pool, shard);
  // A stopped shard still sells: it isn't fenced for a rebuild that could not be finished.
  if (stopped !== null && !options.discard) throw new ShardStopped(shard, stopped);
  progress('fencing', 0);
  const found = await target.begin();
  const fenced = await pool.query<{ closed_epoch: number }>(
    'update ledger.shard set rebuilding = $2 where shard = $1 returning closed_epoch',
    [shard, token],
  );
  if (!fenced.rows[0]) throw new Error(`shard ${shard} was never opened: there is nothing to rebuild`);
  // Old files were put back, or a rebuild broken off before it cleared: what is there beyond the ledger was given up then.
  const closed = found.epoch > 0 && found.epoch <= fenced.rows[0].closed_epoch;

  progress('waiting for what is under way', 0);
  const seen = await lastSightings(pool, shard, clock);
  try {
    await options.drained();
    if (closed) await drainClosed(pool, shard, target);
    else await drainOutbox(pool, shard, target, found.seq);
  } catch (error) {
    if (!(error instanceof ShardStopped) || !options.discard) throw error;
    const { watermark } = await readWatermark(pool, shard);
    for (let after = watermark; ; ) {
      const batches = await target.read(after);
      if (batches.length === 0) break;
      await quarantine(pool, shard, batches, `discarded by a rebuild: ${error.message}`);
      after = batches.at(-1)?.seqLast ?? after;
    }
  }

  const most = closed ? seen.seq : Math.max(seen.seq, found.seq);
  const { epoch, seq, atMs } = await closeEpoch(pool, shard, token, found.runId, options.discard ?? false, most);
  logger.info({ shard, epoch, seq }, 'the old epoch is closed; building the shard from the ledger');
  progress('clearing', 0);
  await target.clear();

  let live = 0;
  let remembered = 0;
  const client = await pool.connect();
  let sales: number;
  try {
    await client.query('begin transaction isolation level repeatable read read only');
    // Grouping what buyers own takes as long as there are reservations.
    await client.query("set local statement_timeout = '30min'");
    sales = await buildShard(client, shard, rememberMs, target, (moreLive, more) => {
      live += moreLive;
      remembered += more;
      progress('building', live + remembered);
    });
    await client.query('commit');
  } finally {
    client.release(true);
  }
  await target.finish({ epoch, seq, atMs, live });
  const report: RebuildReport = {
    shard,
    fromEpoch: epoch - 1,
    epoch,
    seq,
    lost: most > seq ? { from: seq + 1, to: most } : null,
    silentEngines: seen.silent,
    sales,
    liveReservations: live,
    rememberedReservations: remembered,
    seconds: (clock.monotonicMs() - startedMs) / 1000,
  };
  await noteDone(pool, token, report);
  logger.warn({ ...report }, 'shard rebuilt');
  return report;
}
