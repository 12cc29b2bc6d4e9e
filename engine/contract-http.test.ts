/** HTTP itself: methods, paths, framing, large headers and connections that break. Raw sockets where a client is too kind. */
import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem, unitsOf } from '../cli/testbed-checks.ts';
import { waitUntil } from '../services/waiting.ts';

const supply = 100;
const body = '{"saleId":"http","lines":[{"sku":"a","quantity":1}]}';
let bed: Testbed;
let token: string;
let reserved = 0;

beforeAll(async () => {
  bed = await startTestbed();
  await bed.putSale('http', { title: 'http', stock: [{ sku: 'a', warehouse: 'w', quantity: supply }] });
  token = (await bed.session()).token;
});
afterAll(() => bed?.stop());
afterEach(async () => {
  expect((await bed.request('GET', '/healthz')).status).toBe(200);
  expect(unitsOf(await bed.sale('http'), 'a', supply)).toEqual({ available: supply - reserved, reserved, sold: 0 });
});

/** Sends bytes on a connection of its own, and reads until the text is what is waited for or the connection ends. */
function exchange(bytes: string | Buffer, enough: (text: string) => boolean): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect(Number(new URL(bed.url).port), '127.0.0.1');
    const end = (): void => {
      socket.destroy();
      resolve(text);
    };
    socket.setTimeout(10_000, end);
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      if (enough(text)) end();
    });
    socket.on('close', end);
    socket.on('error', end);
    socket.write(bytes);
  });
}
const answers = (count: number) => (text: string) =>
  text.split('HTTP/1.1 ').length > count && text.includes('\r\n\r\n');
const statusesOf = (text: string): number[] =>
  [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => Number(match[1]));
const post = (headers: string): string =>
  `POST /v1/reservations HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\n${headers}\r\n`;

describe('methods and paths', () => {
  it.each(['PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'])('%s where it is not offered', async (method) => {
    const answer = await bed.request(method, '/v1/sales/http');
    expectProblem(answer, 'method-not-allowed');
    expect(answer.headers.allow).toMatch(/GET/);
  });

  it('HEAD has no body, so that the next answer on the connection is understood', async () => {
    const text = await exchange('HEAD /v1/sales/http HTTP/1.1\r\nHost: a\r\n\r\n', (soFar) =>
      soFar.includes('\r\n\r\n'),
    );
    expect(text.slice(text.indexOf('\r\n\r\n') + 4)).toBe('');
  });

  it.each([
    '/v1/sales/',
    '/v1/sales/http/',
    '//v1/sales/http',
    '/v1//sales/http',
    '/v1/sales/%68ttp',
    '/v1/sales/http%00',
    '/v1/sales/..',
    '/v1/sales/http/../http',
    '/v1/sales/%',
    '/V1/sales/http',
    `/v1/sales/${'a'.repeat(65)}`,
    `/v1/sales/${'a'.repeat(64)}`,
    '/v1/sales/a%2Fb',
    '/v1/sales/__proto__',
    '/v1/sales/constructor',
  ])('GET %s finds nothing', async (path) => {
    expectProblem(await bed.request('GET', path), 'not-found');
  });

  it.each(['/v1/sales/http?', '/v1/sales/http?x=1&x=%zz'])(
    'GET %s: a query that means nothing does no harm',
    async (path) => {
      expect((await bed.request('GET', path)).status).toBe(200);
    },
  );

  it.each([
    'application/json',
    'application/json; charset=utf-8',
    'application/json;charset=UTF-8',
    'Application/JSON',
  ])('a content type of %s is JSON', async (type) => {
    const answer = await bed.request('POST', '/v1/sessions', { raw: '{}', headers: { 'content-type': type } });
    expect(answer.status).toBe(201);
  });

  it.each([1, 128])('an idempotency key of %i visible characters is one', async (chars) => {
    const answer = await bed.request('POST', '/v1/reservations', { token, key: '~'.repeat(chars), raw: body });
    expect(answer.status).toBe(201);
    reserved += 1;
  });

  it('a scheme is told by its name in any case', async () => {
    const answer = await bed.request('GET', '/v1/reservations/none', { headers: { authorization: `bearer ${token}` } });
    expectProblem(answer, 'not-found');
  });

  it('every answer has a request id of its own', async () => {
    const ask = async () => (await bed.request('GET', '/healthz')).headers['x-request-id'];
    const ids = [await ask(), await ask()];
    expect(new Set(ids).size).toBe(2);
    expect(ids).toEqual([expect.stringMatching(/^[\w.-]+$/), expect.stringMatching(/^[\w.-]+$/)]);
  });
});

describe('framing', () => {
  it.each([
    ['length and chunks', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n'],
    ['a length in letters', 'Content-Length: abc\r\n'],
    ['a length below zero', 'Content-Length: -1\r\n'],
    ['a length with a sign', 'Content-Length: +5\r\n'],
    ['a length in hex', 'Content-Length: 0x10\r\n'],
    ['a length beyond 64 bits', `Content-Length: ${'9'.repeat(30)}\r\n`],
    ['a bad chunk', 'Transfer-Encoding: chunked\r\n'],
  ])('%s: refused, and the connection closed', async (_, headers) => {
    const text = await exchange(`${post(`Idempotency-Key: framing\r\n${headers}`)}zz\r\n${body}`, () => false);
    expect(statusesOf(text)).toHaveLength(1);
    expect(text).toMatch(/^HTTP\/1\.1 4\d\d/);
  });

  it('a body in chunks is a body', async () => {
    const chunks = [body.slice(0, 7), body.slice(7)].map((part) => `${part.length.toString(16)}\r\n${part}\r\n`);
    const text = await exchange(
      `${post('Idempotency-Key: chunks\r\nTransfer-Encoding: chunked\r\n')}${chunks.join('')}0\r\n\r\n`,
      answers(1),
    );
    expect(statusesOf(text)).toEqual([201]);
    reserved += 1;
  });

  it('a body where none is asked for is left alone', async () => {
    const head = `POST /v1/admin/sales/http/resume HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${bed.adminToken}\r\n`;
    const text = await exchange(`${head}Content-Length: 5\r\n\r\n{"x":`, answers(1));
    expect(statusesOf(text)).toEqual([200]);
  });

  it('a header of a megabyte: any 4xx, or the connection closed', async () => {
    const text = await exchange(post(`X-Large: ${'x'.repeat(1024 * 1024)}\r\n`), answers(1));
    expect(text === '' || /^HTTP\/1\.1 4\d\d/.test(text)).toBe(true);
  });

  it('a thousand headers: any 4xx, or the connection closed', async () => {
    const text = await exchange(post('X: y\r\n'.repeat(1_000)), answers(1));
    expect(text === '' || /^HTTP\/1\.1 4\d\d/.test(text)).toBe(true);
  });

  it.each([0, 10, body.length - 1])(
    'a connection that breaks after %i bytes of the body takes nothing',
    async (bytes) => {
      const socket = connect(Number(new URL(bed.url).port), '127.0.0.1');
      await new Promise<void>((resolve) => {
        const head = post(`Idempotency-Key: cut-${bytes}\r\nContent-Length: ${body.length}\r\n`);
        socket.write(head + body.slice(0, bytes), () => resolve());
      });
      socket.destroy();
      // The same key from a whole request is the first.
      const answer = await bed.request('POST', '/v1/reservations', { token, key: `cut-${bytes}`, raw: body });
      expect([answer.status, answer.headers['idempotency-replayed']]).toEqual([201, undefined]);
      reserved += 1;
    },
  );

  it('a buyer who hangs up before the answer finds it under the same key', async () => {
    const socket = connect(Number(new URL(bed.url).port), '127.0.0.1');
    socket.write(`${post(`Idempotency-Key: hung-up\r\nContent-Length: ${body.length}\r\n`)}${body}`, () =>
      socket.destroy(),
    );
    const taken = async () => unitsOf(await bed.sale('http'), 'a', supply).reserved === reserved + 1;
    expect(await waitUntil(taken, 10_000)).toBe(true);
    reserved += 1;
    const answer = await bed.request('POST', '/v1/reservations', { token, key: 'hung-up', raw: body });
    expect([answer.status, answer.headers['idempotency-replayed']]).toEqual([201, 'true']);
  });
});
