import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A user of the machine that a server runs as. */
export type SystemUser = { uid: number; gid: number; name: string };

export type ChildOptions = {
  /** Where stdout and stderr go; the previous log is kept as `<logPath>.1`. */
  logPath: string;
  env: NodeJS.ProcessEnv;
  cwd?: string;
  /** Other than the caller only when the caller is root. */
  user?: SystemUser | undefined;
  /** What the guard sends when the parent is gone. */
  stopSignal?: 'SIGTERM' | 'SIGINT';
  /** How long the guard waits after that before SIGKILL. */
  graceSeconds?: number;
};

/** A program that runs under a guard. */
export type Child = {
  pid: number;
  /** Resolves with the exit code (128 + signal when it was killed). Never rejects. */
  exited: Promise<number>;
  hasExited(): boolean;
  /** Lets the program outlive this process. */
  release(): void;
};

/**
 * The guard is the program's parent, in a session of its own: Ctrl-C in a terminal reaches neither, and a SIGKILL of
 * our process closes the pipe that the watcher reads. A line `keep` on that pipe ends the watch.
 */
const GUARD = `
signal=$1 grace=$2; shift 2
exec 3<&0 </dev/null
"$@" >&2 3<&- &
program=$!
later() { tenths=0; while [ "$tenths" -lt $((grace * 10)) ]; do sleep 0.1; tenths=$((tenths + 1)); done; }
trap 'kill -"$signal" "$program"; kill -CONT "$program"; (later; kill -KILL "$program") & killer=$!' USR1
(while read -r line; do [ "$line" = keep ] && exit 0; done; kill -USR1 $$) <&3 >/dev/null &
watcher=$!
exec 3<&-
echo "$program"
exec >/dev/null 2>&1
wait "$program"; code=$?
while kill -0 "$program"; do wait "$program"; code=$?; done
kill -KILL "$watcher" $killer
exit "$code"
`;

const AT_DEATH = 'while read -r line; do :; done; exec "$@"';
const REMOVE_FOLDER =
  'tries=0; while [ -e "$1" ] && [ "$tries" -lt 300 ]; do rm -rf -- "$1"; sleep 0.1; tries=$((tries + 1)); done';
const SHELL = '/bin/sh';
const SPAWN_WAIT_MS = 10_000;

/** Starts a program under a guard that ends it when this process is gone, however that happens. */
export async function startChild(command: string[], options: ChildOptions): Promise<Child> {
  if (existsSync(options.logPath)) renameSync(options.logPath, `${options.logPath}.1`);
  const log = openSync(options.logPath, 'a');
  let guard: ChildProcess;
  try {
    guard = spawn(
      SHELL,
      [
        '-c',
        GUARD,
        'guard',
        (options.stopSignal ?? 'SIGTERM').slice('SIG'.length),
        String(options.graceSeconds ?? 10),
        ...asUser(command, options.user),
      ],
      {
        cwd: options.cwd ?? dirname(options.logPath),
        detached: true,
        env: withBasePath(options.env),
        stdio: ['pipe', 'pipe', log],
      },
    );
  } finally {
    closeSync(log);
  }
  let ended = false;
  const exited = new Promise<number>((resolve) => {
    const end = (code: number) => {
      ended = true;
      resolve(code);
    };
    guard.once('exit', (code, signal) => end(code ?? (signal === null ? 1 : 128)));
    guard.once('error', () => end(127));
  });
  const input = guard.stdin;
  // The guard may be gone before a `keep` reaches it.
  input?.on('error', () => undefined);
  const pid = await withTimeout(firstNumber(guard), SPAWN_WAIT_MS, 'the guard of a program did not answer');
  unreference(guard);
  return {
    pid,
    exited,
    hasExited: () => ended,
    release: () => {
      input?.write('keep\n');
    },
  };
}

/**
 * Asks a program to end, and kills it when it has not done so in time.
 * @returns whether it ended without being killed
 */
export async function stopChild(child: Child, signal: NodeJS.Signals, waitMs: number): Promise<boolean> {
  if (child.hasExited()) return true;
  sendSignal(child.pid, signal);
  // A frozen program can't act on a signal.
  sendSignal(child.pid, 'SIGCONT');
  if (await endsWithin(child, waitMs)) return true;
  sendSignal(child.pid, 'SIGKILL');
  await endsWithin(child, waitMs);
  return false;
}

/** Waits for a program to end by itself, `waitMs` at the most. */
export async function endsWithin(child: Child, waitMs: number): Promise<boolean> {
  const timer = new AbortController();
  const ended = await Promise.race([
    child.exited.then(() => true),
    sleep(waitMs, false, { signal: timer.signal }).catch(() => false),
  ]);
  timer.abort();
  return ended;
}

/** Sends a signal; `false` when there is no such process any more. */
export function sendSignal(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false;
  }
}

/** What runs after our death unless it is called off. */
export type Testament = { callOff(): void };

/** Runs a command once this process is gone, however that happened, unless it is called off before. */
export function atParentDeath(command: string[], env: NodeJS.ProcessEnv): Testament {
  const executor = spawn(SHELL, ['-c', AT_DEATH, 'testament', ...command], {
    cwd: '/',
    detached: true,
    env: withBasePath(env),
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  executor.on('error', () => undefined);
  executor.stdin.on('error', () => undefined);
  unreference(executor);
  return {
    callOff: () => {
      executor.kill('SIGKILL');
    },
  };
}

/** Removes a folder once this process is gone, again and again while dying servers still write into it. */
export function removeFolderAtParentDeath(folder: string, env: NodeJS.ProcessEnv): Testament {
  return atParentDeath([SHELL, '-c', REMOVE_FOLDER, 'remove', folder], env);
}

/** Rejects with `message` when `work` takes longer than `waitMs`. */
export async function withTimeout<T>(work: Promise<T>, waitMs: number, message: string): Promise<T> {
  const timer = new AbortController();
  const late = sleep(waitMs, undefined, { signal: timer.signal }).then(() => {
    throw new Error(message);
  });
  late.catch(() => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    timer.abort();
  }
}

function asUser(command: string[], user: SystemUser | undefined): string[] {
  if (user === undefined) return command;
  return ['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups', '--', ...command];
}

function withBasePath(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...env, PATH: [env.PATH, '/usr/bin', '/bin'].filter(Boolean).join(':') };
}

function firstNumber(guard: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = '';
    guard.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (text.includes('\n')) resolve(Number.parseInt(text, 10));
    });
    guard.once('error', reject);
    // Not at its exit: what it said may still be on the way then.
    guard.once('close', (code) => reject(new Error(`the guard of a program ended with code ${code}`)));
  });
}

/** A forgotten child must not keep our event loop alive: its guard ends it when we exit. */
function unreference(child: ChildProcess): void {
  child.unref();
  for (const stream of [child.stdin, child.stdout]) {
    if (stream !== null && 'unref' in stream && typeof stream.unref === 'function') stream.unref();
  }
}
