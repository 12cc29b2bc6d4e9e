/** What a run came to: a table for people, and a file with all that is needed to compare it with another. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { styleText } from 'node:util';
import Table from 'cli-table3';
import { barsOf, linesOf } from './chart.ts';
import type { Figure, Pace, Report } from './scenario.ts';

export type Run = { name: string; report: Report };

const digits = (value: number): number => (value >= 1_000 ? 0 : value >= 10 ? 1 : 3);
const number = (value: number): string =>
  value.toLocaleString('en-GB', { maximumFractionDigits: digits(Math.abs(value)) });

export type Verdict = 'missed' | 'reached' | 'beyond';

/** Whether a figure is what it has to be; null where nothing is asked of it. */
export function verdictOf({ value: { median }, atLeast, atMost, beyond }: Figure): Verdict | null {
  if (atLeast !== undefined)
    return median >= (beyond ?? Infinity) ? 'beyond' : median >= atLeast ? 'reached' : 'missed';
  if (atMost !== undefined) return median <= (beyond ?? -Infinity) ? 'beyond' : median <= atMost ? 'reached' : 'missed';
  return null;
}

const colours = { missed: 'red', reached: 'yellow', beyond: 'green' } as const;

function goalText({ atLeast, atMost, beyond }: Figure): string {
  if (atLeast === undefined && atMost === undefined) return '';
  const text = atLeast === undefined ? `at most ${atMost}` : `at least ${atLeast}`;
  return beyond === undefined ? text : `${text}, beyond ${beyond}`;
}

export function tableOf(runs: readonly Run[]): string {
  const table = new Table({
    head: ['scenario', 'what', 'median', 'least to most', '', 'goal', ''],
    colAligns: ['left', 'left', 'right', 'right', 'left', 'left', 'left'],
    style: { head: [], border: [] },
    // A line between scenarios is enough.
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  });
  for (const { name, report } of runs)
    for (const figure of report.figures) {
      const { what, value, unit } = figure;
      const verdict = verdictOf(figure);
      const spread = value.min === value.max ? '' : `${number(value.min)} to ${number(value.max)}`;
      const said = verdict === null ? '' : styleText(colours[verdict], verdict);
      table.push([name, what, number(value.median), spread, unit === 'ratio' ? '' : unit, goalText(figure), said]);
    }
  return table.toString();
}

const versionOf = (path: string): string =>
  (JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as { version: string }).version;

function commit(): string {
  try {
    const head = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' }).trim();
    const changed = execFileSync('git', ['status', '--porcelain'], { encoding: 'utf8', stdio: 'pipe' }).trim() !== '';
    return changed ? `${head}, and changes to it` : head;
  } catch {
    return 'unknown: no git checkout';
  }
}

/** What is seen rather than read: contenders as bars, and what went on over time. */
function picturesOf({ name, report: { figures, plots = [] } }: Run): [file: string, svg: string][] {
  const rates = figures.filter(({ unit }) => unit === 'per second');
  const bars: [string, string][] = rates.length > 1 ? [[name, barsOf(`${name}: requests a second`, rates)]] : [];
  return [...bars, ...plots.map((plot, i): [string, string] => [`${name}-over-time-${i + 1}`, linesOf(plot)])];
}

/** Writes a run with where it was made, and its pictures; answers the files. */
export function write(folder: string, runs: readonly Run[], pace: Pace): string[] {
  mkdirSync(folder, { recursive: true });
  const [cpu] = cpus();
  const stamp = join(folder, new Date().toISOString().replaceAll(':', '-').slice(0, 19));
  const about = {
    ...{ commit: commit(), version: versionOf('../package.json'), node: process.version },
    machine: { processors: cpus().length, model: cpu?.model ?? '', memoryGb: Math.round(totalmem() / 1024 ** 3) },
    pace,
  };
  const files: [string, string][] = [[`${stamp}.json`, `${JSON.stringify({ ...about, runs }, null, 1)}\n`]];
  for (const run of runs) for (const [name, svg] of picturesOf(run)) files.push([`${stamp}-${name}.svg`, svg]);
  for (const [file, text] of files) writeFileSync(file, text);
  return files.map(([file]) => file);
}
