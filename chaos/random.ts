/** Chance that a seed gives again: the plan of a run, what its clients do, when a message is late. */
import { createRandom as createNumbers } from '../bench/random.ts';

export type Random = {
  /** From 0 up to, not including, 1. */
  next(): number;
  /** A whole number from 0 to `most` - 1. */
  below(most: number): number;
  /** A whole number from `min` to `max`. */
  int(min: number, max: number): number;
  /** Any number from `least` up to `most`. */
  between(least: number, most: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
  bytes(length: number): Buffer;
  /** Another stream, of its own: what one takes does not move the other. */
  fork(): Random;
};

/** `stream`: one of many of a seed. */
export function createRandom(seed: number, stream = 0): Random {
  const next = createNumbers(seed, stream);
  const below = (most: number): number => Math.floor(next() * most);
  return {
    next,
    below,
    int: (min, max) => min + below(max - min + 1),
    between: (least, most) => least + next() * (most - least),
    chance: (probability) => next() < probability,
    pick<T>(from: readonly T[]): T {
      const one = from[below(from.length)];
      if (one === undefined) throw new Error('nothing to pick from');
      return one;
    },
    bytes: (length) => Buffer.from(Array.from({ length }, () => below(256))),
    fork: () => createRandom(below(2 ** 32)),
  };
}
