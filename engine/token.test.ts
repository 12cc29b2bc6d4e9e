import { createHmac } from 'node:crypto';
import fc from 'fast-check';
import { createSigner, createVerifier } from 'fast-jwt';
import { describe, expect, it } from 'vitest';
import { createTokenCheck } from './token.ts';

const secret = 'a secret of more than thirty-two characters';
const sign = createSigner({ key: secret, algorithm: 'HS256', expiresIn: 60_000 });
const verify = createVerifier({ key: secret, algorithms: ['HS256'] });
const { check, checkTogether } = createTokenCheck(secret);

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

  it('says of each of many at once what it says of it alone, whoever its neighbours are', async () => {
    const one = fc.oneof(
      fc.string({ minLength: 1, maxLength: 40 }).map((sub) => sign({ sub })),
      fc.stringMatching(/^[A-Za-z0-9_-]{12}$/).map((sub) => sign({ sub })),
      fc.stringMatching(/^[A-Za-z0-9_-]{12}$/).map((sub) => sign({ sub, more: true })),
      // Forged: a character of the claims, or of the signature, is another one, or only looks alike in its lower byte.
      fc.tuple(fc.nat(151), fc.constantFrom('A', '_', '.', '\u0141', '\u00e9')).map(([at, char]) => {
        const token = sign({ sub: 'aBuyerOfOurs' });
        return token.slice(0, at) + char + token.slice(at + 1);
      }),
      fc.string({ maxLength: 200 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(one, { minLength: 1, maxLength: 11 }), fc.nat(9), async (tokens, from) => {
        const together = await Promise.all(
          tokens.map((token) => new Promise((done) => checkTogether(' '.repeat(from) + token, from, done))),
        );
        expect(together).toEqual(tokens.map(check));
      }),
      { numRuns: 500 },
    );
  });

  // Signed with the secret, and written as no signer writes it.
  const signedAs = (claims: string): string => {
    const signed = `${sign({ sub: 'x' }).split('.')[0]}.${claims}`;
    return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
  };
  const claimsAs = (json: string): string => signedAs(Buffer.from(json).toString('base64url'));
  it.each([
    ['no time', claimsAs('{"sub":"aBuyerOfOurs","iat":,"exp":9999999999}'), null],
    ['a time that begins with 0', claimsAs('{"sub":"aBuyerOfOurs","iat":1,"exp":0999999999}'), null],
    ['no expiry', claimsAs('{"sub":"aBuyerOfOurs","iat":1763935421,"exp":}'), null],
    [
      'a long expiry',
      claimsAs('{"sub":"aBuyerOfOurs","iat":1,"exp":12345678901234567890}'),
      Number('12345678901234567890'),
    ],
    [
      'padding',
      signedAs(`${Buffer.from('{"sub":"aBuyerOfOurs","iat":1,"exp":9999999999}').toString('base64url')}==`),
      null,
    ],
    [
      'another dot',
      signedAs(`${Buffer.from('{"sub":"aBuyerOfOurs","iat":1,"exp":9999999999}').toString('base64url')}.AA`),
      null,
    ],
  ])('says of %s the same whether alone or together', async (_name, token, exp) => {
    expect(check(token)?.exp ?? null).toBe(exp);
    expect(await new Promise((done) => checkTogether(token, 0, done))).toEqual(check(token));
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
  ])('refuses %s', async (_name, token) => {
    expect(check(token)).toBeNull();
    expect(await new Promise((done) => checkTogether(token, 0, done))).toBeNull();
  });

  it('takes a secret longer than a block as HMAC does', () => {
    const long = 'long'.repeat(50);
    expect(
      createTokenCheck(long).check(createSigner({ key: long, algorithm: 'HS256' })({ sub: 'x', exp: 9e9 }))?.sub,
    ).toBe('x');
  });
});
