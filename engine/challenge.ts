/** What somebody has to do before joining a line: an interface, and the one that comes with it. */
import { hash } from 'node:crypto';

export type Challenge = {
  /** What to tell somebody who has to do it. */
  ask(saleId: string, buyer: string, difficulty: number): Record<string, string | number>;
  solved(answer: string, saleId: string, buyer: string, difficulty: number): boolean;
};

/** How many bits of a digest in hexadecimal are zero before the first that is not. */
function leadingZeroBits(digest: string): number {
  const zeroes = digest.length - digest.replace(/^0+/, '').length;
  const next = digest[zeroes];
  return zeroes * 4 + (next === undefined ? 0 : Math.clz32(Number.parseInt(next, 16)) - 28);
}

/**
 * A proof of work: find an answer so that the SHA-256 of `prefix` and it begins with `difficulty` zero bits, which takes
 * 2 ^ difficulty tries. Bound to buyer and sale, so that nobody can find many for others; there is nothing to remember.
 */
export const proofOfWork: Challenge = {
  ask: (saleId, buyer, difficulty) => ({ kind: 'sha256', prefix: `${saleId}:${buyer}:`, difficulty }),
  solved: (answer, saleId, buyer, difficulty) =>
    leadingZeroBits(hash('sha256', `${saleId}:${buyer}:${answer}`, 'hex')) >= difficulty,
};
