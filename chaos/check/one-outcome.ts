/** `one-outcome`: a reservation ends at most once, all its lines together, and nobody was told of another end. */
import type { Finding, History, Line, Operation, State } from '../history.ts';
import {
  clock,
  createFindings,
  type Ending,
  factText,
  linesText,
  operationText,
  type Reserved,
  sameUnits,
  succeeded,
} from './findings.ts';

type Story = { reserved: Reserved; end: Ending | null; returned: Line[] };

const allotment = ({ sku, warehouse }: Line): string => `${sku}/${warehouse}`;

/** Whether `part`, all of one allotment added up, is no more than `whole` has. */
function within(part: Line[], whole: Line[]): boolean {
  const left = new Map<string, number>();
  for (const line of whole) left.set(allotment(line), (left.get(allotment(line)) ?? 0) + line.quantity);
  for (const line of part) left.set(allotment(line), (left.get(allotment(line)) ?? 0) - line.quantity);
  return [...left.values()].every((units) => units >= 0);
}

export function oneOutcome({ operations, facts }: History): Finding[] {
  const findings = createFindings();
  const stories = new Map<string, Story>();
  const byId = new Map<string, Story>();

  for (const fact of facts.toSorted((a, b) => a.shard - b.shard || a.seq - b.seq)) {
    if ('units' in fact) continue;
    if (fact.kind === 'reserved') {
      const story: Story = { reserved: fact, end: null, returned: [] };
      const place = `${fact.shard}/${fact.seq}`;
      if (stories.has(place) || byId.has(fact.id)) findings.add(`${factText(fact)} was reserved before.`);
      stories.set(place, story);
      byId.set(fact.id, story);
      continue;
    }
    const story = stories.get(`${fact.shard}/${fact.reservation}`);
    if (!story) {
      findings.add(`${factText(fact)}: nothing was reserved at sequence ${fact.reservation} before it.`);
      continue;
    }
    const { reserved, end } = story;
    if (fact.kind === 'returned') {
      story.returned.push(...fact.lines);
      if (end?.kind !== 'committed')
        findings.add(`${reserved.id}: ${factText(fact)}, and it was never committed before.`);
      else if (!within(story.returned, reserved.lines))
        findings.add(
          `${reserved.id}: more was returned than it had (${linesText(reserved.lines)}) by ${factText(fact)}.`,
        );
      continue;
    }
    if (end) findings.add(`${reserved.id} ended twice: ${factText(end)}; ${factText(fact)}.`);
    else story.end = fact;
    if (!sameUnits(fact.lines, reserved.lines))
      findings.add(
        `${reserved.id} has ${linesText(reserved.lines)}, and ${factText(fact)} moved ${linesText(fact.lines)}: not all lines together.`,
      );
  }

  for (const [id, told] of endsTold(operations)) {
    const first = told[0];
    if (!first) continue;
    const other = told.find(({ state }) => state !== first.state);
    if (other)
      findings.add(
        `Two ends of ${id} were told: ${operationText(first.operation)}; ${operationText(other.operation)}.`,
      );
    const end = byId.get(id)?.end;
    const wrong = end && told.find(({ state }) => state !== end.kind);
    if (end && wrong)
      findings.add(`${id} ended otherwise (${factText(end)}) than was told: ${operationText(wrong.operation)}.`);
  }
  for (const text of revived(operations)) findings.add(text);
  return findings.list();
}

/** What clients were told of ends, by reservation. A reserve's answer tells of none: a replay repeats the first. */
function endsTold(operations: Operation[]): Map<string, { state: State; operation: Operation }[]> {
  const told = new Map<string, { state: State; operation: Operation }[]>();
  for (const operation of operations) {
    const reservation = succeeded(operation) ? operation.answered?.answer.reservation : null;
    if (!reservation || operation.call.kind === 'reserve' || reservation.state === 'held') continue;
    const known = told.get(reservation.id);
    if (known) known.push({ state: reservation.state, operation });
    else told.set(reservation.id, [{ state: reservation.state, operation }]);
  }
  return told;
}

/** Reservations that were told to have ended, and to be held by a call made after that. */
function* revived(operations: Operation[]): Generator<Finding> {
  const endedMs = new Map<string, number>();
  for (const { call, answered } of operations) {
    const answer = answered?.answer;
    const reservation = answer?.reservation;
    const ended =
      call.kind !== 'reserve' && reservation && reservation.state !== 'held'
        ? reservation.id
        : answer?.code === 'reservation-ended' && 'reservation' in call && call.reservation;
    if (answered && ended) endedMs.set(ended, Math.min(endedMs.get(ended) ?? Number.POSITIVE_INFINITY, answered.atMs));
  }
  for (const operation of operations) {
    const { call, callMs } = operation;
    const reservation = succeeded(operation) ? operation.answered?.answer.reservation : null;
    if (!reservation || call.kind === 'reserve' || reservation.state !== 'held') continue;
    const before = endedMs.get(reservation.id);
    if (before !== undefined && before < callMs)
      yield `${reservation.id} was told to have ended at ${clock(before)}, and is held again: ${operationText(operation)}.`;
  }
}
