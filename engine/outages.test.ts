/** What is away, for a while: the ledger's Postgres, Valkey, the stock's own data; and what too many requests get. */
import { Redis } from 'iovalkey';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, request, startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem, holder, unitsOf } from '../cli/testbed-checks.ts';
import { waitUntil } from '../services/waiting.ts';

type Ready = { degraded?: string[] };
const sku = 'a';
const outboxEvents = 100;
const stock = [{ sku, warehouse: 'w', quantity: 1_000 }];
let bed: Testbed;
/** Key numbers go on over all tests. */
let keys = 0;

beforeAll(async () => {
  bed = await startTestbed({ env: { OUTBOX_EVENTS: String(outboxEvents) } });
  expect((await bed.putSale('outage', { title: 'x', stock })).status).toBe(201);
});
afterAll(() => bed?.stop());

const readyz = () => bed.request<Ready>('GET', '/readyz');
const degradedBy = (name: string) => async (): Promise<boolean> =>
  (await readyz()).body.degraded?.includes(name) ?? false;
const take = (token: string): Promise<Answer<{ id: string }>> =>
  bed.request('POST', '/v1/reservations', {
    token,
    key: `k${++keys}`,
    body: { saleId: 'outage', lines: [{ sku, quantity: 1 }] },
  });
const lagIsOver = async (): Promise<boolean> => (await take((await bed.session()).token)).status === 201;

describe('without Postgres', () => {
  beforeAll(() => bed.services.stopOne('postgres'));

  it('/readyz is 200, and names it', async () => {
    expect(await waitUntil(degradedBy('postgres'), 15_000)).toBe(true);
    expect((await readyz()).status).toBe(200);
    expect((await bed.request('GET', '/healthz')).status).toBe(200);
  });

  it('selling goes on, until the outbox is full: then new holds are shed, and every hold can still end', async () => {
    const { token } = await bed.session();
    const held: string[] = [];
    let answer = await take(token);
    while (answer.status === 201 && held.length <= outboxEvents) {
      held.push(answer.body.id);
      answer = await take(token);
    }
    expect(held.length).toBeGreaterThan(10);
    expectProblem(answer, 'overloaded');
    const before = unitsOf(await bed.sale('outage'), sku, 1_000);
    expectProblem(await take(token), 'overloaded');
    expect(unitsOf(await bed.sale('outage'), sku, 1_000)).toEqual(before);
    const ends = await Promise.all(
      held.map((id, i) =>
        bed.request(i % 2 === 0 ? 'POST' : 'DELETE', `/v1/reservations/${id}${i % 2 === 0 ? '/commit' : ''}`, {
          token,
        }),
      ),
    );
    expect(new Set(ends.map(({ status }) => status))).toEqual(new Set([200]));
    expect(unitsOf(await bed.sale('outage'), sku, 1_000)).toMatchObject({ reserved: 0 });
  });

  it('after its return the lag goes, and selling goes on', async () => {
    await bed.services.startOne('postgres');
    expect(await waitUntil(lagIsOver, 30_000, 100)).toBe(true);
    expect(await waitUntil(async () => !(await degradedBy('postgres')()), 15_000)).toBe(true);
    expect((await readyz()).status).toBe(200);
  });
});

describe('without Valkey', () => {
  const body = { saleId: 'outage', lines: [{ sku, quantity: 1 }] };
  let held: Awaited<ReturnType<typeof holder>>;

  it('/readyz and every purchase are 503 with Retry-After, and the process lives', async () => {
    held = await holder(bed, 'outage', sku);
    await bed.services.kill('valkey', 'SIGKILL');
    expect(await waitUntil(async () => (await readyz()).status === 503, 15_000)).toBe(true);
    expect((await readyz()).headers['retry-after']).toMatch(/^\d+$/);
    expect(await degradedBy('valkey')()).toBe(true);
    const path = `/v1/reservations/${held.reservation.id}`;
    const { token } = held;
    expectProblem(await bed.reserve(token, 'away', body), 'unavailable');
    expectProblem(await bed.request('POST', `${path}/commit`, { token }), 'unavailable');
    expectProblem(await bed.request('DELETE', path, { token }), 'unavailable');
    expectProblem(await bed.request('GET', path, { token }), 'unavailable');
    expectProblem(await bed.request('GET', '/v1/sales/outage'), 'unavailable');
    expectProblem(await bed.request('GET', '/v1/sales'), 'unavailable');
    expect((await bed.request('GET', '/healthz')).status).toBe(200);
  });

  it('after its return nothing is lost, and selling goes on', async () => {
    await bed.services.startOne('valkey');
    const open = async () =>
      (await readyz()).status === 200 && (await bed.request('GET', '/v1/sales/outage')).status === 200;
    expect(await waitUntil(open, 30_000)).toBe(true);
    const path = `/v1/reservations/${held.reservation.id}`;
    expect((await bed.request('GET', path, { token: held.token })).body).toEqual(held.reservation);
    expect((await bed.request('POST', `${path}/commit`, { token: held.token })).status).toBe(200);
    expect((await bed.reserve(held.token, 'away', body)).status).toBe(201);
    const again = await bed.reserve(held.token, held.key, held.body);
    expect([again.status, again.headers['idempotency-replayed']]).toEqual([201, 'true']);
    unitsOf(await bed.sale('outage'), sku, 1_000);
  });
});

describe('rate limits', () => {
  it.each([
    ['of an address', 'address=0.01:2', [404, 404, 429]],
    ['of sessions from an address', 'sessions=0.01:2', [201, 201, 429]],
    ['of a buyer', 'buyer=0.01:2', [404, 404, 429]],
  ])('%s', async (name, limits, statuses) => {
    const { token } = await bed.session();
    const limited = await bed.serve([], { RATE_LIMITS: limits });
    const answers: Answer[] = [];
    for (const _ of statuses)
      answers.push(
        name.includes('sessions')
          ? await request(bed.agent, limited.url, 'POST', '/v1/sessions', { body: {} })
          : await request(bed.agent, limited.url, 'GET', '/v1/reservations/none', { token }),
      );
    expect(answers.map(({ status }) => status)).toEqual(statuses);
    const last = answers.at(-1);
    if (last) expectProblem(last, 'rate-limited');
    expect(Number(last?.headers['retry-after'])).toBeGreaterThan(50);
    for (const path of ['/healthz', '/readyz', '/metrics'])
      expect((await request(bed.agent, limited.url, 'GET', path)).status).toBe(200);
    await limited.stop();
  });
});

it('a shard whose data are gone is fenced, and nothing is sold out of nothing', async () => {
  const valkey = new Redis(bed.env.VALKEY_URL ?? '');
  await valkey.flushall();
  await valkey.quit();
  const { token } = await bed.session();
  expectProblem(await take(token), 'shard-fenced');
  expect(await waitUntil(async () => (await readyz()).status === 503, 15_000)).toBe(true);
  expectProblem(await take(token), 'shard-fenced');
  expect((await bed.putSale('outage', { title: 'x', stock })).body.code).toBe('shard-fenced');
});
