/**
 * Applies a shard's batches: one transaction each time, exactly once in effect. See docs/decisions/0004.
 */
import { decodeReservationId } from '../kernel/ids.ts';
import type { Batch } from './events.ts';
import { ImpossibleEvent, rowsOf } from './rows.ts';
import { Fork, type LedgerStore, type ShardTransaction } from './store.ts';

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
async function checkKnown(on: ShardTransaction, known: Batch[], closedEpoch: number): Promise<Batch[]> {
  if (known.length === 0) return [];
  const found = await on.batchesAt(known.map((batch) => batch.seqLast));
  const digests = new Map(found.map((row) => [row.seqLast, row]));
  const others = known.filter((batch) => {
    const had = digests.get(batch.seqLast);
    return had?.digest !== batch.digest || had.epoch !== batch.epoch;
  });
  const fork = others.find((batch) => closedEpoch === 0 || batch.epoch > closedEpoch);
  if (fork) throw new Fork(`there are two histories at sequence ${fork.seqLast}`);
  return others;
}

/**
 * Applies batches of one shard, in the order given: what it has is dropped, what is ahead is set aside (the relay sends
 * it again). Rejects with ShardStopped when the history can't be (and notes that in `ledger.shard.stopped`), and with
 * the store's own error when it can't be reached.
 */
export async function applyBatches(store: LedgerStore, shard: number, batches: Batch[]): Promise<Applied> {
  try {
    return await store.transaction(shard, (on) => applyIn(on, shard, batches));
  } catch (error) {
    if (!(error instanceof Fork || error instanceof ImpossibleEvent)) throw error;
    // What comes before the bad one is history all the same.
    if (batches.length > 1) return await oneByOne(store, shard, batches);
    const reason = error.message.replaceAll('\0', '\\0');
    await store.stop(shard, reason);
    await store.quarantine(shard, batches, reason);
    throw new ShardStopped(shard, reason);
  }
}

async function applyIn(on: ShardTransaction, shard: number, batches: Batch[]): Promise<Applied> {
  const { row } = on;
  if (!row) throw new Fork('no epoch of this shard was ever granted');
  if (row.stopped !== null) throw new ShardStopped(shard, row.stopped);
  const { known, fresh, ahead, late } = sortBatches(batches, row.watermark, {
    granted: row.epoch,
    last: row.lastEpoch ?? 1,
    closed: row.closedEpoch,
    closedSeq: row.closedSeq,
  });
  late.push(...(await checkKnown(on, known, row.closedEpoch)));
  await on.quarantine(late, `its epoch was closed at ${row.closedSeq} or before`);
  const last = fresh.at(-1);
  if (last) {
    await on.writeRows(rowsOf(fresh, decodeReservationId));
    await on.writeBatches(fresh);
  }
  return {
    watermark: last?.seqLast ?? row.watermark,
    events: last ? last.seqLast - row.watermark : 0,
    known: known.length,
    setAside: ahead.length,
    quarantined: late.length,
  };
}

async function oneByOne(store: LedgerStore, shard: number, batches: Batch[]): Promise<Applied> {
  const all: Applied = { watermark: 0, events: 0, known: 0, setAside: 0, quarantined: 0 };
  for (const batch of batches) {
    const one = await applyBatches(store, shard, [batch]);
    all.watermark = one.watermark;
    all.events += one.events;
    all.known += one.known;
    all.setAside += one.setAside;
    all.quarantined += one.quarantined;
  }
  return all;
}
