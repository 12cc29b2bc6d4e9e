import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeReservationId } from '../kernel/ids.ts';
import { type EntryRow, rowsOf } from './rows.ts';
import type { Lines } from './store.ts';
import { batchOf, type Happening, happenings } from './testing.ts';

const { set, restocked } = happenings;
const reserved = (seq: number, lines: Lines) => ({ ...happenings.reserved(seq), lines }) as Happening;
const ended = (type: 'committed' | 'released', of: number, lines: Lines) =>
  ({ ...happenings.ended(type, of), lines }) as Happening;

/** An entry as often as it has sequences. */
const each = ({ seqFirst, seqLast, ...entry }: EntryRow) =>
  Array.from({ length: seqLast - seqFirst + 1 }, (_, i) => ({ seq: seqFirst + i, ...entry }));
const inOrder = <Row extends { seq: number; line: number }>(rows: Row[]): Row[] =>
  rows.toSorted((a, b) => a.seq - b.seq || a.line - b.line);

const shoe = { sku: 'shoe', warehouse: 'east', quantity: 1 };
const hat = { sku: 'hat', warehouse: 'east', quantity: 1 };

test('a hot sale is one entry a line of the basket, over batches', () => {
  const basket = (first: number) => Array.from({ length: 50 }, (_, i) => reserved(first + i, [shoe, hat]));
  const { entries, balances } = rowsOf([batchOf(1, basket(1)), batchOf(51, basket(51))], decodeReservationId);
  const common = { seqFirst: 1, seqLast: 100, sale: 1, debit: 'available', credit: 'reserved', units: 1 };
  expect(entries).toEqual([
    { ...common, line: 0, sku: 'shoe', warehouse: 'east' },
    { ...common, line: 1, sku: 'hat', warehouse: 'east' },
  ]);
  expect(balances.map(({ sku, available, reserved }) => [sku, available, reserved])).toEqual([
    ['shoe', -100, 100],
    ['hat', -100, 100],
  ]);
});

test('entries say what each event moved, and balances are their sums, whatever came in turn', () => {
  const line = fc.record({
    ...{ sku: fc.constantFrom('shoe', 'shoe', 'hat'), warehouse: fc.constantFrom('east', 'east', 'west') },
    quantity: fc.constantFrom(1, 1, 2),
  });
  const step = fc.record({
    ...{ lines: fc.array(line, { minLength: 1, maxLength: 3 }), again: fc.boolean() },
    end: fc.constantFrom(null, null, 'committed' as const, 'released' as const),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.nat(), (steps, cut) => {
      const events: Happening[] = [set(), restocked(1_000)];
      const moved: unknown[] = [];
      const move = (lines: Lines, debit: string, credit: string): void => {
        for (const [i, { sku, warehouse, quantity }] of lines.entries())
          moved.push({ seq: events.length, line: i, sale: 1, sku, warehouse, debit, credit, units: quantity });
      };
      move([{ ...shoe, quantity: 1_000 }], 'outside', 'available');
      let lines: Lines = [shoe];
      for (const { again, end, ...more } of steps) {
        if (!again) lines = more.lines;
        const at = events.push(reserved(events.length + 1, lines));
        move(lines, 'available', 'reserved');
        if (end === null) continue;
        events.push(ended(end, at, lines));
        move(lines, 'reserved', end === 'committed' ? 'sold' : 'available');
      }
      const first = 1 + (cut % (events.length - 1));
      const batches = [batchOf(1, events.slice(0, first)), batchOf(first + 1, events.slice(first))];
      const { entries, balances } = rowsOf(batches, decodeReservationId);
      expect(inOrder(entries.flatMap(each))).toEqual(inOrder(moved as { seq: number; line: number }[]));
      for (const { sku, warehouse, ...delta } of balances)
        for (const account of ['available', 'reserved', 'sold'] as const) {
          const own = (moved as (Record<string, string> & { units: number })[]).filter(
            (one) => one.sku === sku && one.warehouse === warehouse,
          );
          const sum = own.reduce(
            (all, one) => all + (one.credit === account ? one.units : 0) - (one.debit === account ? one.units : 0),
            0,
          );
          expect(delta[account], `${account} of ${sku} in ${warehouse}`).toBe(sum);
        }
    }),
  );
});
