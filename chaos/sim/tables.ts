/** The ledger's tables in memory: `ledger/migrations/001-ledger.sql`. */
import type { Lost, RebuildReport } from '../../ledger/rebuild.ts';
import type { BookRow, ChangeRow, SaleRow, StockRow } from '../../ledger/store.ts';

export type BalanceRow = StockRow & { sale: number; supply: number; openedSeq: number };
export type EntryRow = {
  seqFirst: number;
  seqLast: number;
  sale: number;
  sku: string;
  warehouse: string;
  debit: string;
  credit: string;
  units: number;
};
export type ReservationRow = BookRow & { endedSeq: number | null; reservedAtMs: number };
export type BatchRow = { seqFirst: number; seqLast: number; epoch: number; atMs: number; digest: string };

/** What there is of one shard. Keys are the tables' primary keys, less the shard. */
export type ShardTables = {
  row: {
    shard: number;
    epoch: number;
    runId: string;
    opened: boolean;
    watermark: number;
    watermarkAtMs: number;
    stopped: string | null;
    rebuilding: string | null;
    closedEpoch: number;
    closedSeq: number;
  };
  sales: Map<number, SaleRow>;
  balances: Map<string, BalanceRow>;
  entries: Map<string, EntryRow>;
  reservations: Map<number, ReservationRow>;
  changes: Map<number, ChangeRow & { atMs: number }>;
  batches: Map<number, BatchRow>;
};

export type Tables = {
  shards: Map<number, ShardTables>;
  /** Sale ids are unique over all shards. */
  saleIds: Map<string, string>;
  /** After which sequence each epoch begins that engines were granted. */
  grants: { shard: number; epoch: number; seq: number }[];
  sightings: Map<
    string,
    {
      engine: string;
      shard: number;
      epoch: number;
      runId: string;
      seq: number;
      open: boolean;
      number: number;
      atMs: number;
    }
  >;
  losses: Map<string, { shard: number; epoch: number; from: number; to: number }>;
  rebuilds: Map<
    string,
    {
      shard: number;
      epoch: number;
      /** Where the epochs before it were closed. */
      seq: number;
      token: string;
      lost: Lost;
      silentEngines: number;
      report: RebuildReport | null;
      finished: boolean;
    }
  >;
  quarantine: Map<string, { shard: number; epoch: number; seqFirst: number; seqLast: number; reason: string }>;
  /** The first row of a shard. */
  make(shard: number, runId: string): ShardTables;
};

export function createTables(): Tables {
  const shards = new Map<number, ShardTables>();
  return {
    shards,
    saleIds: new Map(),
    grants: [],
    sightings: new Map(),
    losses: new Map(),
    rebuilds: new Map(),
    quarantine: new Map(),
    make(shard, runId) {
      const made: ShardTables = {
        row: {
          ...{ shard, epoch: 1, runId, opened: false, watermark: 0, watermarkAtMs: 0 },
          ...{ stopped: null, rebuilding: null, closedEpoch: 0, closedSeq: 0 },
        },
        sales: new Map(),
        balances: new Map(),
        entries: new Map(),
        reservations: new Map(),
        changes: new Map(),
        batches: new Map(),
      };
      shards.set(shard, made);
      return made;
    },
  };
}
