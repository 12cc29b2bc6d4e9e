/** Bodies that are nearly the JSON of a call. */
import type { Random } from '../random.ts';
import { mutations } from './mutate.ts';

const values = [
  ...[
    'null',
    'true',
    '-1',
    '0',
    '-0',
    '1.0',
    '1e0',
    '1.5',
    '1001',
    '1e3',
    '1e400',
    '-1e400',
    '9007199254740993',
    '1E+2',
    '01',
    '+1',
    '.5',
    '0x1',
    'NaN',
  ],
  ...[
    '""',
    '"x"',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"__proto__"',
    '"\\u0061"',
    '"\xff"',
    '[]',
    '{}',
    '[[]]',
    '[1]',
    `"${'x'.repeat(200)}"`,
  ],
  ...[
    '9'.repeat(400),
    `0.${'0'.repeat(400)}1`,
    `"${'\\u0061'.repeat(65)}"`,
    '{"valueOf":1}',
    '{"toJSON":1,"length":1}',
  ],
];
const members = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'saleId',
  'lines',
  'x',
  '',
  '\\u0000',
  'lines\\u0000',
  'Lines',
  'l\\u0069nes',
];

type Change = (text: string, random: Random) => string;

/** A place in the text where a value begins, and the value. */
function valueIn(text: string, random: Random): [number, number] {
  const places = [...text.matchAll(/:("(?:[^"\\]|\\.)*"|-?\d+|\[|\{)/g)];
  const found = places[random.below(Math.max(1, places.length))];
  return found ? [found.index + 1, found[1]?.length ?? 1] : [0, text.length];
}

const changes: Record<string, Change> = {
  'another value': (text, random) => {
    const [at, length] = valueIn(text, random);
    return text.slice(0, at) + random.pick(values) + text.slice(at + length);
  },
  'another member': (text, random) => text.replace('{', `{"${random.pick(members)}":${random.pick(values)},`),
  'a member of an inner object': (text, random) =>
    text.replace(/\{(?=[^{]*$)/, `{"${random.pick(members)}":${random.pick(values)},`),
  'a member twice': (text, random) => {
    const [, member = '"x":1'] = /^\{("[^"]+":(?:"[^"]*"|\d+|\[.*\]))/.exec(text) ?? [];
    return random.below(2)
      ? text.replace('{', `{${member},`)
      : text.replace(/\}$/, `,${member.replace(/:.*/s, '')}:${random.pick(values)}}`);
  },
  deep: (text, random) => {
    const depth = random.pick([10, 100, 1_000, 5_000, 30_000]);
    const [open, close] = random.pick([
      ['[', ']'],
      ['{"a":', '}'],
      ['{"lines":[', ']}'],
    ] as const);
    const deep =
      open.repeat(Math.min(depth, 60_000 / open.length / 2)) +
      (random.below(2) ? '1' : '') +
      close.repeat(random.below(2) ? Math.min(depth, 60_000 / open.length / 2) : 0);
    const [at, length] = valueIn(text, random);
    return random.below(2) ? deep : text.slice(0, at) + deep + text.slice(at + length);
  },
  'near the limit of size': (text, random) => text + ' '.repeat(65_535 + random.below(4) - Buffer.byteLength(text)),
  'white space': (text, random) =>
    text.replace(/[,:]/g, (c) => c + random.pick(['', ' ', '\t', '\n', '\r\n', '\x0b', '\xa0'])),
  'around it': (text, random) =>
    random.pick(['\ufeff', ' ', '\0', '[', '/**/', "'", ',', '\x1b']) +
    text +
    random.pick(['', '\0', '{}', ' x', ']', ',']),
  escapes: (text, random) =>
    text.replace(/[a-z]/g, (c) => (random.below(3) === 0 ? `\\u00${c.charCodeAt(0).toString(16)}` : c)),
  'other quotes': (text, random) => text.replaceAll('"', random.pick(["'", '', '""', '\\"'])),
};

export function json(body: Buffer, random: Random): { body: Buffer; name: string } {
  const name = random.pick([...Object.keys(changes), 'bytes', 'another charset']);
  const change = changes[name];
  if (change) return { name, body: Buffer.from(change(body.toString(), random), random.below(8) ? 'utf8' : 'latin1') };
  if (name === 'another charset')
    return {
      name,
      body: random.pick([Buffer.from(body.toString(), 'utf16le'), Buffer.concat([Buffer.of(0xef, 0xbb, 0xbf), body])]),
    };
  return { name, body: mutations[random.pick(Object.keys(mutations))]?.(body, random) ?? body };
}
