/** The folder in which runs leave what they came to: a line each, and who is at it just now. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sendSignal } from '../services/children.ts';
import type { Run } from './report.ts';

/** Something that the person who called can put right. */
export class FolderError extends Error {}

/** Who works in a folder, and on how many runs. */
export type Working = { pid: number; runs: number };

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** The runs that a folder has, the last of each seed and fault. A last line that a kill has cut short is passed over. */
export function readRuns(folder: string): Run[] {
  const path = join(folder, 'results.jsonl');
  if (!existsSync(path)) return [];
  const runs = new Map<string, Run>();
  const lines = readFileSync(path, 'utf8').split('\n');
  for (const [i, line] of lines.entries()) {
    if (line === '') continue;
    try {
      const run = JSON.parse(line) as Run;
      if (typeof run.seed !== 'number' || typeof run.fault !== 'string') throw new Error('it is no run');
      runs.set(`${run.seed} ${run.fault}`, run);
    } catch (error) {
      // Whole lines end with a line's end: what follows the last of them is cut short.
      if (i === lines.length - 1) break;
      throw new FolderError(`${path}, line ${i + 1}: ${reasonOf(error)}. Take the line out, or give another --out`);
    }
  }
  return [...runs.values()];
}

export function addRun(folder: string, run: Run): void {
  const path = join(folder, 'results.jsonl');
  if (existsSync(path)) truncateSync(path, readFileSync(path).lastIndexOf('\n') + 1);
  appendFileSync(path, `${JSON.stringify(run)}\n`);
}

/** Who works there now; null when nobody does. */
export function workingIn(folder: string): Working | null {
  try {
    const working = JSON.parse(readFileSync(join(folder, 'working.json'), 'utf8')) as Working;
    return sendSignal(working.pid, 0) ? working : null;
  } catch {
    return null;
  }
}

/** Has `write` write into a folder, made when it isn't there, in which nobody is at work. Throws a FolderError when that can't be. */
export function writeInto<Result>(folder: string, write: () => Result): Result {
  const other = workingIn(folder);
  if (other)
    throw new FolderError(`process ${other.pid} is at work in ${folder}: wait for it, end it, or give another --out`);
  try {
    mkdirSync(folder, { recursive: true });
    return write();
  } catch (error) {
    throw new FolderError(`--out ${folder} can't be written: ${reasonOf(error)}`);
  }
}

/** Takes a folder until this process ends. Throws a FolderError when that can't be. */
export function workIn(folder: string, runs: number): void {
  const path = join(folder, 'working.json');
  writeInto(folder, () => writeFileSync(path, JSON.stringify({ pid: process.pid, runs } satisfies Working)));
  process.once('exit', () => rmSync(path, { force: true }));
}
