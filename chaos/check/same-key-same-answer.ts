/**
 * `same-key-same-answer`: under one key of a buyer in a sale there is one reservation, answered as it was the first time, and
 * never to another body. A key is remembered until an hour after its reservation's end, the shard's time.
 */
import { keyDigest } from '../../kernel/ids.ts';
import type { Fact, Finding, History, Operation } from '../history.ts';
import {
  bodyOf,
  clock,
  createFindings,
  type Findings,
  factText,
  linesText,
  operationText,
  type Reserved,
  sameLines,
  succeeded,
  wantedText,
} from './findings.ts';

const rememberMs = 3_600_000;
/** What a key that has its reservation is never answered: the replay comes first. */
const laterRefusals = ['sale-not-open', 'purchase-limit', 'sold-out', 'insufficient-stock'];

/** What the ledger has under a key, and how each of it ended. */
type Kept = { fact: Reserved; end: Fact | null };

/** Facts by shard, sale's number, buyer and key's digest. */
function keptByKey(facts: Fact[]): Map<string, Kept[]> {
  const byKey = new Map<string, Kept[]>();
  const byPlace = new Map<string, Kept>();
  for (const fact of facts.toSorted((a, b) => a.shard - b.shard || a.seq - b.seq)) {
    if (fact.kind === 'reserved') {
      const kept: Kept = { fact, end: null };
      const key = `${fact.shard}/${fact.no}/${fact.buyer}/${fact.id.slice(28)}`;
      byPlace.set(`${fact.shard}/${fact.seq}`, kept);
      byKey.set(key, [...(byKey.get(key) ?? []), kept]);
    } else if ('reservation' in fact && fact.kind !== 'returned') {
      const kept = byPlace.get(`${fact.shard}/${fact.reservation}`);
      if (kept) kept.end ??= fact;
    }
  }
  return byKey;
}

export function sameKeySameAnswer({ sales, operations, facts }: History): Finding[] {
  const findings = createFindings();
  const kept = keptByKey(facts);
  const lastMs = new Map<number, number>();
  for (const { shard, atMs } of facts) lastMs.set(shard, Math.max(lastMs.get(shard) ?? 0, atMs));
  for (const ofKey of kept.values()) checkFacts(ofKey, findings);

  const places = new Map(sales.map(({ saleId, shard, no }) => [saleId, `${shard}/${no}`]));
  const groups = new Map<string, Operation[]>();
  for (const operation of operations) {
    const { call, saleId, buyer } = operation;
    const place = places.get(saleId);
    if (call.kind !== 'reserve' || place === undefined) continue;
    const name = `${place}/${buyer}/${keyDigest(call.key)}`;
    const known = groups.get(name);
    if (known) known.push(operation);
    else groups.set(name, [operation]);
  }
  for (const [name, group] of groups) checkAnswers(group, kept.get(name) ?? [], lastMs, findings);
  return findings.list();
}

/** Whether the key may have been given to `later` because `first` was remembered no more. */
const forgotten = (first: Kept | undefined, later: Kept | undefined): boolean =>
  first?.end != null && later !== undefined && later.fact.atMs >= first.end.atMs + rememberMs;

function checkFacts(ofKey: readonly Kept[], findings: Findings): void {
  ofKey.forEach((later, i) => {
    const first = ofKey[i - 1];
    if (!first || forgotten(first, later)) return;
    findings.add(
      `One key holds twice while it is remembered: ${factText(first.fact)}${first.end ? ` (${factText(first.end)})` : ''}; ${factText(later.fact)}.`,
    );
  });
}

const bodyOfCall = ({ call }: Operation): string => (call.kind === 'reserve' ? bodyOf(call.lines) : '');

function checkAnswers(
  group: readonly Operation[],
  kept: readonly Kept[],
  lastMs: Map<number, number>,
  findings: Findings,
): void {
  const keptOf = (id: string): Kept | undefined => kept.find(({ fact }) => fact.id === id);
  const first = new Map<string, Operation>();
  const made = new Map<string, Operation>();
  const answeredMs = new Map<string, number>();
  for (const operation of group.filter(succeeded)) {
    const { call, answered } = operation;
    const answer = answered?.answer;
    const reservation = answer?.reservation;
    if (!answered || !answer || !reservation || call.kind !== 'reserve') {
      findings.add(`A reserve succeeded without a reservation: ${operationText(operation)}.`);
      continue;
    }
    const { id, lines, expiresAtMs, state } = reservation;
    if (state !== 'held')
      findings.add(`A reserve is answered as it was the first time, held: ${operationText(operation)}.`);
    if (bodyOf(call.lines) !== bodyOf(lines))
      findings.add(
        `Another body was answered ${linesText(lines)}, not the ${wantedText(call.lines)} it asked for: ${operationText(operation)}.`,
      );
    const before = first.get(id)?.answered?.answer.reservation;
    if (!before) first.set(id, operation);
    else if (!sameLines(before.lines, lines) || before.expiresAtMs !== expiresAtMs)
      findings.add(
        `One key was answered ${linesText(before.lines)} until ${before.expiresAtMs} and ${linesText(lines)} until ${expiresAtMs}: ${operationText(operation)}.`,
      );
    const maker = made.get(id);
    if (!answer.replayed && maker)
      findings.add(`Two answers say that they are the first: ${operationText(maker)}; ${operationText(operation)}.`);
    if (!answer.replayed) made.set(id, maker ?? operation);
    answeredMs.set(id, Math.min(answeredMs.get(id) ?? Number.POSITIVE_INFINITY, answered.atMs));
  }

  const ids = [...first.keys()].toSorted((a, b) => (keptOf(a)?.fact.seq ?? 0) - (keptOf(b)?.fact.seq ?? 0));
  ids.slice(1).forEach((id, i) => {
    const [a, b] = [first.get(ids[i] ?? ''), first.get(id)];
    if (a && b && !forgotten(keptOf(ids[i] ?? ''), keptOf(id)))
      findings.add(`One key was answered two reservations: ${operationText(a)}; ${operationText(b)}.`);
  });

  for (const operation of group) {
    const code = operation.answered?.answer.code ?? '';
    if (code === 'idempotency-mismatch') {
      const body = bodyOfCall(operation);
      if (!kept.some(({ fact }) => bodyOf(fact.lines) !== body))
        findings.add(
          `A key without another body is answered 422 (${kept.map(({ fact }) => factText(fact)).join(', ') || 'the ledger has nothing under it'}): ${operationText(operation)}.`,
        );
    } else if (laterRefusals.includes(code)) {
      const last = ids.at(-1) ?? '';
      const sinceMs = answeredMs.get(last) ?? Number.POSITIVE_INFINITY;
      const end = keptOf(last)?.end;
      const maybeForgotten = end != null && (lastMs.get(end.shard) ?? 0) >= end.atMs + rememberMs;
      if (sinceMs < operation.callMs && !maybeForgotten)
        findings.add(`Its key was answered ${last} at ${clock(sinceMs)} before: ${operationText(operation)}.`);
    }
  }
}
