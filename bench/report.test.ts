import { describe, expect, test } from 'vitest';
import { tableOf, verdictOf } from './report.ts';
import type { Figure } from './scenario.ts';

const figure = (median: number, goal: Partial<Figure>): Figure => ({
  ...{ what: 'something', unit: 'ratio', value: { median, min: median, max: median } },
  ...goal,
});

describe('the verdict on a figure', () => {
  test.each([
    [0.54, { atLeast: 0.55, beyond: 0.7 }, 'missed'],
    [0.55, { atLeast: 0.55, beyond: 0.7 }, 'reached'],
    [0.7, { atLeast: 0.55, beyond: 0.7 }, 'beyond'],
    [0.7, { atLeast: 0.55 }, 'reached'],
    [3.1, { atMost: 3, beyond: 2 }, 'missed'],
    [3, { atMost: 3, beyond: 2 }, 'reached'],
    [2, { atMost: 3, beyond: 2 }, 'beyond'],
    [Number.NaN, { atLeast: 0.55 }, 'missed'],
    [Number.NaN, { atMost: 3 }, 'missed'],
    [9, {}, null],
  ] as const)('%s of %j: %s', (median, goal, verdict) => {
    expect(verdictOf(figure(median, goal))).toBe(verdict);
  });
});

test('the table has a line for each figure, with what is asked of it', () => {
  const report = { figures: [figure(0.6, { atLeast: 0.55, beyond: 0.7 })], beside: '', faults: [], skipped: [] };
  const table = tableOf([{ name: 'hot-sku', report }]);
  expect(table).toMatch(/hot-sku +│ something +│ +0\.6 .*at least 0\.55, beyond 0\.7 .*reached/);
});
