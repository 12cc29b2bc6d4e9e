/** What clients were told and the ledger doesn't have: `no-ack-lost` and `fenced`, and the history less what was lost. */
import { decodeReservationId, shardOfSale } from '../kernel/ids.ts';
import { shards } from './bed.ts';
import type { Evidence, Loss } from './evidence.ts';
import type { Fact, Finding, History, Operation } from './history.ts';
import type { Fates } from './verdict.ts';

type Reserved = Extract<Fact, { kind: 'reserved' }>;

/** An operation that was answered with success, and of whose effect the ledger knows nothing. */
export type Missing = { operation: Operation; shard: number; loss: Loss | null };

type Known = { reserved: Map<string, Reserved>; ends: Map<string, Fact['kind']>; changes: Set<string> };

function known({ sales, facts }: History): Known {
  const names = new Map(sales.map(({ shard, no, saleId }) => [`${shard}/${no}`, saleId]));
  const found: Known = { reserved: new Map(), ends: new Map(), changes: new Set() };
  for (const fact of facts) {
    if (fact.kind === 'reserved') found.reserved.set(fact.id, fact);
    else if (fact.kind === 'adjusted' || fact.kind === 'restocked')
      found.changes.add(`${names.get(`${fact.shard}/${fact.no}`)}/${fact.id}`);
    else if ('reservation' in fact) found.ends.set(`${fact.shard}/${fact.reservation}`, fact.kind);
  }
  return found;
}

/** Whether the ledger has what the operation was answered. */
function isKnown({ saleId, call, answered }: Operation, ledger: Known): boolean {
  if (call.kind === 'adjust') return ledger.changes.has(`${saleId}/${call.id}`);
  const told = answered?.answer.reservation;
  if (!told) return true;
  const reserved = ledger.reserved.get(told.id);
  if (!reserved) return false;
  const end = ledger.ends.get(`${reserved.shard}/${reserved.seq}`);
  if (call.kind === 'commit') return end === 'committed' || end === 'returned';
  if (call.kind === 'release') return end === 'released';
  if (call.kind === 'extend') return reserved.lastExpiresAtMs >= told.expiresAtMs;
  return true;
}

/** The last moment at which something was asked for that the shard's old epochs have kept: what is lost came later. */
function keptUntilMs(history: History, ledger: Known, { shard, seq }: Loss): number {
  let latestMs = Number.NEGATIVE_INFINITY;
  for (const { call, answered, callMs } of history.operations) {
    const told = call.kind === 'reserve' && answered?.answer.replayed === false ? answered.answer.reservation : null;
    const reserved = told && ledger.reserved.get(told.id);
    if (reserved && reserved.shard === shard && reserved.seq <= seq) latestMs = Math.max(latestMs, callMs);
  }
  return latestMs;
}

/** Finds them all. A loss of the shard covers what was answered after all that it kept was asked for, and before it sold again. */
export function findMissing(history: History, evidence: Evidence): Missing[] {
  const ledger = known(history);
  const losses = evidence.losses.map((loss) => ({ loss, keptMs: keptUntilMs(history, ledger, loss) }));
  const missing: Missing[] = [];
  for (const operation of history.operations) {
    const { answered, call, callMs } = operation;
    if (!answered || answered.answer.status >= 300 || isKnown(operation, ledger)) continue;
    const shard = shardOfSale(operation.saleId, shards);
    const ref = call.kind === 'reserve' ? decodeReservationId(answered.answer.reservation?.id ?? '') : null;
    const covering = losses.flatMap(({ loss, keptMs }) => {
      if (loss.shard !== shard || loss.lost === null || answered.atMs < keptMs) return [];
      // Of a reservation its sequence is known too.
      if (call.kind === 'reserve' && !(ref && ref.seq >= loss.lost.from && ref.seq <= loss.lost.to)) return [];
      return [loss];
    });
    // Answered before the shard sold again; or it was under way for so long.
    const loss =
      covering.find(({ openedAtMs }) => answered.atMs <= openedAtMs) ??
      covering.find(({ openedAtMs }) => callMs <= openedAtMs);
    missing.push({ operation, shard, loss: loss ?? null });
  }
  return missing;
}

const textOf = ({ operation: { saleId, call, callMs, answered } }: Pick<Missing, 'operation'>): string =>
  `${call.kind} of ${saleId}, called ${callMs.toFixed(1)} and answered ${answered?.atMs.toFixed(1)}: ${
    answered?.answer.reservation?.id ?? JSON.stringify(call)
  }`;

const most = 20;

/** Expiries, and what operators and sales add: as many again as clients' calls, and a few. */
const widthOver = (calls: number): number => 2 * calls + 300;

/**
 * What a buyer was told is in the ledger. `mayLose`: the fault took what the durability doesn't cover, so what is missing must
 * have been reported, once Valkey had gone back; and each report covers little more than what is missing by it. `mayReport`:
 * nothing may be missing that was told, but what nobody was told of may be reported.
 */
export function noAckLost(
  { operations }: History,
  missing: Missing[],
  losses: Loss[],
  { mayLose, mayReport, wentBackMs }: Pick<Fates, 'mayLose' | 'mayReport' | 'wentBackMs'>,
): Finding[] {
  const findings = missing.flatMap((one) => {
    if (one.loss === null) return [`not in the ledger, nor in a report of losses: ${textOf(one)}`];
    return mayLose ? [] : [`lost, and this durability covers this fault: ${textOf(one)}`];
  });
  for (const loss of losses) {
    const { shard, seq, lost, closedAtMs, openedAtMs } = loss;
    if (lost === null) continue;
    const text = `shard ${shard}: ${lost.from} to ${lost.to} are reported as lost after ${seq}`;
    const couldBe = mayReport || (mayLose && wentBackMs.some((ms) => ms <= closedAtMs));
    if (!couldBe) findings.push(`${text}, and nothing could be`);
    if (lost.from !== seq + 1 || lost.to < lost.from) findings.push(`${text}: not from ${seq + 1} on`);
    const open = operations.filter(
      ({ answered, saleId, callMs }) =>
        answered === null && shardOfSale(saleId, shards) === shard && callMs <= openedAtMs,
    ).length;
    const gone = missing.filter((one) => one.loss === loss).length;
    if (lost.to - lost.from + 1 > widthOver(gone + open))
      findings.push(`${text}: ${gone} answers are missing, and ${open} calls have none`);
  }
  return findings.slice(0, most);
}

/** Nothing is sold from a Valkey that has gone back in time, from the moment on at which it had. */
export function fenced(
  { operations }: History,
  missing: Missing[],
  losses: Loss[],
  wentBackMs: readonly number[],
): Finding[] {
  const findings: Finding[] = [];
  const told = new Map<string, string>();
  const lost = new Map(missing.map(({ operation, loss }) => [operation, loss]));
  for (const operation of operations) {
    const { call, answered } = operation;
    const id = call.kind === 'reserve' ? answered?.answer.reservation?.id : undefined;
    const ref = id === undefined ? null : decodeReservationId(id);
    if (id === undefined || ref === null) continue;
    const loss = lost.get(operation);
    // Each history that was lost has a sequence of its own.
    const place = `${ref.shard}/${ref.seq}`;
    const name = `${place} of ${loss ? loss.epoch : 'what is kept'}`;
    const other = told.get(name) ?? id;
    if (other !== id) findings.push(`two reservations were answered at sequence ${place}: ${other} and ${id}`);
    told.set(name, id);
  }
  const early = (operation: Operation, sinceMs: number): void => {
    const afterMs = operation.callMs - sinceMs;
    findings.push(`sold ${afterMs.toFixed(0)} ms after Valkey had gone back: ${textOf({ operation })}`);
  };
  for (const { operation, loss } of missing) {
    const closedMs = loss?.closedAtMs ?? Number.POSITIVE_INFINITY;
    const sinceMs = wentBackMs.findLast((ms) => ms <= closedMs);
    if (sinceMs !== undefined && operation.callMs > sinceMs) early(operation, sinceMs);
  }
  // What the ledger has was sold too early if the rebuild that followed had not even closed what was there.
  wentBackMs.forEach((sinceMs, i) => {
    const untilMs = wentBackMs[i + 1] ?? Number.POSITIVE_INFINITY;
    for (const shard of new Set(losses.map((loss) => loss.shard))) {
      const closing = losses.find((loss) => loss.shard === shard && loss.closedAtMs >= sinceMs);
      if (!closing || closing.closedAtMs > untilMs) continue;
      for (const operation of operations) {
        const { answered, call, callMs, saleId } = operation;
        if (!answered || answered.answer.status >= 300 || call.kind === 'read' || lost.has(operation)) continue;
        if (shardOfSale(saleId, shards) !== shard) continue;
        if (callMs > sinceMs && answered.atMs < closing.closedAtMs) early(operation, sinceMs);
      }
    }
  });
  return findings.slice(0, most);
}

/** What was made for certain and the ledger doesn't know: reported as a loss, or a finding. */
export function salesLost(made: readonly { saleId: string }[], { sales, losses }: Evidence): Finding[] {
  const known = new Set(sales.map(({ saleId }) => saleId));
  return made.flatMap(({ saleId }) => {
    const shard = shardOfSale(saleId, shards);
    if (known.has(saleId) || losses.some((loss) => loss.shard === shard && loss.lost !== null)) return [];
    return [`the sale ${saleId} was made, and the ledger doesn't know it`];
  });
}

/**
 * The history that the other checkers look at: what was lost may have happened or not, and what else was answered in the time
 * that was lost speaks of a history that is no more.
 */
export function withoutLost(history: History, missing: Missing[], losses: Loss[]): History {
  // What was lost and not reported is a finding: it stays as it was told.
  const reported = missing.filter(({ loss }) => loss !== null);
  const gone = new Set(reported.map(({ operation }) => operation));
  const kept = new Set(history.sales.map(({ saleId }) => saleId));
  const lostIds = new Set(
    reported.map(({ operation: { call, answered } }) =>
      call.kind === 'reserve' ? answered?.answer.reservation?.id : undefined,
    ),
  );
  const eras = losses.flatMap((loss) => {
    if (loss.lost === null) return [];
    const last = history.facts.findLast(({ shard, seq }) => shard === loss.shard && seq <= loss.seq);
    return [{ shard: loss.shard, fromMs: (last?.atMs ?? 0) - 1_000, toMs: loss.openedAtMs }];
  });
  return {
    ...history,
    operations: history.operations.flatMap((operation) => {
      const { answered, callMs, call, saleId } = operation;
      // With its sale, or its reservation, it is of no history any more.
      if (!kept.has(saleId) || ('reservation' in call && lostIds.has(call.reservation))) return [];
      if (gone.has(operation)) return [{ ...operation, answered: null }];
      const effect = answered !== null && answered.answer.status < 300 && call.kind !== 'read';
      const shard = shardOfSale(saleId, shards);
      const within = eras.some((era) => era.shard === shard && callMs < era.toMs && (answered?.atMs ?? 0) > era.fromMs);
      return answered !== null && !effect && within ? [] : [operation];
    }),
  };
}
