import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { limits } from '../kernel/limits.ts';
import { patchedCopy, uws } from './uws.ts';
import type { ListenSocket } from './uws-types.ts';

const run = promisify(execFile);
const modulePath = join(import.meta.dirname, 'uws.ts');
const source = createRequire(import.meta.url).resolve('@uwsjs/linux-x64-24/uws.node');

describe('the server', () => {
  let listening: ListenSocket;
  let port: number;

  beforeAll(async () => {
    const app = uws
      .App()
      .get('/hello', (res) => {
        res.end('hello');
      })
      .ws('/echo', {
        message: (socket, message, isBinary) => {
          socket.send(message, isBinary);
        },
      });
    listening = await new Promise((resolve, reject) => {
      app.listen('127.0.0.1', 0, (socket) => (socket ? resolve(socket) : reject(new Error('no free port'))));
    });
    port = uws.us_socket_local_port(listening);
  });
  afterAll(() => uws.us_listen_socket_close(listening));

  it('answers HTTP', async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/hello`);
    expect([answer.status, await answer.text()]).toEqual([200, 'hello']);
  });

  it('answers over WebSocket', async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/echo`);
    const answer = await new Promise((resolve, reject) => {
      socket.onopen = () => socket.send('hello');
      socket.onmessage = (event) => resolve(event.data);
      socket.onerror = () => reject(new Error('the socket failed'));
    });
    socket.close();
    expect(answer).toBe('hello');
  });

  /** The status line of the answer to a header of `bytes`, or the code of the error that ended the connection. */
  async function answerToHeader(bytes: number): Promise<string | undefined> {
    const socket = connect(port, '127.0.0.1').setTimeout(5_000, () => socket.destroy(new Error('no answer')));
    socket.write(`GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: ${'x'.repeat(bytes)}\r\n\r\n`);
    const answer = await text(socket).catch((error: NodeJS.ErrnoException) => error.code ?? error.message);
    return answer.split('\r\n')[0];
  }

  it.each([
    [7 * 1024, 'HTTP/1.1 200 OK'],
    [limits.headerBytes - 100, 'HTTP/1.1 200 OK'],
    [limits.headerBytes, 'HTTP/1.1 431 Request Header Fields Too Large'],
    [9 * 1024, 'HTTP/1.1 431 Request Header Fields Too Large'],
  ])('answers a header of %i bytes with %s, and closes', async (bytes, statusLine) => {
    expect(await answerToHeader(bytes)).toBe(statusLine);
  });

  it('refuses a header of a megabyte: what it left unread may reset the connection before the answer is seen', async () => {
    expect(await answerToHeader(1024 * 1024)).toMatch(/ 431 |^ECONNRESET$|^EPIPE$/);
    expect((await fetch(`http://127.0.0.1:${port}/hello`)).status).toBe(200);
  });
});

describe('the patched copy', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'stampede-uws-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  it('is made once, and only its owner can write it', () => {
    const copy = patchedCopy(source, '2.36', root);
    const { ino, mode } = statSync(copy);
    expect(mode & 0o777).toBe(0o755);
    expect(statSync(dirname(copy)).mode & 0o022).toBe(0);
    expect(patchedCopy(source, '2.36', root)).toBe(copy);
    expect(statSync(copy).ino).toBe(ino);
  });

  it.each<[string, (copy: string) => void]>([
    ['was changed', (copy) => writeFileSync(copy, 'something else')],
    ['could be written by others', (copy) => chmodSync(copy, 0o777)],
  ])('is made anew when it %s', (_, spoil) => {
    const copy = patchedCopy(source, '2.36', root);
    const content = readFileSync(copy);
    spoil(copy);
    patchedCopy(source, '2.36', root);
    expect(readFileSync(copy).equals(content)).toBe(true);
    expect(statSync(copy).mode & 0o777).toBe(0o755);
  });

  it('is whole for every process when several make it at once', async () => {
    const script = `
      const { patchedCopy } = await import(${JSON.stringify(modulePath)});
      const copy = patchedCopy(${JSON.stringify(source)}, '2.36', ${JSON.stringify(root)});
      process.dlopen({ exports: {} }, copy);
      console.log(copy);`;
    const runs = await Promise.all(
      Array.from({ length: 4 }, () =>
        run(process.execPath, ['--input-type=module', '-e', script], { timeout: 30_000 }),
      ),
    );
    const copies = new Set(runs.map(({ stdout }) => stdout.trim()));
    expect(copies.size).toBe(1);
    for (const copy of copies) expect(readdirSync(dirname(copy))).toEqual(['uws.node']);
  });

  it('is refused for a file that is no native module', () => {
    expect(() => patchedCopy(modulePath, '2.36', root)).toThrow("isn't a 64-bit little-endian ELF file");
    expect(readdirSync(root)).toEqual([]);
  });
});

describe('where the server cannot run, loading it says so in one line', () => {
  it.each([
    ['another platform', 'process', 'platform', 'darwin', 'linux-x64 only, and this is darwin-x64'],
    ['another Node', 'process.versions', 'node', '26.1.0', 'Node 24 only'],
    ['another C library', 'process.report', 'getReport', () => ({ header: {} }), 'another C library'],
    [
      'a much older glibc',
      'process.report',
      'getReport',
      () => ({ header: { glibcVersionRuntime: '2.31' } }),
      'GLIBC_2.36',
    ],
  ])('%s', async (_, object, key, value, reason) => {
    const pretended = typeof value === 'function' ? value.toString() : JSON.stringify(value);
    const script = `
      Object.defineProperty(${object}, '${key}', { value: ${pretended} });
      await import(${JSON.stringify(modulePath)}).catch((error) => console.log(error.code + ': ' + error.message));`;
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script], { timeout: 30_000 });
    expect(stdout).toContain(reason);
    expect(stdout).toMatch(/^server-unsupported: .+\n$/);
  });
});
