/**
 * Checks the session tokens that this deployment signs: JWTs with HS256. fast-jwt signs them, and could check them; but
 * every purchase of a new buyer brings a token that no cache knows, and there this costs a quarter of what the library's
 * general verifier does (docs/explanation/performance.md). `token.test.ts` holds the two against each other.
 */
import { createHash, hash } from 'node:crypto';

/** The claims that matter here; times in seconds since 1970. */
export type Claims = { sub: string; exp: number };

const blockBytes = 64;
const digestBytes = 32;
const tokenCharsMax = 1_024;
const signatureChars = 43;
const dot = 0x2e;

/** What `sessions.ts` signs; whoever else has the secret may write the same claims otherwise. */
const ownPayload = /^\{"sub":"([A-Za-z0-9_-]{1,64})","iat":\d+,"exp":(\d{1,15})\}$/;

/** Whether `bytes` has `expected` at `offset`; the time it takes doesn't tell where they differ. */
function sameBytes(bytes: Uint8Array, offset: number, expected: Uint8Array): boolean {
  let difference = 0;
  for (let i = 0; i < expected.length; i++) difference |= (bytes[offset + i] ?? 0) ^ (expected[i] ?? 0);
  return difference === 0;
}

function claimsOf(payload: Buffer, bytes: number): Claims | null {
  const own = ownPayload.exec(payload.toString('latin1', 0, bytes));
  if (own) return { sub: own[1] ?? '', exp: Number(own[2]) };
  const claims = JSON.parse(payload.toString('utf8', 0, bytes)) as Partial<Claims>;
  return typeof claims.sub === 'string' && typeof claims.exp === 'number' ? { sub: claims.sub, exp: claims.exp } : null;
}

/**
 * Makes a check of tokens signed with `secret`. It answers the claims of a token whose header is exactly HS256's and whose
 * signature is right, expired or not; null otherwise.
 */
export function createTokenCheck(secret: string): (token: string) => Claims | null {
  const header = Buffer.from(`${Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')}.`);
  // HMAC-SHA256 (RFC 2104) out of two one-shot hashes: they cost less than an Hmac object.
  const key = Buffer.alloc(blockBytes);
  const raw = Buffer.from(secret);
  (raw.length > blockBytes ? createHash('sha256').update(raw).digest() : raw).copy(key);
  const inner = Buffer.alloc(blockBytes + tokenCharsMax + 4);
  const outer = Buffer.alloc(blockBytes + digestBytes);
  for (const [i, byte] of key.entries()) {
    inner[i] = byte ^ 0x36;
    outer[i] = byte ^ 0x5c;
  }
  const signedParts = Array.from({ length: tokenCharsMax }, (_, chars) => inner.subarray(0, blockBytes + chars));
  const signature = Buffer.alloc(signatureChars);
  const payload = Buffer.alloc(tokenCharsMax);
  return (token) => {
    const signed = signedParts[token.length - 1 - signatureChars];
    // A character outside of ASCII takes more than a byte, and is in no token.
    if (!signed || inner.write(token, blockBytes) !== token.length) return null;
    if (!sameBytes(inner, blockBytes, header) || inner[signed.length] !== dot) return null;
    outer.write(hash('sha256', signed, 'binary'), blockBytes, 'latin1');
    signature.write(hash('sha256', outer, 'base64url'), 'latin1');
    if (!sameBytes(inner, signed.length + 1, signature)) return null;
    const part = token.slice(header.length, signed.length - blockBytes);
    return claimsOf(payload, payload.write(part, 'base64url'));
  };
}
