/**
 * Checks the session tokens that this deployment signs: JWTs with HS256. fast-jwt signs them, and could check them; but every
 * purchase of a new buyer brings a token that no cache knows, and there four at once cost a twelfth of what the library's general
 * verifier does (docs/explanation/performance.md). `token.test.ts` holds the two against each other.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { base64urlValues } from '../kernel/ids.ts';
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
const isIdChar = (byte: number): boolean => (base64urlValues[byte] ?? -1) >= 0;

/** Reads what `sessions.ts` signs without a text in between; null for claims that are written otherwise. */
function ownClaimsOf(payload: Buffer, length: number): Claims | null {
  const [sub, iat, exp] = ['{"sub":"', '","iat":', ',"exp":'] as const;
  if (!has(payload, 0, sub)) return null;
  const subEnd = endOf(payload, sub.length, isIdChar);
  if (!has(payload, subEnd, iat)) return null;
  const iatEnd = endOf(payload, subEnd + iat.length, isDigit);
  if (!has(payload, iatEnd, exp)) return null;
  let [seconds, at] = [0, iatEnd + exp.length];
  for (; isDigit(payload[at] ?? 0); at++) seconds = seconds * 10 + (payload[at] ?? 0) - 0x30;
  if (at !== length - 1 || payload[at] !== 0x7d) return null;
  return { sub: payload.toString('latin1', sub.length, subEnd), exp: seconds };
}

export function createTokenCheck(secret: string): TokenCheck {
  const check = (token: string): Claims | null => {
    const end = token.length - 1 - signatureChars;
    if (token.length > tokenCharsMax || !token.startsWith(header) || token.charCodeAt(end) !== dot) return null;
    const digest = createHmac('sha256', secret).update(token.slice(0, end)).digest('base64url');
    const [expected, given] = [Buffer.from(digest), Buffer.from(token.slice(end + 1))];
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
    return claimsOf(Buffer.from(token.slice(header.length, end), 'base64url'));
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

  /** Whether a lane's digest is what the 43 characters from `from` on say; the time it takes doesn't tell where they differ. */
  const isSignature = (lane: number, text: string, from: number): boolean => {
    let difference = 0;
    for (let i = 0; i < signatureChars; i++) {
      const bit = i * 6;
      const at = digest + (bit >> 5) * lanes + lane;
      const shift = 26 - (bit & 31);
      const word = words[at] ?? 0;
      const next = i === signatureChars - 1 ? 0 : (words[at + lanes] ?? 0);
      const expected = shift >= 0 ? (word >>> shift) & 63 : ((word << -shift) | (next >>> (32 + shift))) & 63;
      difference |= expected ^ (base64urlValues[text.charCodeAt(from + i)] ?? -1);
    }
    return difference === 0;
  };
  const payload = Buffer.alloc(signedChars.most);
  /** The bytes that characters `from` to `to` of base64url stand for, in `payload`; how many, or -1 where a character is none. */
  const decode = (text: string, from: number, to: number): number => {
    let [bits, value, length, wrong] = [0, 0, 0, 0];
    for (let i = from; i < to; i++) {
      const six = base64urlValues[text.charCodeAt(i)] ?? -1;
      wrong |= six;
      value = ((value << 6) | six) & 0xfff;
      bits += 6;
      if (bits < 8) continue;
      bits -= 8;
      payload[length++] = value >> bits;
    }
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
