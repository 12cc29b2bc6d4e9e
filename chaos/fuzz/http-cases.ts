/** Cases for the HTTP side: what can be done to right requests. */
import { createRandom, type Random } from '../random.ts';
import { chunked, crlf, type Draft, draft, type World, withLength, written } from './http-grammar.ts';
import { json } from './json-cases.ts';
import { cutUp, mutations } from './mutate.ts';

export type HttpCase = {
  number: number;
  kind: string;
  /** What is written, one write after the other. */
  pieces: Buffer[];
  /** A pause between the writes. */
  pauseMs: number;
  /** Hangs up as soon as everything is written. */
  hangsUp: boolean;
};

const setHeader = (one: Draft, name: string, value: string): Draft => ({
  ...one,
  headers: [...one.headers.filter(([each]) => each.toLowerCase() !== name.toLowerCase()), [name, value]],
});
const addHeader = (one: Draft, name: string, value: string): Draft => ({
  ...one,
  headers: [...one.headers, [name, value]],
});

const oddLengths = (length: number): string[] => [
  ...[
    `${length + 1}`,
    `${length - 1}`,
    `0${length}`,
    `+${length}`,
    `-${length}`,
    `0x${length.toString(16)}`,
    `${length}.0`,
  ],
  ...[
    `${length}, ${length}`,
    `${length} ${length}`,
    '',
    ' ',
    '-1',
    '1e3',
    '65536',
    '65537',
    '4294967296',
    `${length}\x00`,
  ],
  ...['9223372036854775807', '9223372036854775808', '18446744073709551615', '18446744073709551616', '9'.repeat(400)],
];
const oddCodings = [
  'xchunked',
  'chunked, chunked',
  'identity',
  'gzip, chunked',
  'chunked, gzip',
  'chunked;q=1',
  '"chunked"',
  '\x0bchunked',
  'CHUNKED',
  '',
];
const oddSizes = [
  'g',
  '-1',
  '+5',
  '0x5',
  '',
  ' 5',
  '5 ',
  'ffffffff',
  'fffffffffffffffff',
  '7fffffffffffffff',
  '5;',
  '5\x00',
  '5\n5',
];
const oddTargets = [
  '*',
  'http://fuzz/healthz',
  'fuzz:80',
  '//healthz',
  '/./healthz',
  '/v1/../healthz',
  '/%68ealthz',
  '/healthz?x=1',
  '/healthz#x',
  '/\xff',
  '/v1/sales/%00',
  '/v1/sales/',
  '/v1/sales//',
  '/v1/sales/..',
  '/v1/sales/a%2fb',
  '/v1/sales/constructor',
  '/v1/sales/__proto__',
  '/v1/reservations/',
  '/v1/reservations//commit',
  '/?',
  '?',
  '',
];
const oddMethods = [
  'get',
  'GeT',
  'HEAD',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'PATCH',
  'PROPFIND',
  'PURGE',
  'X'.repeat(50),
  'PRI',
  'G\x00T',
  'GÉT',
  '',
];
const oddVersions = [
  'HTTP/1.0',
  'HTTP/0.9',
  'HTTP/2.0',
  'HTTP/1.2',
  'HTTP/1.10',
  'http/1.1',
  'HTTP/1.1 ',
  'HTTP/11',
  'HTTP',
  '',
];
const greetings = [
  'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
  'EHLO fuzz\r\n',
  '*1\r\n$4\r\nPING\r\n',
  '\r\n\r\n',
  '\0'.repeat(64),
  ' GET / HTTP/1.1\r\n\r\n',
  'HTTP/1.1 200 OK\r\n\r\n',
];
const long = (random: Random): string => 'x'.repeat(random.pick([4_000, 8_100, 9_000, 70_000, 300_000]));

type Made = { kind: string; bytes: Buffer; hangsUp?: boolean };

/** The kinds of cases; each makes the bytes of one connection. */
const kinds: ((world: World, random: Random, key: (part: string) => string) => Made)[] = (() => {
  const right = (world: World, random: Random, key: string): Buffer => {
    const one = draft(world, random, key);
    if (!one.body || random.below(3) > 0) return written(withLength(one));
    return written({ ...addHeader(one, 'Transfer-Encoding', 'chunked'), body: chunked(one.body, random) });
  };
  const withBody = (world: World, random: Random, key: string): Draft & { body: Buffer } => {
    for (;;) {
      const { body, ...one } = draft(world, random, key);
      if (body) return { ...one, body };
    }
  };
  return [
    (world, random, key) => ({ kind: 'right', bytes: right(world, random, key('')) }),
    (world, random, key) => {
      const count = 2 + random.below(4);
      const bytes = Array.from({ length: count }, (_, i) => right(world, random, key(`-${i}`)));
      return { kind: 'pipelined', bytes: Buffer.concat(bytes) };
    },
    (world, random, key) => {
      const name = random.pick(Object.keys(mutations));
      let bytes = right(world, random, key(''));
      bytes = mutations[name]?.(bytes, random) ?? bytes;
      return { kind: name, bytes };
    },
    (world, random, key) => {
      const name = random.pick(Object.keys(mutations));
      const [first, second] = [right(world, random, key('-0')), right(world, random, key('-1'))];
      return {
        kind: `${name}, then a right one`,
        bytes: Buffer.concat([mutations[name]?.(first, random) ?? first, second]),
      };
    },
    (world, random, key) => {
      const one = withBody(world, random, key(''));
      const length = random.pick(oddLengths(one.body.length));
      const doubled = random.below(3) === 0;
      const bytes = written(
        doubled ? addHeader(withLength(one), 'Content-Length', length) : setHeader(one, 'Content-Length', length),
      );
      return { kind: doubled ? 'Content-Length twice' : 'Content-Length odd', bytes };
    },
    (world, random, key) => {
      const one = withBody(world, random, key(''));
      const both = withLength({ ...one, body: random.below(2) ? chunked(one.body, random) : one.body });
      return {
        kind: 'Content-Length and Transfer-Encoding',
        bytes: written(addHeader(both, 'Transfer-Encoding', random.pick(['chunked', ...oddCodings]))),
      };
    },
    (world, random, key) => {
      const one = withBody(world, random, key(''));
      return {
        kind: 'Transfer-Encoding odd',
        bytes: written({
          ...addHeader(one, 'Transfer-Encoding', random.pick(oddCodings)),
          body: chunked(one.body, random),
        }),
      };
    },
    (world, random, key) => {
      const one = withBody(world, random, key(''));
      const chunks = chunked(one.body, random);
      const size = random.pick(oddSizes);
      const odd = random.pick([
        () => Buffer.concat([Buffer.from(`${size}${crlf}`, 'latin1'), one.body, Buffer.from(`${crlf}0${crlf}${crlf}`)]),
        () => Buffer.from(chunks.toString('latin1').replaceAll(crlf, '\n'), 'latin1'),
        () => chunks.subarray(0, chunks.length - 1 - random.below(8)),
        () => mutations[random.pick(Object.keys(mutations))]?.(chunks, random) ?? chunks,
      ])();
      return {
        kind: 'chunks that are wrong',
        bytes: written({ ...addHeader(one, 'Transfer-Encoding', 'chunked'), body: odd }),
      };
    },
    (world, random, key) => {
      const one = withBody(world, random, key(''));
      const { body, name } = json(one.body, random);
      return { kind: `JSON: ${name}`, bytes: written(withLength({ ...one, body })) };
    },
    (world, random, key) => {
      const one = withLength(draft(world, random, key('')));
      const [name, value] = random.pick(one.headers);
      const other = random.pick([
        value,
        '',
        'x',
        'Bearer x',
        'application/json',
        `Bearer ${world.adminToken}`,
        key('-x'),
      ]);
      const at = random.below(2);
      const headers = at
        ? [...one.headers, [name, other] as [string, string]]
        : [[name, other] as [string, string], ...one.headers];
      return { kind: `header twice: ${name}`, bytes: written({ ...one, headers }) };
    },
    (world, random, key) => {
      const one = withLength(draft(world, random, key('')));
      const text = written(one).toString('latin1');
      const field = random.pick([
        'X-A : b',
        ' X-A: b',
        'X-A: b\r\n c',
        'X-A',
        ': b',
        'X-\0A: b',
        'X-A: \0',
        'X-A: \x01\x7f',
        'X-A: \xff\xfe',
        'X A: b',
        'X-A:',
        'X-A: b\rc',
        'X-A: b\n',
        '\xe2\x98\x83: b',
        'X-Request-Id: \xff',
        `X-Request-Id: ${'a'.repeat(65)}`,
        'X-Request-Id: a b',
        'Expect: 100-continue',
        'Upgrade: h2c',
        'Connection: close',
        'Connection: upgrade',
        'Content-Encoding: gzip',
        'Trailer: x',
      ]);
      const at = text.indexOf(crlf) + 2;
      return {
        kind: 'a field that is odd',
        bytes: Buffer.from(text.slice(0, at) + field + crlf + text.slice(at), 'latin1'),
      };
    },
    (world, random, key) => {
      const text = written(withLength(draft(world, random, key('')))).toString('latin1');
      const head = text.indexOf(crlf + crlf) + 4;
      const all = random.below(2);
      const lines = text.slice(0, head).split(crlf);
      const bare = random.below(lines.length - 1);
      const ending = random.pick(['\n', '\r', '\r\r\n', '\n\r', '\r\n\r', '']);
      const odd = all
        ? lines.join(ending)
        : lines.reduce((sum, line, i) => sum + (i - 1 === bare ? ending : crlf) + line);
      return { kind: 'line ends that are none', bytes: Buffer.from(odd + text.slice(head), 'latin1') };
    },
    (world, random, key) => {
      const one = withLength(draft(world, random, key('')));
      const what = random.below(4);
      const odd = [
        () => written({ ...one, target: random.pick(oddTargets) }),
        () => written({ ...one, method: random.pick(oddMethods) }),
        () => written(one, random.pick(oddVersions)),
        () => written({ ...one, headers: one.headers.filter(([name]) => name !== 'Host') }),
      ][what]?.();
      const kind = ['target', 'method', 'version', 'no Host'][what];
      return { kind: `request line: ${kind}`, bytes: odd ?? written(one) };
    },
    (world, random, key) => {
      const one = withLength(draft(world, random, key('')));
      const odd = random.pick([
        () => ({ ...one, target: `${one.target}/${long(random)}` }),
        () => ({ ...one, target: `${one.target}?${long(random)}` }),
        () => addHeader(one, 'X-Long', long(random)),
        () => addHeader(one, long(random), 'x'),
        () => ({ ...one, method: long(random) }),
        () => setHeader(one, 'Authorization', `Bearer ${long(random)}`),
        () => setHeader(one, 'Idempotency-Key', long(random)),
        () => ({
          ...one,
          headers: [
            ...one.headers,
            ...Array.from({ length: random.pick([50, 99, 200, 2_000]) }, (_, i): [string, string] => [`X-${i}`, 'v']),
          ],
        }),
      ])();
      return { kind: 'very long', bytes: written(odd) };
    },
    (_world, random) => ({ kind: 'another protocol', bytes: Buffer.from(random.pick(greetings), 'latin1') }),
    (_world, random) => ({ kind: 'noise', bytes: random.bytes(1 + random.below(2_000)) }),
    (world, random, key) => ({ kind: 'hung up on', bytes: right(world, random, key('')), hangsUp: true }),
    (world, random, key) => {
      const bytes = right(world, random, key(''));
      return { kind: 'hung up on in the middle', bytes: bytes.subarray(0, random.below(bytes.length)), hangsUp: true };
    },
  ];
})();

/** Case `number` of a seed: the same world gives the same bytes. */
export function httpCase(world: World, seed: number, number: number): HttpCase {
  const random = createRandom(seed, number);
  const key = (part: string): string => `f${seed}-${String(number).padStart(8, '0')}${part}`;
  const { kind, bytes, hangsUp = false } = random.pick(kinds)(world, random, key);
  return { number, kind, pieces: cutUp(bytes, random), pauseMs: random.pick([0, 0, 0, 1, 5]), hangsUp };
}
