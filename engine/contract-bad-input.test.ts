/** What bad input gets: the contract's error, the server lives on, and no unit moves. */

import { once } from 'node:events';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { createSigner } from 'fast-jwt';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  type Answer,
  adminToken,
  type RequestOptions,
  sessionSecret,
  startTestbed,
  type Testbed,
} from '../cli/testbed.ts';
import { type Code, expectProblem, holder } from '../cli/testbed-checks.ts';

const saleId = 'bad';
let bed: Testbed;
let token: string;
let before: unknown;

beforeAll(async () => {
  bed = await startTestbed();
  const stock = ['a', 'b'].map((sku) => ({ sku, warehouse: 'w', quantity: 100 }));
  stock.push({ sku: 'gone', warehouse: 'w', quantity: 0 });
  expect((await bed.putSale(saleId, { title: 'bad input', stock })).status).toBe(201);
  token = (await bed.session()).token;
});
afterAll(() => bed?.stop());
beforeEach(async () => {
  before = (await bed.sale(saleId)).stock;
});
afterEach(async () => {
  expect((await bed.request('GET', '/healthz')).status).toBe(200);
  expect((await bed.sale(saleId)).stock).toEqual(before);
});

const post = (more: RequestOptions): Promise<Answer> =>
  bed.request('POST', '/v1/reservations', { token, key: 'bad', ...more });
const bodyWith = (line: string): string => `{"saleId":"${saleId}","lines":[${line}]}`;
const good = bodyWith('{"sku":"a","quantity":1}');

describe('a reservation with bad input', () => {
  it.each([
    '-1',
    '0',
    '1.5',
    '1001',
    '1e308',
    '1e400',
    '1e-7',
    '-0',
    '9007199254740993',
    '"1"',
    'null',
    'true',
    '[1]',
    '{}',
  ])('quantity %s', async (quantity) => {
    const answer = await post({ raw: bodyWith(`{"sku":"a","quantity":${quantity}}`) });
    expectProblem(answer, 'invalid-request');
    expect(answer.body.errors?.map(({ path }) => path)).toEqual(['/lines/0/quantity']);
  });

  it.each([
    ['empty', '""'],
    ['of 65 characters', `"${'a'.repeat(65)}"`],
    ['with a space', '"a b"'],
    ['with a slash', '"a/b"'],
    ['with a line end', '"a\\n"'],
    ['with NUL', '"a\\u0000"'],
    ['in Greek', '"α"'],
    ['of half a surrogate pair', '"\\ud800"'],
    ['as a number', '1'],
    ['as null', 'null'],
  ])('an id %s', async (_, id) => {
    const bySku = await post({ raw: bodyWith(`{"sku":${id},"quantity":1}`) });
    expectProblem(bySku, 'invalid-request');
    expect(bySku.body.errors?.map(({ path }) => path)).toEqual(['/lines/0/sku']);
    const bySale = await post({ raw: `{"saleId":${id},"lines":[{"sku":"a","quantity":1}]}` });
    expectProblem(bySale, 'invalid-request');
    expect(bySale.body.errors?.map(({ path }) => path)).toEqual(['/saleId']);
  });

  it.each([
    ['an id of 64 characters is one', `{"sku":"${'a'.repeat(64)}","quantity":1}`],
    ['a SKU named __proto__ is one', '{"sku":"__proto__","quantity":1}'],
    ['a SKU named constructor is one', '{"sku":"constructor","quantity":1}'],
  ])('%s, though unknown', async (_, line) => {
    expectProblem(await post({ raw: bodyWith(line) }), 'not-found');
  });

  it.each([
    ['nothing', ''],
    ['white space', ' \n'],
    ['an unclosed object', good.slice(0, -1)],
    ['an unclosed string', '{"saleId":"ba'],
    ['something after the end', `${good}{}`],
    ['a comma too many', good.replace('}]', '},]')],
    ['a comment', `/**/${good}`],
    ['single quotes', good.replaceAll('"', "'")],
    ['NaN', bodyWith('{"sku":"a","quantity":NaN}')],
    ['a leading zero', bodyWith('{"sku":"a","quantity":01}')],
    ['null', 'null'],
    ['a string', '"x"'],
    ['an array', '[]'],
    ['an array with the body', `[${good}]`],
    ['no lines', `{"saleId":"${saleId}"}`],
    ['empty lines', bodyWith('')],
    ['lines that are no array', `{"saleId":"${saleId}","lines":{"0":{"sku":"a","quantity":1},"length":1}}`],
    ['a line that is null', bodyWith('null')],
    ['51 lines', bodyWith(Array(51).fill('{"sku":"a","quantity":1}').join())],
    ['10,000 lines', bodyWith(Array(10_000).fill('{}').join())],
    ['30,000 arrays in each other', '['.repeat(30_000)],
    ['30,000 closed arrays in each other', `{"lines":${'['.repeat(30_000)}${']'.repeat(30_000)}}`],
    ['an unknown field', good.replace('{', '{"price":1,')],
    ['an unknown field of a line', good.replace('"sku"', '"warehouse":"w","sku"')],
    ['__proto__', good.replace('{', '{"__proto__":{"admin":true},')],
    ['__proto__ in a line', good.replace('"sku"', '"__proto__":{"quantity":1},"sku"')],
    ['members through __proto__', bodyWith('{"__proto__":{"sku":"a","quantity":1}}')],
    ['constructor', good.replace('{', '{"constructor":{"prototype":{"x":1}},')],
    ['invalid UTF-8', Buffer.concat([Buffer.from(good.slice(0, 11)), Buffer.of(0xff), Buffer.from(good.slice(11))])],
    ['an overlong UTF-8 form', Buffer.concat([Buffer.from('{"saleId":"'), Buffer.of(0xc1, 0xa1), Buffer.from('"}')])],
    ['UTF-16', Buffer.from(good, 'utf16le')],
    ['a byte order mark', `\ufeff${good}`],
  ])('a body of %s', async (_, raw) => {
    expectProblem(await post({ raw }), 'invalid-request');
  });

  it('names every field that is wrong, and no secret', async () => {
    const answer = await post({ raw: '{"saleId":1,"lines":[{"sku":"","quantity":0,"x":1},{"quantity":1}],"y":2}' });
    expectProblem(answer, 'invalid-request');
    const paths = answer.body.errors?.map(({ path }) => path).sort();
    expect(paths).toEqual(['/lines/0/quantity', '/lines/0/sku', '/lines/0/x', '/lines/1/sku', '/saleId', '/y']);
  });

  it('10,000 good lines are more than a body may have', async () => {
    expectProblem(
      await post({ raw: bodyWith(Array(10_000).fill('{"sku":"a","quantity":1}').join()) }),
      'payload-too-large',
    );
  });

  it.each([
    ['missing', null],
    ['empty', ''],
    ['of 129 characters', 'k'.repeat(129)],
    ['with a space', 'a b'],
    ['with a tab', 'a\tb'],
    ['in Latin 1', 'caf\u00e9s'],
  ])('an idempotency key %s', async (_, key) => {
    const { key: _key, ...rest } = { key: '', raw: good };
    const answer = await bed.request('POST', '/v1/reservations', { token, ...rest, ...(key === null ? {} : { key }) });
    expectProblem(answer, 'invalid-request');
    expect(answer.body.errors?.[0]?.path).toMatch(/idempotency-key/i);
  });

  it.each(['', 'text/plain', 'application/xml', 'application/jsonp', 'application/x-www-form-urlencoded', 'json'])(
    'a content type of %j',
    async (type) => {
      expectProblem(await post({ raw: good, headers: { 'content-type': type } }), 'unsupported-media-type');
    },
  );

  it('two lines of which one is sold out: nothing is taken', async () => {
    const lines = '{"sku":"a","quantity":1},{"sku":"gone","quantity":1}';
    expectProblem(await post({ raw: bodyWith(lines) }), 'sold-out');
  });

  it('two lines of which one is more than there is: nothing is taken', async () => {
    const lines = '{"sku":"a","quantity":1},{"sku":"b","quantity":101}';
    expectProblem(await post({ raw: bodyWith(lines) }), 'insufficient-stock');
  });
});

describe('a token', () => {
  const sub = 'AAAAAAAAAAAA';
  const sign = (claims: object, key: string, options: object): string =>
    createSigner({ key, ...options })(claims) as string;
  const hs256 = { algorithm: 'HS256', expiresIn: 60_000 };
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  it.each<[string, () => string]>([
    ['that is expired', () => sign({ sub, iat: 1_000_000_000 }, sessionSecret, hs256)],
    ['signed with another secret', () => sign({ sub }, 'x'.repeat(32), hs256)],
    ['signed by another algorithm', () => sign({ sub }, sessionSecret, { ...hs256, algorithm: 'HS512' })],
    ['that never expires', () => sign({ sub }, sessionSecret, { algorithm: 'HS256' })],
    ['without a signature', () => `${part({ alg: 'none', typ: 'JWT' })}.${part({ sub, exp: 4_000_000_000 })}.`],
    ['with its claims changed', () => token.replace(/\.[^.]+\./, `.${part({ sub, exp: 4_000_000_000 })}.`)],
    ['with a buyer that can’t be', () => sign({ sub: '../../x' }, sessionSecret, hs256)],
    ['without a buyer', () => sign({}, sessionSecret, hs256)],
    ['cut short', () => token.slice(0, -2)],
    ['that is the session secret', () => sessionSecret],
    ['that begins as the operator’s', () => adminToken.slice(0, -1)],
    ['that is empty', () => ''],
  ])('%s is none', async (_, make) => {
    expectProblem(await post({ raw: good, token: make() }), 'unauthorized');
    expectProblem(
      await bed.request('PUT', '/v1/admin/sales/x', { token: make(), body: { title: 'x', stock: [] } }),
      'unauthorized',
    );
  });

  it.each(['commit', 'extend', ''])('of another buyer moves nothing of a hold: %s', async (call) => {
    const { token: owner, reservation } = await holder(bed, saleId, 'a');
    before = (await bed.sale(saleId)).stock;
    const path = `/v1/reservations/${reservation.id}`;
    const asked = { token, ...(call === 'extend' ? { body: { seconds: 1 } } : {}) };
    expectProblem(await bed.request(call ? 'POST' : 'DELETE', call ? `${path}/${call}` : path, asked), 'forbidden');
    expectProblem(await bed.request('GET', path, asked), 'forbidden');
    expect((await bed.request<{ state: string }>('GET', path, { token: owner })).body.state).toBe('held');
  });
});

describe('a reservation’s id', () => {
  const spoilt: [string, (id: string) => string][] = [
    ['of another sequence', (id) => `${id.slice(0, 15)}${id[15] === 'A' ? 'B' : 'A'}${id.slice(16)}`],
    ['of another sale', (id) => `${id.slice(0, 7)}Z${id.slice(8)}`],
    ['of no shard', (id) => `__${id.slice(2)}`],
    ['of another key', (id) => `${id.slice(0, 39)}${id[39] === 'A' ? 'B' : 'A'}`],
    ['cut short', (id) => id.slice(0, 39)],
    ['too long', (id) => `${id}A`],
    ['of 65 characters', () => 'a'.repeat(65)],
    ['with dots', () => '..%2f..'],
  ];
  it.each(spoilt)('%s is unknown', async (_, spoil) => {
    const { token: owner, reservation } = await holder(bed, saleId, 'b');
    before = (await bed.sale(saleId)).stock;
    const path = `/v1/reservations/${spoil(reservation.id)}`;
    const answers: [Promise<Answer>, Code][] = [
      [bed.request('GET', path, { token: owner }), 'not-found'],
      [bed.request('GET', path, { token: adminToken }), 'not-found'],
      [bed.request('POST', `${path}/commit`, { token: owner }), 'not-found'],
      [bed.request('DELETE', path, { token: owner }), 'not-found'],
      [bed.request('POST', `${path}/extend`, { token: owner, body: { seconds: 1 } }), 'not-found'],
    ];
    for (const [answer, code] of answers) expectProblem(await answer, code);
  });

  it.each(['0', '-1', '1.5', '"1"', '86401', '1e400', 'null'])('extend by %s seconds', async (seconds) => {
    const path = '/v1/reservations/any/extend';
    expectProblem(await bed.request('POST', path, { token, raw: `{"seconds":${seconds}}` }), 'invalid-request');
  });
});

it('a body of 70 KB is too large for a call that takes none', async () => {
  const raw = ' '.repeat(70_000);
  expectProblem(await bed.request('POST', '/v1/reservations/none/commit', { token, raw }), 'payload-too-large');
});

it.each(['Content-Length: 0\r\n', ''])('an empty body whose head comes in pieces is answered: %j', async (field) => {
  const socket = connect(Number(new URL(bed.url).port), '127.0.0.1').setNoDelay(true);
  socket.write('POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-');
  await bed.request('GET', '/healthz');
  socket.write(`A: b\r\n${field}\r\n`);
  const [answer] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  expect(answer.toString()).toMatch(/^HTTP\/1.1 400 [\s\S]*"code":"invalid-request"/);
});

describe('a body that never ends', () => {
  const megabyte = Buffer.alloc(1024 * 1024, ' ');
  const hundred = (): Readable =>
    Readable.from(
      (function* () {
        for (let i = 0; i < 100; i++) yield megabyte;
      })(),
    );

  it.each([
    ['of a known length', { 'content-length': String(100 * megabyte.length) }],
    ['in chunks', {}],
  ])('of 100 MB %s', async (_, headers) => {
    const outcome = await post({ raw: hundred(), headers: { 'content-type': 'application/json', ...headers } }).catch(
      (error: NodeJS.ErrnoException) => error,
    );
    // Who is still sending when the connection closes may not see the answer any more.
    if (outcome instanceof Error)
      expect(outcome.message + (outcome as NodeJS.ErrnoException).code).toMatch(/socket|reset|EPIPE|other side/i);
    else expectProblem(outcome, 'payload-too-large');
  });
});
