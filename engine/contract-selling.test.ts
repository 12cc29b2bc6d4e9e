/** The chapter "Selling" of the contract, seen by buyers. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, type Reservation, startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem, holder, unitsOf } from '../cli/testbed-checks.ts';

const sku = 'a';
let bed: Testbed;

beforeAll(async () => {
  bed = await startTestbed();
});
afterAll(() => bed?.stop());

const makeSale = async (id: string, quantity: number, more: object = {}): Promise<void> => {
  const answer = await bed.putSale(id, { title: id, stock: [{ sku, warehouse: 'w', quantity }], ...more });
  expect(answer.status).toBe(201);
};
const act = (token: string, method: string, path: string, body?: unknown): Promise<Answer<Reservation>> =>
  bed.request<Reservation>(method, `/v1/reservations/${path}`, { token, ...(body === undefined ? {} : { body }) });
const commit = (token: string, id: string) => act(token, 'POST', `${id}/commit`);
const release = (token: string, id: string) => act(token, 'DELETE', id);
const extend = (token: string, id: string, seconds: number) => act(token, 'POST', `${id}/extend`, { seconds });
describe('a reservation', () => {
  it('answers what is held, where from, for whom and how long', async () => {
    await makeSale('shape', 10, { holdSeconds: 60 });
    const { body, buyerId, reservation } = await holder(bed, 'shape', sku, 2);
    expect(reservation).toEqual({
      id: expect.stringMatching(/^[A-Za-z0-9_-]{1,64}$/),
      saleId: body.saleId,
      buyerId,
      state: 'held',
      lines: [{ sku, warehouse: 'w', quantity: 2 }],
      expiresAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/),
      durability: 'fsync',
    });
    expect(Math.abs(Date.parse(reservation.expiresAt) - Date.now() - 60_000)).toBeLessThan(5_000);
  });

  it('takes the standing sale when none is named', async () => {
    await makeSale('shop', 5);
    const { token } = await bed.session();
    const answer = await bed.reserve(token, 'k', { lines: [{ sku, quantity: 1 }] });
    expect([answer.status, answer.body.saleId]).toEqual([201, 'shop']);
    const named = await bed.reserve(token, 'k', { saleId: 'shop', lines: [{ sku, quantity: 1 }] });
    expect([named.status, named.headers['idempotency-replayed']]).toEqual([201, 'true']);
  });

  it.each([
    ['the first warehouse that has the line whole', 4, { w1: 3, w2: 4, w3: 9 }, { w2: 4 }],
    ['split in listed order where none has it whole', 10, { w1: 3, w2: 4, w3: 9 }, { w1: 3, w2: 4, w3: 3 }],
    ['an empty warehouse is passed over', 5, { w1: 0, w2: 2, w3: 4 }, { w2: 2, w3: 3 }],
    ['all there is', 16, { w1: 3, w2: 4, w3: 9 }, { w1: 3, w2: 4, w3: 9 }],
  ])('%s', async (name, quantity, stock, served) => {
    const saleId = `from-${name.length}-${quantity}`;
    const rows = Object.entries(stock).map(([warehouse, units]) => ({ sku, warehouse, quantity: units }));
    await makeSale(saleId, 0, { stock: rows });
    const { token, reservation } = await holder(bed, saleId, sku, quantity);
    expect(reservation.lines).toEqual(
      Object.entries(served).map(([warehouse, units]) => ({ sku, warehouse, quantity: units })),
    );
    const supply = rows.reduce((sum, row) => sum + row.quantity, 0);
    unitsOf(await bed.sale(saleId), sku, supply);
    await release(token, reservation.id);
    const after = (await bed.sale(saleId)).stock;
    expect(Object.fromEntries(after.map((row) => [row.warehouse, row.available]))).toEqual(stock);
  });

  it('adds up the lines of one SKU, up to 50 of them', async () => {
    await makeSale('added', 100);
    const { token } = await bed.session();
    const lines = Array.from({ length: 50 }, () => ({ sku, quantity: 2 }));
    const answer = await bed.reserve(token, 'k', { saleId: 'added', lines });
    expect([answer.status, answer.body.lines]).toEqual([201, [{ sku, warehouse: 'w', quantity: 100 }]]);
    expectProblem(await bed.reserve(token, 'k2', { saleId: 'added', lines: [{ sku, quantity: 1 }] }), 'sold-out');
  });

  it('takes all lines or none', async () => {
    const stock = ['a', 'b', 'c'].map((each, i) => ({ sku: each, warehouse: 'w', quantity: 2 - i }));
    await makeSale('whole', 0, { stock });
    const { token } = await bed.session();
    const lines = ['a', 'b', 'c'].map((each) => ({ sku: each, quantity: 1 }));
    const before = (await bed.sale('whole')).stock;
    expectProblem(await bed.reserve(token, 'k', { saleId: 'whole', lines }), 'sold-out');
    expect((await bed.sale('whole')).stock).toEqual(before);
    const answer = await bed.reserve(token, 'k', { saleId: 'whole', lines: lines.slice(0, 2) });
    expect(answer.status).toBe(201);
  });
});

describe('the purchase limit', () => {
  it('counts held and bought units over all SKUs, and not what was given back', async () => {
    const stock = ['a', 'b'].map((each) => ({ sku: each, warehouse: 'w', quantity: 10 }));
    await makeSale('limit', 0, { stock, perBuyer: 3 });
    const { token, reservation } = await holder(bed, 'limit', 'a', 2);
    const two = {
      saleId: 'limit',
      lines: [
        { sku: 'a', quantity: 1 },
        { sku: 'b', quantity: 1 },
      ],
    };
    expectProblem(await bed.reserve(token, 'k2', two), 'purchase-limit');
    await commit(token, reservation.id);
    expectProblem(await bed.reserve(token, 'k2', two), 'purchase-limit');
    const one = await bed.reserve(token, 'k3', { saleId: 'limit', lines: [{ sku: 'b', quantity: 1 }] });
    expect(one.status).toBe(201);
    await release(token, one.body.id);
    expect((await bed.reserve(token, 'k4', { saleId: 'limit', lines: [{ sku: 'b', quantity: 1 }] })).status).toBe(201);
  });

  it('holds against 50 requests at once on connections of their own', async () => {
    await makeSale('race', 100, { perBuyer: 4 });
    const { token } = await bed.session();
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        bed.reserve(token, `k${i}`, { saleId: 'race', lines: [{ sku, quantity: 1 }] }),
      ),
    );
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(4);
    for (const answer of answers.filter(({ status }) => status !== 201)) expectProblem(answer, 'purchase-limit');
    expect(unitsOf(await bed.sale('race'), sku, 100).reserved).toBe(4);
  });

  it('is each buyer’s own', async () => {
    await makeSale('each', 100, { perBuyer: 1 });
    for (let i = 0; i < 3; i++) await holder(bed, 'each', sku);
    expect(unitsOf(await bed.sale('each'), sku, 100).reserved).toBe(3);
  });
});

describe('the same key', () => {
  it.each<[string, (token: string, id: string) => Promise<unknown>]>([
    ['at once', async () => undefined],
    ['after the commit', commit],
    ['after the release', release],
    ['after an extension', (token, id) => extend(token, id, 5)],
  ])('answers the first answer again: %s', async (name, between) => {
    const saleId = `same-${name.replaceAll(' ', '-')}`;
    await makeSale(saleId, 10);
    const { token, key, body, reservation } = await holder(bed, saleId, sku);
    await between(token, reservation.id);
    const before = (await bed.sale(saleId)).stock;
    const again = await bed.reserve(token, key, body);
    expect([again.status, again.headers['idempotency-replayed']]).toEqual([201, 'true']);
    expect(again.body).toEqual(reservation);
    expect((await bed.sale(saleId)).stock).toEqual(before);
  });

  it('is one body however its members and lines are written', async () => {
    const stock = ['a', 'b'].map((each) => ({ sku: each, warehouse: 'w', quantity: 10 }));
    await makeSale('written', 0, { stock });
    const { token } = await bed.session();
    const ask = (raw: string) => bed.request<Reservation>('POST', '/v1/reservations', { token, key: 'k', raw });
    const first = await ask('{"saleId":"written","lines":[{"sku":"a","quantity":2},{"sku":"b","quantity":1}]}');
    const again = await ask('{"lines":[ {"quantity":2,"sku":"a"},{"quantity":1,"sku":"b"} ],"saleId":"written"}');
    expect([again.headers['idempotency-replayed'], again.body]).toEqual(['true', first.body]);
  });

  it.each([
    ['more units', [{ sku, quantity: 2 }]],
    [
      'another line too',
      [
        { sku, quantity: 1 },
        { sku: 'b', quantity: 1 },
      ],
    ],
    ['another SKU', [{ sku: 'b', quantity: 1 }]],
  ])('with another body is a mismatch: %s', async (name, lines) => {
    const saleId = `other-${name.replaceAll(' ', '-')}`;
    await makeSale(saleId, 0, { stock: ['a', 'b'].map((each) => ({ sku: each, warehouse: 'w', quantity: 10 })) });
    const { token, key } = await holder(bed, saleId, sku);
    const before = (await bed.sale(saleId)).stock;
    expectProblem(await bed.reserve(token, key, { saleId, lines }), 'idempotency-mismatch');
    expect((await bed.sale(saleId)).stock).toEqual(before);
  });

  it('twenty times at once is one reservation', async () => {
    await makeSale('twenty', 100);
    const { token } = await bed.session();
    const body = { saleId: 'twenty', lines: [{ sku, quantity: 3 }] };
    const answers = await Promise.all(Array.from({ length: 20 }, () => bed.reserve(token, 'k', body)));
    expect(new Set(answers.map(({ status, body: found }) => `${status} ${JSON.stringify(found)}`)).size).toBe(1);
    expect(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1);
    expect(unitsOf(await bed.sale('twenty'), sku, 100).reserved).toBe(3);
  });

  it('is another’s own in another sale, and for another buyer', async () => {
    await makeSale('own-1', 10);
    await makeSale('own-2', 10);
    const { token, reservation } = await holder(bed, 'own-1', sku);
    const elsewhere = await bed.reserve(token, 'first', { saleId: 'own-2', lines: [{ sku, quantity: 2 }] });
    expect([elsewhere.status, elsewhere.headers['idempotency-replayed']]).toEqual([201, undefined]);
    expect((await holder(bed, 'own-1', sku)).reservation.id).not.toBe(reservation.id);
  });
});
