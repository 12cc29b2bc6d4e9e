/** Shards that the ledger has stopped: to be looked at, and to go on with. */
import type { Pool } from 'pg';

export type Stop = {
  shard: number;
  reason: string;
  epoch: number;
  /** The last sequence that was applied. */
  watermark: number;
  /** The batch that could not be, as JSON text; null when it isn't known. */
  batch: string | null;
};

export async function readStops(pool: Pool): Promise<Stop[]> {
  const { rows } = await pool.query<{
    shard: number;
    stopped: string;
    epoch: number;
    watermark: string;
    batch: string | null;
  }>(
    `select s.shard, s.stopped, s.epoch, s.watermark,
            (select q.batch from ledger.quarantine q
              where q.shard = s.shard and q.reason = s.stopped order by q.at desc limit 1) as batch
       from ledger.shard s where s.stopped is not null order by s.shard`,
  );
  return rows.map(({ stopped, watermark, ...rest }) => ({ ...rest, reason: stopped, watermark: Number(watermark) }));
}

/** Lets a stopped shard's events come again: for when what stopped it has been mended. False: it wasn't stopped. */
export async function retryStopped(pool: Pool, shard: number): Promise<boolean> {
  const { rowCount } = await pool.query(
    'update ledger.shard set stopped = null where shard = $1 and stopped is not null',
    [shard],
  );
  return rowCount === 1;
}
