/**
 * Rows that follow one another and say the same but for their sequence, buyer and key, as one run each: in a hot sale a thousand
 * reservations are one. What a run has in common is sent to Postgres, and read there, once.
 */
import type { EntryRow, ReservationRow } from './rows.ts';

/** Entries of sequences `first` to `last`. */
export type EntryRun = Omit<EntryRow, 'seq'> & { first: number; last: number };

/** Reservations from sequence `first` on: one for each of the buyers, who, as their keys, stand in one text with spaces between. */
export type ReservationRun = Omit<ReservationRow, 'seq' | 'buyer' | 'key'> & {
  first: number;
  buyers: string;
  keys: string;
};

export function entryRuns(rows: readonly EntryRow[]): EntryRun[] {
  const runs: EntryRun[] = [];
  // Lines of a basket come in turn: each continues the run of its own line.
  const latest: EntryRun[] = [];
  for (const { seq, ...row } of rows) {
    const run = latest[row.line];
    const goesOn =
      run?.last === seq - 1 &&
      run.sale === row.sale &&
      run.sku === row.sku &&
      run.warehouse === row.warehouse &&
      run.debit === row.debit &&
      run.credit === row.credit &&
      run.units === row.units;
    if (goesOn) run.last = seq;
    else {
      const begun = { first: seq, last: seq, ...row };
      latest[row.line] = begun;
      runs.push(begun);
    }
  }
  return runs;
}

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
