import fc from 'fast-check';
import { createSigner, createVerifier } from 'fast-jwt';
import { describe, expect, it } from 'vitest';
import { createTokenCheck } from './token.ts';

const secret = 'a secret of more than thirty-two characters';
const sign = createSigner({ key: secret, algorithm: 'HS256', expiresIn: 60_000 });
const verify = createVerifier({ key: secret, algorithms: ['HS256'] });
const check = createTokenCheck(secret);

const libraryTakes = (token: string): boolean => {
  try {
    verify(token);
    return true;
  } catch {
    return false;
  }
};

describe('the token check', () => {
  it('takes what the library signs', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, maxLength: 30 }), (sub) => {
        expect(check(sign({ sub }))?.sub).toBe(sub);
      }),
    );
  });

  it('refuses whatever the library refuses: any character changed, dropped or added', () => {
    const token = sign({ sub: 'buyer' });
    fc.assert(
      fc.property(fc.nat(token.length - 1), fc.constantFrom('A', 'b', '.', '-', ''), fc.boolean(), (at, put, add) => {
        const other = token.slice(0, at) + put + token.slice(add ? at : at + 1);
        if (!libraryTakes(other)) expect(check(other)).toBeNull();
        if (other !== token && check(other)) expect(libraryTakes(other)).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    [
      'another secret',
      createSigner({ key: 'another secret of thirty-two characters', algorithm: 'HS256' })({ sub: 'x', exp: 9e9 }),
    ],
    ['another algorithm', createSigner({ key: secret, algorithm: 'HS512' })({ sub: 'x', exp: 9e9 })],
    [
      'no algorithm',
      `${Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')}.${Buffer.from('{"sub":"x","exp":9e9}').toString('base64url')}.`,
    ],
    ['no expiry', createSigner({ key: secret, algorithm: 'HS256', noTimestamp: true })({ sub: 'x' })],
    ['nothing', ''],
    ['two dots', '..'],
    ['a very long one', `${sign({ sub: 'x' })}${'a'.repeat(2_000)}`],
  ])('refuses %s', (_name, token) => {
    expect(check(token)).toBeNull();
  });

  it('takes a secret longer than a block as HMAC does', () => {
    const long = 'long'.repeat(50);
    expect(createTokenCheck(long)(createSigner({ key: long, algorithm: 'HS256' })({ sub: 'x', exp: 9e9 }))?.sub).toBe(
      'x',
    );
  });
});
