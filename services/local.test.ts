import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'iovalkey';
import { afterAll, expect, test } from 'vitest';
import { mustRun } from './commands.ts';
import { down, status, up } from './local.ts';
import { processStart } from './records.ts';

const TIMEOUT_MS = 300_000;
const root = mkdtempSync(join(tmpdir(), 'stampede-local-'));
const { VALKEY_URL: _valkey, DATABASE_URL: _database, ...rest } = process.env;
const env = { ...rest, XDG_STATE_HOME: root };
const names = ['valkey', 'postgres'] as const;

afterAll(async () => {
  await down({ env });
  rmSync(root, { recursive: true, force: true });
}, TIMEOUT_MS);

/** Brings the set up in a process of its own, which ends: what it started stays. */
const upElsewhere = async (): Promise<unknown> => {
  const module = fileURLToPath(new URL('./local.ts', import.meta.url));
  const program = `
    const { up } = await import(${JSON.stringify(module)});
    console.log(JSON.stringify(await up({ names: ['valkey', 'postgres'] })));
  `;
  const output = await mustRun([process.execPath, '--input-type=module', '--eval', program], {
    env,
    cwd: root,
    timeoutMs: TIMEOUT_MS,
  });
  return JSON.parse(output.trim().split('\n').at(-1) ?? '');
};

test('up, status and down', { timeout: TIMEOUT_MS }, async () => {
  expect(await status({ env })).toEqual({});

  const first = await upElsewhere();
  expect(first).toMatchObject({
    valkey: { url: expect.stringMatching(/^redis:/), pid: expect.any(Number), dataDir: expect.any(String) },
    postgres: { url: expect.stringMatching(/^postgres:/), pid: expect.any(Number), dataDir: expect.any(String) },
  });
  expect(await status({ env })).toEqual(first);
  expect(await up({ names, env })).toEqual(first);

  const { valkey, postgres } = await status({ env });
  const client = new Redis(String(valkey?.url));
  await client.set('kept', 'yes');
  client.disconnect();

  expect(await down({ env })).toEqual(first);
  expect(await Promise.all([valkey, postgres].map((service) => processStart(Number(service?.pid))))).toEqual([
    null,
    null,
  ]);
  expect(await status({ env })).toEqual({});
  expect(await down({ env })).toEqual({});
});

test('another up has the same URLs and data, also when two come at once', { timeout: TIMEOUT_MS }, async () => {
  const [one, two] = await Promise.all([up({ names, env }), upElsewhere()]);
  expect(one).toEqual(two);
  const client = new Redis(String(one.valkey?.url));
  expect(await client.get('kept')).toBe('yes');
  client.disconnect();
});

test('a process that took over a recorded pid is left alone', { timeout: TIMEOUT_MS }, async () => {
  const { readRecord, writeRecord } = await import('./records.ts');
  await up({ names: ['valkey'], env });
  const folder = join(root, 'stampede', 'default', 'valkey');
  const record = readRecord(folder);
  if (record === null) throw new Error('no record');
  writeRecord(folder, { ...record, pid: process.pid });
  expect(await status({ env })).not.toHaveProperty('valkey');
  expect(await down({ env })).not.toHaveProperty('valkey');
  writeRecord(folder, record);
  expect(await down({ env })).toHaveProperty('valkey');
});
