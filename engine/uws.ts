/**
 * The HTTP and WebSocket server, uWebSockets.js: the only place that loads its native module, under Node 24 on
 * linux-x64. Where glibc is too old for the published binary, a patched copy from the cache is loaded instead; see
 * `docs/decisions/0001-node-24-and-uwebsockets-on-old-glibc.md`.
 *
 * Importing this module throws a `SetupError` with code `server-unsupported` where uWebSockets.js can't run.
 */

import { createHash, randomUUID } from 'node:crypto';
import { chmodSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { SetupError } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import { isOlder, patchForGlibc, runtimeGlibc } from './glibc.ts';
import type { Uws } from './uws-types.ts';

const NODE_MAJOR = '24';
const BINARY = '@uwsjs/linux-x64-24/uws.node';
const GLIBC_OF_BINARY = '2.38';
const NOT_OWNER_WRITE_BITS = 0o022;

const require = createRequire(import.meta.url);

/** uWebSockets.js as its own documentation describes it. */
export const uws: Uws = loadUws();

/**
 * The path of a copy of the native module at `source` that loads on `glibc`, made in `cacheRoot` unless it is there.
 * The copy lies in a folder that is named by its content, and no other user but root can change it. Any number of
 * processes may do this at once. Throws an `Error` with a message for people.
 */
export function patchedCopy(source: string, glibc: string, cacheRoot: string): string {
  const patched = patchForGlibc(readFileSync(source), glibc);
  const folder = join(cacheRoot, `uws-${createHash('sha256').update(patched).digest('hex')}`);
  makeOwnFolder(cacheRoot);
  makeOwnFolder(folder);
  const copy = join(folder, 'uws.node');
  if (isSameFile(copy, patched)) return copy;

  const unfinished = join(folder, `${randomUUID()}.unfinished`);
  try {
    writeFileSync(unfinished, patched, { flag: 'wx', flush: true });
    chmodSync(unfinished, 0o755);
    renameSync(unfinished, copy);
  } finally {
    rmSync(unfinished, { force: true });
  }
  return copy;
}

function loadUws(): Uws {
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64') throw unsupported(`the server runs on linux-x64 only, and this is ${platform}`);
  if (process.versions.node.split('.')[0] !== NODE_MAJOR) {
    throw unsupported(`the server runs on Node ${NODE_MAJOR} only, and this is ${process.version}; install Node 24`);
  }
  const glibc = runtimeGlibc();
  if (!glibc) throw unsupported('the server runs on glibc only, and this machine has another C library, such as musl');
  // The module reads it once, while it is loaded. Beyond it, a request is answered with 431 and the connection closed.
  process.env.UWS_HTTP_MAX_HEADERS_SIZE ||= String(limits.headerBytes);
  try {
    const source = require.resolve(BINARY);
    return require(isOlder(glibc, GLIBC_OF_BINARY) ? patchedCopy(source, glibc, cacheFolder()) : source);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
    throw unsupported(
      `uWebSockets.js can't be loaded on Node ${process.version} with glibc ${glibc}: ${reason}`,
      cause,
    );
  }
}

function cacheFolder(): string {
  if (process.getuid?.() === 0) return '/var/cache/stampede';
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'stampede');
}

/** Native code is loaded from `folder`, so nobody else may be able to put files there. */
function makeOwnFolder(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  const { uid, mode } = lstatSync(folder);
  if (uid !== process.getuid?.()) {
    throw new Error(`${folder} belongs to another user; remove it, since native code is loaded from there`);
  }
  if ((mode & NOT_OWNER_WRITE_BITS) !== 0) chmodSync(folder, mode & 0o7777 & ~NOT_OWNER_WRITE_BITS);
}

function isSameFile(path: string, content: Buffer): boolean {
  try {
    const { uid, mode } = lstatSync(path);
    const isOurs = uid === process.getuid?.() && (mode & NOT_OWNER_WRITE_BITS) === 0;
    return isOurs && readFileSync(path).equals(content);
  } catch {
    return false;
  }
}

function unsupported(message: string, cause?: unknown): SetupError {
  return Object.assign(new SetupError('server-unsupported', message), { cause });
}
