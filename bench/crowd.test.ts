import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { afterEach, describe, expect, it } from 'vitest';
import { type Crowd, gatherCrowd } from './crowd.ts';
import { nowMs } from './tally.ts';

type Wrong = 'two answers to a key' | 'no limit' | 'ends holds early' | 'gives two units' | 'sells twins';
type Hold = { id: string; buyerId: string; expiresAt: string };

/** A shop with a small part of the interface, all in memory, right in everything but what it is told to do wrong. */
async function openShop(units: number, holdMs: number, wrong?: Wrong): Promise<{ server: Server; url: string }> {
  const byKey = new Map<string, Hold>();
  const sold = new Map<string, Hold>();
  let sessions = 0;
  let ids = 0;
  const alive = (hold: Hold): boolean => !sold.has(hold.id) && Date.parse(hold.expiresAt) > Date.now();
  const reserved = (): Hold[] => [...byKey.values()].filter(alive);
  const available = (): number => units - sold.size - reserved().length;
  const heldBody = (hold: Hold) => ({
    ...hold,
    saleId: 's',
    state: 'held',
    lines: [{ sku: 'a', warehouse: 'w', quantity: wrong === 'gives two units' ? 2 : 1 }],
  });
  const reserve = (buyerId: string, key: string): [number, object] => {
    const known = byKey.get(`${buyerId} ${key}`);
    if (known && wrong !== 'two answers to a key') return [201, heldBody(known)];
    const has = [...reserved(), ...sold.values()].some((hold) => hold.buyerId === buyerId);
    if (has && wrong !== 'no limit' && wrong !== 'two answers to a key') return [409, { code: 'purchase-limit' }];
    if (available() <= 0) return [409, { code: 'sold-out' }];
    const id = wrong === 'sells twins' ? 'the-one' : `r${++ids}`;
    const hold = { id, buyerId, expiresAt: new Date(Date.now() + holdMs).toISOString() };
    byKey.set(`${buyerId} ${key}`, hold);
    return [201, heldBody(hold)];
  };
  const commit = (id: string): [number, object] => {
    const hold = [...byKey.values()].find((each) => each.id === id);
    if (!hold || (!alive(hold) && !sold.has(id)) || wrong === 'ends holds early')
      return [409, { code: 'reservation-ended', reservationState: 'expired' }];
    sold.set(id, hold);
    return [200, { ...heldBody(hold), state: 'committed' }];
  };
  const answer = async (request: IncomingMessage): Promise<[number, object]> => {
    const buyerId = String(request.headers.authorization).slice('Bearer '.length);
    if (request.url === '/v1/sessions') return [201, { buyerId: `b${++sessions}`, token: `b${sessions}` }];
    if (request.method === 'GET')
      return [200, { state: 'open', stock: [{ available: available(), reserved: reserved().length }] }];
    if (request.url?.endsWith('/commit')) return commit(request.url.split('/')[3] ?? '');
    await json(request);
    return reserve(buyerId, String(request.headers['idempotency-key']));
  };
  const server = createServer((request, response) => {
    answer(request).then(
      ([status, body]) => response.writeHead(status).end(JSON.stringify(body)),
      () => response.destroy(),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

describe('a crowd', () => {
  const stops: (() => unknown)[] = [];
  afterEach(async () => {
    for (const stop of stops.splice(0).reverse()) await stop();
  });

  async function run(options: { units: number; buyers: number; commitRate?: number; wrong?: Wrong }) {
    const holdSeconds = 1;
    const { server, url } = await openShop(options.units, holdSeconds * 1_000, options.wrong);
    stops.push(
      () => server.closeAllConnections(),
      () => server.close(),
    );
    const crowd: Crowd = gatherCrowd({
      url,
      saleId: 's',
      sku: 'a',
      buyers: options.buyers,
      holdSeconds,
      commitRate: options.commitRate ?? 0.9,
      seed: 1,
    });
    stops.push(() => crowd.stop());
    await crowd.gathered;
    expect(crowd.arrived()).toBe(options.buyers);
    return crowd.rush(nowMs(), nowMs() + 20_000);
  }

  it('buys all there is and goes home when all is gone', async () => {
    const result = await run({ units: 40, buyers: 300 });
    expect(result).toMatchObject({ bought: 40, left: 260, complaints: [], endings: { bought: 40, late: 0, fault: 0 } });
    expect(new Set(result.purchases.map(({ reservationId }) => reservationId)).size).toBe(40);
    expect(result.doubleClicks).toBeGreaterThan(0);
    expect(result.hangUps).toBeGreaterThan(0);
    expect(result.abandoned).toBeGreaterThan(0);
    expect(result.p50Ms).toBeGreaterThan(0);
    expect(result.p99Ms).toBeGreaterThanOrEqual(result.p50Ms);
  });

  it('leaves what it does not want', async () => {
    const result = await run({ units: 40, buyers: 20, commitRate: 0 });
    expect(result).toMatchObject({ bought: 0, complaints: [], endings: { 'gave-up': 20 } });
  });

  it.each<[Wrong, RegExp]>([
    ['two answers to a key', /clicked twice with one key and was given r\d+ and r\d+/],
    ['no limit', /holds r\d+ and was given a second unit/],
    ['ends holds early', /was expired before its time/],
    ['gives two units', /asked for one unit and was told/],
  ])('complains of a shop that is wrong: %s', async (wrong, complaint) => {
    const result = await run({ units: 200, buyers: 200, wrong });
    expect(result.complaints.join('\n')).toMatch(complaint);
  });

  it('says who was sold what, so that twins show', async () => {
    const result = await run({ units: 5, buyers: 5, wrong: 'sells twins' });
    expect(new Set(result.purchases.map(({ reservationId }) => reservationId))).toEqual(new Set(['the-one']));
    expect(result.purchases.length).toBeGreaterThan(1);
  });

  it('can not be gathered where nobody answers', async () => {
    const { server, url } = await openShop(1, 1_000);
    await new Promise((resolve) => server.close(resolve));
    const crowd = gatherCrowd({ url, saleId: 's', sku: 'a', buyers: 3, holdSeconds: 1, commitRate: 1, seed: 1 });
    stops.push(() => crowd.stop());
    await expect(crowd.gathered).rejects.toThrow(/buyer \d+ got no session/);
  });
});
