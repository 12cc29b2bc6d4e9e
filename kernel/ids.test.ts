import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeReservationId,
  encodeReservationId,
  isId,
  keyDigest,
  keyDigests,
  newBuyerId,
  shardKey,
  shardOfSale,
  shortIdChars,
  writeReservationId,
} from './ids.ts';

const short = fc.stringMatching(/^[A-Za-z0-9_-]{12}$/);
const reference = fc.record({
  shard: fc.nat({ max: 1_023 }),
  sale: fc.nat({ max: 0xffff_ffff }),
  seq: fc.nat({ max: 2 ** 48 - 1 }),
  buyer: short,
  key: short,
});

test('a reservation’s id says where it is, and is an id of the contract', () => {
  fc.assert(
    fc.property(reference, (ref) => {
      const id = encodeReservationId(ref);
      expect(isId(id)).toBe(true);
      expect(decodeReservationId(id)).toEqual(ref);
      expect(encodeReservationId(decodeReservationId(id) ?? ref)).toBe(id);
    }),
  );
});

test('an id written over another of its sale is what would have been made anew', () => {
  fc.assert(
    fc.property(reference, reference, fc.nat(9), (ref, { seq, buyer, key }, at) => {
      const bytes = Buffer.from(`${' '.repeat(at)}${encodeReservationId(ref)}.`);
      writeReservationId(bytes, at, seq, buyer, key);
      expect(bytes.toString()).toBe(`${' '.repeat(at)}${encodeReservationId({ ...ref, seq, buyer, key })}.`);
    }),
  );
});

test('no two references share an id', () => {
  fc.assert(
    fc.property(reference, reference, (a, b) => {
      fc.pre(JSON.stringify(a) !== JSON.stringify(b));
      expect(encodeReservationId(a)).not.toBe(encodeReservationId(b));
    }),
  );
});

test.each([
  [''],
  ['short'],
  ['x'.repeat(39)],
  ['x'.repeat(41)],
  [`${'x'.repeat(39)}!`],
  [`${'x'.repeat(39)}é`],
  [`${'x'.repeat(40)}\n`],
  ['../../../../../../../../../../etc/passwd1'],
])('%j is no reservation', (text) => {
  expect(decodeReservationId(text)).toBeNull();
});

test('whatever text comes, decoding never throws, and what it takes it gives back', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[A-Za-z0-9_-]{40}$/)), (text) => {
      const ref = decodeReservationId(text);
      if (ref) expect(encodeReservationId(ref)).toBe(text);
    }),
  );
});

test.each([
  ['a', true],
  ['A-Z_09', true],
  ['x'.repeat(64), true],
  ['x'.repeat(65), false],
  ['', false],
  ['a b', false],
  ['a/b', false],
  ['a\n', false],
  ['é', false],
  ['{s0}', false],
])('whether %j is an id: %s', (text, expected) => {
  expect(isId(text)).toBe(expected);
});

describe('short ids', () => {
  test('of buyers differ', () => {
    const ids = new Set(Array.from({ length: 10_000 }, newBuyerId));
    expect(ids.size).toBe(10_000);
    for (const id of ids) expect(id).toMatch(/^[A-Za-z0-9_-]{12}$/);
  });

  test('of keys are the same every time, and differ', () => {
    expect(keyDigest('my key')).toBe(keyDigest('my key'));
    expect(keyDigest('my key')).toHaveLength(shortIdChars);
    expect(new Set(Array.from({ length: 10_000 }, (_, i) => keyDigest(`key-${i}`))).size).toBe(10_000);
  });

  test('of many keys at once are those of each alone', () => {
    const key = fc.stringMatching(/^[\x21-\x7e]{1,80}$/);
    fc.assert(
      fc.property(fc.array(key, { maxLength: 13 }), (keys) => {
        expect(keyDigests(keys)).toEqual(keys.map(keyDigest));
      }),
    );
  });
});

describe('where a sale is', () => {
  // Fixed for ever: stored stock is there.
  test.each([
    ['shop', 4, 3],
    ['sale', 4, 2],
    ['black-friday', 4, 0],
    ['sale', 1, 0],
    ['sale', 1_024, 510],
  ])('%s of %i shards is on %i', (sale, shards, expected) => {
    expect(shardOfSale(sale, shards)).toBe(expected);
  });

  test('sales spread over all shards', () => {
    const counts = new Array<number>(8).fill(0);
    for (let i = 0; i < 8_000; i++) {
      const shard = shardOfSale(`sale-${i}`, 8);
      counts[shard] = (counts[shard] ?? 0) + 1;
    }
    for (const count of counts) expect(count).toBeGreaterThan(850);
  });

  test('a shard’s key carries its hash tag', () => {
    expect(shardKey(3)).toBe('{s3}:shard');
  });
});
