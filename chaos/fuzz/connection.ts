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
  /** Says that it will write no more, and reads on. */
  halfCloses?: boolean;
  /** Waits for the answer to the first piece before the others are written. */
  afterAnswer?: boolean;
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

export async function exchange(asked: Exchange): Promise<Outcome> {
  const { port, pieces, pauseMs, hangsUp, complete } = asked;
  const socket = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
  const chunks: Buffer[] = [];
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
  const stirredWithin = async (ms: number, before: number): Promise<boolean> =>
    new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      stirred = () => {
        clearTimeout(timer);
        resolve(true);
      };
      if (closed || chunks.length > before) stirred();
    });
  const untilMs = performance.now() + waitMs;
  for (const [i, piece] of pieces.entries()) {
    if (i === 1 && asked.afterAnswer)
      while (!closed && performance.now() < untilMs && !Buffer.concat(chunks).includes('\r\n\r\n'))
        await stirredWithin(untilMs - performance.now(), chunks.length);
    if (closed || socket.destroyed) break;
    await write(socket, piece);
    if (pauseMs > 0 && i < pieces.length - 1 && i < 20) await sleep(pauseMs);
  }
  if (asked.halfCloses) socket.end();
  let late = false;
  while (!hangsUp && !closed) {
    const before = chunks.length;
    const state = complete(Buffer.concat(chunks));
    if (state === 'yes') break;
    const leftMs = state === 'soon' ? momentMs : untilMs - performance.now();
    late = leftMs <= 0;
    if (late || (!(await stirredWithin(leftMs, before)) && state === 'soon')) break;
  }
  const served = closed;
  socket.destroy();
  return { received: Buffer.concat(chunks), closed: served, late };
}
