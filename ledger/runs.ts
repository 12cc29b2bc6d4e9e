/**
 * Reservations that follow one another and say the same but for their sequence, buyer and key, as one run each: in a hot sale
 * a thousand are one. What a run has in common is sent to Postgres, and read there, once.
 */
import type { ReservationRow } from './rows.ts';

/** Reservations from sequence `first` on: one for each of the buyers, who, as their keys, stand in one text with spaces between. */
export type ReservationRun = Omit<ReservationRow, 'seq' | 'buyer' | 'key'> & {
  first: number;
  buyers: string;
  keys: string;
};

/** What has ended is a run of its own: its end has a sequence. */
export function reservationRuns(rows: readonly ReservationRow[]): ReservationRun[] {
  const runs: ReservationRun[] = [];
  let before: ReservationRow | undefined;
  let [buyers, keys]: [string[], string[]] = [[], []];
  const close = (): void => {
    const run = runs.at(-1);
    if (run) Object.assign(run, { buyers: buyers.join(' '), keys: keys.join(' ') });
    [buyers, keys] = [[], []];
  };
  for (const row of rows) {
    const goesOn =
      before?.seq === row.seq - 1 &&
      before.endedSeq === null &&
      row.endedSeq === null &&
      before.sale === row.sale &&
      before.state === row.state &&
      before.lines === row.lines &&
      before.durability === row.durability &&
      before.firstExpiresAt === row.firstExpiresAt &&
      before.expiresAt === row.expiresAt &&
      before.reservedAt === row.reservedAt &&
      before.units === row.units &&
      before.extensions === row.extensions;
    if (!goesOn) {
      close();
      const { seq: first, buyer: _, key: __, ...common } = row;
      runs.push({ first, ...common, buyers: '', keys: '' });
    }
    buyers.push(row.buyer);
    keys.push(row.key);
    before = row;
  }
  close();
  return runs;
}
