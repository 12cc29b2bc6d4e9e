import { accessSync, closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { endsWithin, type SystemUser, startChild, stopChild } from './children.ts';

/** The full path of a program on the environment's PATH, or null. */
export function findOnPath(program: string, env: NodeJS.ProcessEnv): string | null {
  for (const folder of (env.PATH ?? '').split(delimiter)) {
    if (folder === '') continue;
    const candidate = join(folder, program);
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // Not here: the next folder may have it.
    }
  }
  return null;
}

export type CommandOptions = {
  env: NodeJS.ProcessEnv;
  cwd?: string;
  user?: SystemUser;
  timeoutMs: number;
};

export type CommandResult = { code: number; output: string };

/**
 * Runs a program to its end and gives what it printed; it ends with this process, and after `timeoutMs`.
 * Never rejects for an exit code: look at `code` (124 when it took too long).
 */
export async function runCommand(command: string[], options: CommandOptions): Promise<CommandResult> {
  const folder = mkdtempSync(join(tmpdir(), 'stampede-command-'));
  const logPath = join(folder, 'output');
  let file: number | null = null;
  try {
    const child = await startChild(command, { cwd: '/', ...options, logPath });
    file = openSync(logPath, 'r');
    // The open file is enough: whatever becomes of us, no folder is left.
    rmSync(folder, { recursive: true });
    if (await endsWithin(child, options.timeoutMs)) {
      return { code: await child.exited, output: readFileSync(file, 'utf8') };
    }
    await stopChild(child, 'SIGTERM', 5_000);
    return { code: 124, output: `${readFileSync(file, 'utf8')}\nerror: no end after ${options.timeoutMs / 1_000} s` };
  } finally {
    if (file !== null) closeSync(file);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs a program, and throws the telling line of its output when it fails. */
export async function mustRun(command: string[], options: CommandOptions): Promise<string> {
  const { code, output } = await runCommand(command, options);
  if (code === 0) return output;
  throw new Error(`${command[0]} ended with code ${code}: ${tellingLine(output)}`);
}

/** The line of a program's output that most likely says why it failed, shortened to what fits in a message. */
export function tellingLine(text: string): string {
  const lines = stripVTControlCharacters(text)
    .split('\n')
    .filter((line) => line.trim() !== '');
  const telling = lines.filter((line) => /fatal|error|exception|denied|not found|unknown|can't/i.test(line));
  return (telling[0] ?? lines.at(-1) ?? 'no output').trim().slice(0, 300);
}
