/** What the stores know when a run is over: the ledger's history and balances, what is left in Valkey, and reports of losses. */
import { Redis } from 'iovalkey';
import type { Pool } from 'pg';
import { batchOf } from '../engine/outbox.ts';
import { encodeReservationId, shardKey } from '../kernel/ids.ts';
import { createLogger } from '../kernel/logger.ts';
import type { Batch } from '../ledger/events.ts';
import { replayFromKafka } from '../ledger/kafka.ts';
import type { RebuildReport } from '../ledger/rebuild.ts';
import type { Fact, Line, SaleRules } from './history.ts';

export type BatchRow = {
  shard: number;
  seqFirst: number;
  seqLast: number;
  epoch: number;
  atMs: number;
  digest: string;
};
export type ShardRow = { shard: number; epoch: number; watermark: number; stopped: string | null };
export type Loss = Pick<RebuildReport, 'shard' | 'seq' | 'lost' | 'epoch' | 'silentEngines'> & {
  /** When the old epoch was closed, and when its successor could sell; of the ledger's clock. */
  closedAtMs: number;
  openedAtMs: number;
};
export type BalanceRow = {
  shard: number;
  no: number;
  sku: string;
  warehouse: string;
  supply: number;
  available: number;
  reserved: number;
  sold: number;
};

export type Evidence = {
  facts: Fact[];
  batches: BatchRow[];
  shards: ShardRow[];
  losses: Loss[];
  balances: BalanceRow[];
  /** The same, added up from the double entries. */
  entries: BalanceRow[];
  quarantined: { shard: number; epoch: number; seqFirst: number; seqLast: number; reason: string }[];
  /** What Valkey's outboxes still have. */
  outboxes: BatchRow[];
  /** What Kafka has, in its order; null where events go straight to the ledger. */
  topic: BatchRow[] | null;
  sales: { saleId: string; shard: number; no: number }[];
};

type Row = Record<string, string>;
const numbers = <const Name extends string>(row: Row, ...names: Name[]): Record<Name, number> =>
  Object.fromEntries(names.map((name) => [name, Number(row[name])])) as Record<Name, number>;
const ms = (column: string): string => `extract(epoch from ${column}) * 1000`;

/** Reads all of it. Nothing may be under way any more. `broker`: null where there is no Kafka. */
export async function gatherEvidence(
  pool: Pool,
  valkeyUrl: string,
  broker: string | null,
  shards: number,
): Promise<Evidence> {
  const query = async (text: string): Promise<Row[]> => (await pool.query<Row>(text)).rows;
  const balances = (rows: Row[]): BalanceRow[] =>
    rows.map((row) => ({
      ...numbers(row, 'shard', 'no', 'supply', 'available', 'reserved', 'sold'),
      ...{ sku: row.sku ?? '', warehouse: row.warehouse ?? '' },
    }));
  const account = (name: string): string =>
    `sum(case '${name}' when credit then moved when debit then -moved else 0 end) as ${name}`;
  return {
    facts: await readFacts(query),
    batches: (await query(`select *, ${ms('at')} as ms from ledger.batch order by shard, seq_last`)).map((row) => ({
      ...numbers(row, 'shard', 'epoch'),
      ...{
        seqFirst: Number(row.seq_first),
        seqLast: Number(row.seq_last),
        atMs: Number(row.ms),
        digest: row.digest ?? '',
      },
    })),
    shards: (await query('select * from ledger.shard order by shard')).map((row) => ({
      ...numbers(row, 'shard', 'epoch', 'watermark'),
      stopped: row.stopped ?? null,
    })),
    losses: (
      await pool.query<{ report: RebuildReport; closed: string; opened: string }>(
        `select report, ${ms('at')} as closed, ${ms('finished_at')} as opened from ledger.rebuild
          where finished_at is not null order by shard, epoch`,
      )
    ).rows.map(({ report: { shard, seq, lost, epoch, silentEngines }, closed, opened }) => ({
      ...{ shard, seq, lost, epoch, silentEngines, closedAtMs: Number(closed), openedAtMs: Number(opened) },
    })),
    balances: balances(
      await query('select shard, sale as no, sku, warehouse, supply, available, reserved, sold from ledger.balance'),
    ),
    entries: balances(
      await query(
        `select shard, sale as no, sku, warehouse,
                sum(case 'outside' when debit then moved when credit then -moved else 0 end) as supply,
                ${account('available')}, ${account('reserved')}, ${account('sold')}
           from (select *, units * (seq_last - seq_first + 1) as moved from ledger.entry) e
          group by shard, sale, sku, warehouse`,
      ),
    ),
    quarantined: (await query('select * from ledger.quarantine order by shard, seq_last')).map((row) => ({
      ...numbers(row, 'shard', 'epoch'),
      ...{ seqFirst: Number(row.seq_first), seqLast: Number(row.seq_last), reason: row.reason ?? '' },
    })),
    outboxes: await readOutboxes(valkeyUrl, shards),
    topic: broker === null ? null : await readTopic(pool, broker, shards),
    sales: (await query('select id, shard, sale as no from ledger.sale')).map((row) => ({
      ...{ saleId: row.id ?? '', ...numbers(row, 'shard', 'no') },
    })),
  };
}

async function readFacts(query: (text: string) => Promise<Row[]>): Promise<Fact[]> {
  const facts: Fact[] = [];
  for (const row of await query(
    `select *, ${ms('reserved_at')} as at_ms, ${ms('ended_at')} as ended_ms, ${ms('first_expires_at')} as first_ms,
            ${ms('expires_at')} as last_ms from ledger.reservation`,
  )) {
    const { shard, sale: no, seq } = numbers(row, 'shard', 'sale', 'seq');
    const { buyer = '', key = '' } = row;
    const lines = row.lines as unknown as Line[];
    facts.push({
      ...{ kind: 'reserved', shard, no, seq, atMs: Number(row.at_ms), buyer, lines },
      id: encodeReservationId({ shard, sale: no, seq, buyer, key }),
      ...{
        expiresAtMs: Number(row.first_ms),
        lastExpiresAtMs: Number(row.last_ms),
        extensions: Number(row.extensions),
      },
    });
    const { state } = row;
    if (state === 'committed' || state === 'released' || state === 'expired')
      facts.push({
        kind: state,
        shard,
        no,
        seq: Number(row.ended_seq),
        atMs: Number(row.ended_ms),
        reservation: seq,
        lines,
      });
  }
  for (const row of await query(`select *, ${ms('at')} as at_ms from ledger.stock_change`)) {
    const { shard, sale: no, seq } = numbers(row, 'shard', 'sale', 'seq');
    const { kind, id = '' } = row;
    if (kind !== 'restocked' && kind !== 'adjusted') continue;
    const { sku, warehouse, units } = row.content as unknown as { sku: string; warehouse: string; units: number };
    facts.push({ kind, shard, no, seq, atMs: Number(row.at_ms), id, sku, warehouse, units });
  }
  return facts.sort((a, b) => a.shard - b.shard || a.seq - b.seq);
}

const rowOf = ({ shard, seqFirst, seqLast, epoch, at, digest }: Batch): BatchRow => ({
  ...{ shard, seqFirst, seqLast, epoch, digest, atMs: Date.parse(at) },
});

async function readTopic(pool: Pool, broker: string, shards: number): Promise<BatchRow[]> {
  const { rows } = await pool.query<{ name: string }>('select name from ledger.deployment');
  const found: BatchRow[] = [];
  for (let shard = 0; shard < shards; shard++)
    await replayFromKafka({
      ...{ brokers: [broker], name: rows[0]?.name ?? '', shard, from: 1, to: Number.MAX_SAFE_INTEGER, limitMs: 60_000 },
      logger: createLogger({ level: 'silent', name: 'evidence' }),
      async take(batches) {
        found.push(...batches.map(rowOf));
      },
    });
  return found;
}

async function readOutboxes(valkeyUrl: string, shards: number): Promise<BatchRow[]> {
  const redis = new Redis(valkeyUrl, { maxRetriesPerRequest: 3 });
  redis.on('error', () => undefined);
  try {
    const found: BatchRow[] = [];
    for (let shard = 0; shard < shards; shard++)
      for (const [, fields] of await redis.xrangeBuffer(`${shardKey(shard).replace(/shard$/, '')}outbox`, '-', '+')) {
        found.push(rowOf(batchOf(shard, fields[1] ?? Buffer.alloc(0))));
      }
    return found;
  } finally {
    redis.disconnect();
  }
}

/** The sales that clients made, with where they lie. */
export function salesOf(made: Omit<SaleRules, 'shard' | 'no'>[], evidence: Evidence): SaleRules[] {
  return made.flatMap((sale) => {
    const place = evidence.sales.find(({ saleId }) => saleId === sale.saleId);
    return place ? [{ ...sale, ...place }] : [];
  });
}
