/** Reads what `reserve` answers: results that share what they have in common. */
import { type ReserveAnswer, statusCodes } from './bindings.ts';

/** Of a request: what it was granted, or null; its sequence, or 0; the line that a refusal speaks of. */
export type ReserveResult<Grant> = { status: number; grant: Grant | null; seq: number; line: number };

/** A result for each request, in order; `grants` are the answer's, as the caller sees them. Throws when a result names no grant. */
export function reserveResults<Grant>(answer: ReserveAnswer, grants: readonly Grant[]): ReserveResult<Grant>[] {
  const next = answer.grants.map((grant) => grant.seq);
  return answer.results.map(({ status, ref }) => {
    if (status !== statusCodes.ok && status !== statusCodes.replay) return { status, grant: null, seq: 0, line: ref };
    const [seq, grant] = [next[ref], grants[ref]];
    if (seq === undefined || grant === undefined) throw new Error(`a result of a grant that is not there: ${ref}`);
    next[ref] = seq + 1;
    return { status, grant, seq, line: 0 };
  });
}
