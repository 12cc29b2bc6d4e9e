/** What the fuzzers take for requests and answers: they hold the engine's against it. */
import { describe, expect, it } from 'vitest';
import { frame, readFrames, readMessages } from './frames.ts';
import { readAnswers, readRequests } from './http-text.ts';

const post = (fields: string, body: string): Buffer =>
  Buffer.from(`POST / HTTP/1.1\r\nHost: a\r\n${fields}\r\n${body}`, 'latin1');
const right = post('Content-Length: 2\r\n', '{}');

describe('requests', () => {
  it.each<[string, Buffer, string[], string]>([
    ['one', right, ['{}'], 'clean'],
    ['two', Buffer.concat([right, right]), ['{}', '{}'], 'clean'],
    ['cut short', right.subarray(0, -1), [], 'incomplete'],
    ['in chunks', post('Transfer-Encoding: chunked\r\n', '1\r\n{\r\n1;x\r\n}\r\n0\r\nT: x\r\n\r\n'), ['{}'], 'clean'],
    ['a length and chunks', post('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'), [], 'broken'],
    ['two lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{}'), [], 'broken'],
    ['a line without CR', Buffer.from(right.toString().replace('\r\n', '\n')), [], 'broken'],
    ['a name with a space', post('A : b\r\nContent-Length: 2\r\n', '{}'), [], 'broken'],
    ['no Host', Buffer.from('GET / HTTP/1.1\r\n\r\n'), [], 'broken'],
    ['garbage after it', Buffer.concat([right, Buffer.from('x\r\n')]), ['{}'], 'broken'],
  ])('by RFC 9112: %s', (_, bytes, bodies, end) => {
    const stream = readRequests(bytes, 'rfc');
    expect([stream.requests.map(({ body }) => body.toString()), stream.end]).toEqual([bodies, end]);
  });

  // Each of these was seen by the fuzzer; RFC 9112 forbids to take them.
  it.each<[string, Buffer, string[]]>([
    ['the first of two lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{}'), ['{}']],
    ['any coding for chunked', post('Transfer-Encoding: gzip\r\n', '2\r\n{}\r\n0\r\n\r\n'), ['{}']],
    ['lines of chunks without CR', post('Transfer-Encoding: chunked\r\n', '2\n{}\r\n0\n\r\n'), ['{}']],
    [
      'an extension for digits of the size',
      post('Transfer-Encoding: chunked\r\n', '0;\r\n{"a":"bcd"}\r\n0\r\n\r\n'),
      ['{"a":"bcd"}'],
    ],
    ['nothing after a field without a name', post(': x\r\nContent-Length: 2\r\n', ''), ['']],
    ['bytes from 0x80 on around a value for white space', post('Content-Length: \xff2\xfe\r\n', '{}'), ['{}']],
  ])('the library takes %s', (_, bytes, bodies) => {
    expect(readRequests(bytes, 'library').requests.map(({ body }) => body.toString('latin1'))).toEqual(bodies);
    expect(readRequests(bytes, 'rfc').requests.map(({ body }) => body.toString('latin1'))).not.toEqual(bodies);
  });
});

describe('answers', () => {
  const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}';
  it.each<[string, string, number, string]>([
    ['one', ok, 1, 'clean'],
    ['after a 100', `HTTP/1.1 100 Continue\r\n\r\n${ok}`, 1, 'clean'],
    ['cut short', ok.slice(0, -1), 0, 'incomplete'],
    ['without a length', ok.replace(/Content.*\r\n/, ''), 0, 'broken'],
    ['of the library', 'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<h1>', 1, 'clean'],
    ['garbage', 'what?\r\n', 0, 'broken'],
  ])('%s', (_, text, count, rest) => {
    const read = readAnswers(Buffer.from(text), ['GET']);
    expect([read.answers.length, read.rest]).toEqual([count, rest]);
  });
});

describe('frames', () => {
  it.each<[string, Buffer, string[], string]>([
    ['text', frame('a'), ['a'], ''],
    [
      'in pieces',
      Buffer.concat([frame('a', { fin: false }), frame('', { opcode: 9 }), frame('b', { opcode: 0 })]),
      ['ab'],
      '',
    ],
    ['a long one', frame('x'.repeat(70_000)), ['x'.repeat(70_000)], ''],
    ['reserved bits', frame('a', { rsv: 4 }), [], 'reserved bits'],
    ['not masked', frame('a', { masked: false }), [], 'masking'],
    ['not UTF-8', frame(Buffer.of(0xff)), [], 'a text that is not UTF-8'],
    ['a ping in pieces', frame('a', { opcode: 9, fin: false }), [], 'a control frame that is long or in pieces'],
  ])('%s', (_, bytes, texts, why) => {
    const read = readMessages(readFrames(bytes).frames, { fromClient: true, strict: true });
    expect([read.texts, read.why]).toEqual([texts, why]);
  });
});
