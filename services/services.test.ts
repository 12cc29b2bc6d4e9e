import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Redis } from 'iovalkey';
import { Client } from 'pg';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { findOnPath } from './commands.ts';
import { processStart, type RunningService } from './records.ts';
import { type ServiceName, type ServiceSet, type StartOptions, startServices } from './services.ts';
import { waitUntil } from './waiting.ts';

const TIMEOUT_MS = 300_000;
const GONE_WAIT_MS = 30_000;
/** What this machine happens to name must not decide what the tests start. */
const { VALKEY_URL: _valkey, DATABASE_URL: _database, KAFKA_BROKERS: _kafka, ...cleanEnv } = process.env;

const root = mkdtempSync(join(tmpdir(), 'stampede-services-'));
const started: ServiceSet[] = [];
let folders = 0;

const newFolder = (): string => {
  folders += 1;
  return join(root, `set-${folders}`);
};

const start = async (names: ServiceName[], more: Partial<StartOptions> = {}): Promise<ServiceSet> => {
  const set = await startServices({ names, dataDir: newFolder(), removeDataDir: true, env: cleanEnv, ...more });
  started.push(set);
  return set;
};

const serviceOf = (set: ServiceSet, name: ServiceName): RunningService => {
  const service = set.services[name];
  if (service === undefined) throw new Error(`${name} does not run`);
  return service;
};

const withValkey = async <T>(url: string, work: (valkey: Redis) => Promise<T>): Promise<T> => {
  const valkey = new Redis(url, { maxRetriesPerRequest: 3 });
  try {
    return await work(valkey);
  } finally {
    valkey.disconnect();
  }
};

const query = async (url: string, sql: string): Promise<unknown[]> => {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows.flat();
  } finally {
    await client.end();
  }
};

/** The group whose members Ctrl-C reaches together. */
const processGroup = (pid: number): number =>
  Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')[2]);

const allGone = async (pids: number[]): Promise<boolean> =>
  waitUntil(async () => (await Promise.all(pids.map(processStart))).every((at) => at === null), GONE_WAIT_MS);

afterEach(async () => {
  for (const set of started.splice(0)) await set.stop();
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

test('starts Valkey with a socket and the settings that nothing is lost by', { timeout: TIMEOUT_MS }, async () => {
  const set = await start(['valkey'], { valkey: { maxmemoryBytes: 64_000_000 } });
  const { url, socketPath, pid, version, source } = serviceOf(set, 'valkey');
  expect(Number(version.split('.')[0])).toBeGreaterThanOrEqual(8);
  const preloaded = source === 'registry' && readFileSync(`/proc/${pid}/maps`, 'utf8').includes('libjemalloc');
  expect(version.endsWith('with jemalloc')).toBe(preloaded);
  expect(url).toMatch(/^redis:\/\/127\.0\.0\.1:\d+$/);
  await withValkey(url, async (valkey) => {
    expect(await valkey.info('server')).toContain(`process_id:${pid}`);
    const settings = await valkey.config('GET', 'append*', 'no-append*', 'maxmemory*', 'save');
    expect(settings).toEqual(expect.arrayContaining(['always', 'noeviction', '64000000']));
    await valkey.call(
      'FUNCTION',
      'LOAD',
      "#!lua name=probe\nserver.register_function('probe', function() return 7 end)",
    );
    expect(await valkey.fcall('probe', 0)).toBe(7);
  });
  await withValkey(String(socketPath), async (valkey) => expect(await valkey.ping()).toBe('PONG'));
});

test('what the environment preloads into Valkey stays, and takes the place of jemalloc', {
  timeout: TIMEOUT_MS,
}, async () => {
  // A library that Node has and Valkey has not.
  const own = /\S+\/libstdc\+\+\.so\S*/.exec(readFileSync('/proc/self/maps', 'utf8'))?.[0] ?? '';
  expect(own).not.toBe('');
  const set = await start(['valkey'], { env: { ...cleanEnv, LD_PRELOAD: own } });
  const { pid, version } = serviceOf(set, 'valkey');
  expect(readFileSync(`/proc/${pid}/maps`, 'utf8')).toContain(own);
  expect(version).not.toContain('jemalloc');
});

test('starts Postgres with a database that only its URL opens', { timeout: TIMEOUT_MS }, async () => {
  const set = await start(['postgres']);
  const { url, version } = serviceOf(set, 'postgres');
  expect(Number.parseInt(version, 10)).toBeGreaterThanOrEqual(15);
  expect(await query(url, 'SELECT current_database(), current_setting($$fsync$$)')).toEqual(['stampede', 'on']);
  await expect(query(url.replace(/:[^:@]+@/, ':wrong@'), 'SELECT 1')).rejects.toThrow(/password/);
});

test('takes Postgres from npm where none is on PATH', { timeout: TIMEOUT_MS }, async () => {
  const bin = join(newFolder(), 'bin');
  mkdirSync(bin, { recursive: true });
  for (const program of ['npm', 'node', 'sh', 'id', 'chmod', 'setpriv']) {
    const found = findOnPath(program, process.env);
    if (found !== null) symlinkSync(found, join(bin, program));
  }
  const set = await start(['postgres'], { env: { ...cleanEnv, PATH: bin } });
  const { url, source, version } = serviceOf(set, 'postgres');
  expect({ source, version }).toEqual({ source: 'registry', version: '18.4' });
  expect(await query(url, 'SHOW server_version_num')).toEqual(['180004']);
});

test('two sets run side by side, each with its own ports and data', { timeout: TIMEOUT_MS }, async () => {
  const sets = await Promise.all([start(['valkey', 'postgres']), start(['valkey', 'postgres'])]);
  const services = sets.flatMap((set) => [serviceOf(set, 'valkey'), serviceOf(set, 'postgres')]);
  expect(new Set(services.map(({ url }) => url)).size).toBe(4);
  expect(new Set(services.map(({ dataDir }) => dataDir)).size).toBe(4);
  for (const [index, set] of sets.entries()) {
    await withValkey(serviceOf(set, 'valkey').url, (valkey) => valkey.set('set', String(index)));
  }
  await withValkey(serviceOf(sets[0], 'valkey').url, async (valkey) => expect(await valkey.get('set')).toBe('0'));
});

test('stop leaves neither processes nor the folder', { timeout: TIMEOUT_MS }, async () => {
  const dataDir = newFolder();
  const set = await start(['valkey', 'postgres'], { dataDir });
  const pids = [serviceOf(set, 'valkey').pid, serviceOf(set, 'postgres').pid].map(Number);
  await set.stop();
  expect(await Promise.all(pids.map(processStart))).toEqual([null, null]);
  expect(existsSync(dataDir)).toBe(false);
});

describe('a service that was stopped or killed', { timeout: TIMEOUT_MS }, () => {
  test.each(['stopOne', 'kill'] as const)('after %s starts again with the same URL and data', async (end) => {
    const set = await start(['valkey', 'postgres']);
    const before = structuredClone(set.services);
    await withValkey(serviceOf(set, 'valkey').url, (valkey) => valkey.set('kept', 'yes'));
    await query(serviceOf(set, 'postgres').url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    for (const name of ['valkey', 'postgres'] as const) {
      if (end === 'kill') await set.kill(name, 'SIGKILL');
      else await set.stopOne(name);
      expect(await processStart(Number(before[name]?.pid))).toBeNull();
      expect((await set.startOne(name)).url).toBe(before[name]?.url);
    }
    expect(serviceOf(set, 'valkey').pid).not.toBe(before.valkey?.pid);
    await withValkey(serviceOf(set, 'valkey').url, async (valkey) => expect(await valkey.get('kept')).toBe('yes'));
    expect(await query(serviceOf(set, 'postgres').url, 'SELECT answer FROM kept')).toEqual([42]);
  });
});

test('a URL in the environment is taken as it is, and never stopped', { timeout: TIMEOUT_MS }, async () => {
  const env = {
    ...cleanEnv,
    VALKEY_URL: 'redis://valkey.example:7000',
    DATABASE_URL: 'postgres://reader@db.example/shop',
    KAFKA_BROKERS: 'one.example:9092,two.example:9092',
  };
  const set = await start(['valkey', 'postgres', 'kafka'], { env });
  const urls = Object.values(set.services).map(({ name, url, source, pid }) => ({ name, url, source, pid }));
  expect(urls).toEqual([
    { name: 'valkey', url: env.VALKEY_URL, source: 'environment', pid: null },
    { name: 'postgres', url: env.DATABASE_URL, source: 'environment', pid: null },
    { name: 'kafka', url: env.KAFKA_BROKERS, source: 'environment', pid: null },
  ]);
  await expect(set.stopOne('valkey')).rejects.toMatchObject({ code: 'service-not-ours' });
});

test.each([
  ['valkey', /^Valkey 8 or later is missing: .*install valkey-server.*VALKEY_URL/],
  ['postgres', /^PostgreSQL 15 or later is missing: .*initdb on PATH.*DATABASE_URL/],
  ['kafka', /^Kafka 4 or later is missing: .*Java 17.*KAFKA_BROKERS/],
] as const)('%s that cannot be had is one line that says what to install', async (name, line) => {
  const dataDir = newFolder();
  const cache = newFolder();
  const env = { PATH: '', HOME: root, STAMPEDE_CACHE_DIR: cache };
  const attempt = start([name], { env, dataDir });
  await expect(attempt).rejects.toMatchObject({ code: 'service-missing', message: expect.stringMatching(line) });
  await expect(attempt).rejects.toMatchObject({ message: expect.not.stringContaining('\n') });
  expect(existsSync(dataDir)).toBe(false);
  expect(existsSync(cache) ? readdirSync(cache) : []).toEqual([]);
});

test('a folder whose service runs already is refused', { timeout: TIMEOUT_MS }, async () => {
  const dataDir = newFolder();
  const set = await start(['valkey'], { dataDir });
  const again = startServices({ names: ['valkey'], dataDir, env: cleanEnv });
  await expect(again).rejects.toMatchObject({ code: 'data-folder-unusable' });
  await withValkey(serviceOf(set, 'valkey').url, async (valkey) => expect(await valkey.ping()).toBe('PONG'));
});

describe('when the process that started them dies', { timeout: TIMEOUT_MS }, () => {
  const program = `
    import { startServices } from ${JSON.stringify(new URL('./services.ts', import.meta.url).href)};
    const dataDir = process.argv[1];
    const { services } = await startServices({ names: ['valkey', 'postgres'], dataDir, removeDataDir: true });
    console.log(JSON.stringify([process.pid, services.valkey.pid, services.postgres.pid]));
    setInterval(() => undefined, 1_000);
  `;

  const startParent = async (dataDir: string): Promise<{ parent: ChildProcess; pids: number[] }> => {
    const parent = spawn(process.execPath, ['--input-type=module', '--eval', program, dataDir], {
      detached: true,
      env: cleanEnv,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    for await (const line of createInterface({ input: parent.stdout })) return { parent, pids: JSON.parse(line) };
    throw new Error('the parent ended too early');
  };

  test.each([
    ['SIGKILL to it', (pid: number) => process.kill(pid, 'SIGKILL')],
    ['SIGTERM to it', (pid: number) => process.kill(pid, 'SIGTERM')],
    ['Ctrl-C, which reaches its whole process group', (pid: number) => process.kill(-pid, 'SIGINT')],
  ])('by %s, nothing is left running and the folder is removed', async (_how, end) => {
    const dataDir = newFolder();
    const { parent, pids } = await startParent(dataDir);
    end(Number(parent.pid));
    expect(await allGone(pids)).toBe(true);
    expect(await waitUntil(async () => !existsSync(dataDir), GONE_WAIT_MS)).toBe(true);
  });
});

test('Ctrl-C leaves the servers to a parent that stops them in order', { timeout: TIMEOUT_MS }, async () => {
  const program = `
    import { startServices } from ${JSON.stringify(new URL('./services.ts', import.meta.url).href)};
    process.on('SIGINT', async () => {
      await set.stop();
      console.log('stopped');
      process.exit();
    });
    const set = await startServices({ names: ['valkey'], dataDir: process.argv[1], removeDataDir: true });
    console.log('ready', set.services.valkey.pid);
    setInterval(() => undefined, 1_000);
  `;
  const parent = spawn(process.execPath, ['--input-type=module', '--eval', program, newFolder()], {
    detached: true,
    env: cleanEnv,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: string[] = [];
  for await (const line of createInterface({ input: parent.stdout })) {
    const [word, valkeyPid] = line.split(' ');
    lines.push(String(word));
    if (word !== 'ready') continue;
    expect(processGroup(Number(valkeyPid))).not.toBe(parent.pid);
    process.kill(-Number(parent.pid), 'SIGINT');
  }
  expect(lines).toEqual(['ready', 'stopped']);
});
