/**
 * Checks the session tokens that this deployment signs: JWTs with HS256. fast-jwt signs them, and could check them; but
 * every purchase of a new buyer brings a token that no cache knows, and there this costs a quarter of what the library's
 * general verifier does (docs/explanation/performance.md). `token.test.ts` holds the two against each other.
 */
import { hash, timingSafeEqual } from 'node:crypto';

/** The claims that matter here; times in seconds since 1970. */
export type Claims = { sub: string; exp: number };

const blockBytes = 64;
const digestBytes = 32;
const tokenCharsMax = 1_024;
/** One spelling only: 32 bytes leave two bits to spare in the last of 43 characters, and they are zero. */
const spelling = /^[\w-]+\.[\w-]+\.[\w-]{42}[AEIMQUYcgkosw048]$/;

/** HMAC-SHA256 (RFC 2104) with a fixed key, out of two one-shot hashes: those cost less than an Hmac object. */
function createMac(key: string): (message: string) => Buffer {
  const raw = Buffer.from(key);
  const padded = Buffer.alloc(blockBytes);
  (raw.length > blockBytes ? Buffer.from(hash('sha256', raw, 'hex'), 'hex') : raw).copy(padded);
  const inner = Buffer.alloc(blockBytes + tokenCharsMax);
  const outer = Buffer.alloc(blockBytes + digestBytes);
  for (let i = 0; i < blockBytes; i++) {
    const byte = padded[i] ?? 0;
    inner[i] = byte ^ 0x36;
    outer[i] = byte ^ 0x5c;
  }
  return (message) => {
    const bytes = inner.write(message, blockBytes, 'latin1');
    outer.write(hash('sha256', inner.subarray(0, blockBytes + bytes), 'hex'), blockBytes, 'hex');
    return hash('sha256', outer, 'buffer') as Buffer;
  };
}

/**
 * Makes a check of tokens signed with `secret`. It answers the claims of a token whose header is exactly HS256's and whose
 * signature is right, expired or not; null otherwise.
 */
export function createTokenCheck(secret: string): (token: string) => Claims | null {
  const mac = createMac(secret);
  const header = `${Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')}.`;
  return (token) => {
    if (token.length > tokenCharsMax || !token.startsWith(header)) return null;
    const dot = token.indexOf('.', header.length);
    if (dot < 0) return null;
    if (!spelling.test(token)) return null;
    const signature = Buffer.from(token.slice(dot + 1), 'base64url');
    if (!timingSafeEqual(signature, mac(token.slice(0, dot)))) return null;
    const claims = JSON.parse(
      Buffer.from(token.slice(header.length, dot), 'base64url').toString('utf8'),
    ) as Partial<Claims>;
    return typeof claims.sub === 'string' && typeof claims.exp === 'number'
      ? { sub: claims.sub, exp: claims.exp }
      : null;
  };
}
