/** A TCP proxy whose network can be made bad: cut, slow, or half-open. */
import { connect, createServer, Socket } from 'node:net';
import { within } from '../kernel/clock.ts';

/**
 * `cut`: connections are reset and new ones refused. `silent`: nothing comes through any more and nobody is told, as when a
 * cable is pulled. `deaf`: what clients send arrives, and answers don't: half-open. `slow`: each piece comes `delayMs` late.
 */
export type Weather = 'fine' | 'cut' | 'silent' | 'deaf' | 'slow';

export type TcpProxy = {
  port: number;
  /** Connections of a `silent` or `deaf` time never recover: they are reset when it ends. */
  set(weather: Weather, delayMs?: number): void;
  /** Pieces that were swallowed or late, and connections that were reset or refused, since the weather was set last. */
  touched(): number;
  close(): Promise<void>;
};

const closeMs = 2_000;

/** Listens on a free loopback port and forwards to `target`, which is asked for each connection. */
export async function startProxy(target: () => { host: string; port: number }): Promise<TcpProxy> {
  let weather: Weather = 'fine';
  let delayMs = 0;
  let touched = 0;
  const pairs = new Set<readonly [Socket, Socket]>();

  /** Behind a pulled cable one side doesn't hear that the other has gone; it does when the cable is back. */
  const ended = (pair: readonly [Socket, Socket]): void => {
    if (weather !== 'silent') end(pair);
  };
  const end = (pair: readonly [Socket, Socket]): void => {
    pairs.delete(pair);
    for (const socket of pair) if (!socket.destroyed) socket.resetAndDestroy();
  };
  const forward = (from: Socket, to: Socket, answers: boolean): void => {
    // One behind the other, however late each is.
    let last = Promise.resolve();
    let queued = 0;
    from.on('data', (piece: Buffer) => {
      const swallowed = weather === 'silent' || (weather === 'deaf' && answers);
      if (swallowed || weather === 'slow') touched++;
      if (swallowed) return;
      if (weather !== 'slow' && queued === 0) {
        if (!to.write(piece)) {
          from.pause();
          to.once('drain', () => from.resume());
        }
        return;
      }
      queued++;
      const waiting = new Promise<void>((resolve) => setTimeout(resolve, delayMs));
      last = Promise.all([last, waiting]).then(() => {
        queued--;
        if (!to.destroyed) to.write(piece);
      });
    });
  };
  const server = createServer((client) => {
    if (weather === 'cut') {
      touched++;
      client.resetAndDestroy();
      return;
    }
    // Who comes while nothing gets through is not heard of.
    const upstream = weather === 'silent' ? new Socket() : connect(target());
    const pair = [client, upstream] as const;
    pairs.add(pair);
    for (const socket of pair) {
      socket.setNoDelay(true);
      socket.on('error', () => ended(pair));
      socket.on('close', () => ended(pair));
    }
    forward(client, upstream, false);
    forward(upstream, client, true);
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port: 0 }, () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
  const endAll = (): void => {
    for (const pair of [...pairs]) end(pair);
  };
  return {
    port,
    touched: () => touched,
    set(next, ms = 0) {
      touched = next === 'cut' ? pairs.size : 0;
      if (next === 'cut' || weather === 'silent' || weather === 'deaf') endAll();
      weather = next;
      delayMs = ms;
    },
    async close() {
      endAll();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await within(closed, closeMs, 'a proxy did not close').catch(() => undefined);
    },
  };
}
