/** One connection of a fuzzer: bytes out, bytes in, and how it ended. */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export type Outcome = {
  received: Buffer;
  /** Whether the server closed it, before we did. */
  closed: boolean;
  /** Whether the fuzzer waited for something that didn't come. */
  late: boolean;
};

export type Exchange = {
  port: number;
  pieces: Buffer[];
  pauseMs: number;
  /** Hangs up once all is written. */
  hangsUp: boolean;
  /** Whether what has come is all that is waited for; `soon`: all but what shouldn't come, which is given a moment. */
  complete(received: Buffer): 'no' | 'soon' | 'yes';
};

const waitMs = 15_000;
const momentMs = 20;

function write(socket: Socket, piece: Buffer): Promise<void> {
  return new Promise((resolve) => {
    socket.write(piece, () => resolve());
  });
}

export async function exchange({ port, pieces, pauseMs, hangsUp, complete }: Exchange): Promise<Outcome> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  const chunks: Buffer[] = [];
  let received: Buffer = Buffer.alloc(0);
  let closed = false;
  let stirred = (): void => undefined;
  const stir = (): void => stirred();
  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    stir();
  });
  socket.on('error', () => undefined);
  for (const event of ['end', 'close'] as const)
    socket.on(event, () => {
      closed = true;
      stir();
    });
  const opened = new Promise<void>((resolve) => {
    socket.once('connect', resolve);
    socket.once('close', () => resolve());
  });
  await opened;
  for (const [i, piece] of pieces.entries()) {
    if (closed || socket.destroyed) break;
    await write(socket, piece);
    if (pauseMs > 0 && i < pieces.length - 1 && i < 20) await sleep(pauseMs);
  }
  const untilMs = performance.now() + waitMs;
  let late = false;
  while (!hangsUp && !closed) {
    received = Buffer.concat(chunks);
    const state = complete(received);
    if (state === 'yes') break;
    const leftMs = state === 'soon' ? momentMs : untilMs - performance.now();
    if (leftMs <= 0) {
      late = true;
      break;
    }
    const before = chunks.length;
    const waited = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(true), leftMs);
      stirred = () => {
        clearTimeout(timer);
        resolve(false);
      };
      if (closed || chunks.length > before) stirred();
    });
    if (waited && state === 'soon') break;
  }
  const served = closed;
  socket.destroy();
  return { received: Buffer.concat(chunks), closed: served, late };
}
