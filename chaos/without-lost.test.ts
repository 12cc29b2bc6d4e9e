/** What the other checkers see of a history of which some was lost: neither too much nor too little. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { limitsHold } from './check/limits-hold.ts';
import { neverOversold } from './check/never-oversold.ts';
import { oneOutcome } from './check/one-outcome.ts';
import { sameKeySameAnswer } from './check/same-key-same-answer.ts';
import { plansOf, type Setting, simulate } from './check/testing.ts';
import { witness } from './check/witness.ts';
import type { Loss } from './evidence.ts';
import type { Operation } from './history.ts';
import { fenced, findMissing, noAckLost, withoutLost } from './losses.ts';
import { at, foundIn, held, readAt, refusedAt, report, settledAt, type TwoLosses, tell, twoLosses } from './testing.ts';

describe('the other checkers look at the history less what was lost:', () => {
  const rest = (run: TwoLosses): Operation[] => {
    const { history, evidence } = run;
    return withoutLost(history, findMissing(history, evidence), evidence.losses).operations;
  };

  test('what was lost is unknown; calls about it, and other answers of that time, are left out; all else is kept', () => {
    const run = twoLosses();
    const unknown = ['lostReserve', 'lostReplay', 'lostExtend', 'lostCommit', 'lostAdjust', 'lostToo'];
    const aboutIt = ['commitOfLost', 'readOfLost', 'lateCommitOfLost'];
    const ofThatTime = ['lostRead', 'lostRefusal', 'fenced', 'keptRead'];
    const expected = Object.entries(run.operations)
      .filter(([name]) => ![...aboutIt, ...ofThatTime].includes(name))
      .map(([name, operation]) => (unknown.includes(name) ? { ...operation, answered: null } : operation));
    expect(rest(run)).toEqual(expected);
  });

  test('what is missing without a report stays as it was told, and what is said of it', () => {
    const run = twoLosses();
    report(run, 0, { lost: null });
    const { lostReserve, lostCommit, lateCommitOfLost } = run.operations;
    const found = rest(run);
    for (const one of [lostReserve, lateCommitOfLost]) expect(found).toContain(one);
    // The second report covers no sequence of the first epoch; of a commit only the time is known.
    expect(found).toContainEqual(lostCommit);
  });

  test.each<[name: string, calledMs: number, answeredMs: number, kept: boolean]>([
    ['a second before the last that was kept', 1_000, 1_105, true],
    ['after that', 1_000, 1_106, false],
    ['called before the shard sold again', 5_899, 6_000, false],
    ['called then', 5_900, 6_000, true],
  ])('a refusal %s', (_, calledMs, answeredMs, kept) => {
    const run = twoLosses();
    const refusal = refusedAt(70, calledMs, 'insufficient-stock', 50);
    if (refusal.answered) refusal.answered.atMs = at(answeredMs);
    tell(run, refusal);
    expect(rest(run).includes(refusal)).toBe(kept);
  });

  test('a rebuild that lost nothing, or another shard’s, leaves nothing out', () => {
    const run = twoLosses();
    const { lostRefusal, elsewhereRefusal } = run.operations;
    for (const index of [0, 1]) report(run, index, { lost: null });
    expect(rest(run)).toContain(lostRefusal);
    for (const index of [0, 1]) report(run, index, { shard: 1, lost: { from: 4, to: 4 } });
    expect(rest(run)).toContain(lostRefusal);
    expect(rest(run)).not.toContain(elsewhereRefusal);
  });

  test('of a shard that kept nothing, all refusals until it sold again are left out', () => {
    const run = twoLosses();
    report(run, 1, { seq: 0, lost: { from: 1, to: 9 } });
    expect(rest(run)).not.toContain(run.operations.early);
    expect(rest(run)).toContain(run.operations.open);
  });

  test('calls to a sale that was lost are left out', () => {
    const run = twoLosses();
    const { elsewhere } = run.operations;
    expect(rest(run)).toContain(elsewhere);
    run.history.sales = run.history.sales.filter(({ saleId }) => saleId !== 's');
    expect(rest(run)).not.toContain(elsewhere);
  });

  const keptFact = ({ history }: TwoLosses) => {
    const fact = history.facts.find((one) => one.kind === 'reserved');
    if (fact?.kind !== 'reserved') throw new Error('nothing was reserved');
    return fact;
  };
  test.each<[name: string, checker: string, lie: (run: TwoLosses) => void]>([
    [
      'a unit was sold twice when the shard sold again',
      'never-oversold',
      ({ history, evidence, ...run }) => {
        // Of four units, all are with buyers by then.
        for (const sale of history.sales) sale.stock = [{ sku: 'shoe', warehouse: 'east', quantity: 4 }];
        for (const fact of history.facts) if ('units' in fact && fact.id === 'opening') fact.units = 4;
        const { fact, call } = held(70, 13, 6_102);
        history.facts.push(fact);
        history.facts.sort((a, b) => a.shard - b.shard || a.seq - b.seq);
        tell({ history, evidence, ...run }, call);
      },
    ],
    [
      'a hold that was kept was told as committed, and as released later',
      'one-outcome',
      (run) => tell(run, settledAt('release', keptFact(run), 6_300)),
    ],
    ['it was not sold out when the shard sold again', 'witness', (run) => tell(run, refusedAt(70, 6_300, 'sold-out'))],
    ['it was not sold out before anything was lost', 'witness', (run) => tell(run, refusedAt(70, 1_000, 'sold-out'))],
    [
      'it was not sold out on a shard that lost nothing',
      'witness',
      (run) => tell(run, { ...refusedAt(70, 2_340, 'sold-out'), saleId: 's' }),
    ],
    ['what is kept reads as held later', 'witness', (run) => tell(run, readAt(keptFact(run), 'held', 6_300))],
    [
      'a hold of which nobody knows is kept',
      'witness',
      ({ history }) => {
        history.facts.push(held(70, 13, 6_102).fact);
      },
    ],
  ])('%s: found', (_, checker, lie) => {
    expect(foundIn(lie)).toHaveProperty(checker);
  });
});

/** A sale a shard, of holds that last. */
const twoShards: Setting = {
  buyers: 6,
  sales: [
    ['sale', 0],
    ['s', 1],
  ].map(([saleId, shard]) => ({
    rules: {
      ...{ saleId: String(saleId), shard: Number(shard), no: 1 },
      ...{ perBuyer: 6, holdSeconds: 1_800, extensions: 1, durability: 'fsync' },
    },
    stock: { shoe: { east: 4, west: 3 }, hat: { west: 2, east: 3 } },
    extendMs: 2_000,
  })),
};

test('a tail of any honest history may be lost, and is found to be just that', () => {
  const seen = new Map<string, number>();
  fc.assert(
    fc.property(plansOf(false, 8, 80), fc.nat(99), (plans, percent) => {
      const { sales, operations, facts } = simulate(plans, twoShards);
      const ofShard = facts.filter(({ shard }) => shard === 0);
      const [first, last] = [ofShard[0]?.seq ?? 0, ofShard.at(-1)?.seq ?? 0];
      const opened = ofShard.findLast((fact) => 'units' in fact && fact.id === 'opening')?.seq ?? first;
      const seq = opened + Math.floor(((last - opened) * percent) / 100);
      // Clients' clock and the shard's are the same.
      const byMs = at(0) - (operations[0]?.callMs ?? 0);
      for (const one of operations) {
        one.callMs += byMs;
        if (one.answered) one.answered.atMs += byMs;
      }
      const wentBackMs = Math.max(at(0), ...operations.map(({ callMs }) => callMs));
      const loss: Loss = {
        ...{ shard: 0, seq, lost: last > seq ? { from: seq + 1, to: last } : null, epoch: 2, silentEngines: 0 },
        ...{ closedAtMs: wentBackMs + 1_000, openedAtMs: wentBackMs + 2_000 },
      };
      const history = { sales, operations, facts: facts.filter((fact) => fact.shard !== 0 || fact.seq <= seq) };
      const { evidence } = twoLosses();
      const missing = findMissing(history, { ...evidence, losses: [loss] });
      for (const { operation } of missing) seen.set(operation.call.kind, (seen.get(operation.call.kind) ?? 0) + 1);
      const fates = { mayLose: true, mayReport: false, wentBackMs: [wentBackMs] };
      expect(noAckLost(history, missing, [loss], fates)).toEqual([]);
      expect(fenced(history, missing, [loss], [wentBackMs])).toEqual([]);
      const rest = withoutLost(history, missing, [loss]);
      for (const checker of [witness, neverOversold, oneOutcome, limitsHold, sameKeySameAnswer])
        expect(checker(rest)).toEqual([]);
    }),
    { numRuns: 200 },
  );
  for (const kind of ['reserve', 'commit', 'release', 'adjust', 'read'])
    expect(seen.get(kind), kind).toBeGreaterThan(10);
});
