/**
 * Builds a shard anew from the ledger: fence, bring everything that is still on its way into the ledger, close the old
 * epochs there, build under a new one, and say what may be lost. Can be interrupted at any point and done again.
 */
import type { Pool, PoolClient } from 'pg';
import type { Clock } from '../kernel/clock.ts';
import { decodeReservationId, newBuyerId } from '../kernel/ids.ts';
import type { Logger } from '../kernel/logger.ts';
import { applyBatches, quarantine, readWatermark, ShardStopped } from './apply.ts';
import { engineSilenceMs } from './authority.ts';
import type { Batch } from './events.ts';

type LineText = { sku: string; warehouse: string; quantity: number }[];

export type RebuiltSale = {
  no: number;
  id: string;
  settings: string;
  stockDigest: string;
  state: 'open' | 'paused' | 'closed';
  stock: { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
};

export type RebuiltReservation = {
  buyer: string;
  key: string;
  state: 'held' | 'committed' | 'released' | 'expired';
  seq: number;
  /** As first answered; ms. */
  expiresAt: number;
  extendedSeconds: number;
  extensions: number;
  durability: string;
  /** When its key is forgotten, ms; 0 while it is held. */
  forgetAt: number;
  /** What it counts for its buyer. */
  units: number;
  lines: LineText;
};

export type RebuiltChanges = {
  adjustments: {
    id: string;
    sku: string;
    warehouse: string;
    units: number;
    after: { onHand: number; reserved: number; sold: number };
  }[];
  returns: { id: string; buyer: string; key: string; seq: number; lines: LineText }[];
};

/** The shard in Valkey, as a rebuild needs it. Every call rejects once another rebuild has begun. */
export type RebuildTarget = {
  /** Fences the shard; answers at which epoch it was (0: there was nothing) and its last sequence. */
  begin(): Promise<{ epoch: number; seq: number; runId: string }>;
  /** What the fenced shard's outbox has after `after`. */
  read(after: number): Promise<Batch[]>;
  clear(): Promise<void>;
  sale(sale: RebuiltSale): Promise<void>;
  book(sale: number, owners: { buyer: string; units: number }[], reservations: RebuiltReservation[]): Promise<void>;
  changes(sale: number, changes: RebuiltChanges): Promise<void>;
  finish(end: { epoch: number; seq: number; atMs: number; live: number }): Promise<void>;
};

export type RebuildReport = {
  shard: number;
  /** The epoch it was sold from before, and the new one. */
  fromEpoch: number;
  epoch: number;
  /** The sequence at which the old epoch was closed: everything up to it is kept. */
  seq: number;
  /** Sequences that an engine had seen and that nobody has: what their buyers were told is lost. Null: none is known. */
  lost: { from: number; to: number } | null;
  /** Engines that ended, or don't answer, and may have told buyers more than they reported. */
  silentEngines: number;
  sales: number;
  liveReservations: number;
  rememberedReservations: number;
  seconds: number;
};

/** What to call while it runs: a stage's name, and how many reservations were built so far. */
export type RebuildProgress = (stage: string, reservations: number) => void;

const pageRows = 1_000;
const stockRows = 2_000;
/** Sightings of the epochs that are to be closed, once every living engine has reported that it is done with them. */
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
    if (!row?.awaited || clock.monotonicMs() > untilMs)
      return { seq: Number(row?.seq ?? 0), silent: (row?.silent ?? 0) + (row?.awaited ?? 0) };
    await clock.wait(50);
  }
}

/** Closes all epochs so far at the ledger's watermark, and begins the next. Answers both, and the ledger's last time. */
async function closeEpoch(
  pool: Pool,
  shard: number,
  token: string,
  runId: string,
): Promise<{ epoch: number; seq: number; atMs: number }> {
  const { rows } = await pool.query<{ epoch: number; watermark: string; watermark_at: Date | null }>(
    `update ledger.shard
        set closed_epoch = epoch, closed_seq = watermark, epoch = epoch + 1, run_id = $3, rebuilding = $2, opened = true,
            stopped = null
      where shard = $1 returning epoch, watermark, watermark_at`,
    [shard, token, runId],
  );
  const row = rows[0];
  if (!row) throw new Error(`shard ${shard} was never opened: there is nothing to rebuild`);
  return { epoch: row.epoch, seq: Number(row.watermark), atMs: row.watermark_at?.getTime() ?? 0 };
}

async function buildSales(client: PoolClient, shard: number, target: RebuildTarget): Promise<number[]> {
  const { rows } = await client.query<{
    sale: number;
    id: string;
    settings: string;
    stock_digest: string;
    state: string;
  }>('select sale, id, settings::text, stock_digest, state from ledger.sale where shard = $1 order by sale', [shard]);
  for (const { sale, id, settings, stock_digest, state } of rows) {
    const stock = await client.query<{
      sku: string;
      warehouse: string;
      available: string;
      reserved: string;
      sold: string;
    }>(
      `select sku, warehouse, available, reserved, sold from ledger.balance
        where shard = $1 and sale = $2 order by opened_seq`,
      [shard, sale],
    );
    const all = stock.rows.map((row) => ({
      ...{ sku: row.sku, warehouse: row.warehouse },
      onHand: Number(row.available) + Number(row.reserved),
      reserved: Number(row.reserved),
      sold: Number(row.sold),
    }));
    const rules = { no: sale, id, settings, stockDigest: stock_digest, state: state as RebuiltSale['state'] };
    for (let from = 0; from === 0 || from < all.length; from += stockRows)
      await target.sale({ ...rules, stock: all.slice(from, from + stockRows) });
  }
  return rows.map((row) => row.sale);
}

type BookRow = {
  seq: string;
  buyer: string;
  key: string;
  state: RebuiltReservation['state'];
  lines: LineText;
  durability: string;
  first_expires_at: Date;
  expires_at: Date;
  ended_at: Date | null;
  units: number;
  extensions: number;
  returned: number;
};

async function buildBook(
  client: PoolClient,
  shard: number,
  sale: number,
  rememberedSince: Date,
  rememberMs: number,
  target: RebuildTarget,
  counted: (live: number, remembered: number) => void,
): Promise<void> {
  for (let after = 0; ; ) {
    const { rows } = await client.query<BookRow>(
      `select seq, buyer, key, state, lines, durability, first_expires_at, expires_at, ended_at, units, extensions, returned
         from ledger.reservation
        where shard = $1 and sale = $2 and seq > $3 and (state = 'held' or ended_at > $4)
        order by seq limit $5`,
      [shard, sale, after, rememberedSince, pageRows],
    );
    const last = rows.at(-1);
    if (!last) break;
    after = Number(last.seq);
    const reservations = rows.map(
      (row): RebuiltReservation => ({
        ...{ buyer: row.buyer, key: row.key, state: row.state, seq: Number(row.seq), lines: row.lines },
        ...{ durability: row.durability, extensions: row.extensions },
        expiresAt: row.first_expires_at.getTime(),
        extendedSeconds: Math.round((row.expires_at.getTime() - row.first_expires_at.getTime()) / 1000),
        forgetAt: row.ended_at ? row.ended_at.getTime() + rememberMs : 0,
        units: row.units - row.returned,
      }),
    );
    await target.book(sale, [], reservations);
    const live = reservations.filter((one) => one.state === 'held').length;
    counted(live, reservations.length - live);
  }
  for (let after = ''; ; ) {
    const { rows } = await client.query<{ buyer: string; units: string }>(
      `select buyer, sum(units - returned) as units from ledger.reservation
        where shard = $1 and sale = $2 and state = 'committed' and ended_at <= $3 and buyer > $4
        group by buyer having sum(units - returned) > 0 order by buyer limit $5`,
      [shard, sale, rememberedSince, after, pageRows],
    );
    const last = rows.at(-1);
    if (!last) break;
    after = last.buyer;
    await target.book(
      sale,
      rows.map(({ buyer, units }) => ({ buyer, units: Number(units) })),
      [],
    );
  }
}

async function buildChanges(client: PoolClient, shard: number, sale: number, target: RebuildTarget): Promise<void> {
  for (let after = 0; ; ) {
    const { rows } = await client.query<{ seq: string; kind: string; id: string; content: Record<string, unknown> }>(
      `select seq, kind, id, content from ledger.stock_change
        where shard = $1 and sale = $2 and seq > $3 order by seq limit $4`,
      [shard, sale, after, pageRows],
    );
    const last = rows.at(-1);
    if (!last) return;
    after = Number(last.seq);
    const changes: RebuiltChanges = { adjustments: [], returns: [] };
    for (const { kind, id, content } of rows) {
      if (kind === 'returned') {
        const { reservationId, lines } = content as { reservationId: string; lines: LineText };
        const ref = decodeReservationId(reservationId);
        if (!ref) throw new Error(`the ledger has a return of ${reservationId}, which is no reservation's id`);
        changes.returns.push({ id, buyer: ref.buyer, key: ref.key, seq: ref.seq, lines });
      } else if (content.reason !== 'opening stock' || id !== 'opening') {
        const { sku, warehouse, units, after: left } = content as RebuiltChanges['adjustments'][number];
        changes.adjustments.push({ id, sku, warehouse, units, after: left });
      }
    }
    await target.changes(sale, changes);
  }
}

/** Gives the ledger what the fenced shard's outbox has. */
async function drainOutbox(pool: Pool, shard: number, target: RebuildTarget, logger: Logger): Promise<void> {
  let { watermark } = await applyBatches(pool, shard, []);
  for (;;) {
    const batches = await target.read(watermark);
    if (batches.length === 0) return;
    const applied = await applyBatches(pool, shard, batches);
    if (applied.watermark === watermark) {
      logger.error({ shard, watermark, next: batches[0]?.seqFirst }, 'the outbox goes on after a gap: it is of no use');
      return;
    }
    watermark = applied.watermark;
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
  const fenced = await pool.query('update ledger.shard set rebuilding = $2 where shard = $1', [shard, token]);
  if (fenced.rowCount === 0) throw new Error(`shard ${shard} was never opened: there is nothing to rebuild`);

  progress('waiting for what is under way', 0);
  const seen = await lastSightings(pool, shard, clock);
  try {
    await options.drained();
    await drainOutbox(pool, shard, target, logger);
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

  const { epoch, seq, atMs } = await closeEpoch(pool, shard, token, found.runId);
  logger.info({ shard, epoch, seq }, 'the old epoch is closed; building the shard from the ledger');
  progress('clearing', 0);
  await target.clear();

  let live = 0;
  let remembered = 0;
  const client = await pool.connect();
  let sales: number[];
  try {
    await client.query('begin transaction isolation level repeatable read read only');
    sales = await buildSales(client, shard, target);
    for (const sale of sales) {
      await buildBook(client, shard, sale, new Date(Date.now() - rememberMs), rememberMs, target, (moreLive, more) => {
        live += moreLive;
        remembered += more;
        progress('building', live + remembered);
      });
      await buildChanges(client, shard, sale, target);
    }
    await client.query('commit');
  } finally {
    client.release(true);
  }
  await target.finish({ epoch, seq, atMs, live });
  await pool.query('update ledger.shard set rebuilding = null where shard = $1 and rebuilding = $2', [shard, token]);
  const most = Math.max(seen.seq, found.seq);
  const report: RebuildReport = {
    shard,
    fromEpoch: epoch - 1,
    epoch,
    seq,
    lost: most > seq ? { from: seq + 1, to: most } : null,
    silentEngines: seen.silent,
    sales: sales.length,
    liveReservations: live,
    rememberedReservations: remembered,
    seconds: (clock.monotonicMs() - startedMs) / 1000,
  };
  await pool.query('insert into ledger.rebuild (shard, epoch, report) values ($1, $2, $3)', [
    shard,
    epoch,
    JSON.stringify(report),
  ]);
  logger.warn({ ...report }, 'shard rebuilt');
  return report;
}
