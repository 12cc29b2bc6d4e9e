/** A WebSocket client that never reads is cut off: it costs a bounded amount of memory, and nobody else notices. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { request, startTestbed, type Testbed } from '../cli/testbed.ts';
import type { Served } from '../cli/testbed-command.ts';

const framesPerSecond = 40;
const patienceMs = 30_000;
const growthMb = 64;
let bed: Testbed;
let served: Served;

beforeAll(async () => {
  bed = await startTestbed({ serve: false });
  served = await bed.serve();
});
afterAll(() => bed?.stop());

const residentMb = (): number => {
  const status = readFileSync(`/proc/${served.child.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
};
const openSockets = async (): Promise<number> => {
  const { body } = await request<string>(bed.agent, served.url, 'GET', '/metrics');
  return Number(/^stampede_live_sockets (\d+)$/m.exec(body as string)?.[1]);
};

/** A client's text frame, masked with zeros. */
function frame(value: unknown): Buffer {
  const payload = Buffer.from(JSON.stringify(value));
  const length =
    payload.length < 126 ? [payload.length | 0x80] : [126 | 0x80, payload.length >> 8, payload.length & 255];
  return Buffer.concat([Buffer.from([0x81, ...length, 0, 0, 0, 0]), payload]);
}

async function openPaused(saleId: string): Promise<Socket> {
  const socket = connect(Number(new URL(served.url).port), '127.0.0.1');
  socket.on('error', () => undefined);
  const key = randomBytes(16).toString('base64');
  const upgrade = `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}`;
  socket.write(`GET /v1/sales/${saleId}/live HTTP/1.1\r\nHost: a\r\n${upgrade}\r\n\r\n`);
  await new Promise((resolve) => socket.once('data', resolve));
  socket.pause();
  return socket;
}

it('a client that never reads is cut off, and the engine lives on', async () => {
  const stock = [{ sku: 'a', warehouse: 'w', quantity: 10 }];
  const operator = { token: bed.adminToken, body: { title: 'slow', stock } };
  await request(bed.agent, served.url, 'PUT', '/v1/admin/sales/slow', operator);
  const session = await request<{ token: string }>(bed.agent, served.url, 'POST', '/v1/sessions', { body: {} });
  const socket = await openPaused('slow');
  socket.write(frame({ type: 'auth', token: session.body.token }));
  const atFirst = residentMb();

  // Each refusal names the unknown member, so that every answer is larger than its question.
  const line = { sku: 'a', quantity: 1, ['x'.repeat(15_000)]: 1 };
  const untilMs = Date.now() + patienceMs;
  let asked = 0;
  while (Date.now() < untilMs && served.child.exitCode === null && (await openSockets()) > 0) {
    for (let i = 0; i < framesPerSecond; i++)
      socket.write(frame({ type: 'reserve', requestId: `r${++asked}`, idempotencyKey: 'k', lines: [line] }));
    // The pace is the point: faster is a flood, which is cut off for another reason.
    await sleep(1_050);
  }
  socket.destroy();

  expect(served.stderr()).not.toMatch(/Error/);
  expect(served.child.exitCode).toBeNull();
  expect(await openSockets()).toBe(0);
  expect(residentMb() - atFirst).toBeLessThan(growthMb);
});
