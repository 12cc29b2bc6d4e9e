/** The fuzzers' own checks: each fault that is planted between the engine and a fuzzer is found, and without one nothing is. */
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { httpFuzzer } from './http-fuzzer.ts';
import { runRounds } from './rounds.ts';
import { type FuzzTarget, saleId, startTarget } from './target.ts';
import { webSocketFuzzer } from './websocket-fuzzer.ts';

/** What becomes of the bytes that the engine sends; '' text is nothing. */
type Fault = (text: string) => string | Promise<string>;

let target: FuzzTarget;
let proxy: Server;
let fault: Fault = (text) => text;
let stray: string;
let strays = 0;
let seed = 100;
/** Connections to the engine that a fault keeps open. */
const kept: ReturnType<typeof connect>[] = [];

beforeAll(async () => {
  target = await startTarget();
  stray = (await target.ask<{ token: string }>('POST', '/v1/sessions', { body: {} })).body.token;
  proxy = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    const engine = connect({ port: target.port, host: '127.0.0.1', noDelay: true });
    // In order, though a fault may take its time.
    let last: Promise<unknown> = Promise.resolve();
    client.on('data', (chunk) => engine.write(chunk));
    engine.on('data', (chunk: Buffer) => {
      last = last.then(async () => client.write(Buffer.from(await fault(chunk.toString('latin1')), 'latin1')));
    });
    engine.on('close', () => last.then(() => client.destroy()));
    client.on('close', () => engine.destroy());
    client.on('end', () => engine.end());
    for (const socket of [client, engine]) socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  for (const socket of kept) socket.destroy();
  proxy?.close();
  await target?.stop();
});

const problem = 'Content-Type: application/problem+json';
const reserve = (): Promise<unknown> =>
  target.ask('POST', '/v1/reservations', {
    token: stray,
    key: `stray-${strays++}`,
    body: { saleId, lines: [{ sku: 'a', quantity: 1 }] },
  });
/** A close frame with the code 4400, as its bytes. */
const badFrame = '\u0011\u0030';
const closes = (text: string): boolean => text.includes('\u0088') && text.includes(badFrame);
const body = '{"id":"AAAAAAABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA","state":"held","lines":[]}';
const madeUp = `HTTP/1.1 201 Created\r\nX-Request-Id: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
const once = (text: string, from: RegExp | string, to: string): string => text.replace(from, to);

/** Name of the fault, which fuzzer finds it, with what it is planted, and what must be found. */
const controls: [string, typeof httpFuzzer, Fault, RegExp | null][] = [
  ['none', httpFuzzer, (text) => text, null],
  ['none', webSocketFuzzer, (text) => text, null],
  [
    '500 for bad input',
    httpFuzzer,
    (text) => once(text, /^HTTP\/1.1 40[09] \w+( \w+)?\r\nC/, 'HTTP/1.1 500 Oh\r\nC'),
    /^500 /,
  ],
  [
    'a problem of another type',
    httpFuzzer,
    (text) => once(text, problem, 'Content-Type: application/json'),
    /of type application\/json/,
  ],
  [
    'a code that belongs to another status',
    httpFuzzer,
    (text) => once(text, '"code":"unauthorized"', '"code":"not-admitted"'),
    /with the code not-admitted/,
  ],
  ['no request id', httpFuzzer, (text) => once(text, 'X-Request-Id: ', 'X-Request-Ix: '), /without one X-Request-Id/],
  ['an answer that is not HTTP', httpFuzzer, (text) => once(text, 'HTTP/1.1 200 OK', 'HTTP/1.1 OK 200'), /not HTTP/],
  [
    'success for bad input',
    httpFuzzer,
    (text) => once(text, 'HTTP/1.1 401 Unauthorized', 'HTTP/1.1 200 OK'),
    /may not be taken/,
  ],
  [
    'a reservation told that was not made',
    httpFuzzer,
    (text) => (text.includes('"code":"sold-out"') ? madeUp : text),
    /not in the ledger/,
  ],
  [
    'another quantity told than was taken',
    httpFuzzer,
    (text) => (text.startsWith('HTTP/1.1 201') ? once(text, /"quantity":1\}/, '"quantity":2}') : text),
    /nothing explains/,
  ],
  [
    'a unit moved by an invalid request',
    httpFuzzer,
    async (text) => {
      if (text.includes('"code":"invalid-request"')) await reserve();
      return text;
    },
    /nothing explains/,
  ],
  [
    'files that stay open',
    httpFuzzer,
    (text) => {
      // Sockets that live longer than a request's connection may.
      const upgrade = `GET /v1/sales/${saleId}/live HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n`;
      if (kept.length < 60) {
        const socket = connect({ port: target.port, host: '127.0.0.1' }).on('error', () => undefined);
        socket.write(`${upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n`);
        kept.push(socket.resume());
      }
      return text;
    },
    /files are open/,
  ],
  [
    'reserved bits in a frame of the server',
    webSocketFuzzer,
    (text) => once(text, /\x81(?=[\s\S]{1,3}\{"type":"result")/, '\xc1'),
    /reserved bits/,
  ],
  [
    'a result that is 500',
    webSocketFuzzer,
    (text) => once(text, '"status":409,"body"', '"status":500,"body"'),
    /^500 with/,
  ],
  [
    'a result that was not asked for',
    webSocketFuzzer,
    (text) => once(text, /"requestId":"w/, '"requestId":"x'),
    /wasn’t asked/,
  ],
  [
    'a close code that is none',
    webSocketFuzzer,
    (text) => (closes(text) ? once(text, badFrame, '\u0011\u0094') : text),
    /closed with 4500/,
  ],
  [
    'a unit moved by a frame that is wrong',
    webSocketFuzzer,
    async (text) => {
      if (closes(text)) await reserve();
      return text;
    },
    /nothing explains/,
  ],
  [
    'an engine that dies',
    httpFuzzer,
    (text) => {
      target.served.child.kill('SIGKILL');
      return text;
    },
    /the engine ended/,
  ],
];

const named = controls.map((control) => ({ name: control[0], by: control[1].name, control }));

it.each(named)('$name: what the $by fuzzer says of it', { timeout: 300_000 }, async ({ control }) => {
  const [, fuzzer, planted, expected] = control;
  fault = planted;
  try {
    const { port } = proxy.address() as AddressInfo;
    // Keys that were used before would only be replayed.
    const options = { seed: ++seed, from: 0, cases: 200, minutes: 5, progress: () => undefined };
    const { findings } = await runRounds({ ...target, port }, fuzzer, options);
    const found = findings.map(({ what }) => what);
    if (expected === null) expect(found).toEqual([]);
    else
      expect(
        found.some((what) => expected.test(what)),
        found.slice(0, 5).join('\n'),
      ).toBe(true);
  } finally {
    fault = (text) => text;
    for (const socket of kept.splice(0)) socket.destroy();
  }
});
