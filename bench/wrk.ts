/** wrk, the closed-loop load generator: each connection asks again as soon as it is answered. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export type WrkResult = {
  requests: number;
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** Answers other than 2xx and 3xx, and requests that got none. */
  refused: number;
  failed: number;
};

const script = fileURLToPath(new URL('./reserve.wrk.lua', import.meta.url));

const units: Record<string, number> = { us: 0.001, ms: 1, s: 1_000, m: 60_000 };
function milliseconds(text: string | undefined): number {
  const [, value = '0', unit = 'ms'] = /^([\d.]+)(us|ms|s|m)$/.exec(text ?? '') ?? [];
  return Number(value) * (units[unit] ?? 1);
}

/** What wrk prints, as numbers. Throws when it isn't a summary of wrk. */
export function parseWrk(text: string): WrkResult {
  const find = (pattern: RegExp): string | undefined => pattern.exec(text)?.[1];
  const requests = Number(find(/(\d+) requests in/));
  if (!Number.isFinite(requests)) throw new Error(`wrk said nothing that is known:\n${text}`);
  const errors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(text)?.slice(1) ?? [];
  return {
    requests,
    perSecond: Number(find(/Requests\/sec:\s+([\d.]+)/)),
    p50Ms: milliseconds(find(/50%\s+(\S+)/)),
    p99Ms: milliseconds(find(/99%\s+(\S+)/)),
    refused: Number(find(/Non-2xx or 3xx responses: (\d+)/) ?? 0),
    failed: errors.reduce((sum, count) => sum + Number(count), 0),
  };
}

/** Loads `url` with reservations: every one a new buyer (a token a line in `tokensFile`) with a new key. */
export function runWrk(options: {
  url: string;
  connections: number;
  seconds: number;
  tokensFile: string;
  saleId: string;
}): Promise<WrkResult> {
  const threads = 1;
  const args = [
    ...['-t', String(threads), '-c', String(options.connections), '-d', `${options.seconds}s`, '--latency'],
    ...['-s', script, options.url, '--', options.tokensFile, String(threads), options.saleId],
  ];
  return new Promise((resolve, reject) => {
    execFile('wrk', args, { timeout: (options.seconds + 30) * 1000 }, (error, out) => {
      if (error && 'code' in error && (error.code as unknown) === 'ENOENT')
        reject(new Error('wrk is not installed: it is in Debian’s packages (apt-get install wrk)'));
      else if (error) reject(error);
      else resolve(parseWrk(out));
    });
  });
}
