/**
 * Which operations may have brought about each fact, and between which moments of the clients' clock it happened: after the
 * call of its cause, before the first answer that shows it. All of the clients' clock: the shard's may jump.
 */
import { keyDigest } from '../../kernel/ids.ts';
import type { Fact, History, Operation, SaleRules } from '../history.ts';
import { bodyOf, mayHaveHappened, type Reserved, succeeded } from './findings.ts';

/** `causes`: operations that may have brought it about. `noEarlierMs` to `noLaterMs`: when it happened. */
export type Effect = { fact: Fact; causes: Operation[]; noEarlierMs: number; noLaterMs: number };

export type Effects = {
  /** Each shard's, in sequence. */
  byShard: Map<number, Effect[]>;
  saleById: Map<string, SaleRules>;
  saleOf(fact: Fact): SaleRules | undefined;
  reservedById: Map<string, Effect & { fact: Reserved }>;
  reservedAt(shard: number, seq: number): Reserved | undefined;
  /** What was reserved under a key, in sequence. */
  reservedUnder(saleId: string, buyer: string, key: string): Reserved[];
  /** How a reservation ended first; undefined while it lives. */
  endOf(id: string): Effect | undefined;
  /** A stock change, by its sale and id. */
  changeOf(saleId: string, id: string): Effect | undefined;
};

const bySequence = (a: Fact, b: Fact): number => a.seq - b.seq;

function pushTo<Key, Value>(map: Map<Key, Value[]>, key: Key, value: Value): void {
  const known = map.get(key);
  if (known) known.push(value);
  else map.set(key, [value]);
}

/** Operations by what they are about. */
function sortOperations(operations: Operation[]) {
  const reserves = new Map<string, Operation[]>();
  const others = new Map<string, Operation[]>();
  const adjusts = new Map<string, Operation[]>();
  for (const operation of operations) {
    const { call, saleId, buyer } = operation;
    if (call.kind === 'reserve') pushTo(reserves, `${saleId}/${buyer}/${keyDigest(call.key)}`, operation);
    else if (call.kind === 'adjust') pushTo(adjusts, `${saleId}/${call.id}`, operation);
    else pushTo(others, `${call.kind}/${call.reservation}`, operation);
  }
  return { reserves, others, adjusts };
}

/** An answer that was new, not a replay, to exactly this. */
const made = (operation: Operation, id: string): boolean => {
  const answer = succeeded(operation) ? operation.answered?.answer : undefined;
  return answer?.reservation?.id === id && !answer.replayed;
};

export function effectsOf({ sales, operations, facts }: History): Effects {
  const saleByPlace = new Map(sales.map((sale) => [`${sale.shard}/${sale.no}`, sale]));
  const saleById = new Map(sales.map((sale) => [sale.saleId, sale]));
  const saleOf = ({ shard, no }: Fact): SaleRules | undefined => saleByPlace.get(`${shard}/${no}`);
  const { reserves, others, adjusts } = sortOperations(operations);

  const byShard = new Map<number, Effect[]>();
  const reservedByPlace = new Map<string, Reserved>();
  const reservedById = new Map<string, Effect & { fact: Reserved }>();
  const reservedByKey = new Map<string, Reserved[]>();
  const ends = new Map<string, Effect>();
  const changes = new Map<string, Effect>();

  const causesOf = (fact: Fact): Operation[] => {
    const saleId = saleOf(fact)?.saleId;
    if ('units' in fact) {
      const asked = (adjusts.get(`${saleId}/${fact.id}`) ?? []).filter(mayHaveHappened);
      return asked.filter(
        ({ call }) =>
          call.kind === 'adjust' &&
          call.delta === fact.units &&
          call.sku === fact.sku &&
          call.warehouse === fact.warehouse,
      );
    }
    if (fact.kind === 'reserved') {
      const asked = reserves.get(`${saleId}/${fact.buyer}/${fact.id.slice(28)}`) ?? [];
      const alike = asked.filter(({ call }) => call.kind === 'reserve' && bodyOf(call.lines) === bodyOf(fact.lines));
      const maker = alike.filter((operation) => made(operation, fact.id));
      return maker.length > 0 ? maker : alike.filter(({ answered }) => !answered);
    }
    const kind = fact.kind === 'committed' ? 'commit' : fact.kind === 'released' ? 'release' : null;
    const id = reservedByPlace.get(`${fact.shard}/${fact.reservation}`)?.id;
    return kind ? (others.get(`${kind}/${id}`) ?? []).filter(mayHaveHappened) : [];
  };

  for (const fact of facts.toSorted(bySequence)) {
    if (fact.kind === 'reserved') reservedByPlace.set(`${fact.shard}/${fact.seq}`, fact);
    const causes = causesOf(fact);
    const noEarlierMs = causes.length > 0 ? Math.min(...causes.map(({ callMs }) => callMs)) : Number.NEGATIVE_INFINITY;
    const effect: Effect = { fact, causes, noEarlierMs, noLaterMs: Number.POSITIVE_INFINITY };
    pushTo(byShard, fact.shard, effect);
    const saleId = saleOf(fact)?.saleId;
    if (fact.kind === 'reserved') {
      if (!reservedById.has(fact.id)) reservedById.set(fact.id, { ...effect, fact });
      pushTo(reservedByKey, `${saleId}/${fact.buyer}/${fact.id.slice(28)}`, fact);
    } else if ('units' in fact) {
      if (!changes.has(`${saleId}/${fact.id}`)) changes.set(`${saleId}/${fact.id}`, effect);
    } else if (fact.kind !== 'returned') {
      const id = reservedByPlace.get(`${fact.shard}/${fact.reservation}`)?.id;
      if (id !== undefined && !ends.has(id)) ends.set(id, effect);
    }
  }
  // The same object in both, so that what an answer shows is seen by shard as well.
  for (const effects of byShard.values())
    effects.forEach((effect, i) => {
      const { fact } = effect;
      const known = fact.kind === 'reserved' ? reservedById.get(fact.id) : undefined;
      if (known && known.fact === fact) effects[i] = known;
    });

  for (const operation of operations) {
    const { call, saleId, answered } = operation;
    if (!answered) continue;
    const { answer, atMs } = answered;
    const shows = (effect: Effect | undefined): void => {
      if (effect) effect.noLaterMs = Math.min(effect.noLaterMs, atMs);
    };
    if (call.kind === 'adjust') {
      if (succeeded(operation)) shows(changes.get(`${saleId}/${call.id}`));
    } else if (succeeded(operation) && answer.reservation) {
      const { id, state } = answer.reservation;
      shows(reservedById.get(id));
      const end = ends.get(id);
      // That it reads `expired` says nothing of a fact: time alone makes it so.
      if (call.kind !== 'reserve' && state !== 'expired' && end?.fact.kind === state) shows(end);
    }
  }

  return {
    byShard,
    saleById,
    saleOf,
    reservedById,
    reservedAt: (shard, seq) => reservedByPlace.get(`${shard}/${seq}`),
    reservedUnder: (saleId, buyer, key) => reservedByKey.get(`${saleId}/${buyer}/${keyDigest(key)}`) ?? [],
    endOf: (id) => ends.get(id),
    changeOf: (saleId, id) => changes.get(`${saleId}/${id}`),
  };
}

/** What is certain of a shard at moments of the clients' clock. */
export type Order = {
  /** The highest sequence that had happened for certain before `ms`; 0 where none had. */
  before(ms: number): number;
  /** The highest sequence that may have happened by `ms`. */
  by(ms: number): number;
};

/** The index of the first of `sorted` that is at least `value`. */
export function firstAtLeast(sorted: readonly number[], value: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function orderOf(effects: readonly Effect[]): Order {
  const done = effects.toSorted((a, b) => a.noLaterMs - b.noLaterMs);
  const doneMs = done.map(({ noLaterMs }) => noLaterMs);
  const highest: number[] = [];
  for (const { fact } of done) highest.push(Math.max(highest.at(-1) ?? 0, fact.seq));
  const begun = effects.toSorted((a, b) => b.noEarlierMs - a.noEarlierMs);
  const begunMs = begun.map(({ noEarlierMs }) => -noEarlierMs);
  const lowest: number[] = [];
  for (const { fact } of begun) lowest.push(Math.min(lowest.at(-1) ?? Number.POSITIVE_INFINITY, fact.seq));
  return {
    before: (ms) => highest[firstAtLeast(doneMs, ms) - 1] ?? 0,
    by: (ms) => (lowest[firstAtLeast(begunMs, -ms) - 1] ?? Number.POSITIVE_INFINITY) - 1,
  };
}
