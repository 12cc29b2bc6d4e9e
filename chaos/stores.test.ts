/** What the stores say of each other: a true run, and lies about what they have. */
import { describe, expect, test } from 'vitest';
import type { BalanceRow, BatchRow, Evidence } from './evidence.ts';
import type { Fact } from './history.ts';
import { knownAnswers, noGapNoFork, storesAgree } from './stores.ts';
import { foundIn, lossOf, report, type TwoLosses, twoLosses } from './testing.ts';

const first = <One>(rows: readonly One[]): One => {
  const [one] = rows;
  if (one === undefined) throw new Error('there is none');
  return one;
};
const change = <One extends object>(rows: One[], index: number, other: Partial<One>): void => {
  rows[index] = { ...first(rows.slice(index)), ...other };
};
const apart = (shard: number, epoch: number) => ({ shard, epoch, seqFirst: 16, seqLast: 17, reason: 'it came late' });

describe('a sequence: ', () => {
  type Lie = [name: string, says: RegExp, lie: (run: TwoLosses, evidence: Evidence) => void];
  const batch =
    (other: Partial<BatchRow>, index: number): Lie[2] =>
    (_, { batches }) =>
      change(batches, index, other);
  test.each<Lie>([
    ['does not begin at one', /^shard 0: sequence 1 is followed by a batch from 2$/, batch({ seqFirst: 2 }, 0)],
    ['has a hole', /^shard 0: sequence 5 is followed by a batch from 6$/, batch({ seqFirst: 6 }, 1)],
    ['has batches that overlap', /^shard 0: sequence 5 is followed by a batch from 4$/, batch({ seqFirst: 4 }, 1)],
    [
      'lacks a batch',
      /^shard 0: sequence 5 is followed by a batch from 8$/,
      (_, { batches }) => {
        batches.splice(1, 1);
      },
    ],
    ['goes back to an older epoch', /^shard 0: epoch 1 at 8, after epoch 2$/, batch({ epoch: 1 }, 2)],
    [
      'ends before the watermark',
      /^shard 0: the watermark is 16, its batches end at 15$/,
      (_, { shards }) => change(shards, 0, { watermark: 16 }),
    ],
    [
      'goes on after the watermark',
      /^shard 1: the watermark is 2, its batches end at 3$/,
      (_, { shards }) => change(shards, 1, { watermark: 2 }),
    ],
    [
      'has a fact after the watermark',
      /^shard 0: a fact at sequence 16, and the watermark is 15$/,
      (_, { facts }) => {
        facts.push({ ...first(facts), seq: 16 });
      },
    ],
    [
      'is of a shard that nobody opened',
      /^shard 1: a fact at sequence 1, and the watermark is 0$/,
      (_, { shards }) => {
        shards.pop();
      },
    ],
    [
      'has two facts at one place',
      /^shard 0: two facts at sequence 1$/,
      (_, { facts }) => {
        facts.push({ ...first(facts) });
      },
    ],
    [
      'is stopped',
      /^shard 1 is stopped: two histories$/,
      (_, { shards }) => change(shards, 1, { stopped: 'two histories' }),
    ],
    [
      'has not come out of the outbox',
      /^shard 1, 4 to 5: in the outbox, not in the ledger$/,
      (_, { outboxes }) => {
        outboxes.push({ ...first(outboxes), shard: 1, seqFirst: 4, seqLast: 5 });
      },
    ],
    [
      'is another in the outbox',
      /^shard 0, 8 to 12: outbox and ledger have two histories$/,
      (_, { outboxes }) => change(outboxes, 0, { digest: 'another' }),
    ],
    [
      'is of another epoch in the outbox',
      /^shard 0, 8 to 12: outbox and ledger have two histories$/,
      (_, { outboxes }) => change(outboxes, 0, { epoch: 2 }),
    ],
    [
      'was set apart, of the epoch that sells',
      /^shard 0: 16 of epoch 3 was set apart, and no rebuild closed that: it came late$/,
      (_, { quarantined }) => {
        quarantined.push(apart(0, 3));
      },
    ],
    [
      'was set apart, and another shard was rebuilt',
      /^shard 1: 16 of epoch 1 was set apart/,
      (_, { quarantined }) => {
        quarantined.push(apart(1, 1));
      },
    ],
  ])('%s', (_, says, lie) => {
    const found = foundIn((run) => lie(run, run.evidence))['no-gap-no-fork'] ?? [];
    expect(
      found.some((finding) => says.test(finding)),
      `${found}`,
    ).toBe(true);
  });

  test('what was set apart of an epoch that a rebuild closed is no finding, whatever was lost', () => {
    const found = foundIn((run) => {
      run.evidence.losses.push({ ...lossOf(run, 1), shard: 1, seq: 3, lost: null, epoch: 2 });
      run.evidence.quarantined.push(apart(0, 1), apart(0, 2), apart(1, 1));
    });
    expect(found).toEqual({});
  });
});

describe('a balance:', () => {
  /** The same lie in all that is named. */
  const both = ({ balances, entries }: Evidence, other: Partial<BalanceRow>): void => {
    change(balances, 0, other);
    change(entries, 0, other);
  };
  const of = ({ facts }: Evidence, seq: number): Fact => first(facts.filter((one) => one.seq === seq));
  const place = '0/1/shoe/east';
  test.each<[name: string, says: string, lie: (evidence: Evidence) => void]>([
    [
      'does not add up',
      '25 supplied, 22 available, 0 reserved, 4 sold',
      (evidence) => both(evidence, { available: 22 }),
    ],
    ['has less than nothing left', '3 supplied, -1 ', (evidence) => both(evidence, { supply: 3, available: -1 })],
    [
      'has less than nothing reserved',
      '24 supplied, 21 available, -1 reserved, 4 sold',
      (evidence) => both(evidence, { supply: 24, reserved: -1 }),
    ],
    ['has sold less than nothing', '20 supplied, 21 ', (evidence) => both(evidence, { supply: 20, sold: -1 })],
    [
      'has stock that nobody brought',
      'balance 30 supply, facts 25',
      (evidence) => both(evidence, { supply: 30, available: 26 }),
    ],
    [
      'has a hold that nobody has',
      'balance 1 reserved, facts 0',
      (evidence) => both(evidence, { available: 20, reserved: 1 }),
    ],
    ['has a sale of nobody', 'balance 5 sold, facts 4', (evidence) => both(evidence, { available: 20, sold: 5 })],
    [
      'has no hold, and there is one',
      'balance 0 reserved, facts 1',
      ({ facts }) => {
        facts.splice(facts.indexOf(first(facts.filter((one) => one.seq === 11))), 1);
      },
    ],
    [
      'has more sold than came back',
      'balance 4 sold, facts 3',
      (evidence) => {
        evidence.facts.push({ ...of(evidence, 14), kind: 'returned', seq: 13 } as Fact);
      },
    ],
    [
      'has no hold of what has expired twice',
      'balance 0 reserved, facts -1',
      (evidence) => {
        evidence.facts.push({ ...of(evidence, 11), kind: 'expired', seq: 13 } as Fact);
      },
    ],
    ...(['supply', 'available', 'reserved', 'sold'] as const).map(
      (name): [string, string, (evidence: Evidence) => void] => [
        `has other entries of ${name}`,
        `${name}, entries 7`,
        ({ entries }) => change(entries, 0, { [name]: 7 }),
      ],
    ),
    [
      'has no entries',
      'balance 25 supply, entries 0',
      ({ entries }) => {
        entries.shift();
      },
    ],
    [
      'is gone',
      'balance 0 supply, entries 25',
      ({ balances }) => {
        balances.shift();
      },
    ],
    [
      'is gone, with its entries',
      'balance 0 supply, facts 25',
      ({ balances, entries }) => {
        balances.shift();
        entries.shift();
      },
    ],
    [
      'is gone, with its facts',
      'balance 0 sold, entries 4',
      (evidence) => {
        evidence.balances.shift();
        evidence.facts = evidence.facts.filter(({ shard }) => shard !== 0);
      },
    ],
    [
      'is of another place than its facts',
      'balance 0 supply, facts 20',
      ({ facts }) => {
        const opening = first(facts);
        if ('units' in opening) opening.warehouse = 'west';
      },
    ],
  ])('%s', (_, says, lie) => {
    const { evidence } = twoLosses();
    expect(storesAgree(evidence, evidence.facts)).toEqual([]);
    lie(evidence);
    expect(storesAgree(evidence, evidence.facts).join('\n')).toContain(says);
  });

  test('is what is sold, less what came back', () => {
    const { evidence } = twoLosses();
    evidence.facts.push({ ...of(evidence, 14), kind: 'returned', seq: 13 } as Fact);
    both(evidence, { available: 22, sold: 3 });
    expect(storesAgree(evidence, evidence.facts)).toEqual([]);
  });

  test('that is wrong is a finding of the run', () => {
    const found = foundIn(({ evidence }) => both(evidence, { supply: 30, available: 26 }));
    expect(found['never-oversold']).toEqual([`${place}: balance 30 supply, facts 25`]);
  });
});

describe('an answer:', () => {
  test.each([
    ...['201', 'no answer', 'unavailable', 'overloaded', 'shard-fenced', 'sold-out', 'insufficient-stock'],
    ...['200', 'purchase-limit', 'reservation-ended', 'idempotency-mismatch', 'conflict'],
  ])('%s', (code) => {
    expect(knownAnswers({ [code]: 3 }, false)).toEqual([]);
  });
  test.each(['500', 'internal', 'unauthorized', '302', 'invalid-request', ''])('%s: found', (code) => {
    expect(knownAnswers({ 200: 7, [code]: 3 }, true)).toEqual([`3 calls answered ${code}`]);
  });
  test('not-found is for those of whom something is lost', () => {
    expect(knownAnswers({ 'not-found': 3 }, true)).toEqual([]);
    expect(knownAnswers({ 'not-found': 3 }, false)).toEqual(['3 calls answered not-found']);
    const lossless = foundIn((run) => {
      Object.assign(run.fates, { mayLose: false });
      run.history.operations = [];
    });
    expect(lossless.contract).toEqual(['1 calls answered not-found']);
    // Found already as missing, and no second time as an answer that can't be.
    const missing = foundIn((run) => {
      Object.assign(run.fates, { mayLose: false });
      for (const index of [0, 1]) report(run, index, { lost: null });
    });
    expect(missing).not.toHaveProperty('contract');
  });
});

test('what does not end, and who ends by himself, is a finding', () => {
  const found = foundIn(({ fates }) => {
    fates.stuck.push('5 of last/lamp/east are reserved');
    fates.crashed.push('relay ended with 1');
  });
  expect(found).toEqual({ drains: ['5 of last/lamp/east are reserved', 'relay ended with 1'] });
});

test('no more than twenty things are said of one store', () => {
  const { evidence } = twoLosses();
  const row = first(evidence.balances);
  for (let no = 2; no < 50; no++) evidence.balances.push({ ...row, no });
  expect(storesAgree(evidence, evidence.facts)).toHaveLength(20);
  for (let seq = 16; seq < 50; seq++) evidence.facts.push({ ...first(evidence.facts), seq });
  expect(noGapNoFork(evidence)).toHaveLength(20);
});
