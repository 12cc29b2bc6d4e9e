/**
 * Stampede under load, struck by faults: a run each of those that meet the most of it. All of them, again and again:
 * `npm run chaos`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { inChild } from './child.ts';
import { faults } from './faults.ts';
import { lineOf } from './report.ts';
import { whyNot } from './requirements.ts';

const folder = mkdtempSync(join(tmpdir(), 'stampede-faults-'));
let kept = false;
afterAll(() => {
  if (!kept) rmSync(folder, { recursive: true });
});

const chosen: [fault: string, seed: number][] = [
  ['storm', 1],
  ['disk-full-valkey', 3],
  ['old-copy', 5],
];

it.each(chosen)(
  '%s, seed %i: every promise is kept',
  async (fault, seed) => {
    const lacking = whyNot(faults[fault]?.needs ?? []);
    if (lacking) {
      process.stderr.write(`SKIPPED ${fault}: ${lacking}\n`);
      return;
    }
    const run = await inChild(seed, fault, join(folder, fault));
    const told = lineOf(run);
    kept ||= run.failed !== null || Object.keys(run.result?.findings ?? {}).length > 0;
    expect(run.failed, told).toBeNull();
    expect(run.result?.findings, told).toEqual({});
    expect(run.result?.checked.acknowledged, told).toBeGreaterThan(300);
    expect(run.result?.counts, told).toBe(true);
  },
  400_000,
);
