/**
 * A whole Stampede to be broken: each store and each role a process of its own, stores behind proxies or on small disks
 * where a fault needs that. Everything ends with `stop`, and with this process, however that ends.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { adminToken, sessionSecret } from '../cli/testbed.ts';
import { runCommand, runServe, type Served } from '../cli/testbed-command.ts';
import { systemClock } from '../kernel/clock.ts';
import { environmentWithoutServices } from '../lua/testing.ts';
import { atParentDeath, sendSignal, type Testament } from '../services/children.ts';
import { type ServiceName, type ServiceSet, startServices, type ValkeyOptions } from '../services/services.ts';
import { startProxy, type TcpProxy } from './proxy.ts';

export const shards = 2;

export type Store = 'valkey' | 'replica' | 'postgres' | 'kafka';
export type Role = 'engine-1' | 'engine-2' | 'relay' | 'ledger' | 'sweeper';
export type Member = Store | Role;

/** What can be behind a proxy. */
export type Networked = 'valkey' | 'postgres' | 'kafka';

export type BedOptions = {
  /** Data and logs, one folder for all. */
  folder: string;
  /** Whether Valkey has a replica. */
  replica?: boolean;
  transport: 'direct' | 'kafka';
  /** Stores that are reached through a proxy. */
  proxied?: readonly Networked[];
  /** Stores whose data lie on a disk of `smallDiskMiB`. Only for root. */
  small?: readonly ('valkey' | 'postgres')[];
  valkey?: ValkeyOptions;
  /** Of Valkey's process, beside its own environment. */
  valkeyEnv?: Record<string, string>;
  /** Of each engine's process. */
  engineEnv?: Record<string, string>;
  /** The copy of this repository that every process is run from. Default: this one. */
  tree?: string;
};

export type Bed = Awaited<ReturnType<typeof startBed>>;

const smallDiskMiB = { valkey: 64, postgres: 256 };
const startMs = 60_000;

const argumentsOf: Record<Role, string[]> = {
  'engine-1': ['--roles', 'http'],
  'engine-2': ['--roles', 'http'],
  relay: ['--roles', 'relay', '--auto-rebuild'],
  ledger: ['--roles', 'ledger'],
  sweeper: ['--roles', 'sweeper', '--auto-rebuild'],
};
const serviceOf: Record<Store, ServiceName> = {
  valkey: 'valkey',
  replica: 'valkey-replica',
  postgres: 'postgres',
  kafka: 'kafka',
};

const isStore = (member: Member): member is Store => member in serviceOf;

/** To a process, and then to its children, which of Postgres do all the work: once it is stopped it makes no more of them. */
function signalFamily(pid: number | null, name: 'SIGSTOP' | 'SIGCONT'): void {
  if (pid === null) throw new Error('a store that is not a process of this machine can not be frozen');
  sendSignal(pid, name);
  const path = `/proc/${pid}/task/${pid}/children`;
  const children = existsSync(path) ? readFileSync(path, 'utf8').trim().split(' ').filter(Boolean) : [];
  for (const child of children) sendSignal(Number(child), name);
}

export async function startBed(options: BedOptions) {
  const { folder } = options;
  const env = environmentWithoutServices();
  const mounts: { place: string; atDeath: Testament }[] = [];
  const sets: ServiceSet[] = [];
  const proxies: Partial<Record<Store, TcpProxy>> = {};
  /** Every process ever started, for their logs; those that run now, by role. */
  const all: { name: string; served: Served }[] = [];
  /** What a start said that came to nothing: while its store is on its way up that is right. */
  const failedStarts = new Map<string, string>();
  const running = new Map<string, Served>();
  /** Roles that were told to end; another that ends has crashed. */
  const crashed: string[] = [];
  const frozen = new Set<Member>();

  const stop = async (): Promise<void> => {
    for (const member of frozen) await thaw(member);
    const serving = [...running.values()];
    running.clear();
    await Promise.all(serving.map((served) => served.stop()));
    for (const proxy of Object.values(proxies)) await proxy.close();
    for (const set of sets) await set.stop();
    for (const { place, atDeath } of mounts) {
      spawnSync('umount', ['-l', place]);
      atDeath.callOff();
    }
  };
  const setOf = (store: Store): ServiceSet => {
    const set = sets.find(({ services }) => services[serviceOf[store]]);
    if (!set) throw new Error(`there is no ${store} in this bed`);
    return set;
  };
  const service = (store: Store) => {
    const found = setOf(store).services[serviceOf[store]];
    if (!found) throw new Error(`there is no ${store} in this bed`);
    return found;
  };
  const has = (member: Member): boolean => {
    if (isStore(member)) return sets.some(({ services }) => services[serviceOf[member]]);
    return member !== 'ledger' || options.transport === 'kafka';
  };

  /** The address at which others reach a store: its own, or its proxy's. */
  const addressOf = (store: Networked): { host: string; port: number } => {
    const { url } = service(store);
    const { hostname, port } = new URL(url.includes('//') ? url : `tcp://${url}`);
    return { host: hostname, port: Number(port) };
  };
  const throughProxy = (store: Networked): string => {
    const { url } = service(store);
    const proxy = proxies[store];
    return proxy ? url.replace(`:${addressOf(store).port}`, `:${proxy.port}`) : url;
  };

  const serveEnv: Record<string, string> = {};
  /** Starts a role once more, under a name of its own when it is a second one. */
  const serve = async (role: Role, { name = role as string, tree = options.tree } = {}) => {
    // A store may be on its way up still.
    for (const untilMs = Date.now() + startMs; ; await systemClock.wait(200)) {
      try {
        const served = await runServe(
          ['--host', '127.0.0.1', '--port', '0', ...argumentsOf[role]],
          { ...serveEnv, ...(role.startsWith('engine') ? options.engineEnv : {}) },
          tree,
        );
        all.push({ name, served });
        running.set(name, served);
        void served.ended.then((code) => {
          if (running.get(name) === served)
            crashed.push(`${name} ended by itself (${code}): ${served.stderr().slice(-500)}`);
        });
        return;
      } catch (error) {
        failedStarts.set(name, `${failedStarts.get(name) ?? ''}${error instanceof Error ? error.message : error}\n`);
        if (Date.now() > untilMs) throw error;
      }
    }
  };
  const endRole = async (name: string, signal: NodeJS.Signals): Promise<void> => {
    const served = running.get(name);
    running.delete(name);
    frozen.delete(name as Role);
    const code = await served?.stop(signal);
    if (signal === 'SIGTERM' && code !== 0) crashed.push(`${name} was told to end, and ended with ${code}`);
  };
  const kill = async (member: Member): Promise<void> => {
    if (isStore(member)) await setOf(member).kill(serviceOf[member], 'SIGKILL');
    else await endRole(member, 'SIGKILL');
  };
  /** Starts what has ended; what runs is left as it is. */
  const start = async (member: Member): Promise<void> => {
    if (isStore(member)) await setOf(member).startOne(serviceOf[member]);
    else if (!running.has(member)) await serve(member);
  };
  const signal = async (member: Member, name: 'SIGSTOP' | 'SIGCONT'): Promise<void> => {
    if (!isStore(member)) running.get(member)?.child.kill(name);
    else signalFamily(service(member).pid, name);
  };
  const freeze = async (member: Member): Promise<void> => {
    frozen.add(member);
    await signal(member, 'SIGSTOP');
  };
  const thaw = async (member: Member): Promise<void> => {
    frozen.delete(member);
    await signal(member, 'SIGCONT');
  };

  try {
    for (const store of options.small ?? []) {
      const place = join(folder, store === 'valkey' ? 'valkey' : 'ledger', store);
      mkdirSync(place, { recursive: true });
      const mounted = spawnSync('mount', [
        '-t',
        'tmpfs',
        '-o',
        `size=${smallDiskMiB[store]}m,mode=755`,
        'tmpfs',
        place,
      ]);
      if (mounted.status !== 0) throw new Error(`no small disk at ${place}: ${mounted.stderr}`);
      mounts.push({ place, atDeath: atParentDeath(['umount', '-l', place], process.env) });
    }
    for (const store of options.proxied ?? []) proxies[store] = await startProxy(() => addressOf(store));
    const kafkaProxy = proxies.kafka;
    const found = await Promise.allSettled([
      startServices({
        names: options.replica ? ['valkey', 'valkey-replica'] : ['valkey'],
        dataDir: join(folder, 'valkey'),
        env: { ...env, ...options.valkeyEnv },
        ...(options.valkey ? { valkey: options.valkey } : {}),
      }),
      startServices({
        names: options.transport === 'kafka' ? ['postgres', 'kafka'] : ['postgres'],
        dataDir: join(folder, 'ledger'),
        env,
        ...(kafkaProxy ? { kafka: { advertisedPort: kafkaProxy.port } } : {}),
      }),
    ]);
    for (const one of found) if (one.status === 'fulfilled') sets.push(one.value);
    for (const one of found) if (one.status === 'rejected') throw one.reason;
    const valkeyUrl = throughProxy('valkey');
    Object.assign(serveEnv, {
      VALKEY_URL: options.replica ? `${valkeyUrl},${service('replica').url}` : valkeyUrl,
      DATABASE_URL: throughProxy('postgres'),
      KAFKA_BROKERS: options.transport === 'kafka' ? throughProxy('kafka') : '',
      ADMIN_TOKEN: adminToken,
      SESSION_SECRET: sessionSecret,
      RATE_LIMITS: 'off',
      SHARDS: String(shards),
      LOG_LEVEL: process.env.LOG_LEVEL ?? 'info',
    });
    // The first migrates; the others come then.
    await serve('engine-1');
    await Promise.all((['engine-2', 'relay', 'ledger', 'sweeper'] as const).filter(has).map((role) => serve(role)));
  } catch (error) {
    await stop();
    throw error;
  }

  return {
    folder,
    /** For commands on the same stores. */
    env: serveEnv,
    has,
    service,
    crashed,
    /** Where engines listen that run, or ran until a moment ago. */
    engines: (): string[] => [...running].flatMap(([name, { url }]) => (name.startsWith('engine') ? url : [])),
    proxy(store: Networked): TcpProxy {
      const proxy = proxies[store];
      if (!proxy) throw new Error(`${store} is not behind a proxy in this bed`);
      return proxy;
    },
    /** Runs a command of the same release on the same stores. */
    command: (args: string[]) => runCommand(args, serveEnv, options.tree === undefined ? {} : { tree: options.tree }),
    serve,
    endRole,
    kill,
    start,
    freeze,
    thaw,
    /** What the processes said, each in a file. */
    writeLogs(into: string): void {
      mkdirSync(into, { recursive: true });
      for (const [i, { name, served }] of all.entries())
        writeFileSync(join(into, `${i}-${name}.log`), served.stdout() + served.stderr());
      for (const [name, text] of failedStarts) writeFileSync(join(into, `${name}-failed-starts.log`), text);
    },
    stop,
  };
}
