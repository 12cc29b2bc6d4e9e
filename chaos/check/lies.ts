/** For tests: lies told about an honest history. Each breaks one promise; null where a history gives no occasion for it. */
import { decodeReservationId, encodeReservationId } from '../../kernel/ids.ts';
import type { Answer, Call, Fact, History, Line, Operation, State } from '../history.ts';
import { type Ending, type Reserved, succeeded } from './findings.ts';

export type Tell = (history: History) => History | null;
type Checker = 'witness' | 'neverOversold' | 'oneOutcome' | 'limitsHold' | 'sameKeySameAnswer';
/** `by`: the checkers that must find it, saying this. */
export type Lie = { name: string; by: Partial<Record<Checker, RegExp>>; tell: Tell };

type Answered = Operation & { answered: NonNullable<Operation['answered']> };
type Settled = Answered & { call: Extract<Call, { reservation: string }> };
type Asked = Answered & { call: Extract<Call, { kind: 'reserve' }> };

export const reservedOf = ({ facts }: History): Reserved[] => facts.filter((fact) => fact.kind === 'reserved');
export const endsOf = ({ facts }: History, ...kinds: string[]): Ending[] =>
  facts.filter((fact): fact is Ending => 'reservation' in fact && kinds.includes(fact.kind));
export const reservedFor = (history: History, { shard, reservation }: Ending): Reserved | undefined =>
  reservedOf(history).find((fact) => fact.shard === shard && fact.seq === reservation);
export const endFor = (history: History, fact: Reserved): Ending | undefined =>
  endsOf(history, 'committed', 'released', 'expired').find(
    (end) => end.shard === fact.shard && end.reservation === fact.seq,
  );

const answered = (operation: Operation): operation is Answered => operation.answered !== null;
export const asks = ({ operations }: History): Asked[] =>
  operations.filter((one): one is Asked => answered(one) && one.call.kind === 'reserve');
export const settles = ({ operations }: History, ...kinds: string[]): Settled[] =>
  operations.filter(
    (one): one is Settled => answered(one) && 'reservation' in one.call && kinds.includes(one.call.kind),
  );
/** Reserves that were granted, by their own call. */
export const grants = (history: History): Asked[] =>
  asks(history).filter((one) => succeeded(one) && !one.answered.answer.replayed);
export const replays = (history: History): Asked[] =>
  asks(history).filter((one) => succeeded(one) && one.answered.answer.replayed);
export const idOf = ({ answered: { answer } }: Answered): string => answer.reservation?.id ?? '';
const refusal = (status: number, code: string): Answer => ({ status, code, reservation: null, replayed: false });

/** The history with one of it changed in place; null when there is none. */
export function change<One>(
  pick: (history: History) => One | undefined,
  how: (one: One, history: History) => void,
): Tell {
  return (history) => {
    const one = pick(history);
    if (one === undefined) return null;
    how(one, history);
    return history;
  };
}

export const answerOf = (one: Answered, answer: Answer): void => {
  one.answered.answer = answer;
};
export const tell = (one: Answered, code: string, status = 409): void => answerOf(one, refusal(status, code));

export const endMs = ({ operations }: History): number =>
  Math.max(0, ...operations.map(({ callMs, answered: at }) => at?.atMs ?? callMs)) + 5_000;

/** A call made up, long after all others. */
export function add(
  history: History,
  saleId: string,
  buyer: string,
  call: Call,
  answer: Answer,
  callMs = endMs(history),
): void {
  const made = { client: 99, saleId, buyer, call, callMs, answered: { atMs: callMs + 1, answer } };
  history.operations.push(made);
}

export const stranger = 'stranger____';
export const addReserve = (
  history: History,
  saleId: string,
  lines: { sku: string; quantity: number }[],
  code: string,
): void => add(history, saleId, stranger, { kind: 'reserve', key: 'lie', lines }, refusal(409, code));

export function addRead(history: History, { id, lines, ...fact }: Reserved, state: State, callMs?: number): void {
  const saleId = history.sales.find(({ shard, no }) => shard === fact.shard && no === fact.no)?.saleId ?? '';
  const reservation = { id, state, expiresAtMs: fact.lastExpiresAtMs, lines };
  const answer = { status: 200, code: '', reservation, replayed: false };
  add(history, saleId, fact.buyer, { kind: 'read', reservation: id }, answer, callMs);
}

/** Units available in the end, by sale, SKU and warehouse. */
export function leftOver({ facts, sales }: History): { saleId: string; sku: string; units: number }[] {
  const left = new Map<string, number>();
  for (const fact of facts) {
    const saleId = sales.find(({ shard, no }) => shard === fact.shard && no === fact.no)?.saleId;
    const sign = fact.kind === 'reserved' ? -1 : fact.kind === 'committed' ? 0 : 1;
    for (const { sku, units } of 'units' in fact
      ? [fact]
      : fact.lines.map((line) => ({ sku: line.sku, units: sign * line.quantity })))
      left.set(`${saleId}/${sku}`, (left.get(`${saleId}/${sku}`) ?? 0) + units);
  }
  return [...left].map(([name, units]) => ({ saleId: name.split('/')[0] ?? '', sku: name.split('/')[1] ?? '', units }));
}

/** Changes a reservation's lines wherever they are spoken of. */
export function relabel(history: History, fact: Reserved, lines: Line[]): void {
  for (const { answered: at } of history.operations)
    if (at?.answer.reservation?.id === fact.id) at.answer.reservation.lines = lines;
  for (const one of history.facts)
    if ('reservation' in one && one.shard === fact.shard && one.reservation === fact.seq) one.lines = lines;
  fact.lines = lines;
}

/** Gives two facts of a shard each other's place, in all that names it: as if they had happened in the other order. */
export function swap(history: History, a: Fact, b: Fact): void {
  const other = new Map([
    [a.seq, b.seq],
    [b.seq, a.seq],
  ]);
  const renamed = (id: string): string => {
    const ref = decodeReservationId(id);
    if (!ref || ref.shard !== a.shard) return id;
    return encodeReservationId({ ...ref, sale: ref.sale, seq: other.get(ref.seq) ?? ref.seq });
  };
  const [atA, atB] = [a.atMs, b.atMs];
  for (const fact of history.facts) {
    if (fact.shard !== a.shard) continue;
    if ('reservation' in fact) fact.reservation = other.get(fact.reservation) ?? fact.reservation;
    fact.seq = other.get(fact.seq) ?? fact.seq;
    if (fact.kind === 'reserved') fact.id = renamed(fact.id);
  }
  [a.atMs, b.atMs] = [atB, atA];
  for (const { call, answered: at } of history.operations) {
    if ('reservation' in call) call.reservation = renamed(call.reservation);
    if (at?.answer.reservation) at.answer.reservation.id = renamed(at.answer.reservation.id);
  }
  history.facts.sort((x, y) => x.shard - y.shard || x.seq - y.seq);
}

/** Two facts of a shard, the first answered before the second was called. */
export function apart(history: History): [Fact, Fact] | undefined {
  const made = grants(history);
  const facts = reservedOf(history);
  for (const one of made)
    for (const later of made) {
      if (one.answered.atMs >= later.callMs) continue;
      const a = facts.find(({ id }) => id === idOf(one));
      const b = facts.find(({ id }) => id === idOf(later));
      if (a && b && a.shard === b.shard) return [a, b];
    }
  return undefined;
}

/** A reserve granted under a key of which no other call knows. */
export const lonely = (history: History): Asked | undefined =>
  grants(history).find(
    (one) =>
      history.operations.filter(
        ({ call, buyer, saleId }) =>
          call.kind === 'reserve' && call.key === one.call.key && buyer === one.buyer && saleId === one.saleId,
      ).length === 1,
  );

/** A replay whose key was granted by a call that was answered. */
export const replayOfTold = (history: History): Asked | undefined => {
  const told = new Set(grants(history).map(idOf));
  return replays(history).find((one) => told.has(idOf(one)));
};

export const other = <Value>(value: Value, values: Value[]): Value => values.find((one) => one !== value) ?? value;
export const otherBody = (lines: { sku: string; quantity: number }[]): { sku: string; quantity: number }[] =>
  lines.map((line, i) => (i === 0 ? { ...line, quantity: line.quantity + 1 } : line));

/** A SKU of which something is left, when all is over: a change of nothing, answered last, says that all had happened. */
export function plentiful(history: History): { saleId: string; sku: string; units: number } | undefined {
  const left = leftOver(history).find(({ units }) => units > 0);
  const sale = history.sales.find(({ saleId }) => saleId === left?.saleId);
  if (!left || !sale) return undefined;
  const of = history.facts.filter(({ shard }) => shard === sale.shard);
  const about = { shard: sale.shard, no: sale.no, seq: 500_000, atMs: Math.max(...of.map(({ atMs }) => atMs)) };
  const what = { id: 'nothing', sku: left.sku, warehouse: 'east' };
  history.facts.push({ ...about, kind: 'adjusted', ...what, units: 0 });
  const answer = { status: 200, code: '', reservation: null, replayed: false };
  add(history, sale.saleId, 'operator____', { kind: 'adjust', ...what, delta: 0 }, answer);
  return left;
}
