/** What may be lost, and what may not: a true run with losses that were reported, and lies about it. */
import { describe, expect, test } from 'vitest';
import { ended } from './check/one-sale.ts';
import type { Operation } from './history.ts';
import { lies } from './lies-about-losses.ts';
import { findMissing } from './losses.ts';
import { at, foundIn, held, lossOf, report, type TwoLosses, tell, twoLosses } from './testing.ts';
import { check } from './verdict.ts';

test('losses that were reported are no finding', () => {
  const run = twoLosses();
  const { history, made, evidence, fates, outcomes } = run;
  const { findings, checked } = check(history, made, evidence, fates, outcomes);
  expect(findings).toEqual({});
  expect(checked).toMatchObject({ operations: 36, lost: 8, unknown: 3 });
});

test('what is missing is found, with the report that covers it', () => {
  const run = twoLosses();
  const { operations } = run;
  const [first, second] = [lossOf(run, 0), lossOf(run, 1)];
  const missing = findMissing(run.history, run.evidence);
  const name = (one: Operation): string | undefined =>
    Object.entries(operations).find(([, operation]) => operation === one)?.[0];
  expect(missing.map(({ operation, shard, loss }) => [name(operation), shard, loss])).toEqual([
    ...['lostReserve', 'lostReplay', 'lostExtend', 'lostCommit', 'lostAdjust', 'commitOfLost', 'readOfLost'].map(
      (one) => [one, 0, first],
    ),
    ['lostToo', 0, second],
  ]);
});

describe('a lie is found:', () => {
  test.each(lies)('%s', (_, checker, says, lie) => {
    const findings = foundIn(lie)[checker] ?? [];
    expect(
      findings.some((finding) => says.test(finding)),
      `${findings}`,
    ).toBe(true);
  });
});

describe('that is true, and no finding:', () => {
  test.each<[name: string, change: (run: TwoLosses) => void]>([
    [
      'a report of what nobody was told of, where that may be',
      ({ history, operations, fates, outcomes }) => {
        const { keptReserve, keptCommit, endingReserve, ...rest } = operations;
        const { secondReserve, secondCommit, secondRelease, thirdReserve, thirdCommit } = rest;
        const { releasedReserve, release, longerReserve, extend, longerCommit, adjust, elsewhere } = rest;
        history.operations = [keptReserve, keptCommit, endingReserve, secondReserve, secondCommit, secondRelease];
        history.operations.push(thirdReserve, thirdCommit, releasedReserve, release, longerReserve, extend);
        history.operations.push(longerCommit, adjust, elsewhere, rest.elsewhereCommit);
        Object.assign(fates, { mayLose: false, mayReport: true, wentBackMs: [] });
        delete outcomes['not-found'];
      },
    ],
    ['a report as wide as what is missing allows', (run) => report(run, 0, { lost: { from: 5, to: 4 + 316 } })],
    [
      'a hold that was under way when the shard sold again',
      (run) => {
        report(run, 1, { lost: { from: 8, to: 9 } });
        const { call } = held(70, 9, 3_895);
        if (call.answered) call.answered.atMs = at(4_150);
        tell(run, call);
      },
    ],
    [
      'a lost hold of which the answer took its time',
      (run) => {
        const { call } = held(70, 9, 2_390);
        if (call.answered) call.answered.atMs = at(3_950);
        tell(run, call);
      },
    ],
    [
      'a rebuild of another time, of a Valkey that had not gone back',
      (run) => {
        run.evidence.losses.push({
          ...lossOf(run, 1),
          lost: null,
          seq: 15,
          closedAtMs: at(7_000),
          openedAtMs: at(7_100),
        });
        run.fates.wentBackMs.push(at(7_200));
      },
    ],
    [
      'a shard that sold on when the other had gone back, and went back itself the next time',
      (run) => {
        const { elsewhereCommit } = run.operations;
        elsewhereCommit.callMs = at(2_450);
        if (elsewhereCommit.answered) elsewhereCommit.answered.atMs = at(2_460);
        run.evidence.losses.push({ ...lossOf(run, 1), shard: 1, seq: 3, lost: null });
      },
    ],
    ['a sequence that two histories had, both of them lost', (run) => tell(run, held(70, 8, 2_345).call)],
    ['a sale that was lost with the shard', (run) => run.made.push({ saleId: 'gone' })],
  ])('%s', (_, change) => {
    expect(foundIn(change)).toEqual({});
  });

  test('a hold a sequence wider is found', () => {
    expect(foundIn((run) => report(run, 0, { lost: { from: 5, to: 4 + 317 } }))).toHaveProperty('no-ack-lost');
  });
});

test('what was bought and came back was bought', () => {
  const { operations, ...run } = twoLosses();
  run.history.facts.push(ended('returned', 16, 8, 6_300));
  const missing = findMissing(run.history, run.evidence).map(({ operation }) => operation);
  expect(missing).not.toContain(operations.thirdCommit);
});

test('what was sold too early and is lost is told of once', () => {
  const { fenced = [] } = foundIn((run) => tell(run, held(70, 9, 2_450).call));
  expect(fenced).toHaveLength(1);
});

describe('a sale that vanished', () => {
  const vanished = /^the sale (gone|one) was made, and the ledger doesn't know it$/;
  test.each<[name: string, change: (run: TwoLosses) => void]>([
    ['from a shard that lost nothing', (run) => run.made.push({ saleId: 'one' })],
    [
      'from a shard that was rebuilt, and lost nothing',
      (run) => {
        run.made.push({ saleId: 'gone' });
        report(run, 0, { lost: null });
        report(run, 1, { lost: null });
      },
    ],
  ])('%s', (_, change) => {
    expect(foundIn(change)['no-ack-lost']?.some((finding) => vanished.test(finding))).toBe(true);
  });
});

test('no more than twenty things are said of one promise', () => {
  const many = foundIn((run) => {
    for (let n = 0; n < 50; n++) tell(run, held(100 + n, 8, 6_300 + n).call);
    run.fates.wentBackMs.push(at(6_250));
  });
  expect(many['no-ack-lost']).toHaveLength(20);
  expect(many.fenced).toHaveLength(20);
});
