/**
 * Epochs: who may sell from a shard, and whether what is found in Valkey may be sold from. See the blueprint's "Epochs and
 * the fence" and docs/decisions/0004 and 0006.
 */
import type { OpenShardAnswer } from '../lua/bindings.ts';

/** Who may sell from a shard, as Postgres has it. `opened`: the shard was made in Valkey under an epoch once. */
export type ShardGrant = {
  epoch: number;
  runId: string;
  opened: boolean;
  watermark: number;
  /** A rebuild is under way, or was interrupted. */
  rebuilding: boolean;
  /** The last epoch that a rebuild has closed; 0 for none. */
  closedEpoch: number;
};

/** How far an engine has seen a shard; `open`: it may still get answers of this epoch. */
export type Sighting = { shard: number; epoch: number; seq: number; open: boolean };

/** At which epoch Postgres has a shard now. */
export type GrantNow = { shard: number; epoch: number; rebuilding: boolean };

/** Grants epochs, by compare-and-swap. The ledger's side implements it. */
export type EpochAuthority = {
  current(shard: number): Promise<ShardGrant | null>;
  /** Grants `from + 1`, which begins after `seq`, to a run of Valkey if the shard is still at `from` (0: none yet). */
  grant(shard: number, from: number, runId: string, seq: number): Promise<boolean>;
  markOpened(shard: number): Promise<void>;
  /** Notes what an engine, connected to a run of Valkey, has seen, unless it is older than what is noted; answers how things stand. */
  report(engine: string, runId: string, sightings: Sighting[], number: number): Promise<GrantNow[]>;
  /**
   * What engines have seen since an epoch was closed, and how many have not said that they left other runs and may be alive,
   * by the word of who has watched for `watchedMs` without a break.
   */
  sightings(
    shard: number,
    closedEpoch: number,
    runId: string,
    watchedMs: number,
  ): Promise<{ seq: number; awaited: number }>;
  /** Up to which sequence a history that has not got beyond `epoch` is the shard's. */
  sharedUntil(shard: number, epoch: number): Promise<number>;
  /**
   * Notes that an engine had seen an epoch up to a sequence. Answers what of that is lost: the epoch had ended before, and nobody
   * has reported it; null for nothing.
   */
  noteEnd(engine: string, shard: number, epoch: number, seq: number): Promise<{ from: number; to: number } | null>;
};

/**
 * Why a shard as it was found can't be sold from any more; null when it can. `most`: what engines have seen of it; `shared`: how
 * far the epoch that was found is the shard's history.
 */
function lossOf(grant: ShardGrant, found: OpenShardAnswer, most: number, shared: number): string | null {
  // Not Valkey has gone back then, but Postgres.
  if (found.state === 2 && found.found > grant.epoch) return null;
  if (found.state === 1) return 'its data are gone from Valkey';
  if (found.seq < grant.watermark) return `Valkey is at sequence ${found.seq}, the ledger at ${grant.watermark}`;
  if (found.seq < most) return `Valkey is at sequence ${found.seq}, an engine has seen ${most}`;
  // A grant is written in Postgres first, so Valkey may be one behind; but not at an epoch that was closed.
  if (found.state === 2 && (found.found !== grant.epoch - 1 || found.found <= grant.closedEpoch))
    return `Valkey is at epoch ${found.found}, the grant at ${grant.epoch}`;
  // Another history than the one that was sold from later: an old primary's files, say.
  if (found.seq > shared) return `Valkey is at sequence ${found.seq} of epoch ${found.found}, which ended at ${shared}`;
  return null;
}

/** A shard that may be opened at an epoch, or why it stays fenced; `lost`: only a rebuild helps. */
export type Opening = { epoch: number; closedEpoch: number } | { reason: string; lost: boolean };

const attempts = 3;
const fenced = (reason: string, lost = false): Opening => ({ reason, lost });

/** The epoch as it is granted, for who only looks. Of another run, or one being rebuilt, nothing can be said. */
export async function observeEpoch(authority: EpochAuthority, shard: number, runId: string): Promise<Opening> {
  const grant = await authority.current(shard);
  if (!grant) return fenced('no epoch of it was ever granted');
  if (grant.rebuilding) return fenced('it is being rebuilt');
  return grant.runId === runId ? grant : fenced('no engine has opened it since Valkey was started');
}

/** Brings a shard and its grant together, or says why it stays fenced. */
export async function enterEpoch(on: {
  authority: EpochAuthority;
  shard: number;
  /** The run of Valkey that serves the shard. */
  runId: string;
  /** How far this engine has seen the shard itself. */
  known: { epoch: number; seen: number };
  /** How long Postgres has answered this engine without a break. */
  watchedMs(): number;
  /** Has Valkey enter an epoch if it is at the one expected (0: if it has no such shard). */
  enter(epoch: number, expected: number): Promise<OpenShardAnswer>;
  /** Whether what else carries the shard's events has given the ledger all of them. */
  drained(shard: number): Promise<boolean>;
}): Promise<Opening> {
  const { authority, shard, runId, known } = on;
  for (let attempt = 0; attempt < attempts; attempt++) {
    const grant = await authority.current(shard);
    if (!grant) {
      await authority.grant(shard, 0, runId, 0);
      continue;
    }
    // If that was interrupted, another must end it.
    if (grant.rebuilding) return fenced('it is being rebuilt', true);
    // Before the shard is looked at: afterwards others may have sold from it, and seen more.
    const watchedMs = on.watchedMs();
    const seen = await authority.sightings(shard, grant.closedEpoch, runId, watchedMs);
    if (on.watchedMs() < watchedMs) return fenced('Postgres was away: it is not known yet who else sells');
    const most = Math.max(seen.seq, known.epoch > grant.closedEpoch ? known.seen : 0);
    // Only a shard that was never opened may be made out of nothing: later, empty means lost.
    const found = await on.enter(grant.epoch, grant.opened ? grant.epoch : 0);
    const behind = found.state === 2 && found.found < grant.epoch;
    const shared = behind ? await authority.sharedUntil(shard, found.found) : Number.POSITIVE_INFINITY;
    const loss = lossOf(grant, found, most, shared);
    if (loss !== null) {
      // Unless the grant has moved on meanwhile, by another engine's hand or a rebuild's.
      const now = await authority.current(shard);
      if (now?.epoch !== grant.epoch || now.runId !== grant.runId || now.rebuilding) continue;
      // Nor while others sell from where nothing is missing.
      return seen.awaited > 0
        ? fenced(`${loss}; and another engine still sells from another Valkey`)
        : fenced(loss, true);
    }
    if (found.state === 2 && found.found > grant.epoch)
      return fenced(`Valkey is at epoch ${found.found}, the grant at ${grant.epoch}: has Postgres gone back?`);
    if (found.state === 2 && (await on.enter(grant.epoch, found.found)).state !== 0) continue;
    if (grant.runId !== runId) {
      if (seen.awaited > 0) return fenced('other engines have not said yet what they have seen');
      if (!(await on.drained(shard))) return fenced('Kafka has events that the ledger has not yet');
      await authority.grant(shard, grant.epoch, runId, found.seq);
      continue;
    }
    if (!grant.opened) {
      // Somebody else may have opened it and sold from it since the grant was read, and what is here now be made anew.
      if ((await authority.current(shard))?.opened) continue;
      await authority.markOpened(shard);
    }
    return grant;
  }
  return fenced('other engines are opening it');
}
