/**
 * wrk, the closed-loop load generator: each connection asks again as soon as it is answered. Told apart by a Lua script:
 * what is asked for, and how answers are counted.
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type Usage, watchUsage } from './usage.ts';

export type LoadResult = {
  requests: number;
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  p999Ms: number;
  /** Answers other than of success. */
  refused: number;
  /** Requests that got no answer. */
  failed: number;
  /** Of the load generator and of what was watched beside. */
  usage: Record<string, Usage>;
};

const scripts = fileURLToPath(new URL('./wrk', import.meta.url));
const socketLoad = fileURLToPath(new URL('./socket-load.ts', import.meta.url));

/** A load generator that uses this much of a processor is what limits the measurement. */
export const limitingShare = 0.95;

/** Whether the load generator was the limit: then the figure says little of what it loaded. */
export const generatorWasTheLimit = ({ usage }: LoadResult): boolean => (usage.load?.processors ?? 0) > limitingShare;

export type Load = {
  url: string;
  connections: number;
  seconds: number;
  /** `bench/wrk/NAME.lua`, and what it is given. */
  script: string;
  args: readonly string[];
  /** Processes to be watched meanwhile, by name. */
  watch: Record<string, number>;
};

/** Loads `url`. Rejects when wrk isn't there, or fails. */
export function runLoad({ url, connections, seconds, script, args, watch }: Load): Promise<LoadResult> {
  const words = ['-t', '1', '-c', String(connections), '-d', `${seconds}s`];
  words.push('-s', `${scripts}/${script}.lua`, url, '--', ...args);
  return run('wrk', words, seconds, watch);
}

/** The same over WebSockets, each of which is a buyer who buys again and again. `tokens`: a file with a token a line. */
export function runSockets(
  load: Omit<Load, 'script' | 'args'> & { tokens: string; saleId: string; sku: string },
): Promise<LoadResult> {
  const { url, saleId, sku, connections, seconds, tokens } = load;
  const words = [url, saleId, sku, String(connections), String(seconds), tokens, saleId];
  return run(process.execPath, [socketLoad, ...words], seconds, load.watch);
}

async function run(
  program: string,
  words: string[],
  seconds: number,
  watch: Record<string, number>,
): Promise<LoadResult> {
  let done: (outcome: { error: Error | null; out: string }) => void = () => undefined;
  const ended = new Promise<{ error: Error | null; out: string }>((resolve) => {
    done = resolve;
  });
  const child = execFile(
    program,
    words,
    { timeout: (seconds + 30) * 1000, env: { ...process.env, BENCH_WRK: scripts } },
    (error, out) => done({ error, out }),
  );
  const usage = watchUsage({ ...watch, ...(child.pid === undefined ? {} : { load: child.pid }) });
  const { error, out } = await ended;
  const used = await usage.stop();
  if (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw missing ? new Error('wrk is not installed: it is in Debian’s packages (apt-get install wrk)') : error;
  }
  return { ...resultOf(out), usage: used };
}

/** What our scripts print last, as one line of JSON: wrk's own summary rounds. */
export function resultOf(text: string): Omit<LoadResult, 'usage'> {
  const line = text.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{')) throw new Error(`the load generator said nothing that is known:\n${text}`);
  const said = JSON.parse(line) as Record<
    'requests' | 'seconds' | 'p50' | 'p99' | 'p999' | 'refused' | 'failed',
    number
  >;
  const { requests, seconds, p50, p99, p999, refused, failed } = said;
  const ms = (microseconds: number): number => microseconds / 1_000;
  return { requests, perSecond: requests / seconds, p50Ms: ms(p50), p99Ms: ms(p99), p999Ms: ms(p999), refused, failed };
}
