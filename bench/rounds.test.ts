import { describe, expect, test } from 'vitest';
import { interleave, ratios, spreadOf } from './rounds.ts';

describe('a spread', () => {
  test.each([
    [[3, 1, 2], { median: 2, min: 1, max: 3 }],
    [[4, 1, 2, 3], { median: 2.5, min: 1, max: 4 }],
    [[7], { median: 7, min: 7, max: 7 }],
    [[], { median: 0, min: 0, max: 0 }],
  ])('of %j', (values, spread) => {
    expect(spreadOf(values)).toEqual(spread);
  });
});

test('ratios are of the same round', () => {
  expect(ratios([10, 30, 90], [10, 10, 30], (value) => value)).toEqual({ median: 3, min: 1, max: 3 });
});

test('contenders take turns, each is first once, and the first round does not count', async () => {
  const order: string[] = [];
  const contender = (name: string) => ({
    name,
    run: async (round: number) => {
      order.push(`${name}${round}`);
      return round;
    },
  });
  const results = await interleave(['a', 'b', 'c'].map(contender), 2, () => undefined);
  expect(order).toEqual(['a0', 'b0', 'c0', 'b1', 'c1', 'a1', 'c2', 'a2', 'b2']);
  expect([...results]).toEqual(['a', 'b', 'c'].map((name) => [name, [1, 2]]));
});
