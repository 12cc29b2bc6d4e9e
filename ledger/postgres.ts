/** The ledger's decisions on real Postgres. */
import { DatabaseError, type Pool, type PoolClient } from 'pg';
import type { Batch } from './events.ts';
import { createRebuildStore } from './postgres-rebuild.ts';
import { column, writeRows } from './postgres-rows.ts';
import { Fork, type LedgerStore, type ShardRow, type ShardTransaction, type Watermark } from './store.ts';

async function quarantine(
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
  const last = fresh.at(-1);
  await client.query('update ledger.shard set watermark = $2, watermark_at = $3 where shard = $1', [
    shard,
    last?.seqLast,
    last?.at,
  ]);
}

/** Bad data (class 22) and integrity violations (23) come from the events; anything else from Postgres, and may pass. */
function isPoison(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && /^2[23]/.test(error.code ?? '');
}

/** How far the ledger is with a shard. */
export async function readWatermark(pool: Pool, shard: number): Promise<Watermark> {
  const { rows } = await pool.query<{ watermark: string; stopped: string | null }>(
    'select watermark, stopped from ledger.shard where shard = $1',
    [shard],
  );
  return { watermark: Number(rows[0]?.watermark ?? 0), stopped: rows[0]?.stopped ?? null };
}

async function lockShard(client: PoolClient, shard: number): Promise<ShardRow | null> {
  const { rows } = await client.query<{
    last_epoch: number | null;
    epoch: number;
    closed_epoch: number;
    closed_seq: string;
    watermark: string;
    stopped: string | null;
  }>(
    `select epoch, watermark, stopped, closed_epoch, closed_seq,
            (select b.epoch from ledger.batch b where b.shard = s.shard and b.seq_last = s.watermark) as last_epoch
       from ledger.shard s where shard = $1 for update`,
    [shard],
  );
  const row = rows[0];
  if (!row) return null;
  return {
    ...{ epoch: row.epoch, lastEpoch: row.last_epoch, closedEpoch: row.closed_epoch },
    ...{ closedSeq: Number(row.closed_seq), watermark: Number(row.watermark), stopped: row.stopped },
  };
}

const transactionOn = (client: PoolClient, shard: number, row: ShardRow | null): ShardTransaction => ({
  row,
  async batchesAt(seqs) {
    const { rows } = await client.query<{ seq_last: string; digest: string; epoch: number }>(
      'select seq_last, digest, epoch from ledger.batch where shard = $1 and seq_last = any($2::bigint[])',
      [shard, seqs],
    );
    return rows.map(({ seq_last, ...rest }) => ({ seqLast: Number(seq_last), ...rest }));
  },
  quarantine: (batches, reason) => quarantine(client, shard, batches, reason),
  writeRows: (written) => writeRows(client, shard, written),
  writeBatches: (batches) => writeBatches(client, shard, batches),
  async beginRebuild(token) {
    await client.query('update ledger.shard set rebuilding = $2 where shard = $1', [shard, token]);
  },
});

export function createLedgerStore(pool: Pool): LedgerStore {
  return {
    ...createRebuildStore(pool),
    watermark: (shard) => readWatermark(pool, shard),
    async transaction(shard, work) {
      const client = await pool.connect();
      let broken: Error | undefined;
      try {
        await client.query('begin');
        const answer = await work(transactionOn(client, shard, await lockShard(client, shard)));
        await client.query('commit');
        return answer;
      } catch (error) {
        await client.query('rollback').catch((failed: Error) => {
          broken = failed;
        });
        throw isPoison(error) ? new Fork(error.message, { cause: error }) : error;
      } finally {
        client.release(broken);
      }
    },
    async stop(shard, reason) {
      await pool.query('update ledger.shard set stopped = $2 where shard = $1 and stopped is null', [shard, reason]);
    },
    quarantine: (shard, batches, reason) => quarantine(pool, shard, batches, reason),
  };
}
