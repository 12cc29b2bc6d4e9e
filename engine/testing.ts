/** For tests of which server serves a key: layouts of Valkey, and connections to them, that end with the test. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { shardStatusCommand } from '../lua/bindings.ts';
import { environmentWithoutServices } from '../lua/testing.ts';
import {
  type ServiceName,
  type ServiceSet,
  startServices,
  type ValkeyLayout,
  valkeyLayouts,
} from '../services/services.ts';
import { connectValkey, type Valkey } from './valkey.ts';

export const header = { epoch: 1, seen: 0, deadlineMs: Number.MAX_SAFE_INTEGER };
export const eventually = { timeout: 20_000, interval: 20 };

/** Any call, on a shard that need not be there. */
export function askStatus(valkey: Valkey, key: string): Promise<Buffer> {
  return valkey.call('shard_status', false, key, shardStatusCommand.encode(header, {}));
}
export const noSuchShard = /FENCED this Valkey has no such shard/;

/** The run that serves a key; '' while none does. */
export const servedBy = (valkey: Valkey, key: string): string => (valkey.linkOf(key) === 0 ? '' : valkey.runId(key));

/** Servers, clients and connections, until `end`. */
export function createValkeyBench() {
  const ending: (() => unknown)[] = [];
  let set: ServiceSet | undefined;
  const services = (): ServiceSet => {
    if (!set) throw new Error('start a layout first');
    return set;
  };
  const urlOf = (name: ServiceName): string => services().services[name]?.url ?? '';
  const client = (name: ServiceName): Redis => {
    const redis = new Redis(urlOf(name));
    redis.on('error', () => undefined);
    ending.push(() => redis.disconnect());
    return redis;
  };
  return {
    services,
    urlOf,
    client,
    async start(layout: ValkeyLayout): Promise<ServiceSet> {
      const started = await startServices({
        names: valkeyLayouts[layout],
        dataDir: mkdtempSync(join(tmpdir(), 'stampede-valkey-')),
        removeDataDir: true,
        env: environmentWithoutServices(),
      });
      set = started;
      ending.push(() => started.stop());
      return started;
    },
    connect(...urls: string[]): Valkey {
      const valkey = connectValkey(urls, () => undefined);
      ending.push(() => valkey.close());
      return valkey;
    },
    async runIdOf(name: ServiceName): Promise<string> {
      return /^run_id:(\w+)/m.exec(await client(name).info('server'))?.[1] ?? 'none';
    },
    async end(): Promise<void> {
      for (const end of ending.splice(0).reverse()) await end();
    },
  };
}
