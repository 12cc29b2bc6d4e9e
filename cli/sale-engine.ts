/** The engine of a `stampede sale`: `stampede serve` as a child process that ends with this one. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { within } from '../kernel/clock.ts';
import { SetupError } from '../kernel/errors.ts';

export type EngineProcess = {
  url: string;
  /** Resolves, with the reason in words, when it ends without having been asked to. */
  died: Promise<string>;
  /** Asks it to end, kills it when it doesn't, and resolves when it is gone. */
  stop(): Promise<void>;
};

const readyWaitMs = 60_000;
const stopWaitMs = 20_000;
const tailLines = 5;

function tailOf(path: string): string {
  const lines = stripVTControlCharacters(readFileSync(path, 'utf8')).trimEnd().split('\n');
  return lines.slice(-tailLines).join('\n');
}

/** Throws a SetupError, with the last lines of its log, when it does not come to serve. */
export async function startEngineProcess(options: {
  args: string[];
  env: NodeJS.ProcessEnv;
  /** Takes its log. */
  logPath: string;
}): Promise<EngineProcess> {
  const log = openSync(options.logPath, 'a');
  // In a session of its own, so that a terminal's Ctrl-C doesn't end it before the crowd; the pipe ends it with us.
  const child = spawn(process.execPath, [join(import.meta.dirname, 'main.ts'), 'serve', ...options.args], {
    detached: true,
    stdio: ['ignore', 'pipe', log, 'pipe'],
    env: { ...options.env, STAMPEDE_PARENT_FD: '3' },
  });
  closeSync(log);
  let asked = false;
  const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const reason = ended.then(
    ([code, signal]) => `the engine ended (${signal ?? `code ${code}`}):\n${tailOf(options.logPath)}`,
    (error: Error) => `the engine could not be started: ${error.message}`,
  );
  const stop = async (): Promise<void> => {
    asked = true;
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), stopWaitMs);
    await reason;
    clearTimeout(late);
  };
  const lines = createInterface(child.stdout as Readable);
  const ready = once(lines, 'line').then(([line]) => JSON.parse(String(line)) as { url: string });
  try {
    const failure = reason.then((text) => {
      throw new SetupError('engine-failed', text);
    });
    const { url } = await within(Promise.race([ready, failure]), readyWaitMs, 'the engine does not come to serve');
    failure.catch(() => undefined);
    return { url, stop, died: new Promise((resolve) => reason.then((text) => asked || resolve(text))) };
  } catch (error) {
    await stop();
    throw error instanceof SetupError ? error : new SetupError('engine-failed', String(error));
  }
}
