/** The simulator itself: a seed is the same twice, quick seeds are clean, and planted faults are caught. */
import { expect, test } from 'vitest';
import { invariants } from './checks.ts';
import { planted } from './planted.ts';
import { runSeeds } from './run.ts';
import type { SeedReport } from './world.ts';

async function reportsOf(seeds: number[], seams = {}, enough = Number.POSITIVE_INFINITY): Promise<SeedReport[]> {
  // Whoever looks for one seed runs few that it did not need.
  const sideBySide = Number.isFinite(enough) ? 6 : undefined;
  const reports: SeedReport[] = [];
  let found = 0;
  const left = [...seeds];
  await runSeeds(
    () => (found < enough ? (left.shift() ?? null) : null),
    (report) => {
      reports.push(report);
      if (report.findings.length > 0) found++;
    },
    seams,
    sideBySide,
  );
  return reports;
}
const upTo = (most: number): number[] => Array.from({ length: most }, (_, i) => i + 1);
const bySeed = (reports: SeedReport[]): SeedReport[] => reports.sort((a, b) => a.seed - b.seed);

test('a seed replays exactly, alone or among others, and another seed is another world', {
  timeout: 120_000,
}, async () => {
  const seeds = upTo(20);
  const together = bySeed(await reportsOf(seeds));
  const again = bySeed(await reportsOf([...seeds].reverse()));
  for (const [i, { seed, trace, digest }] of together.entries()) {
    expect(again[i]?.trace, `seed ${seed}`).toEqual(trace);
    expect(again[i]?.digest).toBe(digest);
  }
  expect(new Set(together.map(({ digest }) => digest)).size).toBe(seeds.length);
});

test('quick seeds are clean, and things did go wrong in them', { timeout: 300_000 }, async () => {
  const count = Number(process.env.STAMPEDE_SEEDS ?? 250);
  const reports = await reportsOf(upTo(count));
  expect(
    reports.filter(({ findings }) => findings.length > 0).map(({ seed, findings }) => ({ seed, findings })),
  ).toEqual([]);
  const struck = new Set(reports.flatMap(({ faults }) => Object.keys(faults)));
  const wanted = [
    'process killed',
    'process frozen',
    'Valkey crashed',
    'FLUSHALL',
    'old copy put back',
    'Postgres away',
    'statement hung',
    'what was lost put back',
    'data lost while the ledger was behind',
  ];
  expect([...struck]).toEqual(expect.arrayContaining([...wanted, 'answer lost', 'killed while it rebuilt']));
  expect(reports.reduce((sum, { rebuilds }) => sum + rebuilds, 0)).toBeGreaterThan(count / 10);
  expect(reports.reduce((sum, { acknowledged }) => sum + acknowledged, 0)).toBeGreaterThan(count * 25);
});

test.for(planted)('$name: caught', { timeout: 300_000 }, async ({ seams, by, first = 1, within }, { annotate }) => {
  const seeds = upTo(within).map((seed) => seed + first - 1);
  const reports = await reportsOf(seeds, seams, 1);
  const found = reports.find(({ findings }) => findings.length > 0);
  const [finding] = found?.findings ?? [];
  await annotate(`seed ${found?.seed} of ${first} to ${first + within - 1}: ${finding?.invariant}: ${finding?.detail}`);
  expect(invariants).toContain(finding?.invariant);
  expect(by).toContain(finding?.invariant);
});
