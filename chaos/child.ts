/** A run in a process of its own: whatever breaks in it, the next run does not see. */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { RunResult } from './one-run.ts';
import type { Run } from './report.ts';

/** More than any run takes: the drains' limits, and starts, are within it. */
const runLimitMs = 360_000;

/** Runs one seed with one fault; `control`: in a copy of this repository that is broken so. Never rejects. */
export function inChild(seed: number, fault: string, folder: string, control?: string): Promise<Run> {
  const child = fork(
    fileURLToPath(new URL('./run-child.ts', import.meta.url)),
    [String(seed), fault, folder, ...(control ? [control] : [])],
    { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  );
  const late = setTimeout(() => child.kill('SIGKILL'), runLimitMs);
  let result: RunResult | null = null;
  let failed: string | null = null;
  child.on('message', (message: { result?: RunResult; failed?: string }) => {
    result = message.result ?? null;
    failed = message.failed ?? null;
  });
  return new Promise((done) => {
    child.on('exit', (code, signal) => {
      clearTimeout(late);
      if (!result && !failed) failed = `the run's process ended with ${code ?? signal}`;
      done({ seed, fault, folder, result, failed });
    });
  });
}
