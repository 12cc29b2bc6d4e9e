/**
 * The real Valkey of a worker, as the simulation's disk and memory: each simulated run of a server has a database of it for
 * itself. What a run has on disk is the list of calls that it executed; a run on older files is that list's beginning,
 * executed anew. (The functions depend on nothing but their arguments, the data and the time, and that is given.)
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { shardKey } from '../../kernel/ids.ts';
import { readLibrary } from '../../lua/library.ts';
import { environmentWithoutServices } from '../../lua/testing.ts';
import { startServices } from '../../services/services.ts';
import { startOfTimeMs } from './scheduler.ts';

/** A call that changed something, when the shard's clock showed `atMs`. */
export type Call = { name: string; argument: Buffer; atMs: number };

export type RealServer = {
  /** All databases empty. */
  clear(): Promise<void>;
  call(db: number, name: string, readOnly: boolean, argument: Buffer, atMs: number): Promise<Buffer>;
  /** Makes `db` what it is after those calls. */
  replay(db: number, calls: readonly Call[]): Promise<void>;
  flush(db: number): Promise<void>;
  /** Where the shard is; null where there is none. */
  shardAt(db: number): Promise<{ epoch: number; seq: number; live: number; acked: number } | null>;
  stop(): Promise<void>;
};

export const databases = 16;
const key = shardKey(0);

export async function startRealServer(): Promise<RealServer> {
  const library = readLibrary();
  const services = await startServices({
    names: ['valkey'],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-sim-')),
    removeDataDir: true,
    env: environmentWithoutServices(),
  });
  const service = services.services.valkey;
  const url = new URL(String(service?.url));
  const connections: Redis[] = [];
  const on = (db: number): Redis => {
    let redis = connections[db];
    if (!redis) {
      redis = new Redis({ host: url.hostname, port: Number(url.port), db, noDelay: true, maxRetriesPerRequest: 3 });
      redis.on('error', () => undefined);
      connections[db] = redis;
    }
    return redis;
  };
  const first = on(0);
  // Nothing of it need survive this process: disks are simulated.
  await first.call('CONFIG', 'SET', 'appendonly', 'no');
  await first.call('FUNCTION', 'LOAD', library.source);

  const fcall = (redis: Redis, name: string, readOnly: boolean, argument: Buffer): Promise<Buffer> =>
    redis.callBuffer(readOnly ? 'FCALL_RO' : 'FCALL', `${name}_${library.hash}`, 1, key, argument) as Promise<Buffer>;
  // Where there is no shard this leaves a key without an epoch: for the functions, none.
  const setTime = (redis: Redis, atMs: number): void => {
    void redis.hset(key, 'at', String(Math.floor(startOfTimeMs + atMs))).catch(() => undefined);
  };

  return {
    async clear() {
      await first.flushall('SYNC');
    },
    call(db, name, readOnly, argument, atMs) {
      const redis = on(db);
      setTime(redis, atMs);
      return fcall(redis, name, readOnly, argument);
    },
    async replay(db, calls) {
      const redis = on(db);
      void redis.flushdb('SYNC');
      const done = calls.map(({ name, argument, atMs }) => {
        setTime(redis, atMs);
        return fcall(redis, name, false, argument);
      });
      await Promise.all([redis.ping(), ...done]);
    },
    async flush(db) {
      await on(db).flushdb('SYNC');
    },
    async shardAt(db) {
      const [epoch, ...rest] = await on(db).hmget(key, 'epoch', 'seq', 'live', 'acked');
      if (!epoch) return null;
      const [seq = 0, live = 0, acked = 0] = rest.map(Number);
      return { epoch: Number(epoch), seq, live, acked };
    },
    async stop() {
      for (const redis of connections) redis?.disconnect();
      await services.stop();
    },
  };
}
