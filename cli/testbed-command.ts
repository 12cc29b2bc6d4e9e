/** The `stampede` command as a child process of a test: it ends with the test, however that ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { waitUntil } from '../services/waiting.ts';

const repository = join(import.meta.dirname, '..');
/** For a ready line, and for an end. */
const waitMs = 30_000;

/** A `stampede` command that runs. */
export type Command = {
  child: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** Resolves with the exit code, or the signal, when it has ended and all output is read. */
  ended: Promise<number | NodeJS.Signals>;
  /** Sends a signal (SIGTERM) and waits for the end, `waitMs` at the most. */
  stop(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals>;
};
export type Served = Command & { url: string };

/**
 * Runs `stampede ARGS`; it ends with this process. `env` is added to the environment, '' takes a variable away; `input` is
 * its standard input; `tree` is another copy of this repository to run it from.
 */
export function runCommand(
  args: string[],
  env: Record<string, string> = {},
  { input, tree = repository }: { input?: string; tree?: string } = {},
): Command {
  const given = Object.entries({ ...process.env, ...env, STAMPEDE_PARENT_FD: '3' });
  const child = spawn(process.execPath, [join(tree, 'cli', 'main.ts'), ...args], {
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe', 'pipe'],
    env: Object.fromEntries(given.filter(([, value]) => value !== '')),
  });
  child.stdin?.on('error', () => undefined).end(input);
  const texts = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      texts[name] += text;
    });
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | NodeJS.Signals);
  return {
    child,
    stdout: () => texts.stdout,
    stderr: () => texts.stderr,
    ended,
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      const late = setTimeout(() => child.kill('SIGKILL'), waitMs);
      const end = await ended;
      clearTimeout(late);
      return end;
    },
  };
}

/** Runs `stampede serve …` until its ready line. Throws with its standard error when that doesn't come in time. */
export async function runServe(args: string[], env: Record<string, string>, tree?: string): Promise<Served> {
  const command = runCommand(['serve', ...args], env, tree === undefined ? {} : { tree });
  let end: number | NodeJS.Signals | null = null;
  void command.ended.then((code) => {
    end = code;
  });
  const settled = await waitUntil(async () => end !== null || command.stdout().includes('\n'), waitMs);
  const line = command.stdout().split('\n')[0] ?? '';
  if (!settled || end !== null || !line.startsWith('{"ready":true')) {
    if (end === null) await command.stop('SIGKILL');
    throw new Error(`serve was not ready (ended: ${end}): ${command.stdout()}${command.stderr()}`);
  }
  return { ...command, url: (JSON.parse(line) as { url: string }).url };
}
