/** The folder of results: what kills, other processes and half lines leave in it. */
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Run } from './report.ts';
import { addRun, FolderError, readRuns, workIn, workingIn } from './results.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stampede-results-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const run = (seed: number, failed: string | null = null): Run => ({
  ...{ seed, fault: 'calm', folder: '', result: null, failed },
});
const file = (): string => join(folder, 'results.jsonl');

test('of a seed and fault that were run again the last counts', () => {
  for (const one of [run(1, 'broke off'), run(2), run(1)]) addRun(folder, one);
  expect(readRuns(folder)).toEqual([run(1), run(2)]);
});

test('a line that a kill has cut short is passed over, and the next stands alone', () => {
  addRun(folder, run(1));
  appendFileSync(file(), '{"seed":2,"fa');
  expect(readRuns(folder)).toEqual([run(1)]);
  addRun(folder, run(3));
  expect(readRuns(folder)).toEqual([run(1), run(3)]);
  expect(readFileSync(file(), 'utf8')).not.toContain('"fa\n');
});

test.each(['garbage', '{"seed":1}'])('another line that is no run is named: %s', (line) => {
  writeFileSync(file(), `${line}\n${JSON.stringify(run(2))}\n`);
  expect(() => readRuns(folder)).toThrow(/results\.jsonl, line 1: .*Take the line out/);
});

test('a folder has one process at work; one that has died has left it', () => {
  expect(workingIn(folder)).toBeNull();
  writeFileSync(join(folder, 'working.json'), JSON.stringify({ pid: 2 ** 22 + 1, runs: 5 }));
  expect(workingIn(folder)).toBeNull();
  writeFileSync(join(folder, 'working.json'), JSON.stringify({ pid: process.ppid, runs: 5 }));
  expect(workingIn(folder)).toEqual({ pid: process.ppid, runs: 5 });
  expect(() => workIn(folder, 1)).toThrow(`process ${process.ppid} is at work`);
});

test('a folder that can not be written is told of', () => {
  writeFileSync(join(folder, 'a-file'), '');
  expect(() => workIn(join(folder, 'a-file'), 1)).toThrow(FolderError);
  expect(existsSync(join(folder, 'a-file'))).toBe(true);
});
