/** A sale as one object with operations, for the search of linearizability: what each does, and what it then answers. */
import { decodeReservationId, keyDigest } from '../../kernel/ids.ts';
import type { History, Line, Operation, SaleRules } from '../history.ts';
import { bodyOf, mayHaveHappened, succeeded, unitsBySku, unitsOf } from './findings.ts';
import { staleMs } from './stale.ts';

/** Units available by allotment; of each key and change, what is remembered (a number out of `memories`); units by buyer. */
export type SaleState = { available: number[]; memory: number[]; owned: number[] };

/** An operation, ready to be tried. `apply`: the state after it; null when its answer can't be from this one. */
export type Step = {
  operation: Operation;
  callMs: number;
  /** Infinity: it may happen at any time after its call, or never. */
  returnMs: number;
  apply(state: SaleState): SaleState | null;
  /** Unanswered steps of one class do the same, and nobody ever looks at which of them it was. */
  alike: string | null;
  /** The reservation's key, or the change. */
  key: string;
  /**
   * What an unanswered step can wait for, and lose no order by it: an answer that doesn't fit yet, of its own key or of any;
   * null: nothing.
   */
  waitsFor: 'its key' | 'any' | null;
};

export type SaleObject = { steps: Step[]; start: SaleState; trouble: string | null };

type Allotment = { sku: string; warehouse: string };
type Memory = { state: 'held' | 'committed' | 'released' | 'changed'; body: string; lines: Line[] };
type Asked = Extract<Operation['call'], { kind: 'reserve' }>;

const linesKey = (lines: readonly Line[]): string =>
  lines.map(({ sku, warehouse, quantity }) => `${sku}/${warehouse}/${quantity}`).join();

/** Refusals that say nothing of the sale's units. */
const telling = new Set([
  ...['sold-out', 'insufficient-stock', 'purchase-limit', 'idempotency-mismatch', 'reservation-ended', 'not-found'],
]);

export function saleObject({ facts }: History, rules: SaleRules, operations: readonly Operation[]): SaleObject {
  const allotments: Allotment[] = [];
  const start: SaleState = { available: [], memory: [], owned: [] };
  // The opening stock is how the sale was set, and not what became of it.
  for (const fact of facts.toSorted((a, b) => a.seq - b.seq)) {
    if (!('units' in fact) || fact.id !== 'opening' || fact.shard !== rules.shard || fact.no !== rules.no) continue;
    allotments.push({ sku: fact.sku, warehouse: fact.warehouse });
    start.available.push(fact.units);
  }
  const placesOf = new Map<string, number[]>();
  allotments.forEach(({ sku }, i) => {
    placesOf.set(sku, [...(placesOf.get(sku) ?? []), i]);
  });

  const numbers = new Map<string, number>();
  const memories: (Memory | null)[] = [null];
  const remembered = (memory: Memory): number => {
    const name = `${memory.state} ${memory.body} ${linesKey(memory.lines)}`;
    const known = numbers.get(name) ?? memories.push(memory) - 1;
    numbers.set(name, known);
    return known;
  };
  const places = new Map<string, number>();
  const placeOf = (name: string): number => {
    const known = places.get(name) ?? places.size;
    if (known === places.size) {
      places.set(name, known);
      start.memory.push(0);
    }
    return known;
  };
  const buyers = new Map<string, number>();
  const buyerOf = (name: string): number => {
    const known = buyers.get(name) ?? buyers.size;
    if (known === buyers.size) {
      buyers.set(name, known);
      start.owned.push(0);
    }
    return known;
  };
  const put = (state: SaleState, place: number, memory: Memory): SaleState => ({
    ...state,
    memory: state.memory.with(place, remembered(memory)),
  });

  /** Lines as the shard chooses them: the first warehouse that has a SKU whole, else split in listed order. */
  const take = (available: number[], wanted: Map<string, number>): Line[] =>
    [...wanted].flatMap(([sku, quantity]) => {
      const of = placesOf.get(sku) ?? [];
      const whole = of.find((i) => (available[i] ?? 0) >= quantity);
      let left = quantity;
      return (whole === undefined ? of : [whole]).flatMap((i) => {
        const part = Math.min(left, available[i] ?? 0);
        available[i] = (available[i] ?? 0) - part;
        left -= part;
        return part > 0 ? [{ sku, warehouse: allotments[i]?.warehouse ?? '', quantity: part }] : [];
      });
    });
  const giveBack = (available: number[], lines: readonly Line[]): number[] => {
    const after = [...available];
    for (const { sku, warehouse, quantity } of lines) {
      const i = allotments.findIndex((one) => one.sku === sku && one.warehouse === warehouse);
      after[i] = (after[i] ?? 0) + quantity;
    }
    return after;
  };

  const reserve = (operation: Operation, call: Asked): Step['apply'] => {
    const answer = operation.answered?.answer ?? null;
    const place = placeOf(`${operation.buyer}/${keyDigest(call.key)}`);
    const buyer = buyerOf(operation.buyer);
    const wanted = unitsBySku(call.lines);
    const [units, body] = [unitsOf(call.lines), bodyOf(call.lines)];
    // A reserve is answered as it was the first time: held.
    const told = answer?.reservation?.state === 'held' ? linesKey(answer.reservation.lines) : 'nothing held';
    const left = (state: SaleState, sku: string): number =>
      (placesOf.get(sku) ?? []).reduce((sum, i) => sum + (state.available[i] ?? 0), 0);
    const code = answer === null || succeeded(operation) ? '' : answer.code;
    return (state) => {
      const soldOut = [...wanted].some(([sku]) => left(state, sku) <= 0);
      // It may be what an engine knew, which asks nobody about keys and limits.
      if (code === 'sold-out') return soldOut ? state : null;
      const known = memories[state.memory[place] ?? 0];
      if (known) {
        if (!answer) return null;
        if (known.body !== body) return code === 'idempotency-mismatch' ? state : null;
        return code === '' && answer.replayed && linesKey(known.lines) === told ? state : null;
      }
      if (rules.perBuyer > 0 && (state.owned[buyer] ?? 0) + units > rules.perBuyer)
        return code === 'purchase-limit' ? state : null;
      if (soldOut) return null;
      if ([...wanted].some(([sku, quantity]) => left(state, sku) < quantity))
        return code === 'insufficient-stock' ? state : null;
      if (code !== '' || answer?.replayed) return null;
      const available = [...state.available];
      const lines = take(available, wanted);
      if (answer && linesKey(lines) !== told) return null;
      const owned = state.owned.with(buyer, (state.owned[buyer] ?? 0) + units);
      return put({ ...state, available, owned }, place, { state: 'held', body, lines });
    };
  };

  const settle = (operation: Operation, kind: 'commit' | 'release' | 'extend' | 'read', id: string): Step['apply'] => {
    const ref = decodeReservationId(id);
    const place = placeOf(`${ref?.buyer}/${ref?.key}`);
    const buyer = buyerOf(ref?.buyer ?? '');
    const answer = operation.answered?.answer ?? null;
    const reservation = answer?.reservation;
    const told = linesKey(reservation?.lines ?? []);
    const wanted = { commit: 'committed', release: 'released', extend: 'held', read: reservation?.state }[kind];
    return (state) => {
      const known = memories[state.memory[place] ?? 0];
      if (!known) return answer?.status === 404 ? state : null;
      if (answer?.status === 404) return null;
      if (answer?.code === 'reservation-ended')
        return kind !== 'read' && known.state !== 'held' && known.state !== wanted ? state : null;
      if (answer && (reservation?.state !== wanted || linesKey(known.lines) !== told)) return null;
      if (known.state === wanted) return answer ? state : null;
      if (known.state !== 'held' || (kind !== 'commit' && kind !== 'release')) return null;
      if (kind === 'commit') return put(state, place, { ...known, state: 'committed' });
      const owned = state.owned.with(buyer, (state.owned[buyer] ?? 0) - unitsOf(known.lines));
      const available = giveBack(state.available, known.lines);
      return put({ ...state, available, owned }, place, { ...known, state: 'released' });
    };
  };

  const adjust = (operation: Operation, call: Extract<Operation['call'], { kind: 'adjust' }>): Step['apply'] => {
    const place = placeOf(`change ${call.id}`);
    const body = `${call.sku}/${call.warehouse}/${call.delta}`;
    const at = allotments.findIndex(({ sku, warehouse }) => sku === call.sku && warehouse === call.warehouse);
    const answer = operation.answered?.answer ?? null;
    const code = answer === null || succeeded(operation) ? '' : answer.code;
    return (state) => {
      const known = memories[state.memory[place] ?? 0];
      if (known) return answer && code === (known.body === body ? '' : 'idempotency-mismatch') ? state : null;
      const after = (state.available[at] ?? Number.NaN) + call.delta;
      if (after < 0) return code === 'insufficient-stock' ? state : null;
      if (Number.isNaN(after)) return code === 'not-found' ? state : null;
      if (code !== '') return null;
      return put({ ...state, available: state.available.with(at, after) }, place, {
        state: 'changed',
        body,
        lines: [],
      });
    };
  };

  const known = evidence(operations);
  const simple = [...placesOf.values()].every((of) => of.length === 1);
  const steps = operations
    .filter((operation) => known.counts(operation))
    .map((operation): Step => {
      const { call, callMs, answered } = operation;
      const apply =
        call.kind === 'reserve'
          ? reserve(operation, call)
          : call.kind === 'adjust'
            ? adjust(operation, call)
            : settle(operation, call.kind, call.reservation);
      // A commit shows only to calls of its key. Where each SKU has one warehouse nothing hangs on the order of two takings.
      const waitsFor = answered
        ? null
        : call.kind === 'commit'
          ? ('its key' as const)
          : simple
            ? ('any' as const)
            : null;
      return {
        operation,
        waitsFor,
        key: known.keyOf(operation),
        callMs: answered?.answer.code === 'sold-out' ? callMs - staleMs : callMs,
        returnMs: answered?.atMs ?? Number.POSITIVE_INFINITY,
        apply,
        alike: known.alone(operation) && call.kind === 'reserve' ? bodyOf(call.lines) : null,
      };
    });
  return { steps: steps.toSorted((a, b) => a.callMs - b.callMs), start, trouble: known.trouble };
}

/** What answers alone say of keys: which calls need not be tried, and two reservations under one key. */
function evidence(operations: readonly Operation[]) {
  const keyOf = ({ call, buyer }: Operation): string => {
    if (call.kind === 'reserve') return `${buyer}/${keyDigest(call.key)}`;
    if (call.kind === 'adjust') return `change ${call.id}`;
    const ref = decodeReservationId(call.reservation);
    return `${ref?.buyer}/${ref?.key}`;
  };
  const ids = new Map<string, string>();
  const made = new Set<string>();
  const ofKey = new Map<string, number>();
  const ofBuyer = new Map<string, number>();
  let trouble: string | null = null;
  for (const operation of operations) {
    const { call, buyer, answered } = operation;
    const key = keyOf(operation);
    ofKey.set(key, (ofKey.get(key) ?? 0) + 1);
    ofBuyer.set(buyer, (ofBuyer.get(buyer) ?? 0) + 1);
    if (call.kind === 'adjust' || !succeeded(operation)) continue;
    const id = answered?.answer.reservation?.id ?? '';
    const other = ids.get(key);
    if (other !== undefined && other !== id) trouble ??= `One key has two reservations, ${other} and ${id}.`;
    ids.set(key, id);
    if (call.kind === 'reserve' && answered?.answer.replayed === false) made.add(key);
  }
  return {
    trouble,
    keyOf,
    counts(operation: Operation): boolean {
      const { call, answered } = operation;
      // That the sale hasn't such a SKU says nothing of its units.
      if (answered?.answer.status === 404 && call.kind === 'reserve') return false;
      if (answered) return mayHaveHappened(operation) || telling.has(answered.answer.code);
      if (call.kind === 'read' || call.kind === 'extend') return false;
      // Another call made the reservation: this one never did.
      return call.kind !== 'reserve' || !made.has(keyOf(operation));
    },
    /** Nobody else speaks of its key, nor of its buyer: which of several such it was can't be told. */
    alone: (operation: Operation): boolean =>
      !operation.answered && ofKey.get(keyOf(operation)) === 1 && ofBuyer.get(operation.buyer) === 1,
  };
}
