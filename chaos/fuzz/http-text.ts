/**
 * HTTP/1.1, read without the engine's code: what requests a stream of bytes holds, and what answers came back. Requests are
 * read in two ways. `rfc`: as RFC 9112 writes it, strictly: what may be read in two ways is not a request. `library`: as
 * uWebSockets.js is known to read what RFC 9112 forbids; docs/explanation/how-it-is-tested.md names the differences.
 */

export type HttpRequest = {
  method: string;
  target: string;
  /** Names in lower case, in order. */
  headers: [string, string][];
  body: Buffer;
};

/** `end`: what comes after the last whole request; `why`: what is wrong there. */
export type Reading = 'rfc' | 'library';
export type Stream = { requests: HttpRequest[]; end: 'clean' | 'incomplete' | 'broken'; why: string };

class Broken extends Error {}
class Incomplete extends Error {}

const tokenPattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** A field's value: visible characters, obs-text, and spaces and tabs between them. The library takes DEL too. */
const valuePattern = { rfc: /^[\t\x20-\x7e\x80-\xff]*$/, library: /^[\t\x20-\xff]*$/ };
const targetPattern = { rfc: /^[\x21-\x7e\x80-\xff]+$/, library: /^[\x21-\xff]+$/ };

/** The bytes up to the next CRLF, as Latin 1, and where the line after it begins. */
function lineAt(bytes: Buffer, from: number): [string, number] {
  const end = bytes.indexOf('\r\n', from, 'latin1');
  const lf = bytes.indexOf(0x0a, from);
  if (lf >= 0 && (end < 0 || lf < end + 1)) throw new Broken('a line that ends without CR');
  if (end < 0) throw new Incomplete();
  const line = bytes.toString('latin1', from, end);
  if (line.includes('\r')) throw new Broken('a CR within a line');
  return [line, end + 2];
}

function headersAt(bytes: Buffer, from: number, reading: Reading): [[string, string][], number] {
  const headers: [string, string][] = [];
  let at = from;
  let hidden = false;
  for (;;) {
    const [line, next] = lineAt(bytes, at);
    at = next;
    if (line === '') return [headers, at];
    // The library sees nothing of what comes after a field without a name.
    if (reading === 'library' && line.startsWith(':')) hidden = true;
    if (hidden) continue;
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(0, colon));
    // The library takes bytes from 0x80 on for white space, where a value begins and ends.
    const blank = reading === 'library' ? /^[ \t\x80-\xff]+|[ \t\x80-\xff]+$/g : /^[ \t]+|[ \t]+$/g;
    const value = line.slice(colon + 1).replace(blank, '');
    if (colon < 1 || !tokenPattern.test(name)) throw new Broken(`no field name: ${JSON.stringify(line.slice(0, 40))}`);
    if (!valuePattern[reading].test(value)) throw new Broken(`a control character in ${name}`);
    headers.push([name.toLowerCase(), value]);
  }
}

export const valuesOf = (headers: [string, string][], name: string): string[] =>
  headers.filter(([each]) => each === name).map(([, value]) => value);

function chunksAt(bytes: Buffer, from: number): [Buffer, number] {
  const chunks: Buffer[] = [];
  let at = from;
  for (;;) {
    const [line, next] = lineAt(bytes, at);
    const [, size, extension = ''] = /^([0-9A-Fa-f]{1,12})([ \t]*;.*)?$/.exec(line) ?? [];
    if (size === undefined || !valuePattern.rfc.test(extension))
      throw new Broken(`no chunk size: ${line.slice(0, 20)}`);
    const length = Number.parseInt(size, 16);
    at = next;
    if (length === 0) {
      const [, after] = headersAt(bytes, at, 'rfc');
      return [Buffer.concat(chunks), after];
    }
    // What is there of it may be wrong already.
    if (at + length + 2 > bytes.length) {
      const ending = bytes.subarray(at + length, at + length + 2);
      if (ending.length > 0 && ending[0] !== 0x0d) throw new Broken('a chunk that doesn’t end');
      throw new Incomplete();
    }
    if (bytes.toString('latin1', at + length, at + length + 2) !== '\r\n') throw new Broken('a chunk that doesn’t end');
    chunks.push(bytes.subarray(at, at + length));
    at += length + 2;
  }
}

/**
 * Chunks as the library reads them: every character after the size that is above a space counts as a digit of it (so
 * extensions make it larger), the line ends at LF, the two bytes after a chunk may be any, and there are no trailers.
 */
function libraryChunksAt(bytes: Buffer, from: number): [Buffer, number] {
  const chunks: Buffer[] = [];
  let at = from;
  for (;;) {
    let size = 0;
    for (; at < bytes.length; at++) {
      const char = bytes[at] ?? 0;
      if (char <= 32 || char >= 128) break;
      const digit = char >= 97 ? char - 39 - 48 : char >= 65 ? char - 7 - 48 : char - 48;
      if (digit < 0 || digit > 16) throw new Broken('no chunk size');
      size = size * 16 + digit;
      if (size > 2 ** 40) throw new Broken('a chunk that is too large');
    }
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) throw new Incomplete();
    at = end + 1;
    // The end of the last line is the request's.
    if (size === 0) return [Buffer.concat(chunks), Math.min(bytes.length, at + 2)];
    if (at + size + 2 > bytes.length) throw new Incomplete();
    chunks.push(bytes.subarray(at, at + size));
    at += size + 2;
  }
}

function bodyAt(bytes: Buffer, from: number, headers: [string, string][], reading: Reading): [Buffer, number] {
  let lengths = valuesOf(headers, 'content-length');
  let codings = valuesOf(headers, 'transfer-encoding');
  if (reading === 'library') {
    // The first of a name; an empty one is none; whatever coding there is means chunked.
    lengths = lengths.slice(0, 1).filter((value) => value !== '');
    codings = codings.slice(0, 1).filter((value) => value !== '');
  }
  if (lengths.length > 1 || lengths.some((length) => !/^\d{1,18}$/.test(length))) throw new Broken('Content-Length');
  if (codings.length > 0) {
    if (lengths.length > 0) throw new Broken('both Content-Length and Transfer-Encoding');
    if (reading === 'library') return libraryChunksAt(bytes, from);
    if (codings.length > 1 || codings[0]?.toLowerCase() !== 'chunked') throw new Broken('Transfer-Encoding');
    return chunksAt(bytes, from);
  }
  const length = Number(lengths[0] ?? 0);
  if (from + length > bytes.length) throw new Incomplete();
  return [bytes.subarray(from, from + length), from + length];
}

function requestAt(bytes: Buffer, from: number, reading: Reading): [HttpRequest, number] {
  const [line, afterLine] = lineAt(bytes, from);
  const parts = line.split(' ');
  const [method = '', target = '', version = ''] = parts;
  const isMethod = reading === 'library' ? /^[^\0-\x20]*$/.test(method) : tokenPattern.test(method);
  if (parts.length !== 3 || !isMethod || !targetPattern[reading].test(target)) throw new Broken('no request line');
  if (!/^HTTP\/1\.[01]$/.test(version)) throw new Broken(`the version ${version.slice(0, 20)}`);
  const [headers, afterHeaders] = headersAt(bytes, afterLine, reading);
  if (valuesOf(headers, 'host').length !== 1 && reading === 'rfc') throw new Broken('not one Host');
  const [body, next] = bodyAt(bytes, afterHeaders, headers, reading);
  return [{ method, target, headers, body }, next];
}

/** The requests in what was sent on one connection. */
export function readRequests(bytes: Buffer, reading: Reading): Stream {
  const requests: HttpRequest[] = [];
  let at = 0;
  try {
    while (at < bytes.length) {
      const [request, next] = requestAt(bytes, at, reading);
      requests.push(request);
      at = next;
    }
    return { requests, end: 'clean', why: '' };
  } catch (error) {
    if (error instanceof Incomplete) return { requests, end: 'incomplete', why: '' };
    if (error instanceof Broken) return { requests, end: 'broken', why: error.message };
    throw error;
  }
}

export type HttpAnswer = {
  status: number;
  headers: [string, string][];
  body: string;
  /** Written by the HTTP library, which could not read a request. */
  byLibrary: boolean;
};

/** What uWebSockets.js answers by itself, to the byte; it closes the connection then. */
const libraryAnswers = [
  'HTTP/1.1 400 Bad Request',
  'HTTP/1.1 431 Request Header Fields Too Large',
  'HTTP/1.1 505 HTTP Version Not Supported',
].map((line) => `${line}\r\nConnection: close\r\n`);

/** `rest`: how the bytes end. `methods`: of the requests in order; an answer to HEAD has no body. */
export function readAnswers(
  bytes: Buffer,
  methods: string[],
): { answers: HttpAnswer[]; rest: 'clean' | 'incomplete' | 'broken' } {
  const answers: HttpAnswer[] = [];
  let at = 0;
  try {
    while (at < bytes.length) {
      const text = bytes.toString('latin1', at);
      if (libraryAnswers.some((start) => text.startsWith(start))) {
        const end = text.indexOf('\r\n\r\n');
        if (end < 0) return { answers, rest: 'incomplete' };
        answers.push({ status: Number(text.slice(9, 12)), headers: [], body: text.slice(end + 4), byLibrary: true });
        return { answers, rest: 'clean' };
      }
      const [line, afterLine] = lineAt(bytes, at);
      const status = Number(/^HTTP\/1\.1 (\d{3}) [ -~]*$/.exec(line)?.[1] ?? 0);
      if (status === 0) return { answers, rest: 'broken' };
      if (status === 100 && bytes.toString('latin1', afterLine, afterLine + 2) === '\r\n') {
        // "Go on": the answer comes after it.
        at = afterLine + 2;
        continue;
      }
      const [headers, afterHeaders] = headersAt(bytes, afterLine, 'rfc');
      const lengths = valuesOf(headers, 'content-length');
      const hasBody = methods[answers.length] !== 'HEAD' && status !== 204 && status !== 101;
      if (hasBody && (lengths.length !== 1 || !/^\d+$/.test(lengths[0] ?? ''))) return { answers, rest: 'broken' };
      const length = hasBody ? Number(lengths[0]) : 0;
      if (afterHeaders + length > bytes.length) return { answers, rest: 'incomplete' };
      at = afterHeaders + length;
      answers.push({ status, headers, body: bytes.toString('utf8', afterHeaders, at), byLibrary: false });
    }
    return { answers, rest: 'clean' };
  } catch (error) {
    if (error instanceof Incomplete) return { answers, rest: 'incomplete' };
    if (error instanceof Broken) return { answers, rest: 'broken' };
    throw error;
  }
}
