/** What a rebuild asks of real Postgres. */
import type { Pool, PoolClient } from 'pg';
import { sharedUntil } from './authority.ts';
import type { Lost } from './rebuild.ts';
import type { BookRow, ChangeRow, LedgerStore, ShardContent } from './store.ts';

type RebuildStore = Pick<
  LedgerStore,
  'sightings' | 'sharedUntil' | 'closeEpoch' | 'unfinishedLosses' | 'finishRebuild' | 'content'
>;

export function createRebuildStore(pool: Pool): RebuildStore {
  return {
    async sightings(shard, silenceMs) {
      const { rows } = await pool.query<{ seq: string | null; awaited: number; silent: number }>(
        `select max(g.seq) as seq,
                count(*) filter (where g.open and g.at > now() - $2 * interval '1 ms')::int as awaited,
                count(*) filter (where g.open and g.at <= now() - $2 * interval '1 ms')::int as silent
           from ledger.sighting g join ledger.shard s using (shard)
          where g.shard = $1 and g.epoch > s.closed_epoch`,
        [shard, silenceMs],
      );
      const row = rows[0];
      return { seq: Number(row?.seq ?? 0), awaited: row?.awaited ?? 0, silent: row?.silent ?? 0 };
    },
    sharedUntil: (shard, epoch) => sharedUntil(pool, shard, epoch),
    async closeEpoch(shard, { token, runId, discard, most, silentEngines }) {
      const { rows } = await pool.query<{ epoch: number; watermark: string; watermark_at: Date | null }>(
        `with closed as (
           update ledger.shard
              set closed_epoch = epoch, closed_seq = watermark, epoch = epoch + 1, run_id = $3, opened = true, stopped = null
            where shard = $1 and rebuilding = $2 and (stopped is null or $4)
            returning shard, epoch, watermark, watermark_at),
         begun as (
           insert into ledger.epoch_grant (shard, epoch, run_id, seq) select shard, epoch, $3, watermark from closed),
         noted as (
           insert into ledger.rebuild (shard, epoch, report)
           select shard, epoch, jsonb_build_object('lost',
                    case when $5::bigint > watermark then jsonb_build_object('from', watermark + 1, 'to', $5::bigint) end,
                    'silentEngines', $6::int)
             from closed)
         select epoch, watermark, watermark_at from closed`,
        [shard, token, runId, discard, most, silentEngines],
      );
      const row = rows[0];
      if (!row) return null;
      return { epoch: row.epoch, seq: Number(row.watermark), atMs: row.watermark_at?.getTime() ?? 0 };
    },
    async unfinishedLosses(shard) {
      const { rows } = await pool.query<{ lost: Lost; silent: number | null }>(
        `select report->'lost' as lost, (report->'silentEngines')::int as silent
           from ledger.rebuild where shard = $1 and finished_at is null`,
        [shard],
      );
      return rows.map(({ lost, silent }) => ({ lost, silentEngines: silent ?? 0 }));
    },
    async finishRebuild(token, report) {
      const { rowCount } = await pool.query(
        `with opened as (
           update ledger.shard set rebuilding = null where shard = $1 and rebuilding = $2 returning shard),
         finished as (
           update ledger.rebuild r set finished_at = now() from opened o
            where r.shard = o.shard and r.finished_at is null and r.epoch <> $3),
         reported as (
           update ledger.rebuild r set finished_at = now(), report = $4 from opened o
            where r.shard = o.shard and r.epoch = $3)
         select 1 from opened`,
        [report.shard, token, report.epoch, JSON.stringify(report)],
      );
      return rowCount === 1;
    },
    async content(shard, work) {
      const client = await pool.connect();
      try {
        await client.query('begin transaction isolation level repeatable read read only');
        // Grouping what buyers own takes as long as there are reservations.
        await client.query("set local statement_timeout = '30min'");
        const answer = await work(contentOf(client, shard));
        await client.query('commit');
        return answer;
      } finally {
        client.release(true);
      }
    },
  };
}

function contentOf(client: PoolClient, shard: number): ShardContent {
  return {
    async sales() {
      const { rows } = await client.query<{
        sale: number;
        id: string;
        settings: string;
        stock_digest: string;
        state: string;
      }>('select sale, id, settings::text, stock_digest, state from ledger.sale where shard = $1 order by sale', [
        shard,
      ]);
      return rows.map(({ stock_digest, ...rest }) => ({ ...rest, stockDigest: stock_digest }));
    },
    async stock(sale) {
      const { rows } = await client.query<{
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
      return rows.map(({ sku, warehouse, available, reserved, sold }) => ({
        ...{ sku, warehouse, available: Number(available), reserved: Number(reserved), sold: Number(sold) },
      }));
    },
    async book(after, sinceMs, max) {
      const { rows } = await client.query<
        Pick<
          BookRow,
          'sale' | 'buyer' | 'key' | 'state' | 'lines' | 'durability' | 'units' | 'extensions' | 'returned'
        > & {
          seq: string;
          first_expires_at: Date;
          expires_at: Date;
          ended_at: Date | null;
        }
      >(
        `select sale, seq, buyer, key, state, lines, durability, first_expires_at, expires_at, ended_at, units, extensions,
                returned
           from ledger.reservation
          where shard = $1 and seq > $2 and (state = 'held' or ended_at > $3)
          order by seq limit $4`,
        [shard, after, new Date(sinceMs), max],
      );
      return rows.map(({ seq, first_expires_at, expires_at, ended_at, ...rest }) => ({
        ...rest,
        seq: Number(seq),
        firstExpiresAtMs: first_expires_at.getTime(),
        expiresAtMs: expires_at.getTime(),
        endedAtMs: ended_at?.getTime() ?? null,
      }));
    },
    async *owners(sinceMs, max) {
      // One pass over them all.
      await client.query(
        `declare owners no scroll cursor for
           select sale, buyer, sum(units - returned) as units from ledger.reservation
            where shard = ${Number(shard)} and state = 'committed' and ended_at <= '${new Date(sinceMs).toISOString()}'
            group by sale, buyer having sum(units - returned) > 0`,
      );
      for (;;) {
        const { rows } = await client.query<{ sale: number; buyer: string; units: string }>(
          `fetch ${Number(max)} from owners`,
        );
        if (rows.length === 0) return;
        yield rows.map(({ units, ...rest }) => ({ ...rest, units: Number(units) }));
      }
    },
    async changes(after, max) {
      const { rows } = await client.query<Omit<ChangeRow, 'seq'> & { seq: string }>(
        `select sale, seq, kind, id, content from ledger.stock_change
          where shard = $1 and seq > $2 order by seq limit $3`,
        [shard, after, max],
      );
      return rows.map(({ seq, ...rest }) => ({ ...rest, seq: Number(seq) }));
    },
  };
}
