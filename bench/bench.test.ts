/** The harness works: scenarios run, counts agree with the ledger, results are written. How fast is not asked here. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { findOnPath } from '../services/commands.ts';
import type { Run } from './report.ts';

const out = mkdtempSync(join(tmpdir(), 'stampede-bench-test-'));
afterAll(() => rmSync(out, { recursive: true, force: true }));

function bench(names: string[], env: NodeJS.ProcessEnv = process.env): Promise<{ code: number; out: string }> {
  return new Promise((resolve) => {
    const args = ['bench/main.ts', ...names, '--quick', '--out', out, '--json'];
    const child = execFile(process.execPath, args, { env, maxBuffer: 32 << 20 }, (_error, text) =>
      resolve({ code: child.exitCode ?? -1, out: text }),
    );
  });
}
const runsOf = (text: string): Run[] => (JSON.parse(text.trim().split('\n').at(-1) ?? '') as { runs: Run[] }).runs;

test.skipIf(findOnPath('wrk', process.env) === null)(
  'what was answered is in the stores, and what could not be measured beside is named',
  { timeout: 300_000 },
  async () => {
    const { TIGERBEETLE_BIN: _, ...env } = process.env;
    const { code, out: text } = await bench(['hot-sku', 'life'], env);
    const runs = runsOf(text);
    const faults = runs.flatMap(({ report }) => report.faults);
    expect(code).toBe(0);
    expect(faults).toEqual([]);
    expect(runs.map(({ name }) => name)).toEqual(['hot-sku', 'life']);
    expect(runs[0]?.report.skipped).toEqual([expect.stringContaining('tigerbeetle: TIGERBEETLE_BIN names no server')]);
    const sold = runs[0]?.report.figures.find(({ what }) => what === 'textbook-as-printed: sold of 1,000');
    expect(sold?.value.median).toBeGreaterThan(0);
    for (const { what, value } of runs.flatMap(({ report }) => report.figures))
      expect(value.median, what).toBeGreaterThanOrEqual(0);
    const written = readdirSync(out).filter((name) => name.endsWith('.json'));
    const about = JSON.parse(readFileSync(join(out, written[0] ?? ''), 'utf8')) as { commit: string; node: string };
    expect(about.node).toBe(process.version);
    expect(about.commit).toMatch(/^[0-9a-f]{7,}|unknown/);
    expect(existsSync(join(out, written[0]?.replace('.json', '-hot-sku.svg') ?? ''))).toBe(true);
  },
);

test.skipIf(findOnPath('wrk', process.env) === null)(
  'lines let in as many as they say, lose nobody, and sell all that there is',
  { timeout: 300_000 },
  async () => {
    const names = ['line-joins', 'line-inlet', 'line-stock', 'line-person', 'line-watchers'];
    const { code, out: text } = await bench(names);
    const runs = runsOf(text);
    expect(runs.flatMap(({ report }) => report.faults)).toEqual([]);
    expect(code).toBe(0);
    expect(runs.map(({ name }) => name)).toEqual(names);
    const figures = new Map(
      runs.flatMap(({ report }) => report.figures).map(({ what, value }) => [what, value.median]),
    );
    expect(figures.get('by stock: let in, and left empty-handed')).toBeLessThan(
      figures.get('blind: let in, and left empty-handed') ?? 0,
    );
  },
);

test('a scenario that does not exist is refused', async () => {
  const { code, out: text } = await bench(['no-such']);
  expect(code).toBe(1);
  expect(text).toBe('');
});
