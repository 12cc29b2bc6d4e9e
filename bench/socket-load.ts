/**
 * A closed loop over WebSockets, in a process of its own: `node bench/socket-load.ts URL SALE SKU SOCKETS SECONDS TOKENS`. Each
 * socket buys again once it is answered. Its last line is what came of it, as wrk's is.
 */
import { readFileSync } from 'node:fs';
import { build } from 'hdr-histogram-js';
import { WebSocket } from 'undici';
import { systemClock } from '../kernel/clock.ts';

const [url = '', saleId = '', sku = '', sockets = '', seconds = '', tokensFile = ''] = process.argv.slice(2);
/** The server takes 50 frames a second from a socket (docs/reference/limits.md): a little less. */
const leastGapMs = 22;
const tokens = readFileSync(tokensFile, 'utf8').trim().split('\n');
const latency = build({
  lowestDiscernibleValue: 1,
  highestTrackableValue: 60_000_000,
  numberOfSignificantValueDigits: 3,
});
const counts = { requests: 0, refused: 0, failed: 0 };
let [beginMs, endMs, next] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 0];

/** A socket that is authenticated; `buy` begins its loop. */
function join(token: string): Promise<{ buy(): void; close(): void }> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/sales/${saleId}/live`);
  let sentMs = 0;
  const buy = (): void => {
    sentMs = performance.now();
    if (sentMs >= endMs) return;
    const key = `${saleId}-${next++}`;
    socket.send(
      JSON.stringify({ type: 'reserve', requestId: 'r', idempotencyKey: key, lines: [{ sku, quantity: 1 }] }),
    );
  };
  socket.addEventListener('message', ({ data }) => {
    const text = String(data);
    if (!text.startsWith('{"type":"result"')) return;
    const nowMs = performance.now();
    if (sentMs >= beginMs && nowMs <= endMs) {
      counts.requests++;
      latency.recordValue(Math.round((nowMs - sentMs) * 1_000));
      if (!text.includes('"status":201')) counts.refused++;
    }
    const waitMs = leastGapMs - (nowMs - sentMs);
    if (waitMs > 1) systemClock.later(waitMs, buy);
    else buy();
  });
  return new Promise((resolve, reject) => {
    socket.addEventListener('error', () => reject(new Error('a socket could not be opened')));
    socket.addEventListener('close', () => {
      if (performance.now() < endMs) counts.failed++;
    });
    socket.addEventListener('open', () => {
      socket.send(JSON.stringify({ type: 'auth', token }));
      resolve({ buy, close: () => socket.close() });
    });
  });
}

const all = await Promise.all(tokens.slice(0, Number(sockets)).map(join));
beginMs = performance.now();
endMs = beginMs + Number(seconds) * 1_000;
for (const { buy } of all) buy();
await systemClock.wait(Number(seconds) * 1_000);
for (const { close } of all) close();
const at = (percentile: number): number => latency.getValueAtPercentile(percentile);
process.stdout.write(
  `${JSON.stringify({ ...counts, seconds: Number(seconds), p50: at(50), p99: at(99), p999: at(99.9) })}\n`,
  () => process.exit(0),
);
