/** Bytes that are nearly right. */

import type { Random } from '../random.ts';

type Mutation = (bytes: Buffer, random: Random) => Buffer;

const splice = (bytes: Buffer, at: number, drop: number, put: Buffer): Buffer =>
  Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + drop)]);

/** Bytes that mean something to a parser of HTTP, JSON or WebSocket frames. */
const telling = [
  '\r',
  '\n',
  '\r\n',
  '\0',
  ' ',
  '\t',
  ':',
  ',',
  ';',
  '"',
  '{',
  '}',
  '[',
  ']',
  '\\',
  '\x7f',
  '\x80',
  '\xff',
];

export const mutations: Record<string, Mutation> = {
  'bits flipped': (bytes, random) => {
    const copy = Buffer.from(bytes);
    for (let i = 0; i <= random.below(4); i++) {
      const at = random.below(copy.length);
      copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
    }
    return copy;
  },
  'bytes set': (bytes, random) => {
    const copy = Buffer.from(bytes);
    for (let i = 0; i <= random.below(4); i++) copy[random.below(copy.length)] = random.below(256);
    return copy;
  },
  'cut short': (bytes, random) => bytes.subarray(0, random.below(bytes.length)),
  'a piece left out': (bytes, random) =>
    splice(bytes, random.below(bytes.length), 1 + random.below(20), Buffer.alloc(0)),
  'a piece repeated': (bytes, random) => {
    const at = random.below(bytes.length);
    const piece = bytes.subarray(at, at + 1 + random.below(60));
    return splice(bytes, at, 0, Buffer.concat(Array<Buffer>(1 + random.below(3)).fill(piece)));
  },
  'bytes put in': (bytes, random) => splice(bytes, random.below(bytes.length), 0, random.bytes(1 + random.below(8))),
  'telling bytes put in': (bytes, random) => {
    let result = bytes;
    for (let i = 0; i <= random.below(3); i++)
      result = splice(result, random.below(result.length), 0, Buffer.from(random.pick(telling), 'latin1'));
    return result;
  },
  'pieces swapped': (bytes, random) => {
    const [a, b] = [random.below(bytes.length), random.below(bytes.length)].sort((one, other) => one - other);
    const length = Math.min(1 + random.below(30), (b ?? 0) - (a ?? 0), bytes.length - (b ?? 0));
    const copy = Buffer.from(bytes);
    bytes.copy(copy, a, b, (b ?? 0) + length);
    bytes.copy(copy, b, a, (a ?? 0) + length);
    return copy;
  },
  'noise after it': (bytes, random) => Buffer.concat([bytes, random.bytes(1 + random.below(200))]),
};

/** What is sent, in pieces: each is a write of its own. */
export function cutUp(bytes: Buffer, random: Random): Buffer[] {
  if (bytes.length < 2 || random.below(3) > 0) return [bytes];
  const most = random.pick([2, 3, 8, 40]);
  const cuts = Array.from({ length: most - 1 }, () => random.below(bytes.length)).sort((a, b) => a - b);
  return [0, ...cuts].map((from, i) => bytes.subarray(from, cuts[i])).filter((piece) => piece.length > 0);
}

/** Bytes as a person may paste them into a terminal's printf, at most so many. */
export function escaped(bytes: Buffer, most = 1_500): string {
  const text = bytes
    .subarray(0, most)
    .toString('latin1')
    .replace(/[^ -~]|[\\'%]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return bytes.length > most ? `${text}… (${bytes.length} bytes)` : text;
}
