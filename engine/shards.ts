/** All shards of an engine: opened when connections come and go, looked at again and again, and reported to Postgres. */
import { within } from '../kernel/clock.ts';
import { RefusalError, refusal, SetupError } from '../kernel/errors.ts';
import { newBuyerId, shardOfSale } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import { createWatch, type Watch } from '../kernel/watch.ts';
import type { ShardCommand, ShardStatusAnswer } from '../lua/bindings.ts';
import { type Durability, whyNot } from './durability.ts';
import type { EpochAuthority } from './epochs.ts';
import { away } from './refusals.ts';
import { createShard, type ServerFaults, type Shard, type ShardOptions } from './shard.ts';

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

const everyMs = 1_000;
const startMs = 10_000;

/** The authority, each of whose answers the watch is told of. */
function watched(authority: EpochAuthority, watch: Watch): EpochAuthority {
  const told = async <Answer>(answer: Promise<Answer>): Promise<Answer> => {
    try {
      const answered = await answer;
      watch.answered();
      return answered;
    } catch (error) {
      watch.failed();
      throw error;
    }
  };
  return {
    current: (...args) => told(authority.current(...args)),
    grant: (...args) => told(authority.grant(...args)),
    markOpened: (...args) => told(authority.markOpened(...args)),
    report: (...args) => told(authority.report(...args)),
    sightings: (...args) => told(authority.sightings(...args)),
    sharedUntil: (...args) => told(authority.sharedUntil(...args)),
    noteEnd: (...args) => told(authority.noteEnd(...args)),
  };
}

/**
 * Opens every shard (at the start and after each reconnection) and watches them. Resolves when all that can be opened
 * are open; a shard that can't be stays fenced and is tried again.
 */
export async function openShards(
  options: Omit<ShardOptions, 'watchedMs' | 'engine'> & {
    count: number;
    /** False: it tells no buyer anything (a relay, a sweeper), so that nobody has to wait for it, or to fear what it told. */
    sells?: boolean;
  },
): Promise<Shards> {
  const sells = options.sells ?? true;
  const { valkey, clock, logger } = options;
  const watch = createWatch(clock, limits.watchGapMs);
  const authority = watched(options.authority, watch);
  const engine = newBuyerId();
  const shardOptions = { ...options, engine, authority, watchedMs: watch.ms };
  const all = Array.from({ length: options.count }, (_, number) => createShard(number, shardOptions));
  const stopped = new AbortController();
  let reports = 0;

  function shardAt(number: number): Shard {
    const shard = all[number];
    if (!shard) throw new RefusalError(refusal('not-found', `There is no shard ${number}.`));
    return shard;
  }
  const byLink = (shards: Shard[]): Shard[][] => [...Map.groupBy(shards, ({ key }) => valkey.linkOf(key)).values()];
  const closed = (): Shard[] => all.filter((shard) => !shard.isOpen() && valkey.linkOf(shard.key) !== 0);

  const settingsOf = (key: string) =>
    within(valkey.settings(key), limits.callMs, 'Valkey did not answer in time', clock);
  /** Connections whose server has shown that its log is on its disk, and was set so ever since. */
  const proven = new Set<number>();
  /** Looks at how a shard's server is set, and once whether it does what it is set to. */
  const lookAtServer = async (shard: Shard): Promise<ServerFaults> => {
    if (options.observe) return { unsynced: null, unfit: null };
    const link = valkey.linkOf(shard.key);
    const [settings = new Map<string, string>()] = await settingsOf(shard.key);
    let unsynced = whyNot('fsync', settings);
    if (unsynced !== null) proven.delete(link);
    else if (!proven.has(link))
      try {
        await shard.prove();
        proven.add(link);
      } catch (error) {
        // After appendonly was switched on, or a replica has copied all, there is no whole log until a first rewrite ends.
        unsynced = `Valkey does not say that its log is on its disk (${error instanceof Error ? error.message : error}).`;
      }
    const policy = settings.get('maxmemory-policy');
    const unfit = `Valkey would throw stock away: set maxmemory-policy (${policy}) to noeviction`;
    return { unsynced, unfit: policy === 'noeviction' ? null : unfit };
  };

  /** Tells Postgres what this engine has seen: a run of Valkey that has less must not sell. */
  const report = async (shards = all): Promise<void> => {
    if (options.observe) return;
    const number = ++reports;
    const seen = shards.flatMap((shard) => shard.sighting ?? []);
    for (const [runId, sightings] of Map.groupBy(seen, (one) => one.runId)) {
      const grants = await authority.report(
        engine,
        runId,
        sightings.map((one) => ({ ...one, open: one.open && sells })),
        number,
      );
      for (const grant of grants) {
        const shard = shardAt(grant.shard);
        // Whoever was granted it does not know that this engine goes on with another server.
        const { open = false, epoch = 0 } = shard.sighting ?? {};
        if (open && (grant.epoch > epoch || grant.rebuilding)) shard.leave('its epoch has ended');
      }
    }
  };

  let opening: Promise<void> | null = null;
  /** Opens what isn't open, until no connection changes on the way. */
  const openAll = (): Promise<void> => {
    opening ??= (async () => {
      try {
        for (let before = ''; ; ) {
          const links = all.map(({ key }) => valkey.linkOf(key)).join();
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
    // Once for all shards of a connection: there may be a thousand.
    const looks = new Map<number, Promise<ServerFaults>>();
    const lookOnce = (shard: Shard): Promise<ServerFaults> => {
      const link = valkey.linkOf(shard.key);
      const looking = looks.get(link) ?? lookAtServer(shard);
      looks.set(link, looking);
      return looking;
    };
    const stays = (shard: Shard, error: unknown) => shard.leave(`it could not be opened: ${String(error)}`);
    try {
      await report();
      await Promise.all(
        byLink(closed()).map(async (together) => {
          for (const shard of together) {
            try {
              await shard.open(
                () => lookOnce(shard),
                () => report([shard]),
              );
            } catch (error) {
              stays(shard, error);
            }
          }
        }),
      );
    } catch (error) {
      for (const shard of closed()) stays(shard, error);
    }
  };

  /** Does something again and again; complains once of each thing that is wrong. */
  const keepOn = async (what: string, work: () => Promise<void>): Promise<void> => {
    let complaint = '';
    while (!stopped.signal.aborted) {
      await clock.wait(everyMs, stopped.signal);
      if (stopped.signal.aborted) return;
      try {
        await work();
        complaint = '';
      } catch (error) {
        if (String(error) !== complaint) logger.warn({ error: String(error) }, what);
        complaint = String(error);
      }
    }
  };
  const look = async (): Promise<void> => {
    // A server that hangs must not keep the others from being looked at.
    const looks = byLink(all.filter((shard) => shard.isOpen())).map(async (together) => {
      for (const shard of together) await shard.look();
      const first = together.find((shard) => shard.isOpen());
      const faults = first && (await lookAtServer(first));
      if (faults) for (const shard of together) shard.serverIs(faults);
    });
    const outcomes = await Promise.allSettled(looks);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  };

  await new Promise<void>((resolve, reject) => {
    const cancel = clock.later(startMs, () => {
      const why = `VALKEY_URL cannot be reached (${valkey.complaint}): is Valkey running there?`;
      reject(new SetupError('valkey-unreachable', why));
    });
    valkey.onChange(() => {
      for (const shard of all) shard.connectionChanged();
      void openAll().then(() => {
        cancel();
        resolve();
      });
    });
  });
  const keepingOn = [
    keepOn('the shards could not be looked at', look),
    keepOn('the shards could not be opened', async () => {
      if (closed().length > 0) await openAll();
    }),
    // By itself, since whoever is silent for a while is taken for ended.
    keepOn('what was seen could not be reported', () => report()),
  ];

  return {
    count: options.count,
    shardOf: (saleId) => shardOfSale(saleId, options.count),
    call: async (shard, command, args) => shardAt(shard).call(command, args),
    async offers(shard, durability) {
      const [settings] = await settingsOf(shardAt(shard).key).catch(() => {
        throw new RefusalError(away);
      });
      return settings ? whyNot(durability, settings) : null;
    },
    secure: (shard, durability) => shardAt(shard).secure(durability),
    sellable: () => all.some((shard) => shard.isOpen()),
    fenced: () => all.flatMap(({ number, fence }) => (fence ? [{ shard: number, ...fence }] : [])),
    refresh: openAll,
    status: (shard) => shardAt(shard).status,
    async close() {
      stopped.abort();
      await Promise.all(keepingOn);
      await opening;
      for (const shard of all) shard.close();
      await report().catch((error: unknown) => logger.warn({ error: String(error) }, 'the last report failed'));
      await valkey.close();
    },
  };
}
