/** Cases for the WebSocket of a sale: handshakes and frames, right and nearly right. */
import { createRandom, type Random } from '../random.ts';
import { frame, opcodes } from './frames.ts';
import { crlf, type World } from './http-grammar.ts';
import { json } from './json-cases.ts';
import { cutUp, mutations } from './mutate.ts';

export type WebSocketCase = {
  number: number;
  kind: string;
  handshake: Buffer;
  /** The key of the handshake, for the accept that must come back; '' when the handshake is not a right one. */
  key: string;
  /** What the client sends after the handshake. */
  frames: Buffer;
  pieces: Buffer[];
  pauseMs: number;
  hangsUp: boolean;
  halfCloses: boolean;
  /** Sends the frames without waiting for the handshake's answer. */
  hasty: boolean;
};

type Message = Record<string, unknown>;
const text = (message: Message): Buffer => frame(JSON.stringify(message));

const handshakeOf = (target: string, key: string, more: string[] = []): string =>
  [
    `GET ${target} HTTP/1.1`,
    'Host: fuzz',
    'Upgrade: websocket',
    'Connection: Upgrade',
    `Sec-WebSocket-Key: ${key}`,
    'Sec-WebSocket-Version: 13',
    ...more,
    crlf,
  ].join(crlf);

const oddHandshakes = (random: Random, right: string, world: World): string =>
  random.pick<() => string>([
    () =>
      right.replace(
        /Sec-WebSocket-Key: .*\r\n/,
        random.pick([
          '',
          'Sec-WebSocket-Key: \r\n',
          'Sec-WebSocket-Key: short\r\n',
          `Sec-WebSocket-Key: ${'A'.repeat(500)}\r\n`,
        ]),
      ),
    () => right.replace('Version: 13', `Version: ${random.pick(['12', '8', '', '13, 8', '99999999999'])}`),
    () =>
      right.replace(
        'Upgrade: websocket',
        random.pick(['Upgrade: h2c', 'Upgrade: WebSocket', 'Upgrade: websocket, foo', 'X: y']),
      ),
    () =>
      right.replace(
        'Connection: Upgrade',
        random.pick(['Connection: close', 'Connection: keep-alive, Upgrade', 'X: y']),
      ),
    () => right.replace('GET', random.pick(['POST', 'PUT', 'HEAD', 'get', 'OPTIONS'])),
    () =>
      right.replace(world.saleId, random.pick(['none', '', '..', 'a%20b', '%00', 'x'.repeat(65), '__proto__', '\xff'])),
    () =>
      right.replace(
        crlf,
        `${crlf}Sec-WebSocket-Extensions: ${random.pick(['permessage-deflate', 'permessage-deflate; client_max_window_bits=99', 'x'.repeat(3_000), ';;;,,,'])}${crlf}`,
      ),
    () =>
      right.replace(
        crlf,
        `${crlf}Sec-WebSocket-Protocol: ${random.pick(['a', 'a, b', '', ',', 'x'.repeat(3_000), '\xff'])}${crlf}`,
      ),
    () => right.replace(crlf, `${crlf}Content-Length: 5${crlf}`),
    () =>
      (
        mutations[random.pick(Object.keys(mutations))]?.(Buffer.from(right, 'latin1'), random) ?? Buffer.alloc(0)
      ).toString('latin1'),
  ])();

type Stream = { kind: string; frames: Buffer; halfCloses?: boolean; hangsUp?: boolean };

/** Messages that do something, after the token. */
function purchases(world: World, random: Random, key: (part: string) => string): Message[] {
  const who = random.below(world.tokens.length);
  const [token, reservationId] = [world.tokens[who] ?? '', world.holds[who] ?? ''];
  const lines = Array.from({ length: random.pick([1, 1, 2, 5]) }, () => ({
    sku: random.pick(world.skus),
    quantity: 1 + random.below(3),
  }));
  const asks = Array.from({ length: 1 + random.below(4) }, (_, i): Message => {
    const requestId = key(`-${i}`);
    if (random.below(4) > 0) return { type: 'reserve', requestId, idempotencyKey: requestId, lines };
    return { type: random.pick(['commit', 'release']), requestId, reservationId };
  });
  return [{ type: 'auth', token }, ...asks];
}

const inPieces = (payload: Buffer, random: Random): Buffer => {
  const cuts = Array.from({ length: 1 + random.below(6) }, () => random.below(payload.length + 1)).sort(
    (a, b) => a - b,
  );
  const parts = [0, ...cuts].map((from, i) => payload.subarray(from, cuts[i]));
  const between = (): Buffer =>
    random.below(3) ? Buffer.alloc(0) : frame(random.bytes(random.below(126)), { opcode: opcodes.ping });
  return Buffer.concat(
    parts.flatMap((part, i) => [
      frame(part, { opcode: i === 0 ? opcodes.text : opcodes.continuation, fin: i === parts.length - 1 }),
      between(),
    ]),
  );
};

const notUtf8 = [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0x80]];

function oddFrame(random: Random, message: Buffer): [string, Buffer] {
  const all: [string, () => Buffer][] = [
    ['opcode', () => frame(message, { opcode: random.pick([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) })],
    ['reserved bits', () => frame(message, { rsv: 1 + random.below(7) })],
    ['not masked', () => frame(message, { masked: false })],
    ['binary', () => frame(message, { opcode: opcodes.binary })],
    ['continuation of nothing', () => frame(message, { opcode: opcodes.continuation, fin: random.below(2) === 0 })],
    [
      'a message within a message',
      () => Buffer.concat([frame(message.subarray(0, 5), { fin: false }), frame(message)]),
    ],
    [
      'control frame in pieces',
      () => Buffer.concat([frame('a', { opcode: random.pick([8, 9, 10]), fin: false }), frame('b', { opcode: 0 })]),
    ],
    ['control frame too long', () => frame(random.bytes(126 + random.below(400)), { opcode: random.pick([8, 9, 10]) })],
    [
      'length of 2^63',
      () =>
        frame(message, { says: random.pick([2n ** 63n, 2n ** 64n - 1n, 2n ** 62n, 2n ** 32n, 2n ** 31n]), form: 64 }),
    ],
    ['length longer than needed', () => frame(message, { form: message.length < 65_536 ? random.pick([16, 64]) : 64 })],
    [
      'length that is not so',
      () => frame(message, { says: BigInt(Math.max(0, message.length + random.pick([-3, -1, 1, 3, 1_000]))) }),
    ],
    [
      'not UTF-8',
      () => {
        const at = random.below(message.length);
        const bad = Buffer.from(random.pick(notUtf8));
        const whole = Buffer.concat([message.subarray(0, at), bad, message.subarray(at)]);
        return random.below(2) ? frame(whole) : inPieces(whole, random);
      },
    ],
    [
      'close code',
      () => {
        const code = Buffer.alloc(2);
        code.writeUInt16BE(random.pick([0, 999, 1000, 1004, 1005, 1006, 1015, 2999, 3000, 4999, 5000, 65_535]));
        const reason = random.pick([Buffer.alloc(0), Buffer.from('bye'), Buffer.of(0xff), Buffer.alloc(123, 'x')]);
        return frame(random.pick([Buffer.alloc(0), Buffer.of(3), Buffer.concat([code, reason])]), {
          opcode: opcodes.close,
        });
      },
    ],
    [
      'too big',
      () => frame(Buffer.concat([message, Buffer.alloc(random.pick([16_384, 65_535, 65_536, 1_000_000]), ' ')])),
    ],
    [
      'too big in pieces',
      () =>
        Buffer.concat([
          frame(message, { fin: false }),
          ...Array.from({ length: 20 }, () => frame(Buffer.alloc(10_000, ' '), { opcode: 0, fin: false })),
        ]),
    ],
    [
      'empty pieces',
      () =>
        Buffer.concat([
          frame('', { fin: false }),
          ...Array.from({ length: 3_000 }, () => frame('', { opcode: 0, fin: false })),
          frame(message, { opcode: 0 }),
        ]),
    ],
    [
      'pings',
      () =>
        Buffer.concat(
          Array.from({ length: random.pick([10, 1_000, 5_000]) }, () =>
            frame(random.bytes(4), { opcode: random.pick([9, 9, 10]) }),
          ),
        ),
    ],
    ['flood', () => Buffer.concat(Array.from({ length: 200 }, () => frame(message)))],
    ['empty', () => frame('')],
  ];
  const [name, make] = random.pick(all);
  return [name, make()];
}

function streamOf(world: World, random: Random, key: (part: string) => string): Stream {
  const messages = purchases(world, random, key);
  const bytes = (list: Message[]): Buffer => Buffer.concat(list.map(text));
  const last = Buffer.from(JSON.stringify(messages.at(-1)));
  return random.pick<() => Stream>([
    () => ({ kind: 'right', frames: bytes(messages) }),
    () => ({ kind: 'in pieces', frames: Buffer.concat([bytes(messages.slice(0, -1)), inPieces(last, random)]) }),
    () => {
      const [name, odd] = oddFrame(random, last);
      return {
        kind: `frame: ${name}`,
        frames: Buffer.concat([bytes(messages.slice(0, -1)), odd, text(messages.at(-1) ?? {})]),
      };
    },
    () => {
      const [name, odd] = oddFrame(random, last);
      return { kind: `first frame: ${name}`, frames: Buffer.concat([odd, bytes(messages)]) };
    },
    () => {
      const { body, name } = json(last, random);
      return { kind: `JSON: ${name}`, frames: Buffer.concat([bytes(messages.slice(0, -1)), frame(body)]) };
    },
    () => {
      const name = random.pick(Object.keys(mutations));
      const whole = bytes(messages);
      return { kind: name, frames: mutations[name]?.(whole, random) ?? whole };
    },
    () => ({ kind: 'noise', frames: random.bytes(1 + random.below(500)) }),
    () => ({ kind: 'half closed', frames: bytes(messages), halfCloses: true }),
    () => ({ kind: 'hung up on', frames: bytes(messages), hangsUp: true }),
    () => {
      const whole = bytes(messages);
      return { kind: 'hung up on in the middle', frames: whole.subarray(0, random.below(whole.length)), hangsUp: true };
    },
  ])();
}

/** Case `number` of a seed: the same world gives the same bytes. */
export function webSocketCase(world: World, seed: number, number: number): WebSocketCase {
  const random = createRandom(seed, number);
  const keyOf = (part: string): string => `w${seed}-${String(number).padStart(8, '0')}${part}`;
  const key = random.bytes(16).toString('base64');
  const right = handshakeOf(`/v1/sales/${world.saleId}/live`, key);
  const isOdd = random.below(6) === 0;
  const handshake = Buffer.from(isOdd ? oddHandshakes(random, right, world) : right, 'latin1');
  const stream = streamOf(world, random, keyOf);
  const hasty = random.below(12) === 0;
  return {
    number,
    ...{ hangsUp: false, halfCloses: false, ...stream },
    kind: isOdd ? 'handshake' : hasty ? 'hasty' : stream.kind,
    key: isOdd ? '' : key,
    handshake,
    pieces: cutUp(stream.frames, random),
    pauseMs: random.pick([0, 0, 0, 1]),
    hasty,
  };
}
