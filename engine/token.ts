/**
 * Checks the session tokens that this deployment signs: JWTs with HS256. fast-jwt signs them, and could check them; but every
 * purchase of a new buyer brings a token that no cache knows, and there four at once cost a twelfth of what the library's general
 * verifier does (docs/explanation/performance.md). `token.test.ts` holds the two against each other.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { base64urlValues, shortIdChars } from '../kernel/ids.ts';
import { blockPlaces, createSha256x4, lanes, statePlaces } from '../kernel/sha256x4.ts';

/** The claims that matter here; times in seconds since 1970. */
export type Claims = { sub: string; exp: number };

/** Answers the claims of a token whose header is exactly HS256's and whose signature is right, expired or not; null otherwise. */
export type TokenCheck = {
  check(token: string): Claims | null;
  /** The same of a text that ends with a token, which begins at `from`; answered at the latest when this turn of the event loop ends. */
  checkTogether(text: string, from: number, done: (claims: Claims | null) => void): void;
};

const tokenCharsMax = 1_024;
const signatureChars = 43;
const dot = 0x2e;
const header = `${Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')}.`;
const isBase64url = /^[A-Za-z0-9_-]+$/;
const hmacBlockBytes = 64;
/** What is signed has to end in the second block, as that of the tokens that `sessions.ts` signs does. */
const signedBlocks = 2;
const signedChars = { least: 56, most: 119 };

function claimsOf(payload: Buffer): Claims | null {
  try {
    const claims = JSON.parse(payload.toString('utf8')) as Partial<Claims>;
    return typeof claims.sub === 'string' && typeof claims.exp === 'number'
      ? { sub: claims.sub, exp: claims.exp }
      : null;
  } catch {
    return null;
  }
}

/** The bytes of `text` at `at`; whether they are there. */
function has(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text.charCodeAt(i)) return false;
  return true;
}
const endOf = (bytes: Uint8Array, from: number, isOne: (byte: number) => boolean): number => {
  let at = from;
  while (isOne(bytes[at] ?? 0)) at++;
  return at;
};
const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
/** Of a run of digits: whether JSON takes it for a number, and a float holds it. */
const isPlainNumber = (bytes: Uint8Array, from: number, to: number): boolean =>
  to > from && to - from <= 15 && (bytes[from] !== 0x30 || to - from === 1);
const isIdChar = (byte: number): boolean => (base64urlValues[byte] ?? -1) >= 0;

/** A buyer's id costs a quarter this way of what a Buffer's own `toString` takes. */
function asciiOf(bytes: Buffer, from: number, to: number): string {
  if (to - from !== shortIdChars) return bytes.toString('latin1', from, to);
  const at = (i: number): number => bytes[from + i] ?? 0;
  return String.fromCharCode(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11));
}

/** Reads what `sessions.ts` signs without a text in between; null for claims that are written otherwise. */
function ownClaimsOf(payload: Buffer, length: number): Claims | null {
  const [sub, iat, exp] = ['{"sub":"', '","iat":', ',"exp":'] as const;
  if (!has(payload, 0, sub)) return null;
  const subEnd = endOf(payload, sub.length, isIdChar);
  if (!has(payload, subEnd, iat)) return null;
  const iatEnd = endOf(payload, subEnd + iat.length, isDigit);
  if (!has(payload, iatEnd, exp)) return null;
  const expBegins = iatEnd + exp.length;
  let [seconds, at] = [0, expBegins];
  for (; isDigit(payload[at] ?? 0); at++) seconds = seconds * 10 + (payload[at] ?? 0) - 0x30;
  if (at !== length - 1 || payload[at] !== 0x7d) return null;
  // What JSON takes for no number, or for one that is no whole one any more, is left to it.
  if (!isPlainNumber(payload, subEnd + iat.length, iatEnd) || !isPlainNumber(payload, expBegins, at)) return null;
  return { sub: asciiOf(payload, sub.length, subEnd), exp: seconds };
}

/** What a character of base64url stands for, and what four do, 24 bits; negative where one of them is none. */
const six = (text: string, at: number): number => base64urlValues[text.charCodeAt(at)] ?? -1;
const four = (text: string, at: number): number =>
  (six(text, at) << 18) | (six(text, at + 1) << 12) | (six(text, at + 2) << 6) | six(text, at + 3);

export function createTokenCheck(secret: string): TokenCheck {
  const check = (token: string): Claims | null => {
    const end = token.length - 1 - signatureChars;
    if (token.length > tokenCharsMax || !token.startsWith(header) || token.charCodeAt(end) !== dot) return null;
    const digest = createHmac('sha256', secret).update(token.slice(0, end)).digest('base64url');
    const [expected, given] = [Buffer.from(digest), Buffer.from(token.slice(end + 1))];
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
    const claims = token.slice(header.length, end);
    return isBase64url.test(claims) ? claimsOf(Buffer.from(claims, 'base64url')) : null;
  };

  // HMAC-SHA256 (RFC 2104). What begins with the secret's block is hashed as far as that once and for all.
  const { words, compress, begin, write, pad } = createSha256x4();
  const [innerKey, outerKey] = [0, statePlaces];
  const signed = outerKey + statePlaces;
  const state = signed + signedBlocks * blockPlaces;
  // The inner digest comes to lie where the outer hash reads it, before its padding.
  const inner = state + statePlaces;
  const digest = inner + blockPlaces;
  const raw = Buffer.from(secret);
  const key = Buffer.alloc(hmacBlockBytes);
  (raw.length > hmacBlockBytes ? createHash('sha256').update(raw).digest() : raw).copy(key);
  for (const [place, mask] of [
    [innerKey, 0x36],
    [outerKey, 0x5c],
  ] as const) {
    const masked = Buffer.from(key.map((byte) => byte ^ mask)).toString('latin1');
    begin(place);
    for (let lane = 0; lane < lanes; lane++) write(signed, lane, 0, masked, 0, hmacBlockBytes);
    compress(place, signed, place);
  }
  for (let lane = 0; lane < lanes; lane++) {
    write(signed, lane, 0, header, 0, header.length);
    pad(inner, lane, 1, 32, hmacBlockBytes);
  }

  /** 24 bits of a lane's digest, from the 24 * `group`th on. */
  const digest24 = (lane: number, group: number): number => {
    const bit = group * 24;
    const at = digest + (bit >> 5) * lanes + lane;
    const [word, next, begins] = [words[at] ?? 0, words[at + lanes] ?? 0, bit & 31];
    return (begins <= 8 ? word >>> (8 - begins) : (word << (begins - 8)) | (next >>> (40 - begins))) & 0xffffff;
  };
  /** Whether a lane's digest is what the 43 characters from `from` on say; the time it takes doesn't tell where they differ. */
  const isSignature = (lane: number, text: string, from: number): boolean => {
    let difference = 0;
    for (let group = 0; group < 10; group++) difference |= digest24(lane, group) ^ four(text, from + group * 4);
    // The last three characters stand for 16 bits, and two that have to be 0.
    const last = (six(text, from + 40) << 12) | (six(text, from + 41) << 6) | six(text, from + 42);
    difference |= (((words[digest + 7 * lanes + lane] ?? 0) & 0xffff) << 2) ^ last;
    return difference === 0;
  };
  const payload = Buffer.alloc(signedChars.most);
  /** The bytes that characters `from` to `to` of base64url stand for, in `payload`; how many, or -1 where a character is none. */
  const decode = (text: string, from: number, to: number): number => {
    let [at, length, wrong] = [from, 0, 0];
    for (; at + 4 <= to; at += 4) {
      const bits = four(text, at);
      wrong |= bits;
      payload[length++] = bits >> 16;
      payload[length++] = bits >> 8;
      payload[length++] = bits;
    }
    const left = to - at;
    const bits =
      (six(text, at) << 18) | (left > 1 ? six(text, at + 1) << 12 : 0) | (left > 2 ? six(text, at + 2) << 6 : 0);
    if (left > 0) wrong |= bits;
    if (left > 1) payload[length++] = bits >> 16;
    if (left > 2) payload[length++] = bits >> 8;
    return wrong < 0 ? -1 : length;
  };
  const claimsAt = (lane: number, text: string, from: number): Claims | null => {
    const end = text.length - 1 - signatureChars;
    if (!isSignature(lane, text, end + 1)) return null;
    const length = decode(text, from + header.length, end);
    return length < 0 ? null : (ownClaimsOf(payload, length) ?? claimsOf(payload.subarray(0, length)));
  };

  type Waiting = { text: string; from: number; done(claims: Claims | null): void };
  let waiting: Waiting[] = [];
  let scheduled = false;
  const flush = (): void => {
    const together = waiting;
    waiting = [];
    if (together.length === 0) return;
    compress(innerKey, signed, state);
    compress(state, signed + blockPlaces, inner);
    compress(outerKey, inner, digest);
    const claims = together.map(({ text, from }, lane) => claimsAt(lane, text, from));
    for (let i = 0; i < together.length; i++) together[i]?.done(claims[i] ?? null);
  };
  return {
    check,
    checkTogether(text, from, done) {
      const chars = text.length - 1 - signatureChars - from;
      const isOurs = chars >= signedChars.least && chars <= signedChars.most && text.startsWith(header, from);
      if (!isOurs || text.charCodeAt(from + chars) !== dot) {
        done(check(text.slice(from)));
        return;
      }
      const lane = waiting.push({ text, from, done }) - 1;
      write(signed, lane, header.length, text, from + header.length, from + chars);
      pad(signed, lane, signedBlocks, chars, hmacBlockBytes);
      if (waiting.length === lanes) flush();
      else if (!scheduled) {
        scheduled = true;
        setImmediate(() => {
          scheduled = false;
          flush();
        });
      }
    },
  };
}
