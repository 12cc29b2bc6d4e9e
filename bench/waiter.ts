/**
 * A person in a line, over one bare TCP connection: joins by HTTP, and watches the ticket over a WebSocket on the same connection.
 * A library's WebSocket weighs ten times what the server's side does; a hundred thousand of these fit beside the servers.
 */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';

export type Frame = { type: string; [member: string]: unknown };

export type Waiter = {
  readonly ticketId: string;
  send(frame: object): void;
  close(): void;
};

export type WaiterOptions = {
  url: URL;
  /** The loopback address to come from: a pair of addresses has about 28,000 ports. */
  localAddress: string;
  saleId: string;
  token: string;
  /** What the server says, as text: parsing all of it would be most of the work. */
  take(text: string, waiter: Waiter): void;
  /** Called once, when the connection has ended. */
  ended(code: number): void;
};

const opcodes = { text: 1, close: 8, ping: 9, pong: 10 };
const headEnd = Buffer.from('\r\n\r\n');
/** The mask of a client's frames may be any; this one leaves them as they are. */
const noMask = Buffer.alloc(4);

function frameOf(opcode: number, payload: Buffer): Buffer {
  const length =
    payload.length < 126
      ? Buffer.from([0x80 | payload.length])
      : Buffer.from([0x80 | 126, payload.length >> 8, payload.length & 0xff]);
  return Buffer.concat([Buffer.from([0x80 | opcode]), length, noMask, payload]);
}

/** The first frame of the server's in `bytes`, and where it ends; null while it is not whole. */
function readFrame(bytes: Buffer): { opcode: number; payload: Buffer; end: number } | null {
  if (bytes.length < 2) return null;
  let [length, at] = [(bytes[1] ?? 0) & 0x7f, 2];
  if (length === 126) [length, at] = [bytes.length < 4 ? Number.POSITIVE_INFINITY : bytes.readUInt16BE(2), 4];
  if (bytes.length < at + length) return null;
  return { opcode: (bytes[0] ?? 0) & 0xf, payload: bytes.subarray(at, at + length), end: at + length };
}

/** Joins and begins to watch. Rejects when either is refused, or the connection breaks before. */
export function openWaiter(options: WaiterOptions): Promise<Waiter> {
  const { url, localAddress, saleId, token, take } = options;
  return new Promise((resolve, reject) => {
    const socket: Socket = connect({ host: url.hostname, port: Number(url.port), localAddress });
    let stage: 'joining' | 'upgrading' | 'open' = 'joining';
    let left = Buffer.alloc(0);
    let code = 0;
    const write = (frame: object): void => {
      socket.write(frameOf(opcodes.text, Buffer.from(JSON.stringify(frame))));
    };
    const waiter = { ticketId: '', send: write, close: () => socket.destroy() };
    const ask = (method: string, path: string, headers: string[], body: string): void => {
      const head = [`${method} ${path} HTTP/1.1`, `Host: ${url.host}`, ...headers, `Content-Length: ${body.length}`];
      socket.write(`${head.join('\r\n')}\r\n\r\n${body}`);
    };

    const join = (): void =>
      ask(
        'POST',
        `/v1/sales/${saleId}/tickets`,
        [`Authorization: Bearer ${token}`, 'Content-Type: application/json'],
        '{}',
      );
    const upgrade = (): void => {
      const key = randomBytes(16).toString('base64');
      const headers = ['Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Key: ${key}`];
      ask('GET', `/v1/sales/${saleId}/live`, [...headers, 'Sec-WebSocket-Version: 13'], '');
    };
    const fail = (why: string): void => {
      reject(new Error(why));
      socket.destroy();
    };

    /** Takes an answer of HTTP off the front of `left`; null while it is not whole. */
    const takeAnswer = (): { status: number; body: string } | null => {
      const end = left.indexOf(headEnd);
      if (end < 0) return null;
      const head = left.toString('latin1', 0, end);
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
      if (left.length < end + 4 + length) return null;
      const body = left.toString('utf8', end + 4, end + 4 + length);
      left = left.subarray(end + 4 + length);
      return { status: Number(head.slice(9, 12)), body };
    };
    const takeFrames = (): void => {
      for (let frame = readFrame(left); frame; frame = readFrame(left)) {
        left = left.subarray(frame.end);
        if (frame.opcode === opcodes.ping) socket.write(frameOf(opcodes.pong, frame.payload));
        else if (frame.opcode === opcodes.close) code = frame.payload.length < 2 ? 0 : frame.payload.readUInt16BE(0);
        else take(frame.payload.toString('utf8'), waiter);
      }
      // What is left is a piece of a frame: kept by itself, lest the whole chunk stay in memory.
      left = Buffer.from(left);
    };

    socket.on('connect', join);
    socket.on('data', (chunk) => {
      left = left.length === 0 ? chunk : Buffer.concat([left, chunk]);
      if (stage === 'joining') {
        const answer = takeAnswer();
        if (!answer) return;
        if (answer.status !== 201 && answer.status !== 200)
          return fail(`joining was answered ${answer.status}: ${answer.body}`);
        waiter.ticketId = (JSON.parse(answer.body) as { ticketId: string }).ticketId;
        stage = 'upgrading';
        upgrade();
      }
      if (stage === 'upgrading') {
        const answer = takeAnswer();
        if (!answer) return;
        if (answer.status !== 101) return fail(`the upgrade was answered ${answer.status}: ${answer.body}`);
        stage = 'open';
        write({ type: 'auth', token, ticketId: waiter.ticketId });
        resolve(waiter);
      }
      takeFrames();
    });
    socket.on('error', (error) => reject(error));
    socket.on('close', () => {
      reject(new Error('the connection was closed'));
      if (stage === 'open') options.ended(code);
    });
  });
}
