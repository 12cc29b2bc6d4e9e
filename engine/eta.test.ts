import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { etaOf } from './eta.ts';

describe('an estimate of how long somebody waits', () => {
  it.each([
    ['nothing is known', 10, 0, 0, null, 0, { low: null, high: null }],
    ['the inlet’s bound alone is known', 60, 0, 0, 60, 0, { low: 60, high: null }],
    ['a hundred were let in within a minute', 99, 100, 60_000, null, 0, { low: 44, high: 80 }],
    ['more cannot be let in than the bound', 600, 100, 10_000, 600, 0, { low: 60, high: 75 }],
    ['the sale opens in a minute', 0, 0, 0, 600, 60_000, { low: 60, high: null }],
    ['nothing is known but the opening', 10, 0, 0, null, 3_600_000, { low: 3_600, high: null }],
    ['few were let in: who knows how long at most', 9, 3, 60_000, null, 0, { low: 48, high: null }],
  ] as const)('when %s', (_, ahead, recentAdmitted, recentMs, perMinute, opensInMs, eta) => {
    expect(etaOf(ahead, { recentAdmitted, recentMs }, perMinute, opensInMs)).toEqual(eta);
  });

  it('holds what comes true, of inlets that let people in by chance, in nineteen of twenty at least', () => {
    let [held, asked] = [0, 0];
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1 << 30 }), (seed) => {
        let state = seed;
        const chance = (): number => {
          state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
          return (state + 1) / 2 ** 32;
        };
        // One a second by chance: the times between are exponential.
        const within = (ms: number): number => {
          let [at, count] = [0, -1];
          while (at < ms) {
            at -= Math.log(chance()) * 1_000;
            count++;
          }
          return count;
        };
        const { low, high } = etaOf(100, { recentAdmitted: within(120_000), recentMs: 120_000 }, null, 0);
        let [waited, left] = [0, 101];
        while (left-- > 0) waited -= Math.log(chance());
        asked++;
        if (waited >= (low ?? 0) && waited <= (high ?? Number.POSITIVE_INFINITY)) held++;
      }),
      { numRuns: 1_000 },
    );
    expect(held / asked).toBeGreaterThan(0.9);
  });
});
