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

const endsWithinSeconds = 60;

/** A load generator that uses this much of a processor is what limits the measurement. */
const limitingShare = 0.95;

/** Whether the load generator was the limit: then the figure says little of what it loaded. */
export const generatorWasTheLimit = ({ usage }: LoadResult): boolean => (usage.load?.processors ?? 0) > limitingShare;

export type Load = {
  url: string;
  connections: number;
  seconds: number;
  /** `bench/wrk/NAME.lua`, and what it is given. */
  script: string;
  args: readonly string[];
  /**
   * How long each connection waits before it asks, in the mean; where it is missing, not at all. Of a server that stands still for less
   * than that this sees what an open loop sees: those who would have asked meanwhile are on their way.
   */
  pauseMs?: number;
  /** An answer that takes longer counts as missing; two where it isn't said. */
  answerWithinSeconds?: number;
  /** Processes to be watched meanwhile, by name. */
  watch: Record<string, number>;
};

/** Loads `url`. Rejects when wrk isn't there, or fails. */
export function runLoad(load: Load): Promise<LoadResult> {
  const { url, connections, seconds, script, args, pauseMs = 0, answerWithinSeconds = 2, watch } = load;
  const words = ['-t', '1', '-c', String(connections), '-d', `${seconds}s`, '--timeout', `${answerWithinSeconds}s`];
  words.push('-s', `${scripts}/${pauseMs > 0 ? 'paced' : script}.lua`, url, '--', ...args);
  return run('wrk', words, { seconds, watch, env: { BENCH_PACED: script, BENCH_PAUSE_MS: String(pauseMs) } });
}

/** The same over WebSockets, each of which is a buyer who buys again and again. `tokens`: a file with a token a line. */
export function runSockets(
  load: Pick<Load, 'url' | 'connections' | 'seconds' | 'watch'> & { tokens: string; saleId: string; sku: string },
): Promise<LoadResult> {
  const { url, saleId, sku, connections, seconds, tokens } = load;
  const words = [url, saleId, sku, String(connections), String(seconds), tokens];
  return run(process.execPath, [socketLoad, ...words], { seconds, watch: load.watch, env: {} });
}

type Watched = { seconds: number; watch: Record<string, number>; env: Record<string, string> };

async function run(program: string, words: string[], { seconds, watch, env }: Watched): Promise<LoadResult> {
  const watched = { seconds, watch, env: { BENCH_WRK: scripts, ...env } };
  const { error, out, usage } = await runWatched(program, words, watched);
  if (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw missing ? new Error(`${program} is not installed: wrk is in Debian’s packages (apt-get install wrk)`) : error;
  }
  return { ...resultOf(out), usage };
}

/** Runs a load generator to its end, and watches what it, as `load`, and others use meanwhile. `seconds`: how long it loads. */
export async function runWatched(
  program: string,
  words: string[],
  options: Watched,
): Promise<{ error: Error | null; out: string; complaint: string; usage: Record<string, Usage> }> {
  const { seconds, watch, env } = options;
  const { promise: ended, resolve } = Promise.withResolvers<{ error: Error | null; out: string; complaint: string }>();
  const child = execFile(
    program,
    words,
    { timeout: (seconds + endsWithinSeconds) * 1_000, maxBuffer: 16 << 20, env: { ...process.env, ...env } },
    (error, out, complaint) => resolve({ error, out, complaint }),
  );
  const watching = watchUsage({ ...watch, ...(child.pid === undefined ? {} : { load: child.pid }) });
  const outcome = await ended;
  return { ...outcome, usage: await watching.stop() };
}

/** What our scripts print last, as one line of JSON: wrk's own summary rounds. */
function resultOf(text: string): Omit<LoadResult, 'usage'> {
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
