/**
 * Checks the session tokens that this deployment signs: JWTs with HS256. fast-jwt signs them, and could check them; but
 * every purchase of a new buyer brings a token that no cache knows, and there this costs a quarter of what the library's
 * general verifier does (docs/explanation/performance.md). `token.test.ts` holds the two against each other.
 */
import { hash } from 'node:crypto';

/** The claims that matter here; times in seconds since 1970. */
export type Claims = { sub: string; exp: number };

const blockBytes = 64;
const digestBytes = 32;
const tokenCharsMax = 1_024;

/** HMAC-SHA256 (RFC 2104) with a fixed key, in base64url, out of two one-shot hashes: they cost less than an Hmac object. */
function createMac(key: string): (message: string) => string {
  const raw = Buffer.from(key);
  const padded = Buffer.alloc(blockBytes);
  (raw.length > blockBytes ? Buffer.from(hash('sha256', raw, 'hex'), 'hex') : raw).copy(padded);
  const inner = Buffer.alloc(blockBytes + tokenCharsMax * 3);
  const outer = Buffer.alloc(blockBytes + digestBytes);
  for (let i = 0; i < blockBytes; i++) {
    const byte = padded[i] ?? 0;
    inner[i] = byte ^ 0x36;
    outer[i] = byte ^ 0x5c;
  }
  return (message) => {
    // As UTF-8, so that no character outside of ASCII can pass for one of a token's.
    const bytes = inner.write(message, blockBytes, 'utf8');
    outer.write(hash('sha256', inner.subarray(0, blockBytes + bytes), 'binary'), blockBytes, 'binary');
    return hash('sha256', outer, 'base64url');
  };
}

/** Whether two texts of one length are the same, in a time that doesn't tell where they differ. */
function sameText(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}

/**
 * Makes a check of tokens signed with `secret`. It answers the claims of a token whose header is exactly HS256's and whose
 * signature is right, expired or not; null otherwise.
 */
export function createTokenCheck(secret: string): (token: string) => Claims | null {
  const mac = createMac(secret);
  const header = `${Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')}.`;
  const payload = Buffer.alloc(tokenCharsMax);
  return (token) => {
    if (token.length > tokenCharsMax || !token.startsWith(header)) return null;
    const dot = token.lastIndexOf('.');
    if (dot < header.length) return null;
    if (!sameText(token.slice(dot + 1), mac(token.slice(0, dot)))) return null;
    const bytes = payload.write(token.slice(header.length, dot), 0, 'base64url');
    const claims = JSON.parse(payload.toString('utf8', 0, bytes)) as Partial<Claims>;
    return typeof claims.sub === 'string' && typeof claims.exp === 'number'
      ? { sub: claims.sub, exp: claims.exp }
      : null;
  };
}
