import { describe, expect, it } from 'vitest';
import { proofOfWork } from './challenge.ts';

const solve = (saleId: string, buyer: string, difficulty: number): string => {
  for (let i = 0; ; i++) if (proofOfWork.solved(String(i), saleId, buyer, difficulty)) return String(i);
};

describe('a proof of work', () => {
  it('is solved by the answer found for this buyer and sale, and by no other', () => {
    const answer = solve('sale', 'ann', 12);
    expect(proofOfWork.solved(answer, 'sale', 'ann', 12)).toBe(true);
    const others: [string, string][] = [
      ['sale', 'bob'],
      ['other', 'ann'],
    ];
    // By chance one in 4,096 would be solved as well; these are not.
    for (const [saleId, buyer] of others) expect(proofOfWork.solved(answer, saleId, buyer, 12)).toBe(false);
  });

  it('takes about 2 ^ difficulty tries', () => {
    const tries = Array.from({ length: 200 }, (_, i) => Number(solve('sale', `buyer-${i}`, 6)) + 1);
    const mean = tries.reduce((sum, one) => sum + one, 0) / tries.length;
    expect(mean).toBeGreaterThan(40);
    expect(mean).toBeLessThan(100);
  });

  it('says what to do', () => {
    expect(proofOfWork.ask('sale', 'ann', 20)).toEqual({ kind: 'sha256', prefix: 'sale:ann:', difficulty: 20 });
  });
});
