import { hash, randomBytes } from 'node:crypto';
import { createSha256x4, lanes, statePlaces } from './sha256x4.ts';

/** What an id of the contract looks like. */
export const idPattern = '^[A-Za-z0-9_-]{1,64}$';
const idRegExp = new RegExp(idPattern);

export function isId(text: string): boolean {
  return idRegExp.test(text);
}

/** Characters of a buyer's id and of a key's digest: nine bytes in base64url. */
export const shortIdChars = 12;

/** A new buyer's id: 72 random bits. Ids are not secrets; tokens are. */
export function newBuyerId(): string {
  return randomBytes(9).toString('base64url');
}

/**
 * What is kept of an idempotency key: the first 72 bits of its SHA-256. A key belongs to one buyer and one sale, so
 * only somebody's own keys could ever meet.
 */
export function keyDigest(idempotencyKey: string): string {
  return hash('sha256', idempotencyKey, 'base64url').slice(0, shortIdChars);
}

/** What a key's characters, a byte each, take at most so that they end in one block with their padding. */
const oneBlockChars = 55;
const [initialState, keyBlock, digestState] = [0, statePlaces, 3 * statePlaces];
let hasher: ReturnType<typeof createSha256x4> | null = null;

/** `keyDigest` of many keys of ASCII: four at once, a third of the instructions. */
export function keyDigests(keys: readonly string[]): string[] {
  hasher ??= createSha256x4();
  const { words, compress, begin, write, pad } = hasher;
  begin(initialState);
  const digests: string[] = [];
  for (let first = 0; first < keys.length; first += lanes) {
    const count = Math.min(lanes, keys.length - first);
    for (let lane = 0; lane < count; lane++) {
      const key = keys[first + lane] ?? '';
      if (key.length > oneBlockChars) continue;
      write(keyBlock, lane, 0, key, 0, key.length);
      pad(keyBlock, lane, 1, key.length, 0);
    }
    compress(initialState, keyBlock, digestState);
    for (let lane = 0; lane < count; lane++) {
      const key = keys[first + lane] ?? '';
      const at = digestState + lane;
      digests.push(
        key.length > oneBlockChars
          ? keyDigest(key)
          : base64url72(words[at] ?? 0, words[at + lanes] ?? 0, words[at + 2 * lanes] ?? 0),
      );
    }
  }
  return digests;
}

/** The first 72 bits of three words, in base64url: made of its characters at once, a text costs a third of one put together. */
function base64url72(a: number, b: number, c: number): string {
  const [second, third] = [((a & 0xff) << 16) | (b >>> 16), ((b & 0xffff) << 8) | (c >>> 24)];
  const digit = (bits: number): number => digitCodes[bits & 63] ?? 0;
  return String.fromCharCode(
    digit(a >>> 26),
    digit(a >>> 20),
    digit(a >>> 14),
    digit(a >>> 8),
    digit(second >> 18),
    digit(second >> 12),
    digit(second >> 6),
    digit(second),
    digit(third >> 18),
    digit(third >> 12),
    digit(third >> 6),
    digit(third),
  );
}

/** Where a reservation is: its shard, sale (by number), sequence, buyer and key digest. */
export type ReservationRef = { shard: number; sale: number; seq: number; buyer: string; key: string };

const reservationIdPattern = /^[A-Za-z0-9_-]{40}$/;
const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
/** 12 bits as two characters of base64url. */
const digitPairs = Array.from({ length: 4_096 }, (_, i) => `${digits[i >> 6]}${digits[i & 63]}`);

const digitCodes = Uint8Array.from({ length: 64 }, (_, i) => digits.charCodeAt(i));

/** Writes `value`, less than 2 ^ 31, as `count` digits of base64url at `at`. */
export function writeDigits(bytes: Uint8Array, at: number, value: number, count: number): void {
  let rest = value;
  for (let i = at + count - 1; i >= at; i--) {
    bytes[i] = digitCodes[rest & 63] ?? 0;
    rest >>= 6;
  }
}

/** What each character of base64url, by its code, stands for; -1 for any other. */
export const base64urlValues: Int8Array = Int8Array.from({ length: 256 }, (_, code) =>
  digits.indexOf(String.fromCharCode(code)),
);

/** Whether it looks like a buyer's id or a key's digest. */
export function isShortId(text: string): boolean {
  let wrong = text.length === shortIdChars ? 0 : -1;
  for (let i = 0; i < text.length; i++) wrong |= base64urlValues[text.charCodeAt(i)] ?? -1;
  return wrong >= 0;
}

/** Three bytes, big-endian, in base64url: four characters. Out of a table it costs a fifth of what a Buffer's does. */
const base64url24 = (value: number): string => digitPair(value >> 12) + digitPair(value & 4_095);
const digitPair = (bits: number): string => digitPairs[bits] ?? '';
/** Six bytes: eight characters. */
const base64url48 = (value: number): string =>
  base64url24(Math.floor(value / 0x1000000)) + base64url24(value % 0x1000000);

/** A reservation's id says where the reservation is, so that no index has to: shard (2 bytes), sale (4), sequence (6), … */
export function encodeReservationId({ shard, sale, seq, buyer, key }: ReservationRef): string {
  return base64url48(shard * 0x100000000 + sale) + base64url48(seq) + buyer + key;
}

export const reservationIdChars = 40;
/** Where in a reservation's id its sequence stands. */
const [seqAt, seqDigits] = [8, 8];

/** Writes what differs between ids of one sale: `bytes` hold at `at` an id of that sale already. */
export function writeReservationId(bytes: Uint8Array, at: number, seq: number, buyer: string, key: string): void {
  writeDigits(bytes, at + seqAt, Math.floor(seq / 0x1000000), seqDigits / 2);
  writeDigits(bytes, at + seqAt + seqDigits / 2, seq % 0x1000000, seqDigits / 2);
  writeChars(bytes, at + seqAt + seqDigits, buyer);
  writeChars(bytes, at + seqAt + seqDigits + shortIdChars, key);
}

/** Writes characters of ASCII, which short texts cost less this way than by a Buffer's `write`. */
export function writeChars(bytes: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i);
}

/** The reference in `id`, or null when it can't be one of ours. */
export function decodeReservationId(id: string): ReservationRef | null {
  if (!reservationIdPattern.test(id)) return null;
  const bytes = Buffer.from(id.slice(0, 16), 'base64url');
  return {
    shard: bytes.readUInt16BE(0),
    sale: bytes.readUInt32BE(2),
    seq: bytes.readUIntBE(6, 6),
    buyer: id.slice(16, 28),
    key: id.slice(28, 40),
  };
}

/** Where a ticket of a waiting room is: its shard, sale (by number), number, and whose it is. */
export type TicketRef = { shard: number; sale: number; number: number; buyer: string };

const ticketIdPattern = /^[A-Za-z0-9_-]{28}$/;

/** Like a reservation's id, a ticket's says where it is. */
export function encodeTicketId({ shard, sale, number, buyer }: TicketRef): string {
  return base64url48(shard * 0x100000000 + sale) + base64url48(number) + buyer;
}

/** The reference in `id`, or null when it can't be one of ours. */
export function decodeTicketId(id: string): TicketRef | null {
  if (!ticketIdPattern.test(id)) return null;
  const bytes = Buffer.from(id.slice(0, 16), 'base64url');
  return {
    shard: bytes.readUInt16BE(0),
    sale: bytes.readUInt32BE(2),
    number: bytes.readUIntBE(6, 6),
    buyer: id.slice(16),
  };
}

/** The shard (of `shards`) on which a sale lives whole. The same everywhere and always. */
export function shardOfSale(saleId: string, shards: number): number {
  return Number.parseInt(hash('sha256', saleId, 'hex').slice(0, 8), 16) % shards;
}

/** The key of a shard's frame; every other key of the shard has the same hash tag. */
export function shardKey(shard: number): string {
  return `{s${shard}}:shard`;
}
