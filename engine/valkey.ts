import { Redis } from 'iovalkey';
import { type Library, readLibrary } from '../lua/library.ts';

/** A connection to Valkey that calls Stampede's functions and nothing behind the caller's back. */
export type ValkeyConnection = {
  /** Calls a function on one shard's key; the answer is its packed string. Rejects when it can't be known to have run. */
  call(name: string, readOnly: boolean, key: string, argument: Buffer): Promise<Buffer>;
  /** The id of the server's run: another one after every restart. */
  runId(): Promise<string>;
  /** The settings that durability rests on. */
  settings(): Promise<Map<string, string>>;
  /** Whether it is connected now. */
  readonly connected: boolean;
  /** Calls `listener` each time a connection stands (the first too). */
  onConnected(listener: () => void): void;
  close(): Promise<void>;
};

const durabilitySettings = ['appendonly', 'appendfsync', 'no-appendfsync-on-rewrite', 'maxmemory-policy'];

/**
 * Connects to `url` (redis://, valkey:// or unix://). The client is told not to queue while offline and not to send
 * again what was under way when a connection broke: a command must not run twice unless its caller says so.
 */
export function connectValkey(url: string, onError: (error: Error) => void): ValkeyConnection {
  const options = {
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableReadyCheck: true,
    connectTimeout: 2_000,
    keepAlive: 10_000,
    noDelay: true,
    retryStrategy: (tries: number) => Math.min(20 * 2 ** Math.min(tries, 6), 1_000),
  };
  const redis = url.startsWith('unix://')
    ? new Redis({ ...options, path: url.slice('unix://'.length) })
    : new Redis(url.replace(/^valkey:/, 'redis:'), options);
  redis.on('error', onError);
  const library: Library = readLibrary();
  let loading: Promise<void> | null = null;

  const load = (): Promise<void> => {
    loading ??= (async () => {
      try {
        await redis.call('FUNCTION', 'LOAD', library.source);
      } catch (error) {
        if (!String(error).includes('already exists')) throw error;
      } finally {
        loading = null;
      }
    })();
    return loading;
  };

  const send = (name: string, readOnly: boolean, key: string, argument: Buffer): Promise<Buffer> =>
    redis.callBuffer(readOnly ? 'FCALL_RO' : 'FCALL', `${name}_${library.hash}`, 1, key, argument) as Promise<Buffer>;

  return {
    async call(name, readOnly, key, argument) {
      try {
        return await send(name, readOnly, key, argument);
      } catch (error) {
        if (!String(error).includes('Function not found')) throw error;
        await load();
        return send(name, readOnly, key, argument);
      }
    },
    async runId() {
      const info = String(await redis.info('server'));
      return /^run_id:(\w+)/m.exec(info)?.[1] ?? '';
    },
    async settings() {
      const found = (await redis.call('CONFIG', 'GET', ...durabilitySettings)) as string[];
      const map = new Map<string, string>();
      for (let i = 0; i + 1 < found.length; i += 2) map.set(found[i] ?? '', found[i + 1] ?? '');
      return map;
    },
    get connected() {
      return redis.status === 'ready';
    },
    onConnected(listener) {
      redis.on('ready', listener);
      if (redis.status === 'ready') listener();
    },
    async close() {
      redis.disconnect();
    },
  };
}
