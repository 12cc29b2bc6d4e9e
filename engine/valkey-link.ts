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
   * Calls a function that writes, and resolves once it, and all that the server did before, is on the server's disk and on
   * that many replicas'. Rejects when the function does, or when that isn't said in time (`limits.replicaMs`, twice).
   */
  sync(name: string, key: string, argument: Buffer, replicas: 0 | 1): Promise<void>;
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
    // An end is one: what lay in the socket is not read any more.
    disconnectTimeout: 0,
    keepAlive: 10_000,
    noDelay: true,
  };
  return url.startsWith('unix://')
    ? new Redis({ ...options, path: url.slice('unix://'.length) })
    : new Redis(url.replace(/^valkey:/, 'redis:'), options);
}

/** The servers' answer to INFO, as much of it as matters here. */
function serverInfoOf(text: string): ServerInfo {
  const value = (name: string): string => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(text)?.[1] ?? '';
  return {
    runId: value('run_id'),
    primary: value('role') === 'master',
    cluster: value('cluster_enabled') === '1',
    replicas: Number(value('connected_slaves')),
    loading: value('loading') === '1',
  };
}

function fcall(on: Redis, name: string, readOnly: boolean, key: string, argument: Buffer): Promise<Buffer> {
  return on.callBuffer(readOnly ? 'FCALL_RO' : 'FCALL', `${name}_${library.hash}`, 1, key, argument) as Promise<Buffer>;
}

async function infoOf(redis: Redis): Promise<ServerInfo> {
  return serverInfoOf(String(await redis.call('INFO', 'server', 'replication', 'persistence', 'cluster')));
}

/** Opens a link, `limits.connectMs` at the most. Rejects when nobody answers there, or the server still reads its files. */
export async function openLink(url: string, onEnd: (link: Link) => void): Promise<{ link: Link; info: ServerInfo }> {
  const redis = connect(url);
  let fault: Error | null = null;
  redis.on('error', (error: Error) => {
    fault = error;
  });
  const info = (): Promise<ServerInfo> => infoOf(redis);
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
    waits.end();
    onEnd(link);
  };
  redis.on('end', end);
  // A server that is gone without a word is noticed by its silence.
  const beat = setInterval(() => {
    within(redis.call('PING'), limits.callMs, 'no answer').catch(end);
  }, pingMs);
  beat.unref();

  const load = async (): Promise<void> => {
    try {
      await redis.call('FUNCTION', 'LOAD', library.source);
    } catch (error) {
      if (!String(error).includes('already exists')) throw error;
    }
  };

  /** Whoever looked at the link in between was told that it gives no more answers, refusals as little as others. */
  const unlessEnded = <T>(answer: Promise<T>): Promise<T> =>
    answer.finally(() => {
      if (ended) throw new Error('the connection has ended');
    });

  const waits = createWaits(url, first.runId);
  const link: Link = {
    id: ++links,
    url,
    runId: first.runId,
    get ended() {
      return ended;
    },
    async call(name, readOnly, key, argument) {
      const send = (): Promise<Buffer> => unlessEnded(fcall(redis, name, readOnly, key, argument));
      try {
        return await send();
      } catch (error) {
        if (!String(error).includes('Function not found')) throw error;
        await load();
        return send();
      }
    },
    sync: (name, key, argument, replicas) => unlessEnded(waits.sync(name, key, argument, replicas)),
    info,
    command: (name = '', ...words) => redis.call(name, ...words),
    close: end,
  };
  if (redis.status === 'end') end();
  return { link, info: first };
}

/**
 * Waits for disks. WAITAOF blocks its connection and covers what that connection wrote: so it has one of its own, to the
 * same run, on which groups of calls follow one another, each with one wait at its end.
 */
function createWaits(url: string, runId: string) {
  type Waiting = { send(on: Redis): Promise<unknown>; replicas: 0 | 1; resolve(): void; reject(error: unknown): void };
  let connection: Redis | null = null;
  let waiting: Waiting[] = [];
  let busy = false;
  let ended = false;

  const open = async (): Promise<Redis> => {
    if (connection?.status === 'ready') return connection;
    connection?.disconnect();
    connection = connect(url);
    connection.on('error', () => undefined);
    await connection.connect();
    // Behind a name with several addresses, or a proxy, it may be another server.
    if ((await infoOf(connection)).runId !== runId) throw new Error('a second connection found another run of Valkey');
    return connection;
  };

  /** Why it is in vain, or null. */
  const disks = async (on: Redis, replicas: 0 | 1): Promise<unknown> => {
    // A replica says how far it is before it syncs what it just got, and again only a second later, or when it is asked
    // anew: so it is first asked whether it got it, and then whether it is on its disk.
    if (replicas > 0) void on.call('WAIT', replicas, limits.replicaMs).catch(() => undefined);
    try {
      const [local, others] = (await on.call('WAITAOF', 1, replicas, limits.replicaMs)) as [number, number];
      if (local < 1) return new Error('NOSYNC Valkey does not say that its log is on its disk');
      return others < replicas ? new Error('NOREPLICA no replica has it on its disk in time') : null;
    } catch (error) {
      return error;
    }
  };

  const runGroup = async (group: Waiting[], replicas: 0 | 1): Promise<void> => {
    try {
      if (ended) throw new Error('the connection has ended');
      const on = await within(open(), limits.connectMs, 'no answer');
      const calls = group.map((one) =>
        one.send(on).then(
          () => null,
          (error: unknown) => error,
        ),
      );
      const vain = await within(disks(on, replicas), limits.callMs, 'Valkey did not answer in time');
      const faults = await Promise.all(calls);
      for (const [i, one] of group.entries()) {
        const fault = faults[i] ?? vain;
        if (fault) one.reject(fault);
        else one.resolve();
      }
    } catch (error) {
      connection?.disconnect();
      for (const one of group) one.reject(error);
    }
  };

  const run = async (): Promise<void> => {
    busy = true;
    while (waiting[0]) {
      const { replicas } = waiting[0];
      const group = waiting.filter((one) => one.replicas === replicas);
      waiting = waiting.filter((one) => one.replicas !== replicas);
      await runGroup(group, replicas);
    }
    busy = false;
  };

  return {
    sync: (name: string, key: string, argument: Buffer, replicas: 0 | 1): Promise<void> =>
      new Promise((resolve, reject) => {
        waiting.push({ send: (on) => fcall(on, name, false, key, argument), replicas, resolve, reject });
        if (!busy) void run();
      }),
    end() {
      ended = true;
      connection?.disconnect();
    },
  };
}
