/** The WebSocket of a sale: watching without a token, buying over the same socket, and who is cut off. */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { adminToken, type Reservation, startTestbed, type Testbed } from '../cli/testbed.ts';
import { type Code, expectProblemBody, statusOfCode, unitsOf } from '../cli/testbed-checks.ts';
import { waitUntil } from '../services/waiting.ts';

type Frame = { type: string; requestId?: string; status?: number; body?: Reservation; [member: string]: unknown };
type Client = {
  frames: Frame[];
  closed: Promise<{ code: number; reason: string }>;
  send(frame: unknown): void;
  /** The next frame from `from` on that fits. */
  next(fits: (frame: Frame) => boolean, from?: number): Promise<Frame>;
  /** Sends a frame with a request id of its own and waits for its result. */
  ask(frame: object): Promise<Frame>;
  close(): void;
};

const saleId = 'live';
const supply = 1_000;
let bed: Testbed;
const clients = new Set<Client>();

beforeAll(async () => {
  bed = await startTestbed();
  const stock = ['a', 'b'].map((sku) => ({ sku, warehouse: 'w', quantity: supply }));
  stock.push({ sku: 'a', warehouse: 'w2', quantity: 5 }, { sku: 'gone', warehouse: 'w', quantity: 0 });
  await bed.putSale(saleId, { title: 'live', stock });
});
afterEach(async () => {
  for (const client of clients) client.close();
  clients.clear();
  expect((await bed.request('GET', '/healthz')).status).toBe(200);
});
afterAll(() => bed?.stop());

async function open(sale = saleId): Promise<Client> {
  const socket = new WebSocket(`${bed.url.replace('http', 'ws')}/v1/sales/${sale}/live`);
  const frames: Frame[] = [];
  let asked = 0;
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.onclose = ({ code, reason }) => resolve({ code, reason });
  });
  socket.onmessage = ({ data }) => frames.push(JSON.parse(String(data)) as Frame);
  await new Promise<void>((resolve, reject) => {
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error('the upgrade was refused'));
  });
  const client: Client = {
    frames,
    closed,
    send: (frame) =>
      socket.send(frame instanceof Uint8Array || typeof frame === 'string' ? frame : JSON.stringify(frame)),
    async next(fits, from = 0) {
      const found = () => frames.slice(from).find(fits);
      await waitUntil(async () => found() !== undefined, 10_000, 5);
      const frame = found();
      if (!frame) throw new Error(`no such frame among ${JSON.stringify(frames.slice(from))}`);
      return frame;
    },
    ask(frame) {
      const requestId = `r${++asked}`;
      client.send({ requestId, ...frame });
      return client.next((each) => each.requestId === requestId);
    },
    close: () => socket.close(),
  };
  clients.add(client);
  return client;
}

async function openAsBuyer(): Promise<Client & { token: string; buyerId: string }> {
  const [client, { token, buyerId }] = await Promise.all([open(), bed.session()]);
  client.send({ type: 'auth', token });
  return Object.assign(client, { token, buyerId });
}

const reserve = (key: string, more: object = {}) => ({
  type: 'reserve',
  idempotencyKey: key,
  lines: [{ sku: 'b', quantity: 1 }],
  ...more,
});

describe('watching', () => {
  it('gets the sale and each SKU’s stock without a token', async () => {
    const client = await open();
    expect(await client.next(({ type }) => type === 'sale')).toMatchObject({ id: saleId, state: 'open' });
    const frame = await client.next(({ type, sku }) => type === 'stock' && sku === 'a');
    expect(frame).toMatchObject({ available: supply + 5, sold: 0, at: expect.stringMatching(/^\d{4}-.*Z$/) });
    await client.next(({ type, sku }) => type === 'stock' && sku === 'gone');
  });

  it('gets what has become of many purchases, in few frames', async () => {
    const client = await open();
    await client.next(({ type, sku }) => type === 'stock' && sku === 'b');
    const from = client.frames.length;
    const { token } = await bed.session();
    const before = unitsOf(await bed.sale(saleId), 'b', supply);
    const body = { saleId, lines: [{ sku: 'b', quantity: 1 }] };
    const held = await Promise.all(Array.from({ length: 50 }, (_, i) => bed.reserve(token, `k${i}`, body)));
    const available = before.available - 50;
    await client.next(({ sku, available: left }) => sku === 'b' && left === available, from);
    await bed.request('POST', `/v1/reservations/${held[0]?.body.id}/commit`, { token });
    await client.next(({ sku, sold }) => sku === 'b' && sold === before.sold + 1, from);
    expect(client.frames.slice(from).filter(({ sku }) => sku === 'b').length).toBeLessThan(25);
    // What hasn't changed isn't told again and again.
    expect(client.frames.slice(from).filter(({ sku }) => sku === 'a').length).toBeLessThan(2);
  });

  it('is told when the sale’s state turns', async () => {
    await bed.putSale('turning', { title: 'x', stock: [{ sku: 'a', warehouse: 'w', quantity: 1 }] });
    const client = await open('turning');
    await client.next(({ type, state }) => type === 'sale' && state === 'open');
    await bed.operator('POST', 'turning/pause');
    await client.next(({ type, state }) => type === 'sale' && state === 'paused');
  });

  it('an unknown sale is 404 at the upgrade', async () => {
    const headers = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-key': randomBytes(16).toString('base64'),
      'sec-websocket-version': '13',
    };
    const answer = await raw('none', headers);
    expect(answer).toMatch(/^HTTP\/1\.1 404 /);
    const id = /^X-Request-Id: (.+)\r$/m.exec(answer)?.[1];
    expect(id).toBeDefined();
    const body = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))) as { requestId: string };
    expectProblemBody(body, 'not-found');
    expect(body.requestId).toBe(id);
    await expect(open('none')).rejects.toThrow('refused');
  });

  it('a plain GET is no upgrade', async () => {
    const answer = await bed.request('GET', `/v1/sales/${saleId}/live`);
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(answer.status).toBeLessThan(500);
  });
});

describe('buying', () => {
  it('answers what HTTP answers, down to the replay over HTTP', async () => {
    const client = await openAsBuyer();
    const first = await client.ask(reserve('one'));
    expect(first).toMatchObject({
      type: 'result',
      status: 201,
      body: { state: 'held', buyerId: client.buyerId, saleId },
    });
    expect((await client.ask(reserve('one'))).body).toEqual(first.body);
    const overHttp = await bed.reserve(client.token, 'one', { saleId, lines: [{ sku: 'b', quantity: 1 }] });
    expect([overHttp.headers['idempotency-replayed'], overHttp.body]).toEqual(['true', first.body]);
    const reservationId = first.body?.id;
    const committed = await client.ask({ type: 'commit', reservationId });
    expect(committed).toMatchObject({ status: 200, body: { ...first.body, state: 'committed' } });
    expect(await client.ask({ type: 'commit', reservationId })).toMatchObject({ status: 200, body: committed.body });
    const released = await client.ask({ type: 'release', reservationId });
    expect(released).toMatchObject({ status: 409, body: { code: 'reservation-ended', reservationState: 'committed' } });
    const read = await bed.request('GET', `/v1/reservations/${reservationId}`, { token: client.token });
    expect(read.body).toEqual(committed.body);
  });

  it.each<[Code, object]>([
    ['invalid-request', reserve('bad', { lines: [{ sku: 'b', quantity: 0 }] })],
    ['invalid-request', reserve('bad', { lines: undefined })],
    ['invalid-request', reserve('bad', { lines: [] })],
    ['invalid-request', reserve('bad', { lines: Array(51).fill({ sku: 'b', quantity: 1 }) })],
    ['invalid-request', { type: 'reserve', lines: [{ sku: 'b', quantity: 1 }] }],
    ['invalid-request', { type: 'commit' }],
    ['not-found', reserve('bad', { lines: [{ sku: 'none', quantity: 1 }] })],
    ['not-found', { type: 'commit', reservationId: 'none' }],
    ['not-found', { type: 'release', reservationId: 'A'.repeat(64) }],
    ['sold-out', reserve('bad', { lines: [{ sku: 'gone', quantity: 1 }] })],
    ['insufficient-stock', reserve('bad', { lines: Array(40).fill({ sku: 'b', quantity: 1_000 }) })],
  ])('%s: %j', async (code, frame) => {
    const client = await openAsBuyer();
    const before = (await bed.sale(saleId)).stock;
    const result = await client.ask(frame);
    expect(result).toMatchObject({ type: 'result', status: statusOfCode[code] });
    expectProblemBody(result.body, code);
    expect((await bed.sale(saleId)).stock).toEqual(before);
  });

  it('another buyer’s reservation is forbidden, another body under a key a mismatch', async () => {
    const [one, other] = [await openAsBuyer(), await openAsBuyer()];
    const { body } = await one.ask(reserve('mine'));
    expect((await other.ask({ type: 'commit', reservationId: body?.id })).status).toBe(403);
    expect((await one.ask(reserve('mine', { lines: [{ sku: 'b', quantity: 2 }] }))).status).toBe(422);
    expect((await one.ask({ type: 'release', reservationId: body?.id })).body?.state).toBe('released');
  });

  it('the same key over twenty frames at once is one reservation', async () => {
    const client = await openAsBuyer();
    const results = await Promise.all(Array.from({ length: 20 }, () => client.ask(reserve('twenty'))));
    expect(new Set(results.map(({ body }) => body?.id)).size).toBe(1);
  });
});

describe('close codes', () => {
  const auth = { type: 'auth', token: 'x' };
  it.each<[number, string, () => unknown]>([
    [4400, 'no JSON', () => '{"type":'],
    [4400, 'an empty frame', () => ''],
    [4400, 'no object', () => []],
    [4400, 'no type', () => ({})],
    [4400, 'an unknown type', () => ({ type: 'steal' })],
    [4400, 'an unknown member', () => ({ type: 'auth', token: 'x', admin: true })],
    [4400, 'a reserve without a request id', () => ({ type: 'reserve', idempotencyKey: 'k', lines: [] })],
    [4400, 'a request id of 65 characters', () => reserve('k', { requestId: 'r'.repeat(65) })],
    [4400, 'a binary frame', () => new TextEncoder().encode(JSON.stringify(auth))],
    [4401, 'a token that is none', () => auth],
    [4401, 'the operator’s token', () => ({ type: 'auth', token: adminToken })],
    [4401, 'a reserve before the token', () => reserve('k', { requestId: 'r' })],
    [4401, 'a commit before the token', () => ({ type: 'commit', requestId: 'r', reservationId: 'x' })],
    [1009, 'a frame of 20 KB', () => JSON.stringify(auth).padEnd(20_000)],
  ])('%i: %s', async (code, _, frame) => {
    const client = await open();
    client.send(frame());
    expect((await client.closed).code).toBe(code);
  });

  it('4401: a good token in characters whose low bytes alone are its own', async () => {
    const [client, { token }] = await Promise.all([open(), bed.session()]);
    const at = token.indexOf('.') + 1;
    const wide = String.fromCharCode(token.charCodeAt(at) + 0x100);
    client.send({ type: 'auth', token: token.slice(0, at) + wide + token.slice(at + 1) });
    client.send({ type: 'reserve', requestId: 'r', idempotencyKey: 'k', lines: [] });
    const end = await Promise.race([client.closed, client.next(({ requestId }) => requestId === 'r')]);
    expect(end).toMatchObject({ code: 4401 });
  });

  it('1009 or a broken connection: a frame of a megabyte', async () => {
    const client = await open();
    client.send(' '.repeat(1024 * 1024));
    expect([1009, 1006]).toContain((await client.closed).code);
  });

  it('4429: a flood of frames', async () => {
    const client = await openAsBuyer();
    for (let i = 0; i < 200; i++) client.send(reserve('flood', { requestId: `f${i}`, lines: [] }));
    expect((await client.closed).code).toBe(4429);
  });
});

/** Upgrades on a raw socket and gives what comes first. */
function raw(sale: string, headers: Record<string, string>): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = upgrading(sale, headers);
    socket.once('data', (chunk: Buffer) => {
      socket.destroy();
      resolve(chunk.toString('latin1'));
    });
    socket.once('error', reject);
  });
}

function upgrading(sale: string, headers: Record<string, string>): Socket {
  const socket = connect(Number(new URL(bed.url).port), '127.0.0.1');
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`GET /v1/sales/${sale}/live HTTP/1.1\r\nHost: a\r\n${lines.join('')}\r\n`);
  return socket;
}
