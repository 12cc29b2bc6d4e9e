/** The contract’s chapter "Waiting room" over real HTTP, on two engine processes: people, admissions, bad input. */
import { createSigner } from 'fast-jwt';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, adminToken, sessionSecret, startTestbed, type Testbed } from '../cli/testbed.ts';
import { type Code, expectProblem } from '../cli/testbed-checks.ts';
import { type Guest, roomsOn, until } from '../cli/testbed-room.ts';
import { proofOfWork } from './challenge.ts';
import type { Ticket } from './lines.ts';

let bed: Testbed;
let otherUrl: string;
let rooms: ReturnType<typeof roomsOn>;

beforeAll(async () => {
  bed = await startTestbed();
  otherUrl = (await bed.serve()).url;
  rooms = roomsOn(bed);
});
afterAll(() => bed?.stop());

describe('a person’s way', () => {
  it('joins, waits, is let in, buys; on whichever process', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { maxInside: 1, perMinute: null, stock: false } });
    const [ann, bob] = [await bed.session(), await bed.session()];
    const first = await rooms.join(saleId, ann);
    expect(first).toMatchObject({
      status: 201,
      body: {
        ticketId: expect.stringMatching(/^[A-Za-z0-9_-]{1,64}$/),
        ...{ saleId, state: 'waiting', position: 1, ahead: 0, admissionToken: null, admissionExpiresAt: null },
        etaSeconds: { low: null, high: null },
        joinedAt: expect.stringMatching(/Z$/),
      },
    });
    const { ticketId } = (await rooms.join(saleId, bob, {}, otherUrl)).body;
    const inside = await rooms.admitted(saleId, ann, first.body.ticketId);
    expect(inside.position).toBeNull();
    expect(Date.parse(inside.admissionExpiresAt ?? '')).toBeGreaterThan(Date.now() + 590_000);
    expect((await rooms.see(saleId, bob, ticketId)).body).toMatchObject({ state: 'waiting', position: 1 });
    expect((await rooms.reserve(saleId, ann, inside.admissionToken)).status).toBe(201);
    expect((await rooms.see(saleId, ann, first.body.ticketId)).body).toMatchObject({
      state: 'used',
      admissionToken: null,
    });
    const next = await rooms.admitted(saleId, bob, ticketId);
    expect((await rooms.reserve(saleId, bob, next.admissionToken)).status).toBe(201);
    const again = await rooms.reserve(saleId, bob, next.admissionToken);
    expect([again.status, again.headers['idempotency-replayed']]).toEqual([201, 'true']);
  });

  it('has one ticket, joining twice at the same instant on two processes, or a thousand times', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 } });
    await rooms.join(saleId, await bed.session());
    const ann = await bed.session();
    const both = await Promise.all([rooms.join(saleId, ann), rooms.join(saleId, ann, {}, otherUrl)]);
    expect(both.map(({ status }) => status).sort()).toEqual([200, 201]);
    const thousand = await Promise.all(
      Array.from({ length: 1_000 }, (_, i) => rooms.join(saleId, ann, {}, i % 2 ? bed.url : otherUrl)),
    );
    expect(new Set(thousand.map(({ status }) => status))).toEqual(new Set([200]));
    expect(new Set([...both, ...thousand].map(({ body }) => body.ticketId)).size).toBe(1);
    const behind = await rooms.join(saleId, await bed.session());
    expect(behind.body.ahead).toBeLessThanOrEqual(2);
  });

  it('leaves, and can join again behind the others', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 } });
    const guests = [await bed.session(), await bed.session(), await bed.session()];
    const tickets: Ticket[] = [];
    for (const guest of guests) tickets.push((await rooms.join(saleId, guest)).body);
    const [, ann, bob] = guests as unknown as [Guest, Guest, Guest];
    const path = `/v1/sales/${saleId}/tickets/${tickets[1]?.ticketId}`;
    const left = await bed.request<Ticket>('DELETE', path, { token: ann.token });
    expect(left).toMatchObject({ status: 200, body: { state: 'left', position: null } });
    expect((await bed.request<Ticket>('DELETE', path, { token: ann.token })).body.state).toBe('left');
    const before = (await rooms.see(saleId, bob, tickets[2]?.ticketId ?? '')).body.position ?? 0;
    const again = await rooms.join(saleId, ann);
    expect(again.status).toBe(201);
    expect(again.body.position).toBeGreaterThan(before);
  });

  it('is told when all is sold, and lets nobody join then', async () => {
    const saleId = await rooms.openSale(
      { order: 'fifo', inlet: { stock: true } },
      { stock: [{ sku: 'a', warehouse: 'w', quantity: 1 }] },
    );
    const [ann, bob] = [await bed.session(), await bed.session()];
    const [first, second] = [await rooms.join(saleId, ann), await rooms.join(saleId, bob)];
    const inside = await rooms.admitted(saleId, ann, first.body.ticketId);
    const held = (await rooms.reserve(saleId, ann, inside.admissionToken)).body as unknown as { id: string };
    expect((await rooms.see(saleId, bob, second.body.ticketId)).body.state).toBe('waiting');
    await bed.request('POST', `/v1/reservations/${held.id}/commit`, { token: ann.token });
    await until(async () => (await rooms.see(saleId, bob, second.body.ticketId)).body.state === 'ended', 10_000, 20);
    expectProblem(await rooms.join(saleId, await bed.session()), 'sold-out');
    await bed.operator('POST', `${saleId}/stock`, {
      id: 'more',
      sku: 'a',
      warehouse: 'w',
      delta: 1,
      reason: 'found one',
    });
    await rooms.admitted(saleId, bob, second.body.ticketId);
  });
});

describe('an admission', () => {
  it.each<[string, (own: Ticket, saleId: string, guest: Guest) => Promise<string | null>]>([
    ['none', async () => null],
    ['nonsense', async () => 'x.y.z'],
    ['a forged one', async (own) => `${own.admissionToken?.slice(0, -2)}AA`],
    [
      'one signed as sessions are',
      async (_own, sale, { buyerId }) =>
        createSigner({ key: sessionSecret, algorithm: 'HS256' })({ sub: buyerId, sale, ticket: 1, exp: Date.now() }),
    ],
    ['the session’s token', async (_own, _sale, { token }) => token],
    [
      'another buyer’s',
      async (_own, sale) => {
        const other = await bed.session();
        const { ticketId } = (await rooms.join(sale, other)).body;
        return (await rooms.admitted(sale, other, ticketId)).admissionToken;
      },
    ],
    [
      'another sale’s',
      async (_own, _sale, guest) => {
        const other = await rooms.openSale({ order: 'pass' });
        return (await rooms.join(other, guest)).body.admissionToken;
      },
    ],
  ])('%s does not let anybody buy', async (_, tokenOf) => {
    const saleId = await rooms.openSale({ order: 'fifo' });
    const ann = await bed.session();
    const ticket = await rooms.admitted(saleId, ann, (await rooms.join(saleId, ann)).body.ticketId);
    expectProblem(await rooms.reserve(saleId, ann, await tokenOf(ticket, saleId, ann)), 'not-admitted');
    expect((await rooms.reserve(saleId, ann, ticket.admissionToken)).status).toBe(201);
  });

  it('is good once: used up, lapsed or taken back it is not-admitted', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', admissionSeconds: 1 });
    const [ann, bob] = [await bed.session(), await bed.session()];
    const own = await rooms.admitted(saleId, ann, (await rooms.join(saleId, ann)).body.ticketId);
    expect((await rooms.reserve(saleId, ann, own.admissionToken)).status).toBe(201);
    expectProblem(await rooms.reserve(saleId, ann, own.admissionToken, 'other'), 'not-admitted');
    const late = await rooms.admitted(saleId, bob, (await rooms.join(saleId, bob)).body.ticketId);
    await until(async () => (await rooms.see(saleId, bob, late.ticketId)).body.state === 'lapsed', 10_000, 50);
    expectProblem(await rooms.reserve(saleId, bob, late.admissionToken), 'not-admitted');

    const quick = await rooms.openSale({ order: 'pass' });
    const passed = (await rooms.join(quick, ann)).body;
    expect((await rooms.act(quick, passed.ticketId, { action: 'expel', reason: 'a bot' })).body.state).toBe('expelled');
    expectProblem(await rooms.reserve(quick, ann, passed.admissionToken), 'not-admitted');
    expect((await rooms.join(quick, ann)).body).toMatchObject({ state: 'expelled', admissionToken: null });
  });
});

describe('bad input', () => {
  let saleId: string;
  let ann: Guest;
  let own: Ticket;
  beforeAll(async () => {
    saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 } });
    await rooms.join(saleId, await bed.session());
    ann = await bed.session();
    own = (await rooms.join(saleId, ann)).body;
  });

  it.each<[Code, string, () => Promise<Answer>]>([
    ['unauthorized', 'no token', () => rooms.join(saleId, { token: 'x', buyerId: '' })],
    ['forbidden', 'an operator who joins', () => rooms.join(saleId, { token: adminToken, buyerId: '' })],
    [
      'invalid-request',
      'a lane that is not there',
      async () => rooms.join(saleId, await bed.session(), { lane: 'vip' }),
    ],
    ['invalid-request', 'an unknown member', async () => rooms.join(saleId, await bed.session(), { place: 1 })],
    ['not-found', 'a sale that is not there', async () => rooms.join('no-such-sale', await bed.session())],
    [
      'not-found',
      'a sale without a waiting room',
      async () => {
        await bed.putSale('roomless', { title: 'x', stock: [] });
        return rooms.join('roomless', await bed.session());
      },
    ],
    ['forbidden', 'somebody else’s ticket', async () => rooms.see(saleId, await bed.session(), own.ticketId)],
    ['not-found', 'a guessed ticket', () => rooms.see(saleId, ann, 'A'.repeat(28))],
    [
      'not-found',
      'a ticket with another number',
      () => rooms.see(saleId, ann, `${own.ticketId.slice(0, 15)}Z${ann.buyerId}`),
    ],
    ['not-found', 'no ticket id at all', () => rooms.see(saleId, ann, 'x')],
    [
      'forbidden',
      'a buyer at the operator’s',
      async () =>
        bed.request('POST', `/v1/admin/sales/${saleId}/tickets/${own.ticketId}`, {
          token: ann.token,
          body: { action: 'admit', reason: 'me' },
        }),
    ],
    ['invalid-request', 'a move to nowhere', () => rooms.act(saleId, own.ticketId, { action: 'move', reason: 'x' })],
    ['invalid-request', 'no reason', () => rooms.act(saleId, own.ticketId, { action: 'expel' })],
    ['invalid-request', 'a page that is none', () => bed.request('GET', `/v1/sales/${saleId}/draw?page=-1`)],
    [
      'invalid-request',
      'two lanes of one name',
      () =>
        bed.putSale('twins', {
          title: 'x',
          stock: [],
          waitingRoom: {
            order: 'fifo',
            lanes: [
              { name: 'a', weight: 1 },
              { name: 'a', weight: 2 },
            ],
          },
        }),
    ],
    [
      'invalid-request',
      'an order that is none',
      () => bed.putSale('none', { title: 'x', stock: [], waitingRoom: { order: 'lifo' } }),
    ],
  ])('%s: %s', async (code, _, ask) => {
    expectProblem(await ask(), code);
    expect((await rooms.see(saleId, ann, own.ticketId)).body.state).toBe('waiting');
  });

  it.each<[object, string]>([
    [{ order: 'random' }, '/waitingRoom/order'],
    [{}, '/waitingRoom/order'],
    [{ order: 'fifo', inlet: { maxInside: 0 } }, '/waitingRoom/inlet/maxInside'],
    [{ order: 'fifo', whenDown: 'maybe' }, '/waitingRoom/whenDown'],
  ])('of the room %j it is said what is wrong: %s', async (waitingRoom, path) => {
    const { body } = await bed.putSale('wrong', { title: 'x', stock: [], waitingRoom });
    expect(body.errors?.[0]).toMatchObject({ path, message: expect.not.stringMatching('must be null') });
    expect(body.detail).toContain(path);
  });

  it('a line that is closed takes nobody', async () => {
    expectProblem(await rooms.join(await rooms.openSale({ order: 'closed' }), await bed.session()), 'sale-not-open');
  });

  it('more joins than the limit allows are rate-limited', async () => {
    const limited = await bed.serve([], { RATE_LIMITS: 'joins=0.001:2' });
    const answers: Answer[] = [];
    for (let i = 0; i < 3; i++) answers.push(await rooms.join(saleId, ann, {}, limited.url));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 429]);
    expectProblem(answers[2] as Answer, 'rate-limited');
    await limited.stop();
  });

  it('a challenge has to be solved first', async () => {
    const guarded = await rooms.openSale({ order: 'fifo', challenge: { difficulty: 8 } });
    const asked = await rooms.join(guarded, ann, { challenge: 'wrong' });
    expectProblem(asked, 'challenge-required');
    expect(asked.body).toMatchObject({
      challenge: { kind: 'sha256', prefix: `${guarded}:${ann.buyerId}:`, difficulty: 8 },
    });
    let answer = 0;
    while (!proofOfWork.solved(String(answer), guarded, ann.buyerId, 8)) answer++;
    expect((await rooms.join(guarded, ann, { challenge: String(answer) })).status).toBe(201);
  });
});
