/** The operator's calls: sales, their stock, and when they open and close. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, layoutOfTests, type Sale, startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem, holder, unitsOf } from '../cli/testbed-checks.ts';
import { waitUntil } from '../services/waiting.ts';

const sku = 'a';
const stock = [{ sku, warehouse: 'w', quantity: 10 }];
const hasReplica = layoutOfTests() === 'replica';
let bed: Testbed;

beforeAll(async () => {
  bed = await startTestbed();
});
afterAll(() => bed?.stop());

const stateOf = async (id: string): Promise<string> => (await bed.sale(id)).state;
const tryReserve = async (saleId: string): Promise<Answer> =>
  bed.reserve((await bed.session()).token, 'k', { saleId, lines: [{ sku, quantity: 1 }] });
const inMs = (ms: number): string => new Date(Date.now() + ms).toISOString();

describe('PUT a sale', () => {
  it('new: 201 with the sale as everyone sees it', async () => {
    const answer = await bed.putSale('new', { title: 'Söl ☂', stock });
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({
      id: 'new',
      title: 'Söl ☂',
      state: 'open',
      opensAt: null,
      closesAt: null,
      perBuyer: null,
      holdSeconds: 1_800,
      durability: 'fsync',
      waitingRoom: null,
      stock: [{ sku, warehouse: 'w', onHand: 10, reserved: 0, available: 10, sold: 0 }],
    });
    const { at: _, ...seen } = (await bed.sale('new')) as Sale & { at: string };
    expect(answer.body).toMatchObject(seen);
    const list = await bed.request<{ items: Sale[] }>('GET', '/v1/sales');
    expect(list.body.items.find(({ id }) => id === 'new')).toMatchObject(seen);
  });

  it.each<[string, object, number]>([
    ['the same stock', { stock }, 200],
    ['no stock', {}, 200],
    ['more of it', { stock: [{ sku, warehouse: 'w', quantity: 11 }] }, 409],
    ['less of it', { stock: [{ sku, warehouse: 'w', quantity: 9 }] }, 409],
    ['another warehouse', { stock: [{ sku, warehouse: 'x', quantity: 10 }] }, 409],
    ['one more SKU', { stock: [...stock, { sku: 'b', warehouse: 'w', quantity: 1 }] }, 409],
    ['nothing in it', { stock: [] }, 409],
  ])('again with %s: no unit is minted', async (name, more, status) => {
    const id = `again-${name.replaceAll(' ', '-')}`;
    await bed.putSale(id, { title: 'x', stock });
    const { token, reservation } = await holder(bed, id, sku);
    await bed.request('POST', `/v1/reservations/${reservation.id}/commit`, { token });
    await holder(bed, id, sku);
    const before = await bed.sale(id);
    const answer = await bed.putSale(id, { title: 'changed', holdSeconds: 5, ...more });
    if (status === 200) expect(answer.status).toBe(200);
    else expectProblem(answer, 'conflict');
    const after = await bed.sale(id);
    expect(after.stock).toEqual(before.stock);
    expect([after.title, after.holdSeconds]).toEqual(status === 200 ? ['changed', 5] : ['x', 1_800]);
  });

  const row = { sku, warehouse: 'w', quantity: 1 };
  it.each<[string, object, string]>([
    ['no title', { title: undefined }, '/title'],
    ['an empty title', { title: '' }, '/title'],
    ['a control character in the title', { title: 'a\u0000' }, '/title'],
    ['another control character in it', { title: 'a\u009f' }, '/title'],
    ['half a surrogate pair in it', { title: 'a\ud800' }, '/title'],
    ['a title of 201 characters', { title: 'x'.repeat(201) }, '/title'],
    ['a time in words', { opensAt: 'tomorrow' }, '/opensAt'],
    ['a time without a zone', { opensAt: '2026-12-01T00:00:00' }, '/opensAt'],
    ['a day that isn’t', { opensAt: '2026-02-30T00:00:00Z' }, '/opensAt'],
    ['an hour that isn’t', { closesAt: '2026-02-01T25:00:00Z' }, '/closesAt'],
    ['a time as a number', { opensAt: 1_700_000_000 }, '/opensAt'],
    ['an end before the start', { opensAt: inMs(2_000), closesAt: inMs(1_000) }, '/closesAt'],
    ['a limit of none', { perBuyer: 0 }, '/perBuyer'],
    ['half a limit', { perBuyer: 1.5 }, '/perBuyer'],
    ['a hold of 0 s', { holdSeconds: 0 }, '/holdSeconds'],
    ['a hold of more than a day', { holdSeconds: 86_401 }, '/holdSeconds'],
    ['a durability that isn’t', { durability: 'paper' }, '/durability'],
    ...(hasReplica
      ? []
      : [
          ['a durability that can’t be given', { durability: 'replicated' }, '/durability'] as [string, object, string],
        ]),
    ['an unknown field', { price: 1 }, '/price'],
    ['no stock', { stock: undefined }, '/stock'],
    ['stock below zero', { stock: [{ ...row, quantity: -1 }] }, '/stock/0/quantity'],
    ['half a unit', { stock: [{ ...row, quantity: 0.5 }] }, '/stock/0/quantity'],
    ['a billion and one', { stock: [{ ...row, quantity: 1_000_000_001 }] }, '/stock/0/quantity'],
    ['a warehouse that is no id', { stock: [{ ...row, warehouse: 'w/1' }] }, '/stock/0/warehouse'],
    ['an allotment twice', { stock: [row, row] }, '/stock/1'],
  ])('with %s: refused, and no sale is made', async (_, more, path) => {
    const answer = await bed.putSale('refused', { title: 'x', stock, ...more });
    expectProblem(answer, 'invalid-request');
    expect(answer.body.errors?.map((error) => error.path)).toContain(path);
    expectProblem(await bed.request('GET', '/v1/sales/refused'), 'not-found');
  });

  it.each([
    '2026-12-31T23:59:60Z',
    '0000-01-01T00:00:00Z',
    '9999-12-31T23:59:59+00:00',
    '1969-12-31T23:59:59Z',
    '2026-12-01t00:00:00z',
    '2026-12-01T00:00:00+14:00',
  ])('opensAt %s: a time or a bad request, never a failure', async (opensAt) => {
    const answer = await bed.putSale(`opens-${opensAt.replace(/\W/g, '')}`, { title: 'x', stock, opensAt });
    expect([201, 400]).toContain(answer.status);
  });

  it.each(['1970-01-01T00:00:00Z', '1969-12-31T23:59:59Z', '2020-01-01T00:00:00Z'])(
    'a sale closed at %s is refused, or sells nothing',
    async (closesAt) => {
      const id = `closed-${closesAt.slice(0, 4)}`;
      const made = await bed.putSale(id, { title: 'x', stock, closesAt });
      if (made.status !== 201) return expectProblem(made, 'invalid-request');
      expect(made.body.state).toBe('closed');
      return expectProblem(await tryReserve(id), 'sale-not-open');
    },
  );

  it('an id that is none is a bad request', async () => {
    for (const id of ['a'.repeat(65), 'a%20b', 'a.b'])
      expectProblem(await bed.putSale(id, { title: 'x', stock }), 'invalid-request');
  });

  it('a title and a SKU of the longest kind', async () => {
    const long = 'S'.repeat(64);
    const answer = await bed.putSale('L'.repeat(64), {
      title: '😀'.repeat(200),
      stock: [{ sku: long, warehouse: long, quantity: 1_000_000_000 }],
    });
    expect([answer.status, answer.body.title]).toEqual([201, '😀'.repeat(200)]);
  });

  it('a SKU in 60 warehouses is sold from all of them, or refused when the sale is made', async () => {
    const many = Array.from({ length: 60 }, (_, i) => ({ sku, warehouse: `w${i}`, quantity: 1 }));
    const made = await bed.putSale('many', { title: 'x', stock: many });
    if (made.status !== 201) return expectProblem(made, 'invalid-request');
    const { reservation } = await holder(bed, 'many', sku, 60);
    return expect(reservation.lines).toHaveLength(60);
  });
});

describe('stock', () => {
  const change = (id: string, body: object): Promise<Answer> => bed.operator('POST', `${id}/stock`, body);
  const plus = { id: 'c1', sku, warehouse: 'w', delta: 5, reason: 'delivery' };

  it('changes once for an id', async () => {
    await bed.putSale('restock', { title: 'x', stock });
    const first = await change('restock', plus);
    expect(first.status).toBe(200);
    expect((await change('restock', plus)).body).toEqual(first.body);
    expect(unitsOf(await bed.sale('restock'), sku, 15).available).toBe(15);
    const at20 = await Promise.all(Array.from({ length: 20 }, () => change('restock', { ...plus, id: 'c2' })));
    expect(at20.every(({ status }) => status === 200)).toBe(true);
    expect(unitsOf(await bed.sale('restock'), sku, 20).available).toBe(20);
    expectProblem(await change('restock', { ...plus, delta: 6 }), 'idempotency-mismatch');
    unitsOf(await bed.sale('restock'), sku, 20);
  });

  it('never goes below zero available: what is held can’t be taken away', async () => {
    await bed.putSale('below', { title: 'x', stock });
    await holder(bed, 'below', sku, 7);
    expectProblem(await change('below', { ...plus, delta: -4 }), 'insufficient-stock');
    unitsOf(await bed.sale('below'), sku, 10);
    expect((await change('below', { ...plus, delta: -3 })).status).toBe(200);
    expect(unitsOf(await bed.sale('below'), sku, 7)).toEqual({ available: 0, reserved: 7, sold: 0 });
  });

  it('that comes in is on sale at once', async () => {
    await bed.putSale('fresh', { title: 'x', stock: [{ sku, warehouse: 'w', quantity: 0 }] });
    expectProblem(await tryReserve('fresh'), 'sold-out');
    await change('fresh', { ...plus, delta: 1 });
    expect((await tryReserve('fresh')).status).toBe(201);
  });

  it.each<[string, object]>([
    ['no id', { id: undefined }],
    ['an id of 65 characters', { id: 'a'.repeat(65) }],
    ['half a unit', { delta: 0.5 }],
    ['a delta in letters', { delta: '5' }],
    ['a delta beyond all stock', { delta: 1e308 }],
    ['no reason', { reason: undefined }],
    ['an empty reason', { reason: '' }],
    ['a reason of 501 characters', { reason: 'x'.repeat(501) }],
    ['an unknown field', { cost: 1 }],
  ])('a change with %s is refused', async (_, more) => {
    await bed.putSale('unchanged', { title: 'x', stock });
    expectProblem(await change('unchanged', { ...plus, ...more }), 'invalid-request');
    unitsOf(await bed.sale('unchanged'), sku, 10);
  });

  it('a reason may be long, and in any script', async () => {
    await bed.putSale('reason', { title: 'x', stock });
    const answer = await change('reason', { ...plus, reason: '語'.repeat(500) });
    expect([answer.status, (answer.body as unknown as { reason: string }).reason]).toEqual([200, '語'.repeat(500)]);
  });

  it.each([
    ['sale', 'none', {}],
    ['SKU', 'exists', { sku: 'none' }],
    ['warehouse', 'exists', { warehouse: 'none' }],
  ])('an unknown %s is not found', async (_, saleId, more) => {
    await bed.putSale('exists', { title: 'x', stock });
    expectProblem(await change(saleId, { ...plus, ...more }), 'not-found');
  });

  it('beyond a billion units is a conflict, and nothing is lost', async () => {
    await bed.putSale('billion', { title: 'x', stock });
    expectProblem(await change('billion', { ...plus, delta: 1_000_000_000 }), 'conflict');
    unitsOf(await bed.sale('billion'), sku, 10);
  });
});

describe('a sale’s state', () => {
  const turn = (id: string, verb: string): Promise<Answer<Sale>> => bed.operator('POST', `${id}/${verb}`);

  it('pause, resume and close: each answers with the sale, again the same', async () => {
    await bed.putSale('turned', { title: 'x', stock });
    for (const [verb, state, status] of [
      ['pause', 'paused', 409],
      ['resume', 'open', 201],
      ['close', 'closed', 409],
    ] as const) {
      for (let time = 0; time < 2; time++) {
        const answer = await turn('turned', verb);
        expect([answer.status, answer.body.state]).toEqual([200, state]);
      }
      expect(await stateOf('turned')).toBe(state);
      expect((await tryReserve('turned')).status).toBe(status);
    }
    expectProblem(await turn('turned', 'resume'), 'conflict');
    expectProblem(await turn('none', 'pause'), 'not-found');
  });

  it('turns by itself at opensAt and at closesAt', async () => {
    await bed.putSale('clockwork', { title: 'x', stock, opensAt: inMs(1_500), closesAt: inMs(3_500) });
    expect(await stateOf('clockwork')).toBe('scheduled');
    expectProblem(await tryReserve('clockwork'), 'sale-not-open');
    expect(await waitUntil(async () => (await stateOf('clockwork')) === 'open', 10_000)).toBe(true);
    expect((await tryReserve('clockwork')).status).toBe(201);
    expect(await waitUntil(async () => (await stateOf('clockwork')) === 'closed', 10_000)).toBe(true);
    expectProblem(await tryReserve('clockwork'), 'sale-not-open');
  });

  it('a changed limit counts what a buyer has already', async () => {
    await bed.putSale('tighter', { title: 'x', stock });
    const { token } = await holder(bed, 'tighter', sku, 3);
    await bed.putSale('tighter', { title: 'x', perBuyer: 3 });
    const answer = await bed.reserve(token, 'k', { saleId: 'tighter', lines: [{ sku, quantity: 1 }] });
    expectProblem(answer, 'purchase-limit');
  });
});
