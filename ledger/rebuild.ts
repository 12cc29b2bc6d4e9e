/**
 * Builds a shard anew from the ledger: fence, bring everything that is still on its way into the ledger, close the old
 * epochs there, build under a new one, and say what may be lost. Can be interrupted at any point and done again.
 */
import type { Clock } from '../kernel/clock.ts';
import { newBuyerId } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import { createWatch } from '../kernel/watch.ts';
import { applyBatches, ShardStopped } from './apply.ts';
import { engineSilenceMs, silenceFor } from './authority.ts';
import type { Batch } from './events.ts';
import { goneReason } from './gap.ts';
import { buildShard, type RebuildTarget } from './rebuild-content.ts';
import type { LedgerStore } from './store.ts';

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

/**
 * Fences the shard in Valkey and in Postgres while Postgres' row is held: of two rebuilds at once the later one is the later one
 * in both, so that they don't end each other. `closed`: old files were put back, or a rebuild was broken off before it cleared,
 * and what is there beyond the ledger was given up then.
 */
const fence = (
  store: LedgerStore,
  shard: number,
  target: RebuildTarget,
  token: string,
): Promise<{ found: Awaited<ReturnType<RebuildTarget['begin']>>; closed: boolean }> =>
  store.transaction(shard, async ({ row, beginRebuild }) => {
    if (!row) throw new Error(`shard ${shard} was never opened: there is nothing to rebuild`);
    const found = await target.begin();
    await beginRebuild(token);
    return { found, closed: found.epoch > 0 && found.epoch <= row.closedEpoch };
  });

/** Sightings of the epochs that are to be closed, once every living engine has reported that it is done with them. Rejects when one isn't. */
async function lastSightings(
  store: LedgerStore,
  shard: number,
  clock: Clock,
): Promise<{ seq: number; silent: number }> {
  const untilMs = clock.monotonicMs() + 3 * engineSilenceMs;
  const watch = createWatch(clock, limits.watchGapMs);
  for (;;) {
    const watchedMs = watch.ms();
    const { seq, awaited, silent } = await store.sightings(shard, silenceFor(watchedMs));
    watch.answered();
    // Broken meanwhile, it says nothing of who is silent.
    if (awaited === 0 && watch.ms() >= watchedMs) return { seq, silent };
    // Not one that has fallen silent: it sells on, from a Valkey that this rebuild has not fenced.
    if (clock.monotonicMs() > untilMs)
      throw new Error(`an engine still sells from shard ${shard}, on another Valkey: stop it, or rebuild that one`);
    await clock.wait(50);
  }
}

export type Lost = { from: number; to: number } | null;

/** Opens the shard for engines, and completes the report: with what rebuilds lost that were interrupted before. */
async function noteDone(store: LedgerStore, token: string, report: RebuildReport): Promise<void> {
  const unfinished = await store.unfinishedLosses(report.shard);
  report.silentEngines = Math.max(report.silentEngines, ...unfinished.map((one) => one.silentEngines));
  const ranges = unfinished.flatMap(({ lost }) => lost ?? []);
  if (ranges.length > 0)
    report.lost = {
      from: Math.min(...ranges.map((range) => range.from)),
      to: Math.max(...ranges.map((range) => range.to)),
    };
  if (!(await store.finishRebuild(token, report)))
    throw new Error(`another rebuild of shard ${report.shard} has begun`);
}

/**
 * Gives the ledger what the fenced shard's outbox has, up to `lastSeq`; unless it gets there, nothing may be cleared. `forward`
 * has it first: who reads the topic would miss for ever what only the ledger got.
 */
async function drainOutbox(
  store: LedgerStore,
  shard: number,
  target: RebuildTarget,
  lastSeq: number,
  forward: (batches: Batch[]) => Promise<void>,
): Promise<void> {
  let { watermark } = await applyBatches(store, shard, []);
  for (;;) {
    const batches = (await target.read(watermark)).filter(({ seqLast }) => seqLast <= lastSeq);
    const next = batches[0]?.seqFirst ?? lastSeq + 1;
    if (next > watermark + 1) {
      const reason = goneReason(shard, watermark, next - 1);
      await store.stop(shard, reason);
      throw new ShardStopped(shard, reason);
    }
    if (batches.length === 0) return;
    await forward(batches);
    const applied = await applyBatches(store, shard, batches);
    if (applied.watermark === watermark)
      throw new Error(`the ledger takes nothing of shard ${shard} after ${watermark}`);
    watermark = applied.watermark;
  }
}

/** Hands over all that the outbox has after a sequence, piece by piece. */
async function readAll(
  target: RebuildTarget,
  after: number,
  take: (batches: Batch[]) => Promise<unknown>,
): Promise<void> {
  for (let from = after; ; ) {
    const batches = await target.read(from);
    const last = batches.at(-1);
    if (!last) return;
    await take(batches);
    from = last.seqLast;
  }
}

/** Gives the ledger what the outbox has of a closed epoch: what it has not, it keeps apart. */
const drainClosed = (store: LedgerStore, shard: number, target: RebuildTarget): Promise<void> =>
  readAll(target, 0, (batches) => applyBatches(store, shard, batches));

/** Keeps apart what the outbox has and the ledger has not: it is not of the history that goes on. */
async function setApart(store: LedgerStore, shard: number, target: RebuildTarget, reason: string): Promise<void> {
  const { watermark } = await store.watermark(shard);
  await readAll(target, watermark, (batches) => store.quarantine(shard, batches, reason));
}

/**
 * Rebuilds one shard. `drained` resolves when whatever else carries its events (Kafka) has given the ledger all it had;
 * `forward` takes there what it never got.
 * Rejects with ShardStopped when what is still on its way can't be applied.
 */
export async function rebuildShard(options: {
  store: LedgerStore;
  shard: number;
  target(token: string): RebuildTarget;
  drained(): Promise<void>;
  forward(batches: Batch[]): Promise<void>;
  rememberSeconds: number;
  /** Of a stopped shard: leave out what can't be applied, and all that follows it. It is kept in `ledger.quarantine`. */
  discard?: boolean;
  clock: Clock;
  logger: Logger;
  progress?: RebuildProgress;
}): Promise<RebuildReport> {
  const { store, shard, clock, logger } = options;
  const progress = options.progress ?? (() => undefined);
  const startedMs = clock.monotonicMs();
  const token = newBuyerId();
  const target = options.target(token);
  const rememberMs = options.rememberSeconds * 1000;

  const { stopped } = await store.watermark(shard);
  // A stopped shard still sells: it isn't fenced for a rebuild that could not be finished.
  if (stopped !== null && !options.discard) throw new ShardStopped(shard, stopped);
  progress('fencing', 0);
  const { found, closed } = await fence(store, shard, target, token);

  progress('waiting for what is under way', 0);
  const seen = await lastSightings(store, shard, clock);
  // Beyond it, what is there goes on beside what was sold later: an old primary's files, say.
  const shared = await store.sharedUntil(shard, found.epoch);
  try {
    await options.drained();
    if (closed) await drainClosed(store, shard, target);
    else {
      await drainOutbox(store, shard, target, Math.min(found.seq, shared), options.forward);
      if (found.seq > shared) await setApart(store, shard, target, `of epoch ${found.epoch}, which ended at ${shared}`);
    }
  } catch (error) {
    if (!(error instanceof ShardStopped) || !options.discard) throw error;
    await setApart(store, shard, target, `discarded by a rebuild: ${error.message}`);
  }

  const most = closed ? seen.seq : Math.max(seen.seq, found.seq);
  const begun = await store.closeEpoch(shard, {
    ...{ token, runId: found.runId, discard: options.discard ?? false, most, silentEngines: seen.silent },
  });
  if (!begun) throw new Error(`shard ${shard} was stopped, or another rebuild of it has begun`);
  const { epoch, seq, atMs } = begun;
  logger.info({ shard, epoch, seq }, 'the old epoch is closed; building the shard from the ledger');
  progress('clearing', 0);
  await target.clear();

  let live = 0;
  let remembered = 0;
  const remember = { sinceMs: clock.nowMs() - rememberMs, forMs: rememberMs };
  const sales = await store.content(shard, (content) =>
    buildShard(content, remember, target, (moreLive, more) => {
      live += moreLive;
      remembered += more;
      progress('building', live + remembered);
    }),
  );
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
  await noteDone(store, token, report);
  logger.warn({ ...report }, 'shard rebuilt');
  return report;
}
