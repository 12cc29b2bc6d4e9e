/**
 * The shards as an engine sees them: which epoch each is at, the highest sequence seen, its time; and the one way to call
 * a function on one. See the blueprint's "Epochs and the fence" and docs/decisions/0004.
 */
import { type Clock, within } from '../kernel/clock.ts';
import { RefusalError, refusal, SetupError } from '../kernel/errors.ts';
import { newBuyerId, shardKey, shardOfSale } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import {
  type OpenShardAnswer,
  openShardCommand,
  type ShardCommand,
  type ShardStatusAnswer,
  shardStatusCommand,
} from '../lua/bindings.ts';
import type { ValkeyConnection } from './valkey.ts';

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

/** Grants epochs, by compare-and-swap. The ledger's side implements it. */
export type EpochAuthority = {
  current(shard: number): Promise<ShardGrant | null>;
  /** Grants `from + 1` to a run of Valkey if the shard is still at `from` (0: none yet). */
  grant(shard: number, from: number, runId: string): Promise<boolean>;
  markOpened(shard: number): Promise<void>;
  /** Notes what an engine, connected to a run of Valkey, has seen. */
  report(engine: string, runId: string, sightings: Sighting[]): Promise<void>;
  /** What engines have seen since an epoch was closed, and how many living ones have not said that they left older runs. */
  sightings(shard: number, closedEpoch: number, runId: string): Promise<{ seq: number; awaited: number }>;
};

export type Shards = {
  readonly count: number;
  shardOf(saleId: string): number;
  /**
   * Calls a command on a shard. Rejects with a RefusalError: `shard-fenced` and `overloaded` when nothing was taken,
   * `unavailable` when what happened isn't known.
   */
  call<Args, Answer>(shard: number, command: ShardCommand<Args, Answer>, args: Args): Promise<Answer>;
  /** Whether anything can be sold: Valkey is there and some shard is open. */
  sellable(): boolean;
  /** Shards that are fenced now, with why; `lost`: only a rebuild helps. */
  fenced(): { shard: number; reason: string; lost: boolean }[];
  /** Looks at all shards now. */
  refresh(): Promise<void>;
  /** The last known state of a shard, or null before it was first read. */
  status(shard: number): ShardStatusAnswer | null;
  close(): Promise<void>;
};

type ShardState = {
  epoch: number;
  seen: number;
  /** The shard's time less the monotonic clock, ms. */
  offsetMs: number;
  open: boolean;
  reason: string;
  lost: boolean;
  status: ShardStatusAnswer | null;
};

/** Why a shard as it was found can't be sold from any more; null when it can. `most`: what engines have seen of it. */
function lossOf(grant: ShardGrant, found: OpenShardAnswer, most: number): string | null {
  // Not Valkey has gone back then, but Postgres.
  if (found.state === 2 && found.found > grant.epoch) return null;
  if (found.state === 1) return 'its data are gone from Valkey';
  if (found.seq < grant.watermark) return `Valkey is at sequence ${found.seq}, the ledger at ${grant.watermark}`;
  if (found.seq < most) return `Valkey is at sequence ${found.seq}, an engine has seen ${most}`;
  // A grant is written in Postgres first, so Valkey may be one behind; but not at an epoch that was closed.
  if (found.state === 2 && (found.found !== grant.epoch - 1 || found.found <= grant.closedEpoch))
    return `Valkey is at epoch ${found.found}, the grant at ${grant.epoch}`;
  return null;
}

const pollMs = 1_000;
const openings = 3;

/**
 * Opens every shard (at the start and after each reconnection) and watches them. Resolves when all that can be opened
 * are open; a shard that can't be stays fenced and is tried again.
 */
export async function openShards(options: {
  valkey: ValkeyConnection;
  authority: EpochAuthority;
  count: number;
  outboxEvents: number;
  rememberSeconds: number;
  /** Only look: take the epochs as they are granted, and grant none. */
  observe?: boolean;
  /** Whether what else carries a shard's events (Kafka) has given the ledger all of it; rejects when it can't be asked. */
  drained?(shard: number): Promise<boolean>;
  clock: Clock;
  logger: Logger;
}): Promise<Shards> {
  const { valkey, authority, clock, logger } = options;
  const states = Array.from(
    { length: options.count },
    (): ShardState => ({
      epoch: 0,
      seen: 0,
      offsetMs: 0,
      open: false,
      reason: 'not opened yet',
      lost: false,
      status: null,
    }),
  );
  const stopped = new AbortController();
  const rememberMs = options.rememberSeconds * 1000;

  const send = async <Args, Answer>(
    shard: number,
    command: ShardCommand<Args, Answer>,
    args: Args,
    deadlineMs: number,
  ): Promise<Answer> => {
    const state = stateOf(shard);
    const argument = command.encode({ epoch: state.epoch, seen: state.seen, deadlineMs }, args);
    const answer = await within(
      valkey.call(command.name, command.readOnly, shardKey(shard), argument),
      limits.callMs,
      'Valkey did not answer in time',
    );
    return command.decode(answer);
  };

  function stateOf(shard: number): ShardState {
    const state = states[shard];
    if (!state) throw new RefusalError(refusal('not-found', `There is no shard ${shard}.`));
    return state;
  }

  const learn = (state: ShardState, answer: unknown, sentMs: number): void => {
    const { seq, now } = answer as { seq?: unknown; now?: unknown };
    if (typeof seq === 'number' && seq > state.seen) state.seen = seq;
    if (typeof now !== 'number') return;
    // The shard's clock showed `now` at some time between sending and this moment: no answer that waited long, here or
    // on its way, may push the estimate out of those bounds.
    const least = now - clock.monotonicMs();
    const most = now - sentMs;
    state.offsetMs = Math.min(Math.max(state.offsetMs, least), most);
  };

  const fence = (shard: number, reason: string, { lost = false } = {}): void => {
    const state = stateOf(shard);
    if (state.open || state.reason !== reason) logger.error({ shard, reason, lost }, 'shard fenced');
    state.open = false;
    state.reason = reason;
    state.lost = lost;
  };

  const readStatus = async (shard: number): Promise<void> => {
    const state = stateOf(shard);
    // Reads change nothing, so they may come late: this is how the shard's time is learnt again.
    const sentMs = clock.monotonicMs();
    const status = await send(shard, shardStatusCommand, {}, Number.MAX_SAFE_INTEGER);
    learn(state, status, sentMs);
    state.status = status;
  };

  const lookAt = async (shard: number): Promise<void> => {
    try {
      await readStatus(shard);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      if (!text.startsWith('FENCED')) throw error;
      fence(shard, text);
    }
  };

  /** Brings the shard and its grant together, or says why it stays fenced. */
  const open = async (shard: number, runId: string, began: number): Promise<void> => {
    for (let attempt = 0; attempt < openings; attempt++) {
      const grant = await authority.current(shard);
      if (options.observe) {
        if (!grant) return fence(shard, 'no epoch of it was ever granted');
        stateOf(shard).epoch = grant.epoch;
        await readStatus(shard);
        stateOf(shard).open = true;
        return;
      }
      if (!grant) {
        await authority.grant(shard, 0, runId);
        continue;
      }
      // If that was interrupted, another must end it.
      if (grant.rebuilding) return fence(shard, 'it is being rebuilt', { lost: true });
      const state = stateOf(shard);
      // Before the shard is looked at: afterwards others may have sold from it, and seen more.
      const seen = await authority.sightings(shard, grant.closedEpoch, runId);
      const most = Math.max(seen.seq, state.epoch > grant.closedEpoch ? state.seen : 0);
      const enter = (expected: number): Promise<OpenShardAnswer> => {
        const args = { epoch: grant.epoch, expected, outboxEvents: options.outboxEvents, rememberMs };
        return send(shard, openShardCommand, args, 0);
      };
      // Only a shard that was never opened may be made out of nothing: later, empty means lost.
      const found = await enter(grant.opened ? grant.epoch : 0);
      const loss = lossOf(grant, found, most);
      if (loss !== null) {
        // Unless the grant has moved on meanwhile, by another engine's hand or a rebuild's.
        const now = await authority.current(shard);
        if (now?.epoch !== grant.epoch || now.runId !== grant.runId || now.rebuilding) continue;
        return fence(shard, loss, { lost: true });
      }
      if (found.state === 2 && found.found > grant.epoch)
        return fence(shard, `Valkey is at epoch ${found.found}, the grant at ${grant.epoch}: has Postgres gone back?`);
      if (found.state === 2 && (await enter(found.found)).state !== 0) continue;
      if (grant.runId !== runId) {
        if (seen.awaited > 0) return fence(shard, 'other engines have not said yet what they have seen');
        if (options.drained && !(await options.drained(shard)))
          return fence(shard, 'Kafka has events that the ledger has not yet');
        await authority.grant(shard, grant.epoch, runId);
        continue;
      }
      if (!grant.opened) {
        // Somebody else may have opened it and sold from it since the grant was read, and what is here now be made anew.
        if ((await authority.current(shard))?.opened) continue;
        await authority.markOpened(shard);
      }
      // Sequences go on from epoch to epoch, but not from one that a rebuild has closed.
      if (state.epoch <= grant.closedEpoch) state.seen = 0;
      state.epoch = grant.epoch;
      await readStatus(shard);
      // Whoever is behind the connection now may be another one: it is looked at anew.
      if (connections !== began) return;
      if (!state.open) logger.info({ shard, epoch: grant.epoch, seq: state.seen }, 'shard open');
      state.open = true;
      return;
    }
    fence(shard, 'other engines are opening it');
  };

  const engine = newBuyerId();
  let runId = '';
  /** Tells Postgres what this engine has seen: a run of Valkey that has less must not sell. */
  const report = async (): Promise<void> => {
    if (options.observe) return;
    const sightings = states.flatMap(({ epoch, seen, open }, shard) =>
      epoch === 0 ? [] : [{ shard, epoch, seq: seen, open: open && valkey.connected }],
    );
    if (sightings.length > 0) await authority.report(engine, runId, sightings);
  };

  let connections = 0;
  let opening: Promise<void> | null = null;
  const openAll = (): Promise<void> => {
    opening ??= (async () => {
      try {
        for (let began = -1; began !== connections; ) {
          began = connections;
          await openOnce(began);
        }
      } finally {
        opening = null;
      }
    })();
    return opening;
  };
  const openOnce = async (began: number): Promise<void> => {
    runId = await within(valkey.runId(), limits.callMs, 'Valkey did not answer in time');
    try {
      await report();
    } catch (error) {
      for (const [shard, state] of states.entries())
        if (!state.open) fence(shard, `it could not be opened: ${String(error)}`);
      return;
    }
    for (let shard = 0; shard < options.count; shard++) {
      try {
        await open(shard, runId, began);
      } catch (error) {
        fence(shard, `it could not be opened: ${String(error)}`);
      }
    }
    // From here on a rebuild waits for this engine to say that it is done with the epoch.
    await report();
  };

  const poll = async (): Promise<void> => {
    let complaint = '';
    while (!stopped.signal.aborted) {
      await clock.wait(pollMs, stopped.signal);
      if (stopped.signal.aborted) return;
      try {
        if (valkey.connected) {
          if (states.some((state) => !state.open)) await openAll();
          for (let shard = 0; shard < options.count; shard++) if (stateOf(shard).open) await lookAt(shard);
        }
        await report();
        complaint = '';
      } catch (error) {
        if (String(error) !== complaint) logger.warn({ error: String(error) }, 'the shards could not be looked at');
        complaint = String(error);
      }
    }
  };

  await new Promise<void>((resolve, reject) => {
    const late = setTimeout(
      () => reject(new SetupError('valkey-unreachable', 'VALKEY_URL cannot be reached: is Valkey running there?')),
      10_000,
    );
    let first = true;
    valkey.onConnected(() => {
      // Another run of Valkey may be behind the new connection: nothing is sold before the epochs were compared.
      connections++;
      for (const state of states) state.open = false;
      openAll().then(
        () => {
          clearTimeout(late);
          if (first) resolve();
          first = false;
        },
        (error: unknown) => {
          if (first) reject(error instanceof Error ? error : new Error(String(error)));
          else logger.warn({ error: String(error) }, 'the shards could not be opened');
        },
      );
    });
  });
  const polling = poll();

  return {
    count: options.count,
    shardOf: (saleId) => shardOfSale(saleId, options.count),
    async call(shard, command, args) {
      const state = stateOf(shard);
      if (!valkey.connected)
        throw new RefusalError(refusal('unavailable', 'The stock cannot be reached. Try again with the same key.'));
      if (!state.open)
        throw new RefusalError(refusal('shard-fenced', 'This part of the stock is fenced. Try again later.'));
      try {
        const sentMs = clock.monotonicMs();
        const answer = await send(shard, command, args, sentMs + state.offsetMs + limits.callMs);
        learn(state, answer, sentMs);
        return answer;
      } catch (error) {
        throw refused(shard, error);
      }
    },
    sellable: () => valkey.connected && states.some((state) => state.open),
    fenced: () => states.flatMap(({ open, reason, lost }, shard) => (open ? [] : [{ shard, reason, lost }])),
    refresh: openAll,
    status: (shard) => stateOf(shard).status,
    async close() {
      stopped.abort();
      await polling;
      for (const state of states) state.open = false;
      await report().catch((error: unknown) => logger.warn({ error: String(error) }, 'the last report failed'));
      await valkey.close();
    },
  };

  function refused(shard: number, error: unknown): RefusalError {
    const text = error instanceof Error ? error.message : String(error);
    if (text.startsWith('FENCED')) {
      fence(shard, text);
      return new RefusalError(refusal('shard-fenced', 'This part of the stock is fenced. Try again later.'));
    }
    if (text.startsWith('LATE') || text.startsWith('OOM'))
      return new RefusalError(refusal('overloaded', 'Too much is going on. Nothing was taken; try again shortly.'));
    logger.warn({ shard, error: text }, 'a call to Valkey failed');
    return new RefusalError(
      refusal('unavailable', 'What happened is not known. Ask again with the same key: it is safe, and tells.'),
    );
  }
}
