/**
 * The ledger's database in memory: what `ledger/postgres.ts` has of Postgres, with the same constraints. `store.test.ts` holds
 * the two side by side.
 */
import type { Authority } from '../../ledger/authority.ts';
import { silenceFor } from '../../ledger/authority.ts';
import type { Batch } from '../../ledger/events.ts';
import type { RebuildReport } from '../../ledger/rebuild.ts';
import { Fork, type LedgerStore, type ShardTransaction } from '../../ledger/store.ts';
import { writeRows } from './store-rows.ts';
import { createTables, type ShardTables, type Tables } from './tables.ts';

/** How statements get to the database and answers back. A simulation delays and loses them. */
export type Wire = {
  /** Does `work` there, with the time as the database has it. Rejects when it can't be known whether it was done. */
  statement<Answer>(name: string, work: (nowMs: number) => Answer | Promise<Answer>): Promise<Answer>;
  /** Calls once the connection is gone for good: its transactions are rolled back then. */
  onEnd(listener: () => void): () => void;
};

export type Database = {
  tables: Tables;
  store(wire: Wire): LedgerStore;
  authority(wire: Wire): Authority;
};

const clone = <Value>(value: Value): Value => structuredClone(value);

export function createDatabase(): Database {
  const tables = createTables();
  /** Who holds a shard's row, and who waits for it. */
  const locks = new Map<number, { waiting: (() => void)[] }>();

  const lock = (shard: number): Promise<void> | null => {
    const held = locks.get(shard);
    if (held) return new Promise((resolve) => held.waiting.push(resolve));
    locks.set(shard, { waiting: [] });
    return null;
  };
  const unlock = (shard: number): void => {
    const next = locks.get(shard)?.waiting.shift();
    if (next) next();
    else locks.delete(shard);
  };
  /** A statement that changes the shard's row. */
  const changing = async <Answer>(shard: number, work: () => Answer): Promise<Answer> => {
    const waiting = lock(shard);
    if (waiting) await waiting;
    try {
      return work();
    } finally {
      unlock(shard);
    }
  };
  const shardOf = (number: number): ShardTables | undefined => tables.shards.get(number);

  const keepApart = (shard: number, batches: Batch[], reason: string): (() => void) => {
    const added: string[] = [];
    for (const batch of batches) {
      const key = [shard, batch.epoch, batch.seqLast, batch.digest].join();
      if (tables.quarantine.has(key)) continue;
      tables.quarantine.set(key, {
        shard,
        epoch: batch.epoch,
        seqFirst: batch.seqFirst,
        seqLast: batch.seqLast,
        reason,
      });
      added.push(key);
    }
    return () => {
      for (const key of added) tables.quarantine.delete(key);
    };
  };

  const writeBatches = (shard: ShardTables, batches: Batch[]): (() => void) => {
    const { watermark, watermarkAtMs } = shard.row;
    const undo = (): void => {
      for (const { seqLast } of added) shard.batches.delete(seqLast);
      Object.assign(shard.row, { watermark, watermarkAtMs });
    };
    const added: Batch[] = [];
    for (const batch of batches) {
      const { seqFirst, seqLast, epoch, at, digest } = batch;
      if (shard.batches.has(seqLast) || seqFirst > seqLast) {
        undo();
        throw new Fork(`duplicate batch ${seqLast}`);
      }
      added.push(batch);
      shard.batches.set(seqLast, { seqFirst, seqLast, epoch, atMs: Date.parse(at), digest });
    }
    const last = batches.at(-1);
    if (last) Object.assign(shard.row, { watermark: last.seqLast, watermarkAtMs: Date.parse(last.at) });
    return undo;
  };

  const transaction =
    (wire: Wire): LedgerStore['transaction'] =>
    async (number, work) => {
      let over = false;
      let held = false;
      /** What was written so far. Nobody else sees it before the end: it is done for a look, and undone. */
      const written: (() => () => void)[] = [];
      const writeAll = (): (() => void) => {
        const undos: (() => void)[] = [];
        const undo = (): void => {
          for (const one of undos.splice(0).reverse()) one();
        };
        try {
          for (const write of written) undos.push(write());
        } catch (error) {
          undo();
          throw error;
        }
        return undo;
      };
      const end = (): void => {
        over = true;
        if (held) unlock(number);
        held = false;
      };
      const stopListening = wire.onEnd(end);
      const statement = async <Answer>(name: string, run: () => Answer | Promise<Answer>): Promise<Answer> => {
        try {
          return await wire.statement(name, () => {
            if (over) throw new Error('the transaction has ended');
            return run();
          });
        } catch (error) {
          if (!(error instanceof Fork)) end();
          throw error;
        }
      };
      const write = (name: string, one: () => () => void): Promise<void> =>
        statement(name, () => {
          written.push(one);
          writeAll()();
        });
      try {
        const row = await statement('begin', async () => {
          const waiting = lock(number);
          if (waiting) await waiting;
          // It may have ended while it waited.
          if (over) {
            unlock(number);
            throw new Error('the transaction has ended');
          }
          held = true;
          const shard = shardOf(number);
          if (!shard) return null;
          const { epoch, closedEpoch, closedSeq, watermark, stopped } = shard.row;
          const lastEpoch = shard.batches.get(watermark)?.epoch ?? null;
          return { epoch, lastEpoch, closedEpoch, closedSeq, watermark, stopped };
        });
        const shard = (): ShardTables => {
          const found = shardOf(number);
          if (!found) throw new Error(`there is no shard ${number}`);
          return found;
        };
        const on: ShardTransaction = {
          row,
          batchesAt: (seqs) =>
            statement('batches', () =>
              seqs.flatMap((seq) => {
                const batch = shard().batches.get(seq);
                return batch ? [{ seqLast: seq, digest: batch.digest, epoch: batch.epoch }] : [];
              }),
            ),
          quarantine: async (batches, reason) => {
            if (batches.length > 0) await write('quarantine', () => keepApart(number, batches, reason));
          },
          writeRows: (rows) => write('rows', () => writeRows(tables, shard(), rows)),
          writeBatches: (batches) => write('batches', () => writeBatches(shard(), batches)),
          beginRebuild: (token) =>
            write('begin rebuild', () => {
              const { row } = shard();
              const { rebuilding } = row;
              row.rebuilding = token;
              return () => {
                row.rebuilding = rebuilding;
              };
            }),
        };
        const answer = await work(on);
        await statement('commit', () => {
          writeAll();
          end();
        });
        return answer;
      } catch (error) {
        if (!over) await wire.statement('rollback', end).catch(end);
        throw error;
      } finally {
        stopListening();
      }
    };

  const contentOf = (found: ShardTables): Parameters<Parameters<LedgerStore['content']>[1]>[0] => {
    // One moment's, whatever is written after it.
    const { sales, balances, reservations, changes } = clone({
      sales: [...found.sales.values()],
      balances: [...found.balances.values()],
      reservations: [...found.reservations.values()],
      changes: [...found.changes.values()],
    });
    const bySeq = (a: { seq: number }, b: { seq: number }): number => a.seq - b.seq;
    return {
      sales: async () => sales.sort((a, b) => a.sale - b.sale),
      stock: async (sale) => balances.filter((one) => one.sale === sale).sort((a, b) => a.openedSeq - b.openedSeq),
      book: async (after, sinceMs, max) =>
        reservations
          .filter(({ seq, endedAtMs }) => seq > after && (endedAtMs === null || endedAtMs > sinceMs))
          .sort(bySeq)
          .slice(0, max),
      async *owners(sinceMs, max) {
        const owners = new Map<string, { sale: number; buyer: string; units: number }>();
        for (const { sale, buyer, units, returned, state, endedAtMs } of reservations) {
          if (state !== 'committed' || (endedAtMs ?? 0) > sinceMs) continue;
          const owner = owners.get(`${sale}/${buyer}`) ?? { sale, buyer, units: 0 };
          owner.units += units - returned;
          owners.set(`${sale}/${buyer}`, owner);
        }
        const all = [...owners.values()].filter(({ units }) => units > 0);
        for (let from = 0; from < all.length; from += max) yield all.slice(from, from + max);
      },
      changes: async (after, max) =>
        changes
          .filter(({ seq }) => seq > after)
          .sort(bySeq)
          .slice(0, max),
    };
  };

  const sharedUntil = (number: number, epoch: number): number => {
    const seen = [...tables.sightings.values()].filter((one) => one.shard === number).map((one) => one.epoch);
    const applied = [...(shardOf(number)?.batches.values() ?? [])].at(-1)?.epoch ?? 0;
    const closed = (shardOf(number)?.row.closedEpoch ?? 0) + 1;
    if (Math.max(closed, applied, ...seen) <= epoch) return Number.POSITIVE_INFINITY;
    const later = tables.grants.filter((one) => one.shard === number && one.epoch > epoch);
    return Math.min(Number.POSITIVE_INFINITY, ...later.map(({ seq }) => seq));
  };

  const store = (wire: Wire): LedgerStore => ({
    watermark: (number) =>
      wire.statement('watermark', () => {
        const { watermark = 0, stopped = null } = shardOf(number)?.row ?? {};
        return { watermark, stopped };
      }),
    transaction: transaction(wire),
    stop: (number, reason) =>
      wire.statement('stop', () =>
        changing(number, () => {
          const shard = shardOf(number);
          if (shard) shard.row.stopped ??= reason;
        }),
      ),
    quarantine: async (number, batches, reason) => {
      await wire.statement('quarantine', () => keepApart(number, batches, reason));
    },
    sightings: (number, silenceMs) =>
      wire.statement('sightings', (nowMs) => {
        const closed = shardOf(number)?.row.closedEpoch;
        const all = [...tables.sightings.values()].filter(
          (one) => one.shard === number && closed !== undefined && one.epoch > closed,
        );
        const open = all.filter((one) => one.open);
        const awaited = open.filter((one) => one.atMs > nowMs - silenceMs).length;
        return { seq: Math.max(0, ...all.map((one) => one.seq)), awaited, silent: open.length - awaited };
      }),
    sharedUntil: (number, epoch) => wire.statement('shared until', () => sharedUntil(number, epoch)),
    closeEpoch: (number, { token, runId, discard, most, silentEngines }) =>
      wire.statement('close epoch', () =>
        changing(number, () => {
          const row = shardOf(number)?.row;
          if (!row || row.rebuilding !== token || (row.stopped !== null && !discard)) return null;
          const { watermark } = row;
          Object.assign(row, { closedEpoch: row.epoch, closedSeq: watermark, epoch: row.epoch + 1, runId });
          Object.assign(row, { opened: true, stopped: null });
          tables.grants.push({ shard: number, epoch: row.epoch, seq: watermark });
          const lost = most > watermark ? { from: watermark + 1, to: most } : null;
          tables.rebuilds.set(`${number}/${row.epoch}`, {
            ...{
              shard: number,
              epoch: row.epoch,
              seq: watermark,
              token,
              lost,
              silentEngines,
              report: null,
              finished: false,
            },
          });
          return { epoch: row.epoch, seq: watermark, atMs: row.watermarkAtMs };
        }),
      ),
    unfinishedLosses: (number) =>
      wire.statement('losses', () =>
        [...tables.rebuilds.values()]
          .filter((one) => one.shard === number && !one.finished)
          .map(({ lost, silentEngines }) => ({ lost, silentEngines })),
      ),
    finishRebuild: (token: string, report: RebuildReport) =>
      wire.statement('finish rebuild', () =>
        changing(report.shard, () => {
          const row = shardOf(report.shard)?.row;
          if (row?.rebuilding !== token) return false;
          row.rebuilding = null;
          for (const rebuild of tables.rebuilds.values()) {
            if (rebuild.shard !== report.shard || rebuild.finished) continue;
            rebuild.finished = true;
            if (rebuild.epoch === report.epoch)
              Object.assign(rebuild, { report: clone(report), lost: report.lost ?? null });
          }
          return true;
        }),
      ),
    content: async (number, work) => {
      const found = await wire.statement('content', () => {
        const shard = shardOf(number);
        return shard ? contentOf(shard) : null;
      });
      return work(found ?? contentOf({ ...createTables().make(number, '') }));
    },
  });

  const authority = (wire: Wire): Authority => ({
    current: (number) =>
      wire.statement('current', () => {
        const row = shardOf(number)?.row;
        if (!row) return null;
        const { epoch, runId, opened, watermark, rebuilding, closedEpoch } = row;
        return { epoch, runId, opened, watermark, rebuilding: rebuilding !== null, closedEpoch };
      }),
    sharedUntil: (number, epoch) => wire.statement('shared until', () => sharedUntil(number, epoch)),
    async noteEnd(engine, number, epoch, seq) {
      const shared = await wire.statement('shared until', () => sharedUntil(number, epoch));
      if (seq <= shared) return null;
      return wire.statement('note loss', () => {
        const later = [...tables.rebuilds.values()].filter((one) => one.shard === number && one.epoch > epoch);
        const from = 1 + Math.max(shared, ...later.map(({ lost }) => lost?.to ?? 0));
        if (from > seq) return null;
        const noted = tables.losses.get(`${engine}/${number}/${epoch}`);
        const loss = { shard: number, epoch, from: noted?.from ?? from, to: Math.max(noted?.to ?? 0, seq) };
        tables.losses.set(`${engine}/${number}/${epoch}`, loss);
        return { from: loss.from, to: seq };
      });
    },
    grant: (number, from, runId, seq) =>
      wire.statement(`grant ${from + 1}`, () =>
        changing(number, () => {
          const row = shardOf(number)?.row;
          if (from === 0) {
            if (row) return false;
            tables.make(number, runId);
          } else if (row?.epoch === from) Object.assign(row, { epoch: from + 1, runId });
          else return false;
          tables.grants.push({ shard: number, epoch: from + 1, seq });
          return true;
        }),
      ),
    markOpened: (number) =>
      wire.statement('mark opened', () =>
        changing(number, () => {
          const row = shardOf(number)?.row;
          if (row) row.opened = true;
        }),
      ),
    async report(engine, runId, sightings, number) {
      await wire.statement('report', (nowMs) => {
        for (const { shard, epoch, seq, open } of sightings)
          if ((tables.sightings.get(`${engine}/${shard}`)?.number ?? -1) < number)
            tables.sightings.set(`${engine}/${shard}`, { engine, shard, epoch, runId, seq, open, number, atMs: nowMs });
      });
      return wire.statement('how shards stand', () =>
        sightings.flatMap(({ shard }) => {
          const row = shardOf(shard)?.row;
          return row ? [{ shard, epoch: row.epoch, rebuilding: row.rebuilding !== null }] : [];
        }),
      );
    },
    sightings: (number, closedEpoch, runId, watchedMs) =>
      wire.statement('seen', (nowMs) => {
        const all = [...tables.sightings.values()].filter((one) => one.shard === number && one.epoch > closedEpoch);
        const awaited = all.filter(
          (one) => one.open && one.runId !== runId && one.atMs > nowMs - silenceFor(watchedMs),
        );
        return { seq: Math.max(0, ...all.map((one) => one.seq)), awaited: awaited.length };
      }),
  });

  return { tables, store, authority };
}
