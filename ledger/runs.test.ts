import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { EntryRow, ReservationRow } from './rows.ts';
import { entryRuns, reservationRuns } from './runs.ts';

const entry = (seq: number, more: Partial<EntryRow> = {}): EntryRow => ({
  ...{ seq, line: 0, sale: 1, sku: 'a', warehouse: 'w', debit: 'available', credit: 'reserved', units: 1, ...more },
});
const held = (seq: number, more: Partial<ReservationRow> = {}): ReservationRow => ({
  ...{ seq, sale: 1, buyer: `buyer-${seq}`, key: `key-${seq}`, state: 'held', lines: '[]', durability: 'fsync' },
  ...{ firstExpiresAt: 'x', expiresAt: 'x', reservedAt: 'r', endedAt: null, endedSeq: null, units: 1, extensions: 0 },
  ...more,
});

test('entries of a hot sale are one run a line of the basket', () => {
  const rows = Array.from({ length: 100 }, (_, i) => [entry(i + 7), entry(i + 7, { line: 1, sku: 'b' })]).flat();
  expect(entryRuns(rows)).toEqual([
    { ...entry(0), seq: undefined, first: 7, last: 106 },
    { ...entry(0, { line: 1, sku: 'b' }), seq: undefined, first: 7, last: 106 },
  ]);
});

test('reservations of a hot sale are one run', () => {
  const runs = reservationRuns([held(5), held(6), held(7)]);
  expect(runs).toHaveLength(1);
  expect(runs[0]).toMatchObject({ first: 5, buyers: 'buyer-5 buyer-6 buyer-7', keys: 'key-5 key-6 key-7' });
});

const few = <T>(...values: T[]) => fc.constantFrom(...values);

test('runs say what the rows said, whatever they are', () => {
  const differing = fc.record({
    ...{ gap: few(1, 1, 1, 2), lines: few(1, 1, 2), sale: few(1, 1, 2), sku: few('a', 'a', 'b') },
    ...{
      warehouse: few('v', 'w'),
      credit: few('reserved', 'sold'),
      debit: few('available', 'outside'),
      units: few(1, 2),
    },
  });
  fc.assert(
    fc.property(fc.array(differing, { maxLength: 40 }), (picks) => {
      let seq = 0;
      const rows = picks.flatMap(({ gap, lines, ...more }) => {
        seq += gap;
        return Array.from({ length: lines }, (_, line) => entry(seq, { ...(more as Partial<EntryRow>), line }));
      });
      const expanded = entryRuns(rows).flatMap(({ first, last, ...row }) =>
        Array.from({ length: last - first + 1 }, (_, i): EntryRow => ({ seq: first + i, ...row })),
      );
      const inOrder = (some: EntryRow[]) => some.toSorted((a, b) => a.seq - b.seq || a.line - b.line);
      expect(inOrder(expanded)).toEqual(inOrder(rows));
    }),
  );

  const changing = fc.record({
    ...{ gap: few(1, 1, 1, 2), sale: few(1, 1, 2), state: few('held', 'held', 'released'), lines: few('[]', '[1]') },
    ...{ durability: few('fsync', 'memory'), firstExpiresAt: few('x', 'y'), expiresAt: few('x', 'y') },
    ...{ reservedAt: few('r', 's'), units: few(1, 2), extensions: few(0, 1) },
  });
  fc.assert(
    fc.property(fc.array(changing, { maxLength: 40 }), (picks) => {
      let seq = 0;
      const rows = picks.map(({ gap, lines, ...more }) => {
        seq += gap;
        // How many units there are is a matter of the lines.
        const same = { lines: `${lines}${more.units}`, ...(more as Partial<ReservationRow>) };
        return held(seq, more.state === 'released' ? { ...same, endedAt: 'e', endedSeq: seq + 1 } : same);
      });
      const expanded = reservationRuns(rows).flatMap(({ first, buyers, keys, ...row }) =>
        buyers.split(' ').map((buyer, i): ReservationRow => {
          const key = keys.split(' ')[i] ?? '';
          return { seq: first + i, buyer, key, ...row };
        }),
      );
      expect(expanded).toEqual(rows);
    }),
  );
});
