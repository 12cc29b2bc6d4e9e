/**
 * One shard as an engine sees it: which epoch it is at and on which connection, the highest sequence seen, its time; and the
 * one way to call a function on it.
 */
import { type Clock, within } from '../kernel/clock.ts';
import { RefusalError } from '../kernel/errors.ts';
import { shardKey } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import {
  openShardCommand,
  replicateCommand,
  type ShardCommand,
  type ShardStatusAnswer,
  shardStatusCommand,
} from '../lua/bindings.ts';
import type { Durability } from './durability.ts';
import { type EpochAuthority, enterEpoch, observeEpoch, type Sighting } from './epochs.ts';
import { away, fenced, isFenced, isRefused, refusalOfCall, unsafe } from './refusals.ts';
import type { Valkey } from './valkey.ts';

export type ShardOptions = {
  valkey: Valkey;
  authority: EpochAuthority;
  outboxEvents: number;
  rememberSeconds: number;
  /** Its engine, as Postgres knows it. */
  engine: string;
  /** Only look: take the epochs as they are granted, and grant none. */
  observe?: boolean;
  /** Whether what else carries a shard's events (Kafka) has given the ledger all of it; rejects when it can't be asked. */
  drained?(shard: number): Promise<boolean>;
  /** How long Postgres has answered this engine without a break. */
  watchedMs(): number;
  replicaWaited?(seconds: number, inVain: boolean): void;
  clock: Clock;
  logger: Logger;
};

/** What its server is like: why it can't give `fsync`, or must not be sold from at all; null for neither. */
export type ServerFaults = { unsynced: string | null; unfit: string | null };

export type Shard = ReturnType<typeof createShard>;

export function createShard(number: number, options: ShardOptions) {
  const { valkey, authority, clock, logger } = options;
  const key = shardKey(number);
  let epoch = 0;
  let seen = 0;
  /** The shard's time less the monotonic clock, ms. */
  let offsetMs = 0;
  /** Entered: only once Postgres knows of it is it open, so that a rebuild waits for this engine, and hears what it told. */
  let stage: 'left' | 'entered' | 'open' = 'left';
  /** The connection on which it was entered, and the run behind it. */
  let link = 0;
  let runId = '';
  let fence = { reason: 'not opened yet', lost: false };
  let faults: ServerFaults = { unsynced: null, unfit: null };
  let status: ShardStatusAnswer | null = null;
  /** Answers of one turn of the event loop wait together. */
  let replicating: Promise<void> | null = null;

  /** Another run of Valkey may be behind another connection: nothing is sold before the epochs were compared. */
  const isOn = (): boolean => link === valkey.linkOf(key);
  const isOpen = (): boolean => stage === 'open' && isOn();

  const leave = (reason: string, { lost = false } = {}): void => {
    if (stage !== 'left' || fence.reason !== reason) logger.error({ shard: number, reason, lost }, 'shard fenced');
    stage = 'left';
    fence = { reason, lost };
  };

  const take = (found: ServerFaults): void => {
    const { unsynced } = found;
    if (unsynced !== null && unsynced !== faults.unsynced)
      logger.warn({ shard: number, unsynced }, 'only memory can be promised');
    faults = found;
  };

  const headerOf = (deadlineMs: number) => ({ epoch, seen, deadlineMs });

  const send = async <Args, Answer>(
    command: ShardCommand<Args, Answer>,
    args: Args,
    deadlineMs: number,
  ): Promise<Answer> => {
    const on = valkey.linkOf(key);
    const argument = command.encode(headerOf(deadlineMs), args);
    const calling = valkey.call(command.name, command.readOnly, key, argument);
    const answer = await within(calling, limits.callMs, 'Valkey did not answer in time', clock);
    // It may be of a history that the shard has left.
    if (valkey.linkOf(key) !== on) throw new Error('the connection to Valkey has changed');
    return command.decode(answer);
  };

  const learn = (answer: unknown, sentMs: number): void => {
    const { seq, now } = answer as { seq?: unknown; now?: unknown };
    if (typeof seq === 'number' && seq > seen) seen = seq;
    if (typeof now !== 'number') return;
    // The shard's clock showed `now` at some time between sending and this moment: no answer that waited long, here or
    // on its way, may push the estimate out of those bounds.
    const least = now - clock.monotonicMs();
    const most = now - sentMs;
    offsetMs = Math.min(Math.max(offsetMs, least), most);
  };

  const readStatus = async (): Promise<void> => {
    // Reads change nothing, so they may come late: this is how the shard's time is learnt again.
    const sentMs = clock.monotonicMs();
    status = await send(shardStatusCommand, {}, Number.MAX_SAFE_INTEGER);
    learn(status, sentMs);
  };

  /** Calls the function that does nothing but write, and waits for disks. */
  const sync = (replicas: 0 | 1): Promise<void> => {
    const argument = replicateCommand.encode(headerOf(clock.monotonicMs() + offsetMs + limits.callMs), {});
    const waiting = valkey.sync(replicateCommand.name, key, argument, replicas);
    return within(waiting, limits.callMs, 'Valkey did not answer in time', clock);
  };

  const replicate = (): Promise<void> => {
    const was = { epoch, link };
    const replicateNow = async (): Promise<void> => {
      replicating = null;
      const sinceMs = clock.monotonicMs();
      const waited = (inVain: boolean) => options.replicaWaited?.((clock.monotonicMs() - sinceMs) / 1000, inVain);
      try {
        // On another connection it could be said of a history that hasn't got what was answered.
        if (!isOpen() || was.epoch !== epoch || was.link !== link) throw new Error('the connection has changed');
        await sync(1);
        waited(false);
      } catch (error) {
        waited(true);
        logger.warn({ shard: number, error: String(error) }, 'what was answered could not be replicated');
        throw new RefusalError(unsafe('No replica has it on its disk yet.'));
      }
    };
    replicating ??= new Promise<void>((resolve) => setImmediate(resolve)).then(replicateNow);
    return replicating;
  };

  return {
    number,
    key,
    isOpen,
    leave,
    get status() {
      return status;
    },
    /** Why it is not open; null when it is. */
    get fence(): { reason: string; lost: boolean } | null {
      if (isOpen()) return null;
      // It was open, and its connection is broken or another one.
      return stage === 'left' ? fence : { reason: valkey.complaint || 'it is being opened', lost: false };
    },
    /** How far it was seen; null before it was ever opened. */
    get sighting(): (Sighting & { runId: string }) | null {
      return epoch === 0 ? null : { shard: number, epoch, seq: seen, open: stage !== 'left' && isOn(), runId };
    },
    /** Once its connection has changed it has to be opened again, even should the connection come back. */
    connectionChanged(): void {
      if (stage !== 'left' && !isOn()) leave(valkey.complaint || 'its connection has changed');
    },

    /**
     * Opens it on the connection that serves it now, or says why it stays fenced. `look`: at the server behind it; `report`: has
     * Postgres note how far it was seen.
     */
    async open(look: () => Promise<ServerFaults>, report: () => Promise<void>): Promise<void> {
      const on = { link: valkey.linkOf(key), runId: valkey.runId(key) };
      const rememberMs = options.rememberSeconds * 1000;
      const found = options.observe
        ? await observeEpoch(authority, number, on.runId)
        : await enterEpoch({
            ...{ authority, shard: number, runId: on.runId, known: { epoch, seen } },
            watchedMs: options.watchedMs,
            enter: (wanted, expected) =>
              send(openShardCommand, { epoch: wanted, expected, outboxEvents: options.outboxEvents, rememberMs }, 0),
            drained: options.drained ?? (() => Promise.resolve(true)),
          });
      if ('reason' in found) return leave(found.reason, found);
      if (epoch > 0 && epoch < found.epoch && !options.observe) {
        // Frozen, or cut off, it may have told buyers what nobody else knew of when the next epoch began.
        const lost = await authority.noteEnd(options.engine, number, epoch, seen);
        if (lost) logger.error({ shard: number, epoch, ...lost }, 'buyers may have been told what is lost');
      }
      // Sequences go on from epoch to epoch, but not from one that a rebuild has closed.
      if (epoch <= found.closedEpoch) seen = 0;
      epoch = found.epoch;
      await readStatus();
      take(await look());
      if (faults.unfit !== null) return leave(faults.unfit);
      // Should the connection have changed meanwhile, it isn't open on the new one.
      stage = 'entered';
      ({ link, runId } = on);
      await report();
      if (stage === 'entered') stage = 'open';
      if (isOpen()) logger.info({ shard: number, epoch, seq: seen }, 'shard open');
    },

    /** Looks whether it is as it was. Rejects when that can't be known. */
    async look(): Promise<void> {
      try {
        await readStatus();
      } catch (error) {
        if (!isFenced(error)) throw error;
        leave((error as Error).message);
      }
    },
    serverIs(found: ServerFaults): void {
      take(found);
      if (found.unfit !== null) leave(found.unfit);
    },
    /** Nothing is asked of it any more. */
    close(): void {
      stage = 'left';
    },
    /** Rejects unless the server's log is on its disk. */
    prove: () => sync(0),

    async call<Args, Answer>(command: ShardCommand<Args, Answer>, args: Args): Promise<Answer> {
      if (valkey.linkOf(key) === 0) throw new RefusalError(away);
      if (!isOpen()) throw new RefusalError(fenced);
      try {
        const sentMs = clock.monotonicMs();
        const answer = await send(command, args, sentMs + offsetMs + limits.callMs);
        learn(answer, sentMs);
        return answer;
      } catch (error) {
        if (isFenced(error)) leave((error as Error).message);
        else if (!isRefused(error)) logger.warn({ shard: number, error: String(error) }, 'a call to Valkey failed');
        throw refusalOfCall(error);
      }
    },

    /** See `Shards.secure`. */
    secure(durability: Durability): Promise<void> | null {
      const { unsynced } = faults;
      if (durability === 'memory' || (durability === 'fsync' && unsynced === null)) return null;
      const secured = unsynced === null ? replicate() : Promise.reject(new RefusalError(unsafe(unsynced)));
      // Nobody may be waiting for it any more.
      secured.catch(() => undefined);
      return secured;
    },
  };
}
