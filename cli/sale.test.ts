import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, describe, expect, it } from 'vitest';
import { waitUntil } from '../services/waiting.ts';

/** A folder that servers which run as other users can reach. */
function makeFolder(prefix: string): string {
  const folder = mkdtempSync(prefix);
  chmodSync(folder, 0o755);
  return folder;
}

const root = makeFolder(join(tmpdir(), 'stampede-sale-test-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const runMs = 120_000;
const goneMs = 25_000;

/** Runs `stampede sale` with a temporary folder of its own, by which all that it starts can be told. */
function startSale(...args: string[]) {
  const folder = makeFolder(join(root, 'run-'));
  const { VALKEY_URL: _v, DATABASE_URL: _d, KAFKA_BROKERS: _k, ...env } = process.env;
  const child = spawn(process.execPath, [join(import.meta.dirname, 'main.ts'), 'sale', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...env, TMPDIR: folder },
    timeout: runMs,
  });
  const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  return { child, folder, ended, stdout: text(child.stdout), stderr: text(child.stderr) };
}

/** The processes, this one's aside, that have the folder in their environment or command line. */
function processesOf(folder: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && name !== String(process.pid))
    .filter((pid) => {
      try {
        return ['environ', 'cmdline'].some((file) => readFileSync(`/proc/${pid}/${file}`, 'latin1').includes(folder));
      } catch {
        return false;
      }
    });
}

async function expectNothingLeft(folder: string): Promise<void> {
  const clean = () => processesOf(folder).length === 0 && readdirSync(folder).length === 0;
  await waitUntil(async () => clean(), goneMs);
  expect(processesOf(folder)).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
}

const lastLine = (output: string): Record<string, unknown> =>
  JSON.parse(output.trimEnd().split('\n').at(-1) ?? '') as Record<string, unknown>;

describe.skipIf(!existsSync('/proc/self/environ'))('stampede sale', () => {
  it.each([
    ['direct', '1'],
    ['kafka', '2'],
  ])('sells every unit once, and the ledger proves it (%s)', { timeout: runMs }, async (transport, warehouses) => {
    const sale = ['--units', '50', '--buyers', '300', '--hold', '1', '--warehouses', warehouses];
    const { folder, ended, stdout, stderr } = startSale(...sale, '--transport', transport, '--json');
    expect(await stderr).toBe('');
    const figures = lastLine(await stdout);
    expect(figures).toMatchObject({
      units: 50,
      buyers: 300,
      sold: 50,
      refused: 250,
      oversold: 0,
      stranded: 0,
      drift: 0,
      transport,
      faults: [],
    });
    expect(Object.keys(figures).slice(0, 13)).toEqual(
      'units buyers sold refused oversold stranded answersPerSecond p50Ms p99Ms soldOutAfterMs ledgerLagMs drift transport'.split(
        ' ',
      ),
    );
    expect(await ended).toEqual([0, null]);
    await expectNothingLeft(folder);
  });

  it('shows its steps, its course and a verdict, without colours where nobody sees them', {
    timeout: runMs,
  }, async () => {
    const { folder, ended, stdout } = startSale('--units', '5', '--buyers', '3', '--hold', '1', '--commit-rate', '1');
    const shown = await stdout;
    expect(shown).toMatch(/Services: valkey .*, postgres .*\nEngine: http:.*\nCrowd: 3 buyers/);
    expect(shown).toMatch(/sold +│ +3 │ ✔/);
    expect(shown).toContain('2 of 5 stay on sale');
    expect(shown).not.toContain('\u001b');
    expect(await ended).toEqual([0, null]);
    await expectNothingLeft(folder);
  });

  /** Resolves when the crowd is there, just before the sale opens. */
  async function crowdIsThere(child: ChildProcess): Promise<void> {
    let seen = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      seen += chunk.toString();
    });
    expect(await waitUntil(async () => seen.includes('Crowd: 200 buyers'), runMs / 2)).toBe(true);
  }

  it.each<[NodeJS.Signals, [number | null, NodeJS.Signals | null]]>([
    ['SIGINT', [130, null]],
    ['SIGTERM', [143, null]],
    ['SIGKILL', [null, 'SIGKILL']],
  ])('leaves nothing behind after %s', { timeout: runMs }, async (signal, end) => {
    const sale = startSale('--units', '50', '--buyers', '200', '--hold', '20', '--commit-rate', '0.1');
    await crowdIsThere(sale.child);
    expect(processesOf(sale.folder).length).toBeGreaterThan(4);
    sale.child.kill(signal);
    expect(await sale.ended).toEqual(end);
    await expectNothingLeft(sale.folder);
  });

  it('says in one line what can not be', { timeout: runMs }, async () => {
    const { ended, stderr, folder } = startSale('--buyers', '900000');
    expect(await stderr).toMatch(/^stampede: 900,000 buyers need .* open files .*--workers.*\n$/);
    expect(await ended).toEqual([2, null]);
    await expectNothingLeft(folder);
  });
});
