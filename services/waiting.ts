import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Asks until the condition holds: `true` when it did within `waitMs`. What the condition throws passes through. */
export async function waitUntil(condition: () => Promise<boolean>, waitMs: number, everyMs = 25): Promise<boolean> {
  const end = Date.now() + waitMs;
  for (;;) {
    if (await condition()) return true;
    if (Date.now() >= end) return false;
    await sleep(everyMs);
  }
}

/**
 * Loopback ports that nobody listens on, the preferred ones where they are still free. Another process may take one
 * before it is used: who starts a server on it must be ready to ask again.
 */
export async function freePorts(count: number, preferred: number[] = []): Promise<number[]> {
  const held = [];
  for (let index = 0; index < count; index += 1) {
    held.push((await listenOn(preferred[index] ?? 0)) ?? (await listenOn(0)));
  }
  const ports = held.map((listener) => listener?.port ?? 0);
  await Promise.all(held.map((listener) => listener?.close()));
  if (ports.includes(0)) throw new Error('no free port on 127.0.0.1');
  return ports;
}

function listenOn(port: number): Promise<{ port: number; close(): Promise<void> } | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(null));
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const address = server.address();
      resolve({
        port: typeof address === 'object' && address !== null ? address.port : 0,
        close: () => new Promise((closed) => server.close(() => closed())),
      });
    });
  });
}
