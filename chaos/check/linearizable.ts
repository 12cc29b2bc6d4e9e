/**
 * Linearizability without the ledger: is there an order of a sale's calls, each at a moment between its call and its answer,
 * that gives all answers? Wing and Gong's search, which remembers where it has been (Lowe). A sale is an object of its own,
 * so each is searched alone. Holds must not run out while it lasts: time ends none here.
 */
import type { Finding, History, Operation, SaleRules } from '../history.ts';
import { clock, operationText } from './findings.ts';
import { type SaleState, type Step, saleObject } from './sale-object.ts';

/** So many places are looked at before it gives up, and says so. */
const maxPlaces = 200_000;

type Verdict = 'yes' | 'no' | 'gave up';

export function linearizable(history: History, limit = maxPlaces): Finding[] {
  return history.sales.flatMap((rules) => {
    const found = ofSale(history, rules, limit);
    return found === null ? [] : [`Sale ${rules.saleId}: ${found}`];
  });
}

function ofSale(history: History, rules: SaleRules, limit: number): Finding | null {
  const ended = history.facts.find(
    ({ kind, shard, no }) => (kind === 'expired' || kind === 'returned') && shard === rules.shard && no === rules.no,
  );
  if (ended) return `it can't be searched: its sequence ${ended.seq} ${ended.kind} a hold, which no call did.`;
  const operations = history.operations.filter(({ saleId }) => saleId === rules.saleId);
  const judge = (some: readonly Operation[]): Verdict => {
    const { steps, start, trouble } = saleObject(history, rules, some);
    return trouble === null ? search(steps, start, limit) : 'no';
  };
  const verdict = judge(operations);
  if (verdict === 'yes') return null;
  if (verdict === 'gave up')
    return `gave up the search of an order of its ${operations.length} calls after ${limit} places: nothing is known.`;

  // The shortest beginning that has no order: what holds of a history holds of each of its beginnings.
  const ends = operations.flatMap(({ answered }) => (answered ? [answered.atMs] : [])).toSorted((a, b) => a - b);
  let [low, high] = [0, ends.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (judge(until(operations, ends[middle] ?? 0)) === 'no') high = middle;
    else low = middle + 1;
  }
  const atMs = ends[low] ?? 0;
  const last = operations.find(({ answered }) => answered?.atMs === atMs);
  const beginning = until(operations, atMs);
  const open = beginning.filter(({ answered }) => !answered).length;
  const beside = operations.filter(
    (one) =>
      one !== last && one.callMs <= atMs && (one.answered?.atMs ?? Number.POSITIVE_INFINITY) >= (last?.callMs ?? 0),
  );
  return [
    `no order of its calls gives the answers up to ${clock(atMs)} (${beginning.length} calls, ${open} of them open).`,
    `Without the last of them there is one: ${last ? operationText(last) : 'none'}.`,
    `Beside it: ${beside.slice(0, 8).map(operationText).join('; ') || 'none'}${beside.length > 8 ? `; and ${beside.length - 8} more` : ''}.`,
  ].join(' ');
}

/** A history as it was known at a moment: what was answered later is open yet. */
export function until(operations: readonly Operation[], atMs: number): Operation[] {
  return operations
    .filter(({ callMs }) => callMs <= atMs)
    .map((one) => (one.answered && one.answered.atMs > atMs ? { ...one, answered: null } : one));
}

/** `done`: a bit a step. `from`: all steps before it are done. `left`: answered ones that aren't. */
type Place = { done: Uint16Array; from: number; left: number; state: SaleState };

const isDone = (done: Uint16Array, i: number): boolean => ((done[i >> 4] ?? 0) & (1 << (i & 15))) !== 0;

function search(steps: readonly Step[], start: SaleState, limit: number): Verdict {
  const answered = steps.filter(({ returnMs }) => returnMs < Number.POSITIVE_INFINITY).length;
  const stack: Place[] = [{ done: new Uint16Array((steps.length >> 4) + 1), from: 0, left: answered, state: start }];
  const seen = new Set<string>();
  for (let place = stack.pop(); place; place = stack.pop()) {
    const next = follow(steps, place);
    if (next === null) return 'yes';
    const name = nameOf(place);
    if (seen.has(name)) continue;
    if (seen.size >= limit) return 'gave up';
    seen.add(name);
    // The first to return is tried first: it is the last that is pushed.
    for (const one of next.toSorted((a, b) => b.returnMs - a.returnMs)) stack.push(one.place);
  }
  return 'no';
}

const nameOf = ({ done, state }: Place): string =>
  `${String.fromCharCode(...done)}|${String.fromCharCode(...state.memory)}|${state.available.join()}`;

/**
 * Where a place leads; null when all that was answered has its place. A step that fits and changes nothing is taken at once:
 * whatever order there is with it later, there is one with it now.
 */
function follow(steps: readonly Step[], place: Place): { place: Place; returnMs: number }[] | null {
  for (;;) {
    if (place.left === 0) return null;
    const next: { place: Place; returnMs: number }[] = [];
    const [answered, open] = callable(steps, place);
    /** Keys of which an answer doesn't fit yet. */
    const unfit = new Set<string>();
    let quiet = false;
    for (const i of [...answered, ...open]) {
      const step = steps[i];
      if (!step || (step.waitsFor === 'any' && unfit.size === 0)) continue;
      if (step.waitsFor === 'its key' && !unfit.has(step.key)) continue;
      const state = step.apply(place.state);
      if (!state) {
        if (step.returnMs < Number.POSITIVE_INFINITY) unfit.add(step.key);
        continue;
      }
      if (state === place.state) {
        mark(steps, place, i);
        quiet = true;
        break;
      }
      const after: Place = { ...place, done: place.done.slice(), state };
      mark(steps, after, i);
      next.push({ place: after, returnMs: step.returnMs });
    }
    if (!quiet) return next;
  }
}

function mark(steps: readonly Step[], place: Place, i: number): void {
  place.done[i >> 4] = (place.done[i >> 4] ?? 0) | (1 << (i & 15));
  if ((steps[i]?.returnMs ?? 0) < Number.POSITIVE_INFINITY) place.left--;
  while (place.from < steps.length && isDone(place.done, place.from)) place.from++;
}

/** Steps not done that were called before any of the others returned, answered and open; of those alike only the first. */
function callable(steps: readonly Step[], { done, from }: Place): [number[], number[]] {
  let returnMs = Number.POSITIVE_INFINITY;
  const found: number[] = [];
  const alike = new Set<string>();
  for (let i = from; i < steps.length; i++) {
    const step = steps[i];
    if (!step || isDone(done, i)) continue;
    if (step.callMs > returnMs) break;
    returnMs = Math.min(returnMs, step.returnMs);
    if (step.alike !== null && alike.has(step.alike)) continue;
    if (step.alike !== null) alike.add(step.alike);
    found.push(i);
  }
  const isOpen = (i: number): boolean => steps[i]?.returnMs === Number.POSITIVE_INFINITY;
  return [found.filter((i) => !isOpen(i)), found.filter(isOpen)];
}
