import { describe, expect, it } from 'vitest';
import type { CrowdResult } from '../bench/tally.ts';
import type { Reconciliation } from '../ledger/reconcile.ts';
import { judge, type SaleEvidence } from './sale-verdict.ts';
import { barOf } from './sale-view.ts';

const purchasesOf = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ reservationId: `r${i}`, buyerId: `b${i}` }));

/** A sale of 10 units to 30 buyers that went well, but for what is said. */
function evidence(
  change: {
    purchases?: CrowdResult['purchases'];
    endings?: Partial<CrowdResult['endings']>;
    complaints?: string[];
    valkey?: Partial<{ available: number; reserved: number; sold: number }>;
    ledgerSold?: number;
    drift?: number;
    unread?: string;
    committed?: string[];
    ledgerLagMs?: number | null;
  } = {},
): SaleEvidence {
  const purchases = change.purchases ?? purchasesOf(10);
  const complaints = change.complaints ?? [];
  const valkey = { available: 0, reserved: 0, sold: 10, ...change.valkey };
  const ledger = { ...valkey, sold: change.ledgerSold ?? valkey.sold };
  const drift = change.drift ?? 0;
  const row = { shard: 0, sale: 1, saleId: 's', sku: 'a', warehouse: 'w', valkey, ledger, supply: 10, drift };
  const reconciliation: Reconciliation = {
    shards: [{ shard: 0, epoch: 1, seq: 9, watermark: 9, unread: change.unread ?? null }],
    rows: [row, { ...row, saleId: 'another', ledger: { available: 0, reserved: 0, sold: 77 } }],
    drift,
    losses: [],
  };
  return {
    saleId: 's',
    units: 10,
    buyers: 30,
    transport: 'direct',
    opensAtMs: 1_000,
    ledgerLagMs: change.ledgerLagMs === undefined ? 12.4 : change.ledgerLagMs,
    reconciliation,
    committed: new Set(change.committed ?? purchases.map(({ reservationId }) => reservationId)),
    crowd: {
      answers: 500,
      bought: purchases.length,
      left: 30 - purchases.length,
      doubleClicks: 1,
      hangUps: 1,
      replays: 1,
      greedy: 1,
      abandoned: 1,
      resent: 0,
      endings: { bought: purchases.length, 'sold-out': 20, 'gave-up': 0, late: 0, fault: 0, ...change.endings },
      purchases,
      complaints,
      complaintCount: complaints.length,
      lastAnswerAtMs: 6_000,
      lastCommitAtMs: 5_000.4,
      p50Ms: 1.239,
      p99Ms: 9.5,
      peakAnswersPerSecond: 300,
    },
  };
}

describe('the verdict on a sale', () => {
  it('has the figures of one that went well, in their order, and no fault', () => {
    const { figures, faults } = judge(evidence());
    expect(faults).toEqual([]);
    expect(JSON.stringify(figures)).toBe(
      '{"units":10,"buyers":30,"sold":10,"refused":20,"oversold":0,"stranded":0,"answersPerSecond":100,"p50Ms":1.24,' +
        '"p99Ms":9.5,"soldOutAfterMs":4000,"ledgerLagMs":12,"drift":0,"transport":"direct"}',
    );
  });

  it('finds nothing wrong with units that nobody wanted', () => {
    const { figures, faults, onSale } = judge(
      evidence({
        purchases: purchasesOf(4),
        valkey: { available: 6, sold: 4 },
        endings: { 'sold-out': 0, 'gave-up': 26 },
      }),
    );
    expect(faults).toEqual([]);
    expect(onSale).toBe(6);
    expect(figures).toMatchObject({ sold: 4, refused: 26, stranded: 0, soldOutAfterMs: null });
  });

  it.each<[string, SaleEvidence, Partial<ReturnType<typeof judge>['figures']>, RegExp]>([
    [
      'more sold than there were',
      evidence({ purchases: purchasesOf(12), valkey: { sold: 12 } }),
      { oversold: 2 },
      /12 units as sold, of 10/,
    ],
    [
      'a reservation that two bought',
      evidence({ purchases: [...purchasesOf(9), { reservationId: 'r0', buyerId: 'b9' }] }),
      { oversold: 1 },
      /Sold to more than one buyer: 1 reservation\./,
    ],
    [
      'a buyer with two units',
      evidence({ purchases: [...purchasesOf(9), { reservationId: 'r9', buyerId: 'b0' }] }),
      {},
      /more than the one unit/,
    ],
    [
      'a ledger that has fewer',
      evidence({ ledgerSold: 9, drift: 1 }),
      { sold: 9, drift: 1, stranded: 1 },
      /buyers were told so 10 times/,
    ],
    ['a ledger that has others', evidence({ committed: ['x'] }), {}, /not in the ledger: 10 purchases/],
    [
      'a unit that stays reserved',
      evidence({ purchases: purchasesOf(9), valkey: { reserved: 1, sold: 9 } }),
      { stranded: 1 },
      /Stranded, .*: 1 unit\./,
    ],
    [
      'buyers sent home too early',
      evidence({ purchases: purchasesOf(9), valkey: { available: 1, sold: 9 } }),
      { stranded: 0 },
      /left because all was gone, but 1/,
    ],
    ['buyers without an end', evidence({ endings: { late: 3 } }), {}, /3 buyers still had no answer/],
    ['a shard that was not compared', evidence({ unread: 'it is away' }), {}, /Shard 0 was not compared: it is away/],
    ['a ledger that stays behind', evidence({ ledgerLagMs: null }), { ledgerLagMs: -1 }, /did not catch up/],
    ['a complaint', evidence({ complaints: ['buyer 7 saw a ghost'] }), {}, /buyer 7 saw a ghost/],
  ])('says what is wrong: %s', (_, given, figures, sentence) => {
    const verdict = judge(given);
    expect(verdict.figures).toMatchObject(figures);
    expect(verdict.faults.join('\n')).toMatch(sentence);
  });
});

describe('the bar', () => {
  it.each([
    [
      [10, 0, 0],
      ['aaaaaaaaaa', '', ''],
    ],
    [
      [0, 0, 10],
      ['', '', 'cccccccccc'],
    ],
    [
      [997, 2, 1],
      ['aaaaaaaa', 'b', 'c'],
    ],
    [
      [5, 5, 0],
      ['aaaaa', 'bbbbb', ''],
    ],
  ])('shows shares of %j', (units, expected) => {
    const shares = units.map((each, i) => ({ units: each, character: 'abc'.charAt(i) }));
    expect(
      barOf(
        shares,
        units.reduce((sum, each) => sum + each, 0),
        10,
      ),
    ).toEqual(expected);
  });
});
