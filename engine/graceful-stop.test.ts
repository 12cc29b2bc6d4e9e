/** A stop finishes what was accepted, in good time, whatever clients do meanwhile. */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, type Reservation, request, startTestbed, type Testbed } from '../cli/testbed.ts';
import { unitsOf } from '../cli/testbed-checks.ts';
import type { Served } from '../cli/testbed-command.ts';
import { waitUntil } from '../services/waiting.ts';

const sku = 'a';
const supply = 100_000;
/** Well under the time after which a stop gives up on what is under way. */
const promptMs = 5_000;
const refusedCodes = ['ECONNREFUSED', 'ECONNRESET', 'UND_ERR_SOCKET', 'UND_ERR_CLOSED', 'UND_ERR_DESTROYED', 'EPIPE'];
let bed: Testbed;

beforeAll(async () => {
  bed = await startTestbed();
});
afterAll(() => bed?.stop());

const makeSale = async (id: string): Promise<void> => {
  const answer = await bed.putSale(id, { title: id, stock: [{ sku, warehouse: 'w', quantity: supply }] });
  expect(answer.status).toBe(201);
};

/** Buyers that reserve again and again, each key noted, until they can't connect any more. */
function crowd(url: string, saleId: string, tokens: string[]) {
  const answers: { token: string; key: string; answer: Answer<Reservation> }[] = [];
  const broken: { token: string; key: string; code: string }[] = [];
  const body = { saleId, lines: [{ sku, quantity: 1 }] };
  const done = Promise.all(
    tokens.map(async (token) => {
      for (let i = 0; ; i++) {
        const key = `k${i}`;
        try {
          const answer = await request<Reservation>(bed.agent, url, 'POST', '/v1/reservations', { token, key, body });
          answers.push({ token, key, answer });
        } catch (error) {
          broken.push({ token, key, code: String((error as NodeJS.ErrnoException).code) });
          return;
        }
      }
    }),
  );
  return { answers, broken, done };
}

describe.each([
  ['alone', [], 'SIGTERM'],
  ['alone', [], 'SIGINT'],
  ['two workers', ['--workers', '2'], 'SIGTERM'],
] as const)('%s', (name, args, signal) => {
  it(`${signal} during a sale: what was taken was answered, and the exit code is 0`, async () => {
    const saleId = `stop-${name.length}-${signal}`;
    await makeSale(saleId);
    const served = await bed.serve([...args]);
    const tokens = await Promise.all(Array.from({ length: 20 }, async () => (await bed.session()).token));
    const { answers, broken, done } = crowd(served.url, saleId, tokens);
    expect(await waitUntil(async () => answers.length > 200, 20_000)).toBe(true);
    expect(await served.stop(signal)).toBe(0);
    await done;
    expect(answers.map(({ answer }) => answer.status).filter((status) => status !== 201)).toEqual([]);
    expect(broken.filter(({ code }) => !refusedCodes.includes(code))).toEqual([]);
    expect(unitsOf(await bed.sale(saleId), sku, supply).reserved).toBe(answers.length);
  });
});

describe('a stop is prompt', () => {
  const head = (token: string): string =>
    `POST /v1/reservations HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\nAuthorization: Bearer ${token}\r\nContent-Length: 100\r\n\r\n`;
  const port = (served: Served): number => Number(new URL(served.url).port);

  it.each<[string, (served: Served, token: string) => Promise<() => void>]>([
    ['with nobody there', async () => () => undefined],
    [
      'with an idle connection',
      (served) =>
        new Promise((resolve) => {
          const socket = connect(port(served), '127.0.0.1', () => resolve(() => socket.destroy()));
          socket.on('error', () => undefined);
        }),
    ],
    [
      'after a client hung up in the middle of a body',
      (served, token) =>
        new Promise((resolve) => {
          const socket = connect(port(served), '127.0.0.1');
          socket.on('error', () => undefined);
          socket.write(`${head(token)}{"saleId"`, () => socket.destroy());
          socket.on('close', () => resolve(() => undefined));
        }),
    ],
    [
      'with an open WebSocket',
      (served) =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(`${served.url.replace('http', 'ws')}/v1/sales/prompt/live`);
          socket.onopen = () => resolve(() => socket.close());
          socket.onerror = () => reject(new Error('no WebSocket'));
        }),
    ],
  ])('%s', async (_, disturb) => {
    await makeSale('prompt').catch(() => undefined);
    const served = await bed.serve();
    const { token } = await bed.session();
    const tidy = await disturb(served, token);
    // An answer after it shows that the disturbance has arrived.
    expect((await request(bed.agent, served.url, 'GET', '/healthz')).status).toBe(200);
    const askedMs = performance.now();
    expect(await served.stop()).toBe(0);
    expect(performance.now() - askedMs).toBeLessThan(promptMs);
    tidy();
  });
});
