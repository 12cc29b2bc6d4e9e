/** Whether an answer is one that the replayed facts give, at some point between its call and it. */
import type { Answer, Call, Line, Operation, SaleRules } from '../history.ts';
import { type Effect, type Effects, firstAtLeast, type Order } from './effects.ts';
import {
  bodyOf,
  factText,
  linesText,
  type Reserved,
  sameLines,
  succeeded,
  unitsBySku,
  unitsOf,
  wantedText,
} from './findings.ts';
import { allotmentName, type SaleStory, type Steps, skuName, valueAt } from './replay.ts';
import { staleMs } from './stale.ts';

/** How long a key is remembered after its reservation's end: the contract's hour, the shard's time. */
const rememberMs = 3_600_000;

export type Context = {
  rules: SaleRules;
  effects: Effects;
  order: Order;
  /** The shard's time at each of its sequences: `seqs` grow. */
  times: { seqs: number[]; atMs: number[] };
  story: SaleStory | undefined;
};

/** Sequences between which the call was decided. */
type Window = { low: number; high: number };
type Answered = NonNullable<Operation['answered']>;

/** What is wrong with an answer; null when nothing is. */
export function checkAnswer(operation: Operation, answered: Answered, context: Context): string | null {
  const { call } = operation;
  const window = { low: before(context, operation.callMs), high: context.order.by(answered.atMs) };
  // Facts that contradict real time have been told of; no state is between them.
  if (window.low > window.high) return null;
  if (call.kind === 'reserve') return ofReserve(operation, call, answered, window, context);
  if (call.kind === 'adjust') return ofAdjust(operation, call, answered.answer, window, context);
  return ofReservation(operation, call, answered.answer, window, context);
}

/** The highest sequence that had happened for certain; the sale was there before all of its calls. */
const before = ({ order, story }: Context, ms: number): number => Math.max(order.before(ms), story?.opened ?? 0);

function ofReserve(
  operation: Operation,
  call: Extract<Call, { kind: 'reserve' }>,
  { answer }: Answered,
  window: Window,
  context: Context,
): string | null {
  if (!succeeded(operation)) return refusedReserve(operation, call, answer.code, window, context);
  const { reservation } = answer;
  if (!reservation) return 'it succeeded without a reservation.';
  const fact = context.effects.reservedById.get(reservation.id)?.fact;
  if (!fact) return 'the ledger has no such reservation.';
  if (!context.effects.reservedUnder(operation.saleId, operation.buyer, call.key).includes(fact))
    return `${factText(fact)} is not of this sale, buyer and key.`;
  if (bodyOf(call.lines) !== bodyOf(reservation.lines))
    return `it was answered ${linesText(reservation.lines)}, not the ${wantedText(call.lines)} that were asked for.`;
  if (reservation.state !== 'held') return 'a reserve is answered as it was the first time: held.';
  return differs(reservation, fact) ?? expiryDiffers(reservation.expiresAtMs, [fact.expiresAtMs]);
}

const differs = ({ lines }: { lines: Line[] }, fact: Reserved): string | null =>
  sameLines(lines, fact.lines)
    ? null
    : `it was answered ${linesText(lines)}; ${factText(fact)} has ${linesText(fact.lines)}.`;

const expiryDiffers = (toldMs: number, knownMs: number[]): string | null =>
  knownMs.includes(toldMs) ? null : `it was told to expire at ${toldMs}; the ledger knows ${knownMs.join(' and ')}.`;

/** Sequences of the window at which one of the numbers may be another than before: where a predicate is to be tried. */
function* moments({ low, high }: Window, numbers: (Steps | undefined)[], seqs: number[] = []): Generator<number> {
  yield low;
  const places = numbers.map((steps) => (steps ? firstAtLeast(steps.seqs, low + 1) : 0));
  for (;;) {
    let next = Number.POSITIVE_INFINITY;
    numbers.forEach((steps, i) => {
      next = Math.min(next, steps?.seqs[places[i] ?? 0] ?? Number.POSITIVE_INFINITY);
    });
    if (next > high || next === Number.POSITIVE_INFINITY) break;
    numbers.forEach((steps, i) => {
      if (steps?.seqs[places[i] ?? 0] === next) places[i] = (places[i] ?? 0) + 1;
    });
    yield next;
  }
  for (const seq of seqs) if (seq > low && seq <= high) yield seq;
}

/** The shard's time can't have been later than this when it was at `seq`; a hold that was over, the sweeper has ended. */
function latestMs({ times: { seqs, atMs } }: Context, seq: number): number {
  return atMs[firstAtLeast(seqs, seq + 1)] ?? atMs.at(-1) ?? Number.NEGATIVE_INFINITY;
}

/** Whether the key was in use at a sequence, so that a reserve is answered from memory, and not refused. */
function keyKnown(known: readonly Reserved[], seq: number, context: Context): boolean {
  return known.some((fact) => {
    if (fact.seq > seq) return false;
    const end = context.effects.endOf(fact.id)?.fact;
    return !end || end.seq > seq || latestMs(context, seq) < end.atMs + rememberMs;
  });
}

function refusedReserve(
  { saleId, buyer, callMs }: Operation,
  call: Extract<Call, { kind: 'reserve' }>,
  code: string,
  window: Window,
  context: Context,
): string | null {
  const { rules, story, effects } = context;
  const known = effects.reservedUnder(saleId, buyer, call.key);
  if (code === 'idempotency-mismatch')
    return known.some((fact) => fact.seq <= window.high && bodyOf(fact.lines) !== bodyOf(call.lines))
      ? null
      : 'its key had no other body by then.';
  if (!['sold-out', 'insufficient-stock', 'purchase-limit'].includes(code)) return null;
  const wanted = [...unitsBySku(call.lines)];
  const units = unitsOf(call.lines);
  const available = wanted.map(([sku]) => story?.available.get(skuName(sku)));
  const owned = story?.owned.get(buyer);
  const fresh = (seq: number): boolean => !keyKnown(known, seq, context);
  const beyond = (seq: number): boolean => rules.perBuyer > 0 && valueAt(owned, seq) + units > rules.perBuyer;
  const gone = (seq: number): boolean => available.some((steps) => valueAt(steps, seq) <= 0);
  const short = (seq: number): boolean => wanted.some(([, quantity], i) => valueAt(available[i], seq) < quantity);
  const once = (within: Window, right: (seq: number) => boolean): boolean => {
    // A key is forgotten between facts: the end of the window is tried too.
    const last = Math.min(within.high, context.times.seqs.at(-1) ?? 0);
    for (const seq of moments(within, [...available, owned], [last])) if (right(seq)) return true;
    return false;
  };

  if (!once(window, fresh))
    return `its key had ${known.map(factText).join(' and ')} all along, between the sequences ${span(window)}.`;
  switch (code) {
    case 'purchase-limit':
      return once(window, (seq) => fresh(seq) && beyond(seq))
        ? null
        : `the buyer never had more than ${rules.perBuyer} with it between the sequences ${span(window)} (${valueAt(owned, window.low)} at the first).`;
    case 'sold-out': {
      const stale = { low: before(context, callMs - staleMs), high: window.high };
      return once(stale, gone)
        ? null
        : `none of it was sold out between the sequences ${span(stale)}, up to ${staleMs} ms before its call: ${left(wanted, available, stale)}.`;
    }
    default:
      return once(window, (seq) => fresh(seq) && !beyond(seq) && !gone(seq) && short(seq))
        ? null
        : `there was enough, or nothing, between the sequences ${span(window)}: ${left(wanted, available, window)}.`;
  }
}

const span = ({ low, high }: Window): string => `${low} and ${Number.isFinite(high) ? high : 'the last'}`;

const left = (wanted: [string, number][], available: (Steps | undefined)[], { low }: Window): string =>
  `${wanted.map(([sku], i) => `${valueAt(available[i], low)} ${sku}`).join(', ')} at the first`;

function ofAdjust(
  operation: Operation,
  call: Extract<Call, { kind: 'adjust' }>,
  answer: Answer,
  window: Window,
  { effects, story }: Context,
): string | null {
  const fact = effects.changeOf(operation.saleId, call.id)?.fact;
  const change = fact && 'units' in fact ? fact : null;
  const same = change?.sku === call.sku && change.warehouse === call.warehouse && change.units === call.delta;
  if (succeeded(operation)) {
    if (!change) return 'the ledger has no such change.';
    return same ? null : `${factText(change)} adds ${change.units} ${change.sku} in ${change.warehouse}.`;
  }
  if (answer.code === 'idempotency-mismatch')
    return change && !same && change.seq <= window.high ? null : 'its id was not used for another change.';
  if (answer.code !== 'insufficient-stock') return null;
  const steps = story?.available.get(allotmentName(call.sku, call.warehouse));
  for (const seq of moments(window, [steps]))
    if (!(change && change.seq <= seq) && valueAt(steps, seq) + call.delta < 0) return null;
  return `there was enough to take away, or its id was used, between the sequences ${span(window)} (${valueAt(steps, window.low)} at the first).`;
}

/** Commit, release, extend and read. */
function ofReservation(
  operation: Operation,
  call: Exclude<Call, { kind: 'reserve' | 'adjust' }>,
  { code, status, reservation }: Answer,
  window: Window,
  context: Context,
): string | null {
  const { effects } = context;
  const fact = effects.reservedById.get(call.reservation)?.fact;
  const end = effects.endOf(call.reservation)?.fact;
  if (status === 404) return fact && fact.seq <= window.low ? `there was ${factText(fact)}.` : null;
  const ended = code === 'reservation-ended';
  if (!ended && !succeeded(operation)) return null;
  if (!fact || fact.seq > window.high) return 'the ledger has no such reservation by then.';
  // A hold reads as expired from its last expiry on, swept or not; nothing but the sweeper can end it then.
  const endedBy = (kinds: string[]): boolean =>
    (end !== undefined && kinds.includes(end.kind) && end.seq <= window.high) ||
    (kinds.includes('expired') &&
      (end?.kind ?? 'expired') === 'expired' &&
      latestMs(context, window.high) >= fact.lastExpiresAtMs);
  if (ended) {
    const other = { commit: ['released', 'expired'], release: ['committed', 'expired'] };
    const kinds =
      call.kind === 'commit' || call.kind === 'release' ? other[call.kind] : ['committed', 'released', 'expired'];
    return endedBy(kinds) ? null : `${endText(end)}: it had not ended so by then.`;
  }
  if (!reservation) return 'it succeeded without a reservation.';
  const { id, state, expiresAtMs } = reservation;
  if (id !== call.reservation) return `it was answered about another one, ${id}.`;
  const told = { commit: 'committed', release: 'released', extend: 'held', read: state }[call.kind];
  if (state !== told) return `it was answered ${state}.`;
  if (state !== 'held' && !endedBy([state])) return `${endText(end)}: it was not ${state} by then.`;
  if (state === 'held') {
    if (end && end.seq <= window.low) return `${endText(end)}: it was not held any more.`;
    const { seqs, atMs } = context.times;
    const sinceMs = atMs[firstAtLeast(seqs, window.low + 1) - 1] ?? 0;
    if (sinceMs >= fact.lastExpiresAtMs)
      return `it was over since ${fact.lastExpiresAtMs}, and a fact of ${sinceMs} was before.`;
  }
  return differs(reservation, fact) ?? wrongExpiry(call, state, expiresAtMs, fact);
}

const endText = (end: Effect['fact'] | undefined): string =>
  end ? `its end is ${factText(end)}` : 'the ledger knows of no end of it';

/** When it has ended its expiry is the last; while it is held, one that it had. */
function wrongExpiry(call: Call, state: string, toldMs: number, fact: Reserved): string | null {
  const { expiresAtMs, lastExpiresAtMs, extensions } = fact;
  if (state !== 'held') return expiryDiffers(toldMs, [lastExpiresAtMs]);
  if (call.kind === 'extend' && toldMs < expiresAtMs + call.seconds * 1_000)
    return `it was told to expire at ${toldMs}, and extended by ${call.seconds} s since ${expiresAtMs}.`;
  if (extensions > 1 && toldMs > expiresAtMs && toldMs < lastExpiresAtMs) return null;
  return expiryDiffers(
    toldMs,
    call.kind === 'extend' ? [lastExpiresAtMs] : [...new Set([expiresAtMs, lastExpiresAtMs])],
  );
}
