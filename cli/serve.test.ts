/** `stampede serve`: its ready line, what it says to a wrong configuration, and several processes on one port. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { waitUntil } from '../services/waiting.ts';
import { adminToken, type Reservation, request, sessionSecret, startTestbed, type Testbed } from './testbed.ts';
import { unitsOf } from './testbed-checks.ts';
import { runCommand } from './testbed-command.ts';

let bed: Testbed;

beforeAll(async () => {
  bed = await startTestbed();
});
afterAll(() => bed?.stop());

/** The process ids of a process's children. */
function childrenOf(pid: number | undefined): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}

describe('when it is ready', () => {
  it.each([
    ['alone', []],
    ['with workers', ['--workers', '2']],
  ])('%s: exactly one line, and nothing else on standard output', async (_, args) => {
    const served = await bed.serve(args);
    const { port } = new URL(served.url);
    expect((await request(bed.agent, served.url, 'GET', '/readyz')).status).toBe(200);
    expect(await served.stop()).toBe(0);
    expect(served.stdout()).toBe(`{"ready":true,"url":"http://127.0.0.1:${port}"}\n`);
  });

  it('logs are JSON lines without tokens', async () => {
    const served = await bed.serve([], { LOG_LEVEL: 'trace' });
    const { token } = await bed.session();
    await request(bed.agent, served.url, 'GET', '/v1/reservations/none', { token });
    await request(bed.agent, served.url, 'PUT', '/v1/admin/sales/logged', {
      token: adminToken,
      body: { title: 'x', stock: [] },
    });
    await served.stop();
    const lines = served.stderr().split('\n').filter(Boolean);
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) expect(() => JSON.parse(line)).not.toThrow();
    for (const secret of [token, adminToken, sessionSecret]) expect(served.stderr()).not.toContain(secret);
  });

  it('in development mode an operator’s token is made up and told', async () => {
    const served = await bed.serve([], { ADMIN_TOKEN: '', SESSION_SECRET: '' });
    const token = /ADMIN_TOKEN was made up for this run: (\S+)/.exec(served.stderr())?.[1] ?? '';
    const body = { title: 'x', stock: [{ sku: 'a', warehouse: 'w', quantity: 1 }] };
    const made = await request(bed.agent, served.url, 'PUT', '/v1/admin/sales/made-up', { token, body });
    expect(made.status).toBe(201);
    expect(await served.stop()).toBe(0);
  });
});

describe('a wrong configuration is one clear line and exit code 2', () => {
  it.each<[string, Record<string, string>, string[]]>([
    ['VALKEY_URL', { VALKEY_URL: 'http://127.0.0.1' }, []],
    ['DATABASE_URL', { DATABASE_URL: 'mysql://127.0.0.1' }, []],
    ['KAFKA_BROKERS', { KAFKA_BROKERS: 'nowhere' }, []],
    ['KAFKA_BROKERS', {}, ['--transport', 'kafka']],
    ['ADMIN_TOKEN', { ADMIN_TOKEN: 'short' }, []],
    ['SESSION_SECRET', { SESSION_SECRET: 'short' }, []],
    ['RATE_LIMITS', { RATE_LIMITS: 'on' }, []],
    ['PORT', { PORT: '65536' }, []],
    ['not a host', { HOST: 'not a host' }, []],
    ['SHARDS', { SHARDS: '0' }, []],
    ['SHARDS', { SHARDS: '8' }, []],
    ['STAMPEDE_MODE', { STAMPEDE_MODE: 'test' }, []],
    ['LOG_LEVEL', { LOG_LEVEL: 'loud' }, []],
    ['REMEMBER_SECONDS', { REMEMBER_SECONDS: '-1' }, []],
    ['OUTBOX_EVENTS', { OUTBOX_EVENTS: 'many' }, []],
    ['--roles', {}, ['--roles', 'http,juggler']],
    ['ADMIN_TOKEN', { ADMIN_TOKEN: '' }, ['--host', '0.0.0.0']],
    ['SESSION_SECRET', { SESSION_SECRET: '' }, ['--host', '0.0.0.0']],
    ['ADMIN_TOKEN', { ADMIN_TOKEN: '', STAMPEDE_MODE: 'production' }, []],
  ])('%s: %j %j', async (name, env, args) => {
    const port = 'PORT' in env ? [] : ['--port', '0'];
    const command = runCommand(['serve', ...port, ...args], { ...bed.env, ...env });
    const late = setTimeout(() => command.stop(), 20_000);
    const code = await command.ended;
    clearTimeout(late);
    expect({ code, stdout: command.stdout() }).toEqual({ code: 2, stdout: '' });
    const said = command.stderr().trimEnd();
    expect(said).toContain(name);
    expect(said.split('\n')).toHaveLength(1);
    for (const secret of [adminToken, sessionSecret]) expect(said).not.toContain(secret);
  });

  it.each([
    ['--port', '70000'],
    ['--workers', '0'],
    ['--transport', 'pigeon'],
    ['--unknown', 'x'],
  ])('%s %s: says so and where help is', async (option, value) => {
    const command = runCommand(['serve', option, value], bed.env);
    expect(await command.ended).not.toBe(0);
    expect([command.stdout(), command.stderr()]).toEqual(['', expect.stringContaining(option)]);
    expect(command.stderr()).toContain('--help');
  });

  it('a port that is taken', async () => {
    const command = runCommand(['serve', '--port', new URL(bed.url).port], bed.env);
    expect(await command.ended).toBe(2);
    expect(command.stderr()).toMatch(/can't be listened on/);
    expect(command.stderr().trimEnd().split('\n')).toHaveLength(1);
  });

  it.each([
    ['Valkey', { VALKEY_URL: 'redis://127.0.0.1:1' }],
    ['DATABASE_URL', { DATABASE_URL: 'postgres://stampede:geheim@127.0.0.1:1/stampede' }],
  ])('%s away at the start: it ends, names it, and tells no password', async (name, env) => {
    const command = runCommand(['serve', '--port', '0'], { ...bed.env, ...env, LOG_LEVEL: 'silent' });
    expect(await command.ended).toBe(2);
    expect(command.stderr()).toContain(name);
    expect(command.stderr()).not.toContain('geheim');
    expect(command.stderr()).not.toMatch(/^\s+at /m);
  });
});

describe('with two workers', () => {
  it('sells exactly what there is, counts over all processes, and replaces a worker that was killed', async () => {
    const supply = 60;
    await bed.putSale('workers', { title: 'x', stock: [{ sku: 'a', warehouse: 'w', quantity: supply }] });
    const served = await bed.serve(['--workers', '2']);
    const workers = childrenOf(served.child.pid);
    expect(workers).toHaveLength(2);
    const body = { saleId: 'workers', lines: [{ sku: 'a', quantity: 1 }] };
    const tokens = await Promise.all(Array.from({ length: 100 }, async () => (await bed.session()).token));
    const answers = await Promise.all(
      tokens.map((token) =>
        request<Reservation>(bed.agent, served.url, 'POST', '/v1/reservations', { token, key: 'k', body }),
      ),
    );
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(supply);
    expect(answers.filter(({ body: { code } }) => code === 'sold-out')).toHaveLength(100 - supply);
    expect(unitsOf(await bed.sale('workers'), 'a', supply).reserved).toBe(supply);

    const counted = async (): Promise<number> => {
      const { body: text } = await request<string>(bed.agent, served.url, 'GET', '/metrics');
      const samples = (text as string).matchAll(/^stampede_http_answers_total\{(.*)\} (\d+)$/gm);
      const ours = [...samples].filter(([, labels]) => labels?.includes('POST /v1/reservations"'));
      return ours.reduce((sum, [, , count]) => sum + Number(count), 0);
    };
    expect(await counted()).toBe(100);

    const [victim] = workers;
    if (victim !== undefined) process.kill(victim, 'SIGKILL');
    const replaced = async () => {
      const now = childrenOf(served.child.pid);
      return now.length === 2 && !now.includes(victim ?? 0);
    };
    expect(await waitUntil(replaced, 20_000)).toBe(true);
    const sold = async () => (await request(bed.agent, served.url, 'GET', '/readyz').catch(() => null))?.status === 200;
    expect(await waitUntil(sold, 20_000)).toBe(true);
    expect(await served.stop()).toBe(0);
    for (const pid of workers) expect(() => process.kill(pid, 0)).toThrow('ESRCH');
  });

  it('both answer', async () => {
    const served = await bed.serve(['--workers', '2']);
    const tags = new Set<string>();
    const seen = await waitUntil(
      async () => {
        const { headers } = await request(bed.agent, served.url, 'GET', '/healthz', {
          headers: { connection: 'close' },
        });
        tags.add(headers['x-request-id']?.split('-')[0] ?? '');
        return tags.size === 2;
      },
      20_000,
      1,
    );
    expect(seen).toBe(true);
    expect(await served.stop()).toBe(0);
  });
});
