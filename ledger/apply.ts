/**
 * Applies a shard's batches: one Postgres transaction each time, exactly once in effect. See docs/decisions/0004.
 */
import { DatabaseError, type Pool, type PoolClient } from 'pg';
import { decodeReservationId } from '../kernel/ids.ts';
import type { Batch } from './events.ts';
import { ImpossibleEvent, type Rows, rowsOf } from './rows.ts';

export type Applied = {
  /** The last sequence of the shard that the ledger has now. */
  watermark: number;
  /** Events written now; events that it had; batches set aside because something is missing before them. */
  events: number;
  known: number;
  setAside: number;
  /** Batches of a closed epoch that came too late: kept in `ledger.quarantine`, to be looked at. */
  quarantined: number;
};

/** The shard's history can't be: nothing more of it is applied until a person has looked. */
export class ShardStopped extends Error {
  readonly shard: number;
  constructor(shard: number, reason: string) {
    super(`shard ${shard} is stopped: ${reason}`);
    this.name = 'ShardStopped';
    this.shard = shard;
  }
}

class Fork extends Error {}

type ShardRow = {
  last_epoch: number | null;
  epoch: number;
  closed_epoch: number;
  closed_seq: string;
  watermark: string;
  stopped: string | null;
};

/** Sorts batches into known ones, ones that follow the watermark, and ones that are ahead. Throws Fork. */
export function sortBatches(
  batches: Batch[],
  watermark: number,
  /** The epoch that is granted, that of the last batch applied, and the last that was closed, with where. */
  epochs: { granted: number; last: number; closed: number; closedSeq: number },
): { known: Batch[]; fresh: Batch[]; ahead: Batch[]; late: Batch[] } {
  const known: Batch[] = [];
  const fresh: Batch[] = [];
  const ahead: Batch[] = [];
  const late: Batch[] = [];
  const twins = new Map<number, Batch>();
  let next = watermark + 1;
  let lastEpoch = epochs.last;
  for (const batch of batches) {
    if (batch.seqLast - batch.seqFirst + 1 !== batch.events.length)
      throw new Fork(`a batch up to ${batch.seqLast} has ${batch.events.length} events`);
    if (batch.epoch > epochs.granted)
      throw new Fork(`a batch of epoch ${batch.epoch}, and the shard is at ${epochs.granted}`);
    if (epochs.closed > 0 && batch.epoch <= epochs.closed && batch.seqLast > epochs.closedSeq) {
      late.push(batch);
      continue;
    }
    const twin = twins.get(batch.seqLast);
    if (twin) {
      // The same delivery may bring it twice: it isn't in the table yet.
      if (twin.digest !== batch.digest || twin.epoch !== batch.epoch)
        throw new Fork(`there are two histories at sequence ${batch.seqLast}`);
    } else if (batch.seqLast < next) known.push(batch);
    else if (batch.seqFirst === next) {
      if (batch.epoch < lastEpoch) throw new Fork(`epoch ${batch.epoch} goes on after epoch ${lastEpoch} has begun`);
      lastEpoch = batch.epoch;
      twins.set(batch.seqLast, batch);
      fresh.push(batch);
      next = batch.seqLast + 1;
    } else if (batch.seqFirst > next) ahead.push(batch);
    else throw new Fork(`a batch from ${batch.seqFirst} to ${batch.seqLast} overlaps what is known up to ${next - 1}`);
  }
  return { known, fresh, ahead, late };
}

/** Answers those of them that are another history than the ledger's, of an epoch that was closed. Throws Fork for others. */
async function checkKnown(client: PoolClient, shard: number, known: Batch[], closedEpoch: number): Promise<Batch[]> {
  if (known.length === 0) return [];
  const { rows } = await client.query<{ seq_last: string; digest: string; epoch: number }>(
    'select seq_last, digest, epoch from ledger.batch where shard = $1 and seq_last = any($2::bigint[])',
    [shard, known.map((batch) => batch.seqLast)],
  );
  const digests = new Map(rows.map((row) => [Number(row.seq_last), row]));
  const others = known.filter((batch) => {
    const had = digests.get(batch.seqLast);
    return had?.digest !== batch.digest || had.epoch !== batch.epoch;
  });
  const fork = others.find((batch) => closedEpoch === 0 || batch.epoch > closedEpoch);
  if (fork) throw new Fork(`there are two histories at sequence ${fork.seqLast}`);
  return others;
}

const column = <Row, Value>(rows: Row[], pick: (row: Row) => Value): Value[] => rows.map(pick);

async function writeRows(client: PoolClient, shard: number, rows: Rows): Promise<void> {
  for (const sale of rows.sales) {
    if (sale.settings)
      await client.query(
        `insert into ledger.sale (shard, sale, id, settings, stock_digest) values ($1, $2, $3, $4, $5)
         on conflict (shard, sale) do update set settings = excluded.settings`,
        [shard, sale.sale, sale.id, sale.settings, sale.stockDigest],
      );
    else
      await client.query('update ledger.sale set state = $3 where shard = $1 and sale = $2', [
        shard,
        sale.sale,
        sale.state,
      ]);
  }
  if (rows.opened.length > 0)
    await client.query(
      `insert into ledger.balance (shard, sale, sku, warehouse, opened_seq)
       select $1, * from unnest($2::int[], $3::text[], $4::text[], $5::bigint[]) on conflict do nothing`,
      [
        shard,
        column(rows.opened, (r) => r.sale),
        column(rows.opened, (r) => r.sku),
        column(rows.opened, (r) => r.warehouse),
        column(rows.opened, (r) => r.seq),
      ],
    );
  if (rows.entries.length > 0)
    await client.query({
      name: 'ledger-entries',
      text: `insert into ledger.entry (shard, seq, line, sale, sku, warehouse, debit, credit, units)
             select $1, * from unnest($2::bigint[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[])`,
      values: [
        shard,
        column(rows.entries, (r) => r.seq),
        column(rows.entries, (r) => r.line),
        column(rows.entries, (r) => r.sale),
        column(rows.entries, (r) => r.sku),
        column(rows.entries, (r) => r.warehouse),
        column(rows.entries, (r) => r.debit),
        column(rows.entries, (r) => r.credit),
        column(rows.entries, (r) => r.units),
      ],
    });
  if (rows.balances.length > 0) {
    const { rowCount } = await client.query({
      name: 'ledger-balances',
      text: `update ledger.balance b
                set supply = b.supply + d.supply, available = b.available + d.available,
                    reserved = b.reserved + d.reserved, sold = b.sold + d.sold
               from unnest($2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
                    as d(sale, sku, warehouse, supply, available, reserved, sold)
              where b.shard = $1 and b.sale = d.sale and b.sku = d.sku and b.warehouse = d.warehouse`,
      values: [
        shard,
        column(rows.balances, (r) => r.sale),
        column(rows.balances, (r) => r.sku),
        column(rows.balances, (r) => r.warehouse),
        column(rows.balances, (r) => r.supply),
        column(rows.balances, (r) => r.available),
        column(rows.balances, (r) => r.reserved),
        column(rows.balances, (r) => r.sold),
      ],
    });
    if (rowCount !== rows.balances.length) throw new Fork('units moved in an allotment that was never opened');
  }
  if (rows.reservations.length > 0)
    await client.query({
      name: 'ledger-reservations',
      text: `insert into ledger.reservation (shard, seq, sale, buyer, key, state, lines, durability,
                                             first_expires_at, expires_at, reserved_at, ended_at, ended_seq, units, extensions)
             select $1, * from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[],
                                      $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::bigint[],
                                      $14::int[], $15::int[])`,
      values: [
        shard,
        column(rows.reservations, (r) => r.seq),
        column(rows.reservations, (r) => r.sale),
        column(rows.reservations, (r) => r.buyer),
        column(rows.reservations, (r) => r.key),
        column(rows.reservations, (r) => r.state),
        column(rows.reservations, (r) => r.lines),
        column(rows.reservations, (r) => r.durability),
        column(rows.reservations, (r) => r.firstExpiresAt),
        column(rows.reservations, (r) => r.expiresAt),
        column(rows.reservations, (r) => r.reservedAt),
        column(rows.reservations, (r) => r.endedAt),
        column(rows.reservations, (r) => r.endedSeq),
        column(rows.reservations, (r) => r.units),
        column(rows.reservations, (r) => r.extensions),
      ],
    });
  if (rows.changes.length > 0) {
    const { rowCount } = await client.query({
      name: 'ledger-changes',
      text: `update ledger.reservation r
                set expires_at = coalesce(d.expires_at, r.expires_at), state = coalesce(d.state, r.state),
                    ended_at = coalesce(d.ended_at, r.ended_at), ended_seq = coalesce(d.ended_seq, r.ended_seq),
                    extensions = r.extensions + d.extensions, returned = r.returned + d.returned
               from unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::bigint[], $7::int[], $8::int[])
                    as d(seq, expires_at, state, ended_at, ended_seq, extensions, returned)
              where r.shard = $1 and r.seq = d.seq
                and (r.state = 'held' or (d.state is null and d.extensions = 0))`,
      values: [
        shard,
        column(rows.changes, (r) => r.seq),
        column(rows.changes, (r) => r.expiresAt),
        column(rows.changes, (r) => r.state),
        column(rows.changes, (r) => r.endedAt),
        column(rows.changes, (r) => r.endedSeq),
        column(rows.changes, (r) => r.extensions),
        column(rows.changes, (r) => r.returned),
      ],
    });
    if (rowCount !== rows.changes.length)
      throw new Fork('a reservation ended twice, or ended without having been reserved');
  }
  if (rows.stockChanges.length > 0)
    await client.query(
      `insert into ledger.stock_change (shard, seq, sale, kind, id, content, at)
       select $1, * from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[])`,
      [
        shard,
        column(rows.stockChanges, (r) => r.seq),
        column(rows.stockChanges, (r) => r.sale),
        column(rows.stockChanges, (r) => r.kind),
        column(rows.stockChanges, (r) => r.id),
        column(rows.stockChanges, (r) => r.content),
        column(rows.stockChanges, (r) => r.at),
      ],
    );
}

/** Keeps batches that are not applied, to be looked at: `stampede stops`. */
export async function quarantine(
  client: Pick<PoolClient, 'query'>,
  shard: number,
  batches: Batch[],
  reason: string,
): Promise<void> {
  for (const batch of batches)
    await client.query(
      `insert into ledger.quarantine (shard, epoch, seq_first, seq_last, digest, reason, batch)
       values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing`,
      [shard, batch.epoch, batch.seqFirst, batch.seqLast, batch.digest, reason, JSON.stringify(batch)],
    );
}

async function writeBatches(client: PoolClient, shard: number, fresh: Batch[]): Promise<void> {
  await client.query({
    name: 'ledger-batches',
    text: `insert into ledger.batch (shard, seq_last, seq_first, epoch, at, digest)
           select $1, * from unnest($2::bigint[], $3::bigint[], $4::int[], $5::timestamptz[], $6::text[])`,
    values: [
      shard,
      column(fresh, (b) => b.seqLast),
      column(fresh, (b) => b.seqFirst),
      column(fresh, (b) => b.epoch),
      column(fresh, (b) => b.at),
      column(fresh, (b) => b.digest),
    ],
  });
}

/** Bad data (class 22) and integrity violations (23) come from the events; anything else from Postgres, and may pass. */
function isPoison(error: unknown): boolean {
  if (error instanceof Fork || error instanceof ImpossibleEvent) return true;
  return error instanceof DatabaseError && /^2[23]/.test(error.code ?? '');
}

/**
 * Applies batches of one shard, in the order given: what it has is dropped, what is ahead is set aside (the relay sends
 * it again). Rejects with ShardStopped when the history can't be (and notes that in `ledger.shard.stopped`), and with
 * Postgres' own error when it can't be reached.
 */
export async function applyBatches(pool: Pool, shard: number, batches: Batch[]): Promise<Applied> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query('begin');
    const { rows } = await client.query<ShardRow>(
      `select epoch, watermark, stopped, closed_epoch, closed_seq,
              (select b.epoch from ledger.batch b where b.shard = s.shard and b.seq_last = s.watermark) as last_epoch
         from ledger.shard s where shard = $1 for update`,
      [shard],
    );
    const row = rows[0];
    if (!row) throw new Fork('no epoch of this shard was ever granted');
    if (row.stopped !== null) throw new ShardStopped(shard, row.stopped);
    const watermark = Number(row.watermark);
    const { known, fresh, ahead, late } = sortBatches(batches, watermark, {
      granted: row.epoch,
      last: row.last_epoch ?? 1,
      closed: row.closed_epoch,
      closedSeq: Number(row.closed_seq),
    });
    late.push(...(await checkKnown(client, shard, known, row.closed_epoch)));
    await quarantine(client, shard, late, `its epoch was closed at ${row.closed_seq} or before`);
    const last = fresh.at(-1);
    if (last) {
      await writeRows(client, shard, rowsOf(fresh, decodeReservationId));
      await writeBatches(client, shard, fresh);
      await client.query('update ledger.shard set watermark = $2, watermark_at = $3 where shard = $1', [
        shard,
        last.seqLast,
        last.at,
      ]);
    }
    await client.query('commit');
    return {
      watermark: last?.seqLast ?? watermark,
      events: last ? last.seqLast - watermark : 0,
      known: known.length,
      setAside: ahead.length,
      quarantined: late.length,
    };
  } catch (error) {
    await client.query('rollback').catch((failed: Error) => {
      broken = failed;
    });
    if (!isPoison(error)) throw error;
    // What comes before the bad one is history all the same.
    if (batches.length > 1) return await oneByOne(pool, shard, batches);
    const reason = (error instanceof Error ? error.message : String(error)).replaceAll('\0', '\\0');
    await pool.query('update ledger.shard set stopped = $2 where shard = $1', [shard, reason]);
    await quarantine(pool, shard, batches, reason);
    throw new ShardStopped(shard, reason);
  } finally {
    client.release(broken);
  }
}

async function oneByOne(pool: Pool, shard: number, batches: Batch[]): Promise<Applied> {
  const all: Applied = { watermark: 0, events: 0, known: 0, setAside: 0, quarantined: 0 };
  for (const batch of batches) {
    const one = await applyBatches(pool, shard, [batch]);
    all.watermark = one.watermark;
    all.events += one.events;
    all.known += one.known;
    all.setAside += one.setAside;
    all.quarantined += one.quarantined;
  }
  return all;
}

/** How far the ledger is with a shard. */
export async function readWatermark(pool: Pool, shard: number): Promise<{ watermark: number; stopped: string | null }> {
  const { rows } = await pool.query<{ watermark: string; stopped: string | null }>(
    'select watermark, stopped from ledger.shard where shard = $1',
    [shard],
  );
  return { watermark: Number(rows[0]?.watermark ?? 0), stopped: rows[0]?.stopped ?? null };
}
