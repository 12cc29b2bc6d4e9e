/** Session tokens: JWTs that an engine verifies without a round trip. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createSigner } from 'fast-jwt';
import { timestamp } from '../kernel/clock.ts';
import { isShortId, newBuyerId } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import { type Claims, createTokenCheck } from './token.ts';

export type Session = { buyerId: string; token: string; expiresAt: string };

/** Who sent a request. */
export type Caller = { kind: 'nobody' } | { kind: 'buyer'; buyerId: string } | { kind: 'operator' };

export type Sessions = {
  /** A new guest. */
  open(): Session;
  /** Who a bearer token speaks for; `nobody` when it is missing, forged or expired. */
  identify(token: string): Caller;
  /** The same of an Authorization header; answered at the latest when this turn of the event loop ends. */
  identifyTogether(authorization: string, done: (caller: Caller) => void): void;
};

const nobody: Caller = { kind: 'nobody' };
const bearer = /^bearer /i;
const bearerChars = 'Bearer '.length;
const operator: Caller = { kind: 'operator' };

export function createSessions(options: { secret: string; adminToken: string; sessionSeconds?: number }): Sessions {
  const seconds = options.sessionSeconds ?? limits.sessionSeconds;
  const sign = createSigner({ key: options.secret, algorithm: 'HS256', expiresIn: seconds * 1000 });
  const { check, checkTogether } = createTokenCheck(options.secret);
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const adminDigest = digest(options.adminToken);
  const isOperators = (token: string): boolean =>
    token.length === options.adminToken.length && timingSafeEqual(digest(token), adminDigest);
  const callerOf = (claims: Claims | null): Caller =>
    !claims || claims.exp * 1000 <= Date.now() || !isShortId(claims.sub)
      ? nobody
      : { kind: 'buyer', buyerId: claims.sub };

  return {
    open() {
      const buyerId = newBuyerId();
      return { buyerId, token: sign({ sub: buyerId }), expiresAt: timestamp(Date.now() + seconds * 1000) };
    },
    identify: (token) => (isOperators(token) ? operator : callerOf(token === '' ? null : check(token))),
    identifyTogether(authorization, done) {
      const token = authorization.length - bearerChars;
      if (token <= 0 || !(authorization.startsWith('Bearer ') || bearer.test(authorization))) done(nobody);
      else if (token === options.adminToken.length && isOperators(authorization.slice(bearerChars))) done(operator);
      else checkTogether(authorization, bearerChars, (claims) => done(callerOf(claims)));
    },
  };
}
