/** Every code of the contract's table over real HTTP, and which one answers when several hold. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, adminToken, type RequestOptions, request, startTestbed, type Testbed } from '../cli/testbed.ts';
import { type Code, expectProblem, holder, unitsOf } from '../cli/testbed-checks.ts';

const sku = 'a';
const far = '2100-01-01T00:00:00Z';
const stockOf = (quantity: number) => [
  { sku, warehouse: 'w', quantity },
  { sku: 'gone', warehouse: 'w', quantity: 0 },
];
let bed: Testbed;
/** An engine on the same stores that has let in all it will from this address. */
let limitedUrl: string;

beforeAll(async () => {
  bed = await startTestbed();
  const limited = await bed.serve([], { RATE_LIMITS: 'address=0.001:1' });
  limitedUrl = limited.url;
  const first = await request(bed.agent, limitedUrl, 'GET', '/v1/sales/none');
  expect(first.status).toBe(404);
  for (const [id, more] of [
    ['open', {}],
    ['limited', { perBuyer: 2 }],
    ['scheduled', { opensAt: far }],
  ] as const)
    expect((await bed.putSale(id, { title: id, stock: stockOf(1_000), ...more })).status).toBe(201);
});
afterAll(() => bed?.stop());

const reserve = async (saleId: string, line: object, more: RequestOptions = {}): Promise<Answer> => {
  const { token } = await bed.session();
  return bed.request('POST', '/v1/reservations', { token, key: 'k', body: { saleId, lines: [line] }, ...more });
};

describe('each code', () => {
  const one = { sku, quantity: 1 };
  it.each<[Code, string, () => Promise<Answer>]>([
    ['invalid-request', 'an unknown field', () => reserve('open', { ...one, price: 1 })],
    ['invalid-request', 'no idempotency key', () => reserve('open', one, { key: '' })],
    ['unauthorized', 'no token', () => bed.request('GET', '/v1/reservations/x')],
    [
      'forbidden',
      'a buyer at the operator’s',
      async () =>
        bed.request('PUT', '/v1/admin/sales/x', {
          token: (await bed.session()).token,
          body: { title: 'x', stock: [] },
        }),
    ],
    ['forbidden', 'the operator at a buyer’s', () => reserve('open', one, { token: adminToken })],
    [
      'forbidden',
      'another buyer’s reservation',
      async () => {
        const { reservation } = await holder(bed, 'open', sku);
        return bed.request('POST', `/v1/reservations/${reservation.id}/commit`, { token: (await bed.session()).token });
      },
    ],
    ['not-found', 'an unknown path', () => bed.request('GET', '/v1/nothing')],
    ['not-found', 'an unknown sale', () => reserve('none', one)],
    ['not-found', 'an unknown SKU of a sale', () => reserve('open', { sku: 'none', quantity: 1 })],
    [
      'not-found',
      'an unknown reservation',
      async () => bed.request('GET', '/v1/reservations/none', { token: (await bed.session()).token }),
    ],
    ['method-not-allowed', 'PATCH', () => bed.request('PATCH', '/v1/sales/open')],
    ['unsupported-media-type', 'text', () => reserve('open', one, { headers: { 'content-type': 'text/plain' } })],
    ['conflict', 'other stock', () => bed.putSale('open', { title: 'x', stock: stockOf(5) })],
    ['sale-not-open', 'before it opens', () => reserve('scheduled', one)],
    ['purchase-limit', 'more than a buyer may', () => reserve('limited', { sku, quantity: 3 })],
    ['sold-out', 'nothing left', () => reserve('open', { sku: 'gone', quantity: 1 })],
    [
      'insufficient-stock',
      'a restock below zero',
      () =>
        bed.operator('POST', 'open/stock', {
          id: 'below',
          sku,
          warehouse: 'w',
          delta: -1_001,
          reason: 'count',
        }),
    ],
    [
      'reservation-ended',
      'a commit after the release',
      async () => {
        const { token, reservation } = await holder(bed, 'open', sku);
        await bed.request('DELETE', `/v1/reservations/${reservation.id}`, { token });
        return bed.request('POST', `/v1/reservations/${reservation.id}/commit`, { token });
      },
    ],
    ['payload-too-large', 'a body of 70 KB', () => reserve('open', one, { raw: ' '.repeat(70_000) })],
    [
      'idempotency-mismatch',
      'a key reused with another body',
      async () => {
        const { token, key } = await holder(bed, 'open', sku);
        return bed.reserve(token, key, { saleId: 'open', lines: [{ sku, quantity: 2 }] });
      },
    ],
    ['rate-limited', 'too many requests', () => request(bed.agent, limitedUrl, 'GET', '/v1/sales/open')],
  ])('%s: %s', async (code, _, ask) => {
    expectProblem(await ask(), code);
  });

  it('reservation-ended carries the state', async () => {
    const { token, reservation } = await holder(bed, 'open', sku);
    await bed.request('POST', `/v1/reservations/${reservation.id}/commit`, { token });
    const answer = await bed.request('DELETE', `/v1/reservations/${reservation.id}`, { token });
    expectProblem(answer, 'reservation-ended');
    expect(answer.body.reservationState).toBe('committed');
  });

  it('a path that has other methods names them', async () => {
    expect((await bed.request('PUT', '/v1/sessions')).headers.allow).toBe('POST');
  });
});

/** Whatever is wrong with a reservation, in the order in which the contract answers. */
const order = [
  'payload-too-large',
  'method-not-allowed',
  'unsupported-media-type',
  'unauthorized',
  'invalid-request',
  'rate-limited',
  'not-found',
  'idempotency-mismatch',
  'sale-not-open',
  'purchase-limit',
  'sold-out',
] as const satisfies Code[];
const pairs = order.flatMap((first, i) => order.slice(i).map((second) => [first, second] as const));

describe('when several hold, the first answers', () => {
  const tokens = new Map<string, string>();

  beforeAll(async () => {
    for (const id of ['order-open', 'order-paused']) {
      await bed.putSale(id, { title: id, perBuyer: 5, stock: stockOf(1_000) });
      tokens.set(id, (await holder(bed, id, sku, 3)).token);
    }
    await bed.operator('POST', 'order-paused/pause');
  });

  it.each(pairs)('%s, %s', async (first, second) => {
    const has = (code: Code): boolean => code === first || code === second;
    const saleId = has('sale-not-open') ? 'order-paused' : 'order-open';
    const lines = [
      { sku, quantity: has('purchase-limit') ? 4 : 1 },
      ...(has('sold-out') ? [{ sku: 'gone', quantity: 1 }] : []),
      ...(has('not-found') ? [{ sku: 'unknown', quantity: 1 }] : []),
    ];
    const body = JSON.stringify({ saleId, lines, ...(has('invalid-request') ? { surprise: true } : {}) });
    const token = tokens.get(saleId) ?? '';
    const before = (await bed.sale(saleId)).stock;
    const answer = await request(
      bed.agent,
      has('rate-limited') ? limitedUrl : bed.url,
      has('method-not-allowed') ? 'PATCH' : 'POST',
      '/v1/reservations',
      {
        key: has('idempotency-mismatch') ? 'first' : 'second',
        ...(has('unauthorized') ? {} : { token }),
        ...(has('unsupported-media-type') ? { headers: { 'content-type': 'text/plain' } } : {}),
        raw: has('payload-too-large') ? body.padEnd(70_000) : body,
      },
    );
    expectProblem(answer, first);
    expect((await bed.sale(saleId)).stock).toEqual(before);
  });

  it('a replay comes before a sale that is not open', async () => {
    const body = { saleId: 'order-paused', lines: [{ sku, quantity: 3 }] };
    const answer = await bed.reserve(tokens.get('order-paused') ?? '', 'first', body);
    expect([answer.status, answer.headers['idempotency-replayed']]).toEqual([201, 'true']);
  });

  it('a replay comes before the purchase limit and sold-out', async () => {
    await bed.putSale('tight', { title: 'tight', perBuyer: 2, stock: [{ sku, warehouse: 'w', quantity: 2 }] });
    const { token, key, body, reservation } = await holder(bed, 'tight', sku, 2);
    const answer = await bed.reserve(token, key, body);
    expect([answer.status, answer.headers['idempotency-replayed']]).toEqual([201, 'true']);
    expect(answer.body).toEqual(reservation);
    expect(unitsOf(await bed.sale('tight'), sku, 2)).toEqual({ available: 0, reserved: 2, sold: 0 });
  });

  it('a refusal is not remembered: the same key may be tried again', async () => {
    const body = { saleId: 'paused-once', lines: [{ sku, quantity: 1 }] };
    await bed.putSale('paused-once', { title: 'x', stock: stockOf(5) });
    await bed.operator('POST', 'paused-once/pause');
    const { token } = await bed.session();
    expectProblem(await bed.reserve(token, 'again', body), 'sale-not-open');
    await bed.operator('POST', 'paused-once/resume');
    const answer = await bed.reserve(token, 'again', body);
    expect([answer.status, answer.headers['idempotency-replayed']]).toEqual([201, undefined]);
  });
});
