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
  openShardCommand,
  replicateCommand,
  type ShardCommand,
  type ShardStatusAnswer,
  shardStatusCommand,
} from '../lua/bindings.ts';
import { type Durability, whyNot } from './durability.ts';
import { type EpochAuthority, enterEpoch, observeEpoch } from './epochs.ts';
import { away, fenced, isFenced, isRefused, refusalOfCall, unsafe } from './refusals.ts';
import type { Valkey } from './valkey.ts';

export type Shards = {
  readonly count: number;
  shardOf(saleId: string): number;
  /**
   * Calls a command on a shard. Rejects with a RefusalError: `shard-fenced` and `overloaded` when nothing was taken,
   * `unavailable` when what happened isn't known.
   */
  call<Args, Answer>(shard: number, command: ShardCommand<Args, Answer>, args: Args): Promise<Answer>;
  /** Why a shard's server can't give a durability, as it is set now; null when it can. */
  offers(shard: number, durability: Durability): Promise<string | null>;
  /**
   * What an answer that promises a durability has to wait for: nothing (null), or until all that the shard has answered here
   * so far is as safe as that. Rejects with the RefusalError `unavailable` when that isn't so, or not known in time.
   */
  secure(shard: number, durability: Durability): Promise<void> | null;
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
  /** The connection on which it was opened, and the run behind it. */
  link: number;
  runId: string;
  /** Why its server, as it was set when last looked at, can't give `fsync`; null when it can. */
  unsynced: string | null;
  reason: string;
  lost: boolean;
  status: ShardStatusAnswer | null;
};

const pollMs = 1_000;

/**
 * Opens every shard (at the start and after each reconnection) and watches them. Resolves when all that can be opened
 * are open; a shard that can't be stays fenced and is tried again.
 */
export async function openShards(options: {
  valkey: Valkey;
  authority: EpochAuthority;
  count: number;
  outboxEvents: number;
  rememberSeconds: number;
  /** Only look: take the epochs as they are granted, and grant none. */
  observe?: boolean;
  /** Whether what else carries a shard's events (Kafka) has given the ledger all of it; rejects when it can't be asked. */
  drained?(shard: number): Promise<boolean>;
  replicaWaited?(seconds: number, inVain: boolean): void;
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
      link: 0,
      runId: '',
      unsynced: null,
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

  /** Another run of Valkey may be behind another connection: nothing is sold before the epochs were compared. */
  const isOpen = (shard: number): boolean => {
    const { open, link } = stateOf(shard);
    return open && link === valkey.linkOf(shardKey(shard));
  };

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

  /** Looks at how the server of some shards is set; fences them, and answers false, when it would throw stock away. */
  const lookAtSettings = async (shards: number[]): Promise<boolean> => {
    const [settings = new Map<string, string>()] = await settingsOf(shards[0] ?? 0);
    const unsynced = whyNot('fsync', settings);
    const policy = settings.get('maxmemory-policy');
    for (const shard of shards) {
      const state = stateOf(shard);
      if (unsynced !== null && state.unsynced !== unsynced)
        logger.warn({ shard, unsynced }, 'only memory can be promised');
      state.unsynced = unsynced;
      if (policy !== 'noeviction')
        fence(shard, `Valkey would throw stock away: set maxmemory-policy (${policy}) to noeviction`);
    }
    return policy === 'noeviction';
  };
  const settingsOf = (shard: number) =>
    within(valkey.settings(shardKey(shard)), limits.callMs, 'Valkey did not answer in time');

  const lookAt = async (shard: number): Promise<void> => {
    try {
      await readStatus(shard);
    } catch (error) {
      if (!isFenced(error)) throw error;
      fence(shard, (error as Error).message);
    }
  };

  /** Opens the shard on the connection that serves it now, or says why it stays fenced. */
  const open = async (shard: number): Promise<void> => {
    const state = stateOf(shard);
    const link = valkey.linkOf(shardKey(shard));
    const runId = valkey.runId(shardKey(shard));
    const found = options.observe
      ? await observeEpoch(authority, shard)
      : await enterEpoch({
          ...{ authority, shard, runId, known: { epoch: state.epoch, seen: state.seen } },
          enter: (epoch, expected) =>
            send(shard, openShardCommand, { epoch, expected, outboxEvents: options.outboxEvents, rememberMs }, 0),
          drained: options.drained ?? (() => Promise.resolve(true)),
        });
    if ('reason' in found) return fence(shard, found.reason, found);
    // Sequences go on from epoch to epoch, but not from one that a rebuild has closed.
    if (state.epoch <= found.closedEpoch) state.seen = 0;
    state.epoch = found.epoch;
    await readStatus(shard);
    if (!(await lookAtSettings([shard]))) return;
    // Should the connection have changed meanwhile, it isn't open on the new one.
    Object.assign(state, { link, runId, open: true });
    if (isOpen(shard)) logger.info({ shard, epoch: found.epoch, seq: state.seen }, 'shard open');
  };

  const engine = newBuyerId();
  /** Tells Postgres what this engine has seen: a run of Valkey that has less must not sell. */
  const report = async (): Promise<void> => {
    if (options.observe) return;
    const seen = states.flatMap(({ epoch, seen, runId }, shard) =>
      epoch === 0 ? [] : [{ shard, epoch, seq: seen, open: isOpen(shard), runId }],
    );
    for (const [runId, sightings] of Map.groupBy(seen, (one) => one.runId))
      await authority.report(engine, runId, sightings);
  };

  /** Answers of one turn of the event loop wait together. */
  const replicating = new Map<number, Promise<void>>();
  const replicate = (shard: number): Promise<void> => {
    const shared = replicating.get(shard);
    if (shared) return shared;
    const { epoch, link } = stateOf(shard);
    const turn = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      replicating.delete(shard);
      return replicateNow(shard, epoch, link);
    });
    replicating.set(shard, turn);
    return turn;
  };
  const replicateNow = async (shard: number, epoch: number, link: number): Promise<void> => {
    const state = stateOf(shard);
    const sinceMs = clock.monotonicMs();
    const waited = (inVain: boolean) => options.replicaWaited?.((clock.monotonicMs() - sinceMs) / 1000, inVain);
    try {
      // On another connection it could be said of a history that hasn't got what was answered.
      if (!isOpen(shard) || state.epoch !== epoch || state.link !== link) throw new Error('the connection has changed');
      const deadlineMs = clock.monotonicMs() + state.offsetMs + limits.callMs;
      const argument = replicateCommand.encode({ epoch, seen: state.seen, deadlineMs }, {});
      const waiting = valkey.replicate(replicateCommand.name, shardKey(shard), argument);
      await within(waiting, limits.callMs, 'Valkey did not answer in time');
      waited(false);
    } catch (error) {
      waited(true);
      logger.warn({ shard, error: String(error) }, 'what was answered could not be replicated');
      throw new RefusalError(unsafe('No replica has it on its disk yet.'));
    }
  };

  const closed = (): number[] => [...states.keys()].filter((shard) => !isOpen(shard));
  let opening: Promise<void> | null = null;
  /** Opens what isn't open, until no connection changes on the way. */
  const openAll = (): Promise<void> => {
    opening ??= (async () => {
      try {
        for (let before = ''; ; ) {
          const links = states.map((_, shard) => valkey.linkOf(shardKey(shard))).join();
          if (links === before) return;
          before = links;
          await openOnce();
        }
      } finally {
        opening = null;
      }
    })();
    return opening;
  };
  const openOnce = async (): Promise<void> => {
    try {
      await report();
      for (const shard of closed()) {
        if (valkey.linkOf(shardKey(shard)) === 0) continue;
        try {
          await open(shard);
        } catch (error) {
          fence(shard, `it could not be opened: ${String(error)}`);
        }
      }
      // From here on a rebuild waits for this engine to say that it is done with the epoch.
      await report();
    } catch (error) {
      for (const shard of closed()) fence(shard, `it could not be opened: ${String(error)}`);
    }
  };

  const poll = async (): Promise<void> => {
    let complaint = '';
    while (!stopped.signal.aborted) {
      await clock.wait(pollMs, stopped.signal);
      if (stopped.signal.aborted) return;
      try {
        if (closed().length > 0) await openAll();
        for (const shard of states.keys()) if (isOpen(shard)) await lookAt(shard);
        const open = [...states.keys()].filter(isOpen);
        for (const together of Map.groupBy(open, (shard) => stateOf(shard).link).values())
          await lookAtSettings(together);
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
      () =>
        reject(
          new SetupError(
            'valkey-unreachable',
            `VALKEY_URL cannot be reached (${valkey.complaint}): is Valkey running there?`,
          ),
        ),
      10_000,
    );
    valkey.onChange(() => {
      void openAll().then(() => {
        clearTimeout(late);
        resolve();
      });
    });
  });
  const polling = poll();

  return {
    count: options.count,
    shardOf: (saleId) => shardOfSale(saleId, options.count),
    async call(shard, command, args) {
      const state = stateOf(shard);
      if (valkey.linkOf(shardKey(shard)) === 0) throw new RefusalError(away);
      if (!isOpen(shard)) throw new RefusalError(fenced);
      try {
        const sentMs = clock.monotonicMs();
        const answer = await send(shard, command, args, sentMs + state.offsetMs + limits.callMs);
        learn(state, answer, sentMs);
        return answer;
      } catch (error) {
        if (isFenced(error)) fence(shard, (error as Error).message);
        else if (!isRefused(error)) logger.warn({ shard, error: String(error) }, 'a call to Valkey failed');
        throw refusalOfCall(error);
      }
    },
    async offers(shard, durability) {
      const [settings] = await settingsOf(shard).catch(() => {
        throw new RefusalError(away);
      });
      return settings ? whyNot(durability, settings) : null;
    },
    secure(shard, durability) {
      const { unsynced } = stateOf(shard);
      if (durability === 'memory') return null;
      if (unsynced === null && durability === 'fsync') return null;
      const secured = unsynced === null ? replicate(shard) : Promise.reject(new RefusalError(unsafe(unsynced)));
      // Nobody may be waiting for it any more.
      secured.catch(() => undefined);
      return secured;
    },
    sellable: () => states.some((_, shard) => isOpen(shard)),
    fenced: () =>
      states.flatMap(({ reason, lost, open }, shard) => {
        if (isOpen(shard)) return [];
        // It was open, and its connection is broken or another one.
        return [
          open ? { shard, reason: valkey.complaint || 'it is being opened', lost: false } : { shard, reason, lost },
        ];
      }),
    refresh: openAll,
    status: (shard) => stateOf(shard).status,
    async close() {
      stopped.abort();
      await polling;
      await opening;
      for (const state of states) state.open = false;
      await report().catch((error: unknown) => logger.warn({ error: String(error) }, 'the last report failed'));
      await valkey.close();
    },
  };
}
