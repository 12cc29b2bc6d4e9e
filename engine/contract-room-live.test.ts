import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem } from '../cli/testbed-checks.ts';
import { runCommand } from '../cli/testbed-command.ts';
import { type Guest, roomsOn, until } from '../cli/testbed-room.ts';
import type { Draw, Ticket } from './lines.ts';

type Frame = { type: string; [member: string]: unknown };

let bed: Testbed;
let otherUrl: string;
let rooms: ReturnType<typeof roomsOn>;

beforeAll(async () => {
  bed = await startTestbed();
  otherUrl = (await bed.serve()).url;
  rooms = roomsOn(bed);
});
const sockets = new Set<WebSocket>();
afterAll(async () => {
  for (const socket of sockets) socket.close();
  await bed?.stop();
});

describe('an operator', () => {
  it('pauses, resumes, sets the inlet and closes; the sale shows it', async () => {
    const saleId = await rooms.openSale({ order: 'fifo' });
    const room = (body: object) => bed.operator('POST', `${saleId}/waiting-room`, body);
    expect((await room({ action: 'pause' })).body.waitingRoom).toMatchObject({ state: 'paused' });
    const ann = await bed.session();
    const { ticketId } = (await rooms.join(saleId, ann)).body;
    expect((await room({ action: 'set', inlet: { perMinute: 7 } })).body.waitingRoom).toMatchObject({
      state: 'paused',
      inlet: { maxInside: null, perMinute: 7, stock: false },
    });
    expect((await rooms.see(saleId, ann, ticketId)).body.state).toBe('waiting');
    expect((await room({ action: 'resume' })).status).toBe(200);
    await rooms.admitted(saleId, ann, ticketId);
    const bob = await bed.session();
    const second = (await rooms.join(saleId, bob)).body;
    expect((await room({ action: 'close' })).status).toBe(200);
    await until(async () => (await rooms.see(saleId, bob, second.ticketId)).body.state === 'ended', 10_000, 20);
    await until(async () => (await rooms.join(saleId, await bed.session())).status === 409, 10_000, 50);
    expectProblem(await room({ action: 'resume' }), 'conflict');
    const open = { title: 'room', waitingRoom: { order: 'fifo', state: 'open' } };
    expectProblem(await bed.putSale(saleId, open), 'conflict');
    expectProblem(await room({ action: 'set' }), 'invalid-request');
    expectProblem(await bed.operator('POST', 'roomless-too/waiting-room', { action: 'pause' }), 'not-found');
  });

  it('moves, admits and expels with a reason, which the audit keeps', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 } });
    await rooms.join(saleId, await bed.session());
    const guests = [await bed.session(), await bed.session(), await bed.session()];
    const tickets: Ticket[] = [];
    for (const guest of guests) tickets.push((await rooms.join(saleId, guest)).body);
    const [first, second, third] = tickets as [Ticket, Ticket, Ticket];
    await until(async () => (await rooms.see(saleId, guests[0] as Guest, first.ticketId)).body.ahead === 0, 10_000, 20);
    const line = await bed.operator<Record<string, unknown>>('GET', `${saleId}/waiting-room`);
    expect(line).toMatchObject({ status: 200, body: { saleId, waiting: 3, inside: 1, ended: null } });
    const looked = await bed.operator<Ticket>('GET', `${saleId}/tickets/${second.ticketId}`);
    expect(looked).toMatchObject({ status: 200, body: { state: 'waiting', position: 2 } });
    const moved = await rooms.act(saleId, third.ticketId, {
      action: 'move',
      position: 1,
      reason: 'waited in the shop',
    });
    expect(moved).toMatchObject({ status: 200, body: { position: 1 } });
    expect((await rooms.see(saleId, guests[0] as Guest, first.ticketId)).body.position).toBe(2);
    const letIn = await rooms.act(saleId, second.ticketId, { action: 'admit', reason: 'press' });
    expect(letIn.body).toMatchObject({ state: 'admitted', admissionToken: null });
    const own = (await rooms.see(saleId, guests[1] as Guest, second.ticketId)).body;
    expect((await rooms.reserve(saleId, guests[1] as Guest, own.admissionToken)).status).toBe(201);
    expectProblem(await rooms.act(saleId, second.ticketId, { action: 'expel', reason: 'too late' }), 'conflict');
    await rooms.act(saleId, first.ticketId, { action: 'expel', reason: 'a bot' });
    const { Client } = await import('pg');
    const client = new Client({ connectionString: bed.env.DATABASE_URL });
    await client.connect();
    const audited = async () =>
      (
        await client.query(
          "select action, detail from ledger.audit where sale_id = $1 and action like 'ticket %' order by id",
          [saleId],
        )
      ).rows;
    await until(async () => (await audited()).length === 3, 10_000, 20);
    expect(await audited()).toEqual([
      { action: 'ticket move', detail: { ticketId: third.ticketId, position: 1, reason: 'waited in the shop' } },
      { action: 'ticket admit', detail: { ticketId: second.ticketId, reason: 'press' } },
      { action: 'ticket expel', detail: { ticketId: first.ticketId, reason: 'a bot' } },
    ]);
    await client.end();
  });
});

describe('a shuffle', () => {
  it('publishes a commitment before, and after it what proves every place', async () => {
    const opensAt = new Date(Date.now() + 2_000).toISOString();
    const saleId = await rooms.openSale({ order: 'shuffle', inlet: { perMinute: 1 } }, { opensAt });
    const guests = await Promise.all(Array.from({ length: 20 }, () => bed.session()));
    const tickets = await Promise.all(guests.map(async (guest) => (await rooms.join(saleId, guest)).body));
    expect(new Set(tickets.map(({ position }) => position))).toEqual(new Set([null]));
    const drawn = () => bed.request<Draw>('GET', `/v1/sales/${saleId}/draw`);
    const before = (await drawn()).body;
    expect(before).toEqual({ commitment: expect.stringMatching(/^[0-9a-f]{64}$/), algorithm: expect.any(String) });
    await until(async () => (await drawn()).body.seed !== undefined, 15_000, 50);
    const after = (await drawn()).body;
    expect(after.commitment).toBe(before.commitment);
    expect(after.tickets?.map(({ ticketId }) => ticketId).toSorted()).toEqual(
      tickets.map(({ ticketId }) => ticketId).toSorted(),
    );
    const verifying = runCommand([
      'verify-draw',
      '--url',
      otherUrl,
      '--sale',
      saleId,
      '--commitment',
      before.commitment,
      '--json',
    ]);
    expect(await verifying.ended, verifying.stderr()).toBe(0);
    expect(JSON.parse(verifying.stdout().trim().split('\n').at(-1) ?? '')).toMatchObject({
      drawn: true,
      ok: true,
      tickets: 20,
    });
    const places = new Map(after.tickets?.map(({ ticketId, place }) => [ticketId, place]));
    // One was let in at once; the others stand in the order of the draw.
    const seen = await Promise.all(guests.map((guest, i) => rooms.see(saleId, guest, tickets[i]?.ticketId ?? '')));
    const waiting = seen.filter(({ body }) => body.state === 'waiting').map(({ body }) => body);
    expect(waiting.length).toBeGreaterThanOrEqual(18);
    const byPlace = waiting.toSorted((a, b) => (places.get(a.ticketId) ?? 0) - (places.get(b.ticketId) ?? 0));
    expect(byPlace.map(({ position }) => position)).toEqual(byPlace.map((_, i) => i + 1));
    const late = await rooms.join(saleId, await bed.session());
    expect(late.body.position).toBe(waiting.length + 1);
  });
});

describe('over a WebSocket', () => {
  async function watch(saleId: string, guest: Guest, ticketId?: string, origin = bed.url) {
    const socket = new WebSocket(`${origin.replace('http', 'ws')}/v1/sales/${saleId}/live`);
    sockets.add(socket);
    const frames: Frame[] = [];
    socket.onmessage = ({ data }) => frames.push(JSON.parse(String(data)) as Frame);
    await new Promise<void>((resolve, reject) => {
      socket.onopen = () => resolve();
      socket.onerror = () => reject(new Error('refused'));
    });
    socket.send(JSON.stringify({ type: 'auth', token: guest.token, ...(ticketId === undefined ? {} : { ticketId }) }));
    const next = async (fits: (frame: Frame) => boolean): Promise<Frame> => {
      await until(async () => frames.some(fits), 10_000, 10);
      return frames.find(fits) as Frame;
    };
    return { socket, frames, next, send: (frame: object) => socket.send(JSON.stringify(frame)) };
  }

  it('a ticket’s place, admission and end are told, and one buys over the same socket', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { maxInside: 1 } });
    const [ann, bob] = [await bed.session(), await bed.session()];
    const [first, second] = [(await rooms.join(saleId, ann)).body, (await rooms.join(saleId, bob)).body];
    const [one, two] = [await watch(saleId, ann, first.ticketId), await watch(saleId, bob, second.ticketId, otherUrl)];
    const letIn = await one.next(({ type }) => type === 'admitted');
    expect(letIn).toMatchObject({ ticketId: first.ticketId, admissionExpiresAt: expect.any(String) });
    const place = await two.next(({ type, position }) => type === 'position' && position === 1);
    expect(place).toMatchObject({ ticketId: second.ticketId, ahead: 0, etaSeconds: { low: expect.anything() } });
    const line = [{ sku: 'a', quantity: 1 }];
    one.send({ type: 'reserve', requestId: 'no', idempotencyKey: 'k', lines: line });
    expect(await one.next(({ requestId }) => requestId === 'no')).toMatchObject({
      status: 403,
      body: { code: 'not-admitted' },
    });
    one.send({
      type: 'reserve',
      requestId: 'r',
      idempotencyKey: 'k',
      lines: line,
      admissionToken: letIn.admissionToken,
    });
    expect(await one.next(({ requestId }) => requestId === 'r')).toMatchObject({ status: 201 });
    expect(await one.next(({ type }) => type === 'ended')).toMatchObject({ reason: 'used' });
    expect(await two.next(({ type }) => type === 'admitted')).toMatchObject({ ticketId: second.ticketId });
  });

  it('a reconnect resumes the ticket; somebody else’s, or one that is not there, is an error', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 } });
    await rooms.join(saleId, await bed.session());
    const ann = await bed.session();
    const { ticketId } = (await rooms.join(saleId, ann)).body;
    const once = await watch(saleId, ann, ticketId);
    const place = await once.next(({ type }) => type === 'position');
    once.socket.close();
    const again = await watch(saleId, ann, ticketId, otherUrl);
    expect((await again.next(({ type }) => type === 'position')).ticketId).toBe(place.ticketId);
    const stranger = await watch(saleId, await bed.session(), ticketId);
    expect(await stranger.next(({ type }) => type === 'error')).toMatchObject({ code: 'forbidden' });
    const nowhere = await watch(saleId, ann, `${ticketId.slice(0, 15)}Z${ann.buyerId}`);
    expect(await nowhere.next(({ type }) => type === 'error')).toMatchObject({ code: 'not-found' });
    expect((await rooms.see(saleId, ann, ticketId)).body.state).toBe('waiting');
  });

  it.each<[number, string, (socket: WebSocket) => void]>([
    [4400, 'a binary frame', (socket) => socket.send(new Uint8Array([1, 2, 3]))],
    [4400, 'a frame that is none', (socket) => socket.send('{"type":"jump"}')],
    [4401, 'a bad token', (socket) => socket.send(JSON.stringify({ type: 'auth', token: 'x' }))],
    [
      4429,
      'a flood',
      (socket) => {
        for (let i = 0; i < 200; i++)
          socket.send(JSON.stringify({ type: 'commit', requestId: 'r', reservationId: 'x' }));
      },
    ],
    [1009, 'a frame too large', (socket) => socket.send('x'.repeat(20_000))],
  ])('%i: %s closes the socket, and loses nobody a place', async (code, _, send) => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 } });
    await rooms.join(saleId, await bed.session());
    const ann = await bed.session();
    const { ticketId } = (await rooms.join(saleId, ann)).body;
    const { socket, next } = await watch(saleId, ann, ticketId);
    await next(({ type }) => type === 'position');
    const closed = new Promise<number>((resolve) => {
      socket.onclose = (event) => resolve(event.code);
    });
    send(socket);
    expect(await closed).toBe(code);
    expect((await rooms.see(saleId, ann, ticketId)).body).toMatchObject({ ticketId, state: 'waiting' });
    const again = await watch(saleId, ann, ticketId, otherUrl);
    expect((await again.next(({ type }) => type === 'position')).ticketId).toBe(ticketId);
  });

  it('who closes the page keeps the place for the grace, and no longer', async () => {
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { perMinute: 1 }, graceSeconds: 2 });
    const [gone, kept, first] = [await bed.session(), await bed.session(), await bed.session()];
    await rooms.join(saleId, first);
    const [left, stays] = [(await rooms.join(saleId, gone)).body, (await rooms.join(saleId, kept)).body];
    const [leaving, staying] = [await watch(saleId, gone, left.ticketId), await watch(saleId, kept, stays.ticketId)];
    await leaving.next(({ type }) => type === 'position');
    leaving.socket.close();
    await staying.next(({ type, position }) => type === 'position' && position === 1);
    expect((await rooms.see(saleId, gone, left.ticketId)).body.state).toBe('lapsed');
    expect((await rooms.see(saleId, kept, stays.ticketId)).body.state).toBe('waiting');
  });
});
