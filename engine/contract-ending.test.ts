/** How a reservation ends: commit, release, expiry; and how it is made to last longer. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, adminToken, type Reservation, startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem, holder, unitsOf } from '../cli/testbed-checks.ts';
import { waitUntil } from '../services/waiting.ts';

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
const stateOf = async (token: string, id: string): Promise<string> => (await act(token, 'GET', id)).body.state;
/** A hold whose time is over. */
async function expired(saleId: string) {
  const held = await holder(bed, saleId, sku);
  const over = async () => (await stateOf(held.token, held.reservation.id)) === 'expired';
  expect(await waitUntil(over, 10_000)).toBe(true);
  return held;
}

describe('how a reservation ends', () => {
  beforeAll(() => makeSale('ends', 1_000, { holdSeconds: 1_000 }));

  it('commit sells, and again is the same', async () => {
    const { token, reservation } = await holder(bed, 'ends', sku);
    const first = await commit(token, reservation.id);
    expect([first.status, first.body]).toEqual([200, { ...reservation, state: 'committed' }]);
    const before = (await bed.sale('ends')).stock;
    const again = await commit(token, reservation.id);
    expect([again.status, again.body]).toEqual([200, first.body]);
    expect((await bed.sale('ends')).stock).toEqual(before);
  });

  it('release gives back, and again is the same', async () => {
    const before = (await bed.sale('ends')).stock;
    const { token, reservation } = await holder(bed, 'ends', sku, 3);
    const first = await release(token, reservation.id);
    expect([first.status, first.body]).toEqual([200, { ...reservation, state: 'released' }]);
    const again = await release(token, reservation.id);
    expect([again.status, again.body]).toEqual([200, first.body]);
    expect((await bed.sale('ends')).stock).toEqual(before);
  });

  it.each([
    ['released', release, [commit, (token: string, id: string) => extend(token, id, 1)]],
    ['committed', commit, [release, (token: string, id: string) => extend(token, id, 1)]],
  ])('what is %s stays so', async (state, end, others) => {
    const { token, reservation } = await holder(bed, 'ends', sku);
    await end(token, reservation.id);
    for (const other of others) {
      const answer = await other(token, reservation.id);
      expectProblem(answer, 'reservation-ended');
      expect(answer.body.reservationState).toBe(state);
    }
    expect(await stateOf(token, reservation.id)).toBe(state);
  });

  it('commit and release at once: one of them', async () => {
    const before = unitsOf(await bed.sale('ends'), sku, 1_000);
    const { token, reservation } = await holder(bed, 'ends', sku);
    const answers = await Promise.all([commit, release, commit, release].map((end) => end(token, reservation.id)));
    const states = new Set(answers.filter(({ status }) => status === 200).map(({ body }) => body.state));
    expect(states.size).toBe(1);
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(2);
    const after = unitsOf(await bed.sale('ends'), sku, 1_000);
    expect(after.reserved).toBe(before.reserved);
    expect(after.sold - before.sold).toBe(states.has('committed') ? 1 : 0);
  });

  it('past its time a hold reads expired, and can’t be committed, extended or released', async () => {
    await makeSale('short', 5, { holdSeconds: 1 });
    const { token, key, body, reservation } = await expired('short');
    const refusals = [commit, release, (owner: string, id: string) => extend(owner, id, 1)];
    for (const end of refusals) {
      const answer = await end(token, reservation.id);
      expectProblem(answer, 'reservation-ended');
      expect(answer.body.reservationState).toBe('expired');
    }
    const back = async () => unitsOf(await bed.sale('short'), sku, 5).available === 5;
    expect(await waitUntil(back, 10_000)).toBe(true);
    const again = await bed.reserve(token, key, body);
    expect([again.status, again.headers['idempotency-replayed'], again.body]).toEqual([201, 'true', reservation]);
  });

  it.each<[string, object, (saleId: string) => Promise<unknown>]>([
    [
      'by release',
      {},
      async (saleId) => {
        const { token, reservation } = await holder(bed, saleId, sku, 2);
        return () => release(token, reservation.id);
      },
    ],
    [
      'by expiry',
      { holdSeconds: 1 },
      async (saleId) => {
        await holder(bed, saleId, sku, 2);
        return async () => undefined;
      },
    ],
  ])('units come back on sale %s', async (name, more, take) => {
    const saleId = `back-${name.replaceAll(' ', '-')}`;
    await makeSale(saleId, 2, more);
    const giveBack = (await take(saleId)) as () => Promise<unknown>;
    const { token } = await bed.session();
    const ask = () => bed.reserve(token, 'k', { saleId, lines: [{ sku, quantity: 1 }] });
    expectProblem(await ask(), 'sold-out');
    await giveBack();
    expect(await waitUntil(async () => (await ask()).status === 201, 10_000)).toBe(true);
  });

  it('is its owner’s and the operator’s to read', async () => {
    const { token, reservation } = await holder(bed, 'ends', sku);
    expect((await act(token, 'GET', reservation.id)).body).toEqual(reservation);
    expect((await act(adminToken, 'GET', reservation.id)).body).toEqual(reservation);
    expectProblem(await act((await bed.session()).token, 'GET', reservation.id), 'forbidden');
    expectProblem(await commit(adminToken, reservation.id), 'forbidden');
  });

  it('commits after the sale closed while the hold lives', async () => {
    await makeSale('closing', 5);
    const { token, reservation } = await holder(bed, 'closing', sku);
    await bed.operator('POST', 'closing/close');
    expect((await commit(token, reservation.id)).body.state).toBe('committed');
  });
});

describe('extend', () => {
  it('moves the end once by up to 300 s, unless the sale says otherwise', async () => {
    await makeSale('extend', 10);
    const { token, reservation } = await holder(bed, 'extend', sku);
    expectProblem(await extend(token, reservation.id, 301), 'conflict');
    const answer = await extend(token, reservation.id, 300);
    expect(answer.status).toBe(200);
    expect(Date.parse(answer.body.expiresAt) - Date.parse(reservation.expiresAt)).toBe(300_000);
    expect(answer.body.state).toBe('held');
    expectProblem(await extend(token, reservation.id, 1), 'conflict');
    expect((await act(token, 'GET', reservation.id)).body.expiresAt).toBe(answer.body.expiresAt);
  });

  it('keeps a hold alive beyond its first end', async () => {
    await makeSale('longer', 10, { holdSeconds: 1 });
    const { token, reservation } = await holder(bed, 'longer', sku);
    expect((await extend(token, reservation.id, 300)).status).toBe(200);
    const over = async () =>
      Date.parse(((await bed.sale('longer')) as unknown as { at: string }).at) >
      Date.parse(reservation.expiresAt) + 100;
    expect(await waitUntil(over, 10_000)).toBe(true);
    expect(await stateOf(token, reservation.id)).toBe('held');
    expect((await commit(token, reservation.id)).status).toBe(200);
  });
});
