/** One connection to one run of one Valkey server. */
import { Redis } from 'iovalkey';
import { within } from '../kernel/clock.ts';
import { limits } from '../kernel/limits.ts';
import { type Library, readLibrary } from '../lua/library.ts';

/** What a server says of itself. `runId` is another one after every restart. */
export type ServerInfo = {
  runId: string;
  primary: boolean;
  cluster: boolean;
  replicas: number;
  loading: boolean;
};

/** It ends once, whatever ended it, and never reconnects: what is behind the next connection may be another server. */
export type Link = {
  /** Another one for every link of this process. */
  readonly id: number;
  readonly url: string;
  readonly runId: string;
  readonly ended: boolean;
  /** Calls a function; the answer is its packed string. Rejects when it can't be known to have run. */
  call(name: string, readOnly: boolean, key: string, argument: Buffer): Promise<Buffer>;
  /**
   * Calls a function that writes, and resolves once it, and all that the server did before, is on the server's disk and on a
   * replica's. Rejects when the function does, or when no replica says so in time (`limits.replicaMs`, twice).
   */
  replicate(name: string, key: string, argument: Buffer): Promise<void>;
  info(): Promise<ServerInfo>;
  command(...words: string[]): Promise<unknown>;
  close(): void;
};

const library: Library = readLibrary();
const pingMs = 1_000;
let links = 0;

function connect(url: string): Redis {
  // Nothing is queued while there is no connection, and nothing sent again: a command must not run twice unless its
  // caller says so.
  const options = {
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    enableReadyCheck: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
    connectTimeout: limits.connectMs,
    keepAlive: 10_000,
    noDelay: true,
  };
  return url.startsWith('unix://')
    ? new Redis({ ...options, path: url.slice('unix://'.length) })
    : new Redis(url.replace(/^valkey:/, 'redis:'), options);
}

/** The servers' answer to INFO, as much of it as matters here. */
export function serverInfoOf(text: string): ServerInfo {
  const value = (name: string): string => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(text)?.[1] ?? '';
  return {
    runId: value('run_id'),
    primary: value('role') === 'master',
    cluster: value('cluster_enabled') === '1',
    replicas: Number(value('connected_slaves')),
    loading: value('loading') === '1',
  };
}

/** Opens a link, `limits.connectMs` at the most. Rejects when nobody answers there, or the server still reads its files. */
export async function openLink(url: string, onEnd: (link: Link) => void): Promise<{ link: Link; info: ServerInfo }> {
  const redis = connect(url);
  let fault: Error | null = null;
  redis.on('error', (error: Error) => {
    fault = error;
  });
  const info = async (): Promise<ServerInfo> =>
    serverInfoOf(String(await redis.call('INFO', 'server', 'replication', 'persistence', 'cluster')));
  const opening = (async () => {
    await redis.connect();
    const found = await info();
    if (found.loading) throw new Error('Valkey is still reading its files');
    return found;
  })();
  let first: ServerInfo;
  try {
    first = await within(opening, limits.connectMs, 'no answer');
  } catch (error) {
    redis.disconnect();
    opening.catch(() => undefined);
    throw fault ?? error;
  }

  let ended = false;
  const end = (): void => {
    if (ended) return;
    ended = true;
    clearInterval(beat);
    redis.disconnect();
    replicating?.disconnect();
    onEnd(link);
  };
  redis.on('end', end);
  // A server that is gone without a word is noticed by its silence.
  const beat = setInterval(() => {
    within(redis.call('PING'), limits.callMs, 'no answer').catch(end);
  }, pingMs);
  beat.unref();

  const fcall = (on: Redis, name: string, readOnly: boolean, key: string, argument: Buffer): Promise<Buffer> =>
    on.callBuffer(readOnly ? 'FCALL_RO' : 'FCALL', `${name}_${library.hash}`, 1, key, argument) as Promise<Buffer>;

  const load = async (): Promise<void> => {
    try {
      await redis.call('FUNCTION', 'LOAD', library.source);
    } catch (error) {
      if (!String(error).includes('already exists')) throw error;
    }
  };

  // WAITAOF blocks its connection and covers what that connection wrote: so it has one of its own, on which groups of
  // calls follow one another, each with one wait at its end.
  let replicating: Redis | null = null;
  type Waiting = { send(on: Redis): Promise<unknown>; resolve(): void; reject(error: unknown): void };
  let group: Waiting[] = [];
  let busy = false;
  const replicateGroups = async (): Promise<void> => {
    busy = true;
    while (group.length > 0) {
      const now = group;
      group = [];
      try {
        if (ended) throw new Error('the connection has ended');
        if (replicating?.status !== 'ready') {
          replicating?.disconnect();
          replicating = connect(url);
          replicating.on('error', () => undefined);
          await within(replicating.connect(), limits.connectMs, 'no answer');
        }
        const on = replicating;
        const calls = now.map((one) =>
          one.send(on).then(
            () => null,
            (error: unknown) => error,
          ),
        );
        // A replica says how far it is before it syncs what it just got, and again only a second later, or when it is
        // asked anew: so it is first asked whether it got it, and then whether it is on its disk.
        void on.call('WAIT', 1, limits.replicaMs).catch(() => undefined);
        const waiting = on.call('WAITAOF', 1, 1, limits.replicaMs).then(
          (counts) => {
            const [local, replicas] = counts as [number, number];
            return local > 0 && replicas > 0 ? null : new Error('NOREPLICA no replica has it on its disk in time');
          },
          (error: unknown) => error,
        );
        const vain = await within(waiting, limits.callMs, 'Valkey did not answer in time');
        const faults = await Promise.all(calls);
        for (const [i, one] of now.entries()) {
          const fault = faults[i] ?? vain;
          if (fault) one.reject(fault);
          else one.resolve();
        }
      } catch (error) {
        replicating?.disconnect();
        for (const one of now) one.reject(error);
      }
    }
    busy = false;
  };

  const link: Link = {
    id: ++links,
    url,
    runId: first.runId,
    get ended() {
      return ended;
    },
    async call(name, readOnly, key, argument) {
      try {
        return await fcall(redis, name, readOnly, key, argument);
      } catch (error) {
        if (!String(error).includes('Function not found')) throw error;
        await load();
        return fcall(redis, name, readOnly, key, argument);
      }
    },
    replicate: (name, key, argument) =>
      new Promise((resolve, reject) => {
        group.push({ send: (on) => fcall(on, name, false, key, argument), resolve, reject });
        if (!busy) void replicateGroups();
      }),
    info,
    command: (name = '', ...words) => redis.call(name, ...words),
    close: end,
  };
  if (redis.status === 'end') end();
  return { link, info: first };
}
