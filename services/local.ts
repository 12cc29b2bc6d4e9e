import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { sendSignal } from './children.ts';
import { composeRuns, composeStop } from './compose.ts';
import { ServiceError } from './errors.ts';
import { isAlive, processStart, type RunningService, readRecord, type ServiceRecord } from './records.ts';
import { type ServiceName, startServices, stopOrder, type ValkeyOptions } from './services.ts';
import { waitUntil } from './waiting.ts';

const LOCK_WAIT_MS = 600_000;
const STOP_WAIT_MS = 15_000;
const KILL_WAIT_MS = 5_000;

export type LocalOptions = {
  /** Names one of several sets of a user. Default `default`. */
  setName?: string;
  /** Default `process.env`. */
  env?: NodeJS.ProcessEnv;
};

export type UpOptions = LocalOptions & {
  names: readonly ServiceName[];
  onProgress?: (line: string) => void;
  valkey?: ValkeyOptions;
};

/** What the command line prints as JSON: a member for each service that runs. */
export type LocalServices = Partial<Record<ServiceName, RunningService>>;

/**
 * Where a set's data and records live between commands: `$XDG_STATE_HOME/stampede/<set>`, else under
 * `~/.local/state`; for root `/var/lib/stampede/<set>`, since servers that run as other users must reach it.
 */
export function stateFolder({ setName = 'default', env = process.env }: LocalOptions = {}): string {
  if (env.XDG_STATE_HOME) return join(env.XDG_STATE_HOME, 'stampede', setName);
  if (process.getuid?.() === 0) return join('/var/lib/stampede', setName);
  return join(env.HOME || homedir(), '.local', 'state', 'stampede', setName);
}

/**
 * Starts what does not run yet, and leaves it running; what runs already is reported as it is.
 * Services keep their ports and data from one `up` to the next.
 * @throws ServiceError as `startServices`
 */
export async function up(options: UpOptions): Promise<LocalServices> {
  const { env = process.env, names, ...rest } = options;
  return withLock(options, async (dataDir) => {
    const running = await status(options);
    const wanted = names.filter((name) => running[name] === undefined);
    if (wanted.length > 0) {
      const started = await startServices({ ...rest, names: wanted, dataDir, env, keepAfterExit: true });
      Object.assign(running, started.services);
    }
    return pick(running, names);
  });
}

/** Stops exactly what `up` started and still runs; gives what it stopped. Data stay. */
export async function down(options: LocalOptions = {}): Promise<LocalServices> {
  return withLock(options, async () => {
    const running = await status(options);
    for (const name of stopOrder) {
      const record = readRecord(join(stateFolder(options), name));
      if (running[name] === undefined || record === null) continue;
      if (record.source === 'compose') await composeStop(name, options.env ?? process.env);
      else await stopProcess(record);
    }
    return running;
  });
}

/** What `up` started and still runs. */
export async function status(options: LocalOptions = {}): Promise<LocalServices> {
  const running: LocalServices = {};
  for (const name of stopOrder.toReversed()) {
    const record = readRecord(join(stateFolder(options), name));
    if (record === null) continue;
    const alive =
      record.source === 'compose' ? await composeRuns(name, options.env ?? process.env) : await isAlive(record);
    if (!alive) continue;
    const { processStart: _start, ports: _ports, ...service } = record;
    running[name] = service;
  }
  return running;
}

function pick(services: LocalServices, names: readonly ServiceName[]): LocalServices {
  return Object.fromEntries(names.map((name) => [name, services[name]]));
}

async function stopProcess(record: ServiceRecord): Promise<void> {
  const { pid } = record;
  if (pid === null) return;
  const gone = async () => !(await isAlive(record));
  sendSignal(pid, record.name === 'postgres' ? 'SIGINT' : 'SIGTERM');
  sendSignal(pid, 'SIGCONT');
  if (await waitUntil(gone, STOP_WAIT_MS)) return;
  sendSignal(pid, 'SIGKILL');
  if (await waitUntil(gone, KILL_WAIT_MS)) return;
  throw new ServiceError('service-failed', `${record.name} (process ${pid}) does not end: stop it by hand`);
}

/** One command at a time for each set; a lock whose owner died is taken over. */
async function withLock<T>(options: LocalOptions, work: (folder: string) => Promise<T>): Promise<T> {
  const folder = stateFolder(options);
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'lock');
  const own = JSON.stringify({ pid: process.pid, processStart: await processStart(process.pid) });
  const taken = await waitUntil(async () => (await take(path, own)) || false, LOCK_WAIT_MS, 100);
  if (!taken)
    throw new ServiceError('service-failed', `another command holds ${path}: wait for it, or remove that file`);
  try {
    return await work(folder);
  } finally {
    rmSync(path, { force: true });
  }
}

async function take(path: string, own: string): Promise<boolean> {
  try {
    const file = openSync(path, 'wx', 0o600);
    writeSync(file, own);
    closeSync(file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  try {
    const text = readFileSync(path, 'utf8');
    const owner = JSON.parse(text) as { pid: number; processStart: string | null };
    if (!(await isAlive(owner)) && readFileSync(path, 'utf8') === text) rmSync(path, { force: true });
  } catch {
    // Being written or removed just now.
  }
  return false;
}
