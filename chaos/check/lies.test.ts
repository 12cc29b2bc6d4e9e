/** Every checker finds the lies that break its promise, in any honest history that gives occasion for them. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { liesToTheOthers } from './lies-to-the-others.ts';
import { liesToTheWitness } from './lies-to-the-witness.ts';
import { limitsHold } from './limits-hold.ts';
import { neverOversold } from './never-oversold.ts';
import { oneOutcome } from './one-outcome.ts';
import { sameKeySameAnswer } from './same-key-same-answer.ts';
import { busy, plansOf, simulate } from './testing.ts';
import { witness } from './witness.ts';

const checkers = { witness, neverOversold, oneOutcome, limitsHold, sameKeySameAnswer };

const histories = fc
  .sample(plansOf(true, 8, 150), { numRuns: 40, seed: 7 })
  .map((plans) => simulate(plans, busy))
  .filter(({ operations }) => operations.length > 5);

describe('a lie', () => {
  test.each([...liesToTheWitness, ...liesToTheOthers])('$name', ({ by, tell }) => {
    let told = 0;
    for (const honest of histories) {
      const history = tell(structuredClone(honest));
      if (!history) continue;
      told++;
      for (const [name, says] of Object.entries(by)) {
        const found = checkers[name as keyof typeof checkers](history);
        expect(found.join('\n'), name).toMatch(says);
      }
    }
    expect(told, 'occasions').toBeGreaterThanOrEqual(10);
  });

  test('is looked for by every checker', () => {
    const found = new Set([...liesToTheWitness, ...liesToTheOthers].flatMap(({ by }) => Object.keys(by)));
    expect([...found].sort()).toEqual(Object.keys(checkers).sort());
  });
});
