import fc from 'fast-check';
import { expect, test } from 'vitest';
import { differenceOf, entriesOf, parseStep, type RepairStep } from './repair.ts';

const counts = fc.record({ available: fc.nat(50), reserved: fc.nat(50), sold: fc.nat(50) });
const step: RepairStep = {
  ...{ repair: 'ledger', id: 'repair-1-9', shard: 0, epoch: 1, seq: 9, sale: 1, saleId: 'drop' },
  ...{ sku: 'shoe', warehouse: 'east', valkey: null, ledger: null },
};

test('entries make the wrong side what the right one is, in as few moves as accounts differ', () => {
  fc.assert(
    fc.property(counts, counts, fc.constantFrom('valkey', 'ledger'), (valkey, ledger, repair) => {
      const [wrong, right] = repair === 'valkey' ? [valkey, ledger] : [ledger, valkey];
      const balance: Record<string, number> = { ...wrong, outside: 0 };
      const entries = entriesOf(differenceOf({ ...step, repair, valkey, ledger }));
      for (const { debit, credit, units } of entries) {
        expect(units).toBeGreaterThan(0);
        expect(debit).not.toBe(credit);
        balance[debit] = (balance[debit] ?? 0) - units;
        balance[credit] = (balance[credit] ?? 0) + units;
      }
      const { outside: _outside, ...rest } = balance;
      expect(rest).toEqual(right);
      expect(entries.length).toBeLessThanOrEqual(3);
    }),
  );
});

test('a side that has nothing of an allotment counts as zero', () => {
  const ledger = { available: 3, reserved: 0, sold: 1 };
  expect(entriesOf(differenceOf({ ...step, repair: 'valkey', ledger }))).toEqual([
    { debit: 'outside', credit: 'available', units: 3 },
    { debit: 'outside', credit: 'sold', units: 1 },
  ]);
});

test.each([
  ['a step', JSON.stringify(step), true],
  ['another object', '{"repair":"ledger"}', false],
  ['another side', JSON.stringify({ ...step, repair: 'kafka' }), false],
  ['no JSON', 'shoe east +1', false],
])('of a plan’s lines %s is a step or not', (_name, line, good) => {
  expect(parseStep(line)).toEqual(good ? step : null);
});
