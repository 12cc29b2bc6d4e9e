import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ReservationRow } from './rows.ts';
import { reservationRuns } from './runs.ts';

const held = (seq: number, more: Partial<ReservationRow> = {}): ReservationRow => ({
  ...{ seq, sale: 1, buyer: `buyer-${seq}`, key: `key-${seq}`, state: 'held', lines: '[]', durability: 'fsync' },
  ...{ firstExpiresAt: 'x', expiresAt: 'x', reservedAt: 'r', endedAt: null, endedSeq: null, units: 1, extensions: 0 },
  ...more,
});

test('reservations of a hot sale are one run', () => {
  const runs = reservationRuns([held(5), held(6), held(7)]);
  expect(runs).toHaveLength(1);
  expect(runs[0]).toMatchObject({ first: 5, buyers: 'buyer-5 buyer-6 buyer-7', keys: 'key-5 key-6 key-7' });
});

const few = <T>(...values: T[]) => fc.constantFrom(...values);

test('runs say what the rows said, whatever they are', () => {
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
