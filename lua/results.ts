/** Reads what `reserve` answers: results that share what they have in common. */
import { type ReserveAnswer, statusCodes } from './bindings.ts';

/** Of a request: `grant` is the place of its grant, or -1; `seq` its sequence, or 0; `line` that of which a refusal speaks. */
export type ReserveResult = { status: number; grant: number; seq: number; line: number };

/** A result for each request, in order. Throws when a result names no grant. */
export function reserveResults({ grants, results }: ReserveAnswer): ReserveResult[] {
  const next = grants.map((grant) => grant.seq);
  return results.map(({ status, ref }) => {
    if (status !== statusCodes.ok && status !== statusCodes.replay) return { status, grant: -1, seq: 0, line: ref };
    const seq = next[ref];
    if (seq === undefined) throw new Error(`a result of a grant that is not there: ${ref}`);
    next[ref] = seq + 1;
    return { status, grant: ref, seq, line: 0 };
  });
}
