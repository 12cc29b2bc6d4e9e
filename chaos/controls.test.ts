/** Every checker finds what it is for: Stampede is broken in just that way, in a copy, and a short run is made with it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { inChild } from './child.ts';
import { controls } from './controls.ts';
import { faults } from './faults.ts';
import { lineOf } from './report.ts';
import { whyNot } from './requirements.ts';

const folder = mkdtempSync(join(tmpdir(), 'stampede-controls-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it.each(Object.entries(controls))(
  '%s is caught',
  async (name, { fault, checker }) => {
    const lacking = whyNot(faults[fault]?.needs ?? []);
    if (lacking) {
      process.stderr.write(`SKIPPED ${name}: ${lacking}\n`);
      return;
    }
    const run = await inChild(1, fault, join(folder, name), name);
    expect(run.failed).toBeNull();
    expect(run.result?.findings[checker]?.length ?? 0, lineOf(run)).toBeGreaterThan(0);
  },
  400_000,
);
