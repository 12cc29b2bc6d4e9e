/** Runs this project's own command line, and programs that print a line when they are ready. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../cli/main.ts', import.meta.url));

/** Runs `stampede …` to its end; answers the JSON object on its last line. Rejects when it fails. */
export function stampede(args: string[], env: NodeJS.ProcessEnv): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [main, ...args],
      { env, maxBuffer: 64 << 20, timeout: 300_000 },
      (error, out, complaint) => {
        const last = out.trim().split('\n').at(-1) ?? '';
        if (error && !last.startsWith('{'))
          reject(new Error(`stampede ${args.join(' ')}: ${complaint || error.message}`));
        else resolve(JSON.parse(last) as Record<string, unknown>);
      },
    );
  });
}

export type Started = {
  child: ChildProcess;
  /** What it said when it was ready. */
  ready: Record<string, unknown>;
  /** Ends it in order; answers the last line that it said, if that is a JSON object. */
  stop(): Promise<Record<string, unknown>>;
};

const readyMs = 30_000;

/** Starts `node file …` and waits for the JSON line that says it is ready. */
export function startNode(file: string, args: string[], env: NodeJS.ProcessEnv): Promise<Started> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file, ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    // Whatever ends this process, by accident too, ends what it measures.
    const end = (): void => {
      child.kill('SIGKILL');
    };
    process.once('exit', end);
    const late = setTimeout(() => {
      end();
      reject(new Error(`${file} was not ready within ${readyMs / 1_000} s`));
    }, readyMs);
    let last = '{}';
    const ended = new Promise<void>((done) => child.once('close', () => done()));
    child.once('exit', (code) => {
      clearTimeout(late);
      process.off('exit', end);
      reject(new Error(`${file} ended with ${code}`));
    });
    createInterface(child.stdout)
      .on('line', (line) => {
        last = line;
      })
      .once('line', (line) => {
        clearTimeout(late);
        resolve({
          child,
          ready: JSON.parse(line) as Record<string, unknown>,
          async stop() {
            if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
            await ended;
            return last.startsWith('{') ? (JSON.parse(last) as Record<string, unknown>) : {};
          },
        });
      });
  });
}

/** Starts `stampede serve …`. */
export const serve = (args: string[], env: NodeJS.ProcessEnv): Promise<Started> =>
  startNode(main, ['serve', ...args], env);
