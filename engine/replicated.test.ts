/** The durability `replicated` over HTTP: what is told is on two disks, and a wait in vain is resolved by the same key. */
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { type Reservation, startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem } from '../cli/testbed-checks.ts';

const sku = 'a';
const lines = [{ sku, quantity: 1 }];
let bed: Testbed;
let sales = 0;
let saleId = '';
let token = '';

beforeAll(async () => {
  bed = await startTestbed({ valkey: 'replica', env: { SHARDS: '1' } });
});
afterAll(() => bed?.stop());
beforeEach(async () => {
  saleId = `sale-${++sales}`;
  const stock = [{ sku, warehouse: 'w', quantity: 10 }];
  const put = await bed.putSale(saleId, { title: 'x', durability: 'replicated', stock });
  expect(put.status).toBe(201);
  expect(put.body.durability).toBe('replicated');
  ({ token } = await bed.session());
});

const reserve = (key: string) => bed.reserve(token, key, { saleId, lines });
const freeze = () => bed.services.kill('valkey-replica', 'SIGSTOP');
const thaw = () => bed.services.kill('valkey-replica', 'SIGCONT');
const end = (id: string, how: 'commit' | 'extend') =>
  bed.request<Reservation>('POST', `/v1/reservations/${id}/${how}`, {
    token,
    ...(how === 'extend' ? { body: { seconds: 60 } } : {}),
  });
const held = async (): Promise<string> => {
  const [row] = (await bed.sale(saleId)).stock;
  return `${row?.available}/${row?.reserved}/${row?.sold}`;
};

it('every answer names it, and comes soon', async () => {
  const began = performance.now();
  const answer = await reserve('k');
  expect(answer).toMatchObject({ status: 201, body: { durability: 'replicated', state: 'held' } });
  expect((await end(answer.body.id, 'commit')).body).toMatchObject({ durability: 'replicated', state: 'committed' });
  // Not after the second that a replica takes when it isn't asked.
  expect(performance.now() - began).toBeLessThan(900);
});

it('a replica that stands still: unavailable, and the same key tells later what was done', async () => {
  const kept = (await reserve('kept')).body;
  const other = `fsync-${saleId}`;
  await bed.putSale(other, { title: 'x', stock: [{ sku, warehouse: 'w', quantity: 10 }] });
  await freeze();
  try {
    const asked = [reserve('new'), reserve('kept'), end(kept.id, 'extend')];
    // Another sale on the same shard doesn't wait for it.
    const beside = await bed.reserve(token, 'k', { saleId: other, lines });
    expect(beside.status).toBe(201);
    // Nor is a replay, or a reading, told that nobody could keep.
    for (const answer of await Promise.all(asked)) expectProblem(answer, 'unavailable');
    expectProblem(await bed.request('GET', `/v1/reservations/${kept.id}`, { token }), 'unavailable');
    expectProblem(
      await bed.operator('POST', `${saleId}/stock`, { id: 'x', sku, warehouse: 'w', delta: 1, reason: 'x' }),
      'unavailable',
    );
  } finally {
    await thaw();
  }
  await expect.poll(async () => (await reserve('new')).status, { timeout: 20_000 }).toBe(201);
  const again = await reserve('new');
  expect(again.headers['idempotency-replayed']).toBe('true');
  expect(await held()).toBe('9/2/0');
  expect((await bed.request('DELETE', `/v1/reservations/${again.body.id}`, { token })).body).toMatchObject({
    state: 'released',
  });
  expect(await held()).toBe('10/1/0');
});

it('a sale that could promise nothing is not made', async () => {
  const body = { title: 'x', durability: 'replicated', stock: [] };
  await freeze();
  try {
    expectProblem(await bed.putSale('never', body), 'unavailable');
    expectProblem(await bed.request('GET', '/v1/sales/never'), 'not-found');
  } finally {
    await thaw();
  }
  await expect.poll(async () => (await bed.putSale('after', body)).status, { timeout: 20_000 }).toBe(201);
});

it('a stop waits for what waits for a replica: over a WebSocket too nobody is left without an answer', async () => {
  const served = await bed.serve();
  const socket = new WebSocket(`${served.url.replace('http', 'ws')}/v1/sales/${saleId}/live`);
  const results: { status: number }[] = [];
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(String(data)) as { type: string; status: number };
    if (frame.type === 'result') results.push(frame);
  };
  await new Promise((resolve) => {
    socket.onopen = resolve;
  });
  await freeze();
  try {
    socket.send(JSON.stringify({ type: 'auth', token }));
    socket.send(JSON.stringify({ type: 'reserve', requestId: 'r', idempotencyKey: 'k', lines }));
    await expect.poll(held, { timeout: 20_000, interval: 10 }).toBe('9/1/0');
    expect(await served.stop()).toBe(0);
    await expect.poll(() => results, { timeout: 20_000 }).toMatchObject([{ status: 503 }]);
  } finally {
    await thaw();
  }
});
