/** The network that faults make bad: what comes through in each weather, and that it is good again afterwards. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startProxy, type TcpProxy } from './proxy.ts';

let server: Server;
let proxy: TcpProxy;
let arrived = '';
const sockets: Socket[] = [];
beforeEach(async () => {
  arrived = '';
  server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (piece) => {
      arrived += piece;
      socket.write(`[${piece}]`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  proxy = await startProxy(() => ({ host: '127.0.0.1', port: (server.address() as AddressInfo).port }));
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await proxy.close();
  server.close();
});

/** A client, what it has read, and why it ended. */
async function dial() {
  const socket = connect({ host: '127.0.0.1', port: proxy.port });
  sockets.push(socket);
  const client = { socket, read: '', ended: '' };
  socket.on('data', (piece) => {
    client.read += piece;
  });
  socket.on('error', (error: NodeJS.ErrnoException) => {
    client.ended = String(error.code);
  });
  socket.on('close', () => {
    client.ended ||= 'closed';
  });
  await new Promise<void>((resolve) => socket.once('connect', resolve).once('close', () => resolve()));
  return client;
}
const talks = async (text: string): Promise<void> => {
  const client = await dial();
  client.socket.write(text);
  await expect.poll(() => client.read).toBe(`[${text}]`);
};

it('fine: both ways', () => talks('hello'));

it('cut: who is connected is reset, who comes is reset, and later it is fine', async () => {
  const before = await dial();
  before.socket.write('a');
  await expect.poll(() => before.read).toBe('[a]');
  proxy.set('cut');
  await expect.poll(() => before.ended).toBe('ECONNRESET');
  const during = await dial();
  await expect.poll(() => during.ended).not.toBe('');
  expect(proxy.touched()).toBe(2);
  proxy.set('fine');
  expect(proxy.touched()).toBe(0);
  await talks('again');
});

it.each([
  ['silent', ''],
  ['deaf', 'b'],
] as const)('%s: no answer comes, %j arrives, and such a connection never recovers', async (weather, expected) => {
  const client = await dial();
  client.socket.write('a');
  await expect.poll(() => client.read).toBe('[a]');
  arrived = '';
  proxy.set(weather);
  client.socket.write('b');
  await expect.poll(() => proxy.touched()).toBe(1);
  if (expected) await expect.poll(() => arrived).toBe(expected);
  else {
    // A second connection that goes through in fine weather shows that the first had its time.
    proxy.set('fine');
    await talks('c');
    expect(arrived).toBe('c');
  }
  expect(client.read).toBe('[a]');
  proxy.set('fine');
  await expect.poll(() => client.ended).toBe('ECONNRESET');
  await talks('again');
});

it('slow: late, whole and in order, also when it is fine again before it has come', async () => {
  const client = await dial();
  const fromMs = performance.now();
  proxy.set('slow', 100);
  client.socket.write('a');
  await expect.poll(() => arrived, { interval: 1 }).toBe('a');
  expect(performance.now() - fromMs).toBeGreaterThan(90);
  expect(proxy.touched()).toBeGreaterThan(0);
  client.socket.write('b');
  proxy.set('fine');
  client.socket.write('c');
  await expect.poll(() => arrived).toBe('abc');
  await expect.poll(() => client.read.replaceAll('][', '')).toBe('[abc]');
});
