/**
 * The ledger's sequence as the witness of the order in which things happened: it respects real time, replays on a plain
 * model to the answers that clients got, its times fit, and all of it was asked for.
 *
 * The facts must be read when the ledger has all of them and the sweeper has ended what was due.
 */
import type { Finding, History } from '../history.ts';
import { checkAnswer } from './answers.ts';
import { type Effect, type Effects, effectsOf, orderOf } from './effects.ts';
import { clock, createFindings, type Findings, factText, operationText } from './findings.ts';
import { replay } from './replay.ts';

export function witness(history: History): Finding[] {
  const findings = createFindings();
  const effects = effectsOf(history);
  const shards = new Map(
    [...effects.byShard].map(([shard, ofShard]) => {
      checkRealTime(ofShard, findings);
      checkTimes(ofShard, effects, findings);
      checkCauses(ofShard, effects, findings);
      checkOpening(ofShard, effects, findings);
      const times = { seqs: ofShard.map(({ fact }) => fact.seq), atMs: ofShard.map(({ fact }) => fact.atMs) };
      return [shard, { order: orderOf(ofShard), times, stories: replay(ofShard, effects.saleOf, findings) }];
    }),
  );
  const nothing = { order: orderOf([]), times: { seqs: [], atMs: [] }, stories: new Map() };
  for (const operation of history.operations) {
    const rules = effects.saleById.get(operation.saleId);
    if (!rules || !operation.answered) continue;
    const shard = shards.get(rules.shard) ?? nothing;
    const { order, times, stories } = shard;
    const why = checkAnswer(operation, operation.answered, {
      rules,
      effects,
      order,
      times,
      story: stories.get(rules.saleId),
    });
    if (why) findings.add(`${operationText(operation)}: ${why}`);
  }
  checkExtensions(history, effects, findings);
  return findings.list();
}

/** What was answered before another was called has the lower sequence. */
function checkRealTime(ofShard: readonly Effect[], findings: Findings): void {
  let earliest: Effect | null = null;
  for (const effect of ofShard.toReversed()) {
    const { fact, causes, noEarlierMs } = effect;
    if (effect.noLaterMs < noEarlierMs)
      findings.add(`${factText(fact)} was told of at ${clock(effect.noLaterMs)}, before anybody asked for it.`);
    else if (earliest && earliest.noLaterMs < noEarlierMs && earliest.fact.seq > fact.seq)
      findings.add(
        `${factText(earliest.fact)} was answered by ${clock(earliest.noLaterMs)}, and stands after ${factText(fact)}, which was called later: ${causes
          .slice(0, 1)
          .map(operationText)
          .join()}.`,
      );
    if (!earliest || effect.noLaterMs < earliest.noLaterMs) earliest = effect;
  }
}

/** The shard's times: they don't fall, holds are as long as the sale says, and end in time or when it is over. */
function checkTimes(ofShard: readonly Effect[], { saleOf, reservedAt }: Effects, findings: Findings): void {
  let lastMs = Number.NEGATIVE_INFINITY;
  for (const { fact } of ofShard) {
    if (fact.atMs < lastMs)
      findings.add(`${factText(fact)} is of ${fact.atMs}, before the fact in front of it (${lastMs}).`);
    lastMs = Math.max(lastMs, fact.atMs);
    const rules = saleOf(fact);
    if (fact.kind === 'reserved') {
      const { expiresAtMs, lastExpiresAtMs, extensions } = fact;
      if (rules && expiresAtMs !== fact.atMs + rules.holdSeconds * 1_000)
        findings.add(
          `${factText(fact)} of ${fact.atMs} expires at ${expiresAtMs}: not the sale's ${rules.holdSeconds} s.`,
        );
      if (lastExpiresAtMs < expiresAtMs || (extensions === 0) !== (lastExpiresAtMs === expiresAtMs))
        findings.add(`${factText(fact)} went from ${expiresAtMs} to ${lastExpiresAtMs} by ${extensions} extensions.`);
      if (rules && extensions > rules.extensions)
        findings.add(
          `${factText(fact)} was extended ${extensions} times, of ${rules.extensions} that the sale allows.`,
        );
      continue;
    }
    const reserved =
      'reservation' in fact && fact.kind !== 'returned' ? reservedAt(fact.shard, fact.reservation) : null;
    if (!reserved) continue;
    const { id, lastExpiresAtMs } = reserved;
    if (fact.kind === 'expired' && fact.atMs < lastExpiresAtMs)
      findings.add(`${id}: ${factText(fact)} is of ${fact.atMs}, before the hold's end at ${lastExpiresAtMs}.`);
    if (fact.kind !== 'expired' && fact.atMs >= lastExpiresAtMs)
      findings.add(`${id}: ${factText(fact)} is of ${fact.atMs}, when the hold was over since ${lastExpiresAtMs}.`);
  }
}

/** Holds, commits and releases stem from calls that may have done it. */
function checkCauses(ofShard: readonly Effect[], { saleOf }: Effects, findings: Findings): void {
  for (const { fact, causes } of ofShard) {
    if (causes.length > 0 || !saleOf(fact)) continue;
    if (fact.kind === 'reserved')
      findings.add(
        `${factText(fact)}: no call of buyer ${fact.buyer} under its key can have made it (none, or all were refused or answered as replays).`,
      );
    else if (fact.kind === 'committed' || fact.kind === 'released')
      findings.add(`${factText(fact)}: nobody asked for it, or all who did were refused.`);
    else if (fact.kind !== 'expired' && saleOf(fact)?.stock && !('units' in fact && fact.id === 'opening'))
      findings.add(`${factText(fact)}: nobody asked for it, or all who did were refused.`);
  }
}

/** A sale opens with what it was set to have. */
function checkOpening(ofShard: readonly Effect[], { saleOf }: Effects, findings: Findings): void {
  const opened = new Map<string, Map<string, number>>();
  for (const { fact } of ofShard) {
    const rules = saleOf(fact);
    if (!rules?.stock || !('units' in fact) || fact.id !== 'opening') continue;
    const of =
      opened.get(rules.saleId) ??
      new Map(rules.stock.map((line) => [`${line.sku} in ${line.warehouse}`, line.quantity]));
    opened.set(rules.saleId, of);
    const name = `${fact.sku} in ${fact.warehouse}`;
    if (of.get(name) !== fact.units)
      findings.add(
        `${factText(fact)} opens sale ${rules.saleId} with ${fact.units} ${name}, which was set to ${of.get(name) ?? 'none'}.`,
      );
    of.delete(name);
  }
  for (const [saleId, left] of opened)
    for (const [name, units] of left)
      if (units > 0) findings.add(`Sale ${saleId} was opened without its ${units} ${name}.`);
}

/** A reservation was extended as often, and by as much, as calls that succeeded say, or may say. */
function checkExtensions(
  { operations }: History,
  { reservedById, saleById, saleOf }: Effects,
  findings: Findings,
): void {
  const asked = new Map<string, { sure: number[]; unsure: number[] }>();
  for (const { call, saleId, answered } of operations) {
    if (call.kind !== 'extend' || !saleById.has(saleId)) continue;
    const of = asked.get(call.reservation) ?? { sure: [], unsure: [] };
    asked.set(call.reservation, of);
    if (!answered) of.unsure.push(call.seconds);
    else if (answered.answer.status === 200) of.sure.push(call.seconds);
  }
  const sum = (seconds: number[]): number => seconds.reduce((total, one) => total + one, 0);
  for (const [id, { fact }] of reservedById) {
    if (!saleOf(fact)) continue;
    const { sure, unsure } = asked.get(id) ?? { sure: [], unsure: [] };
    const seconds = (fact.lastExpiresAtMs - fact.expiresAtMs) / 1_000;
    const often = fact.extensions >= sure.length && fact.extensions <= sure.length + unsure.length;
    if (often && seconds >= sum(sure) && seconds <= sum(sure) + sum(unsure)) continue;
    findings.add(
      `${factText(fact)} was extended ${fact.extensions} times, ${seconds} s in all; calls say ${sure.length} times, ${sum(sure)} s, and unanswered ones up to ${unsure.length} times, ${sum(unsure)} s more.`,
    );
  }
}
