/**
 * What the ledger's decisions ask of a database: `postgres.ts` is the one that serves, and a simulator brings one in memory
 * that keeps the same constraints (`chaos/sim/store.ts`).
 */
import type { Batch } from './events.ts';
import type { Lost, RebuildReport } from './rebuild.ts';
import type { Rows } from './rows.ts';

/** The rows can't be: they break a constraint, or change what isn't there. */
export class Fork extends Error {}

export type ShardRow = {
  /** The epoch that is granted, and that of the last batch applied (null: there is none). */
  epoch: number;
  lastEpoch: number | null;
  /** The last epoch that a rebuild has closed, and where; 0 for none. */
  closedEpoch: number;
  closedSeq: number;
  watermark: number;
  stopped: string | null;
};

export type Watermark = { watermark: number; stopped: string | null };

/** A transaction that holds the shard's row: nobody else writes to the shard until it ends. */
export type ShardTransaction = {
  /** Null: no epoch of it was ever granted. */
  row: ShardRow | null;
  /** What the journal has under those last sequences. */
  batchesAt(seqs: number[]): Promise<{ seqLast: number; digest: string; epoch: number }[]>;
  quarantine(batches: Batch[], reason: string): Promise<void>;
  writeRows(rows: Rows): Promise<void>;
  /** Writes the journal, and moves the watermark to its end. */
  writeBatches(batches: Batch[]): Promise<void>;
  /** Once committed, no engine is granted an epoch until the rebuild is finished, and one that began before is over. */
  beginRebuild(token: string): Promise<void>;
};

export type SaleRow = { sale: number; id: string; settings: string; stockDigest: string; state: string };
export type StockRow = { sku: string; warehouse: string; available: number; reserved: number; sold: number };
export type Lines = { sku: string; warehouse: string; quantity: number }[];
export type BookRow = {
  sale: number;
  seq: number;
  buyer: string;
  key: string;
  state: 'held' | 'committed' | 'released' | 'expired';
  lines: Lines;
  durability: string;
  firstExpiresAtMs: number;
  expiresAtMs: number;
  endedAtMs: number | null;
  units: number;
  extensions: number;
  returned: number;
};
export type OwnerRow = { sale: number; buyer: string; units: number };
export type ChangeRow = { sale: number; seq: number; kind: string; id: string; content: Record<string, unknown> };

/** A shard's content as of one moment. Pages are of rows after a sequence, oldest first. */
export type ShardContent = {
  sales(): Promise<SaleRow[]>;
  /** In the order in which warehouses serve. */
  stock(sale: number): Promise<StockRow[]>;
  /** Reservations that are held, or ended after `sinceMs`. */
  book(after: number, sinceMs: number, max: number): Promise<BookRow[]>;
  /** What buyers own by reservations that ended at `sinceMs` or before, in pages. */
  owners(sinceMs: number, max: number): AsyncIterable<OwnerRow[]>;
  changes(after: number, max: number): Promise<ChangeRow[]>;
};

export type LedgerStore = {
  watermark(shard: number): Promise<Watermark>;
  /**
   * All that `work` writes, or nothing. Rejects with Fork when what it writes can't be, with `work`'s own error, or with
   * the database's, which may pass: then it isn't known whether it was written.
   */
  transaction<Answer>(shard: number, work: (on: ShardTransaction) => Promise<Answer>): Promise<Answer>;
  /** Stops a shard that isn't stopped. */
  stop(shard: number, reason: string): Promise<void>;
  /** Keeps batches that are not applied, to be looked at: `stampede stops`. */
  quarantine(shard: number, batches: Batch[], reason: string): Promise<void>;

  /**
   * What was seen of the epochs that are not closed: the highest sequence, engines that may still get answers, and those that
   * might but have been silent for `silenceMs`.
   */
  sightings(shard: number, silenceMs: number): Promise<{ seq: number; awaited: number; silent: number }>;
  /** See `Authority.sharedUntil`. */
  sharedUntil(shard: number, epoch: number): Promise<number>;
  /**
   * Closes all epochs so far at the watermark, begins the next, and notes that what follows up to `most` may be lost, and how
   * many engines were silent: all at once. Answers null when another rebuild has begun, or the shard is stopped and nothing is to be discarded.
   */
  closeEpoch(
    shard: number,
    rebuild: { token: string; runId: string; discard: boolean; most: number; silentEngines: number },
  ): Promise<{ epoch: number; seq: number; atMs: number } | null>;
  /** What rebuilds noted that were not finished. */
  unfinishedLosses(shard: number): Promise<{ lost: Lost; silentEngines: number }[]>;
  /** Opens the shard for engines, and keeps the report. Answers false when another rebuild has begun. */
  finishRebuild(token: string, report: RebuildReport): Promise<boolean>;
  content<Answer>(shard: number, work: (content: ShardContent) => Promise<Answer>): Promise<Answer>;
};
