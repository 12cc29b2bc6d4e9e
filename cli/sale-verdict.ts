/** What is said of a finished sale: its figures, and all that is wrong with it. */
import { styleText } from 'node:util';
import Table from 'cli-table3';
import type { CrowdResult } from '../bench/tally.ts';
import type { Reconciliation } from '../ledger/reconcile.ts';

/** The members of the JSON line; `soldOutAfterMs` is null when not every unit was sold. */
export type SaleFigures = {
  units: number;
  buyers: number;
  sold: number;
  refused: number;
  oversold: number;
  stranded: number;
  answersPerSecond: number;
  p50Ms: number;
  p99Ms: number;
  soldOutAfterMs: number | null;
  ledgerLagMs: number;
  drift: number;
  transport: 'direct' | 'kafka';
};

export type SaleEvidence = {
  saleId: string;
  units: number;
  buyers: number;
  transport: 'direct' | 'kafka';
  opensAtMs: number;
  crowd: CrowdResult;
  /** From the last answer until the ledger was level; null when it did not get there in time. */
  ledgerLagMs: number | null;
  reconciliation: Reconciliation;
  /** Reservations that the ledger has as committed. */
  committed: ReadonlySet<string>;
};

export type Verdict = {
  figures: SaleFigures;
  /** Units that are still on sale. */
  onSale: number;
  /** Sentences; empty when all is well. */
  faults: string[];
};

const number = new Intl.NumberFormat('en').format;
const rounded = (value: number): number => Math.round(value * 100) / 100;
const twinsAmong = (values: string[]): number => values.length - new Set(values).size;
const many = (count: number, one: string): string => `${number(count)} ${one}${count === 1 ? '' : 's'}`;

export function judge(evidence: SaleEvidence): Verdict {
  const { units, buyers, crowd, reconciliation, committed } = evidence;
  const rows = reconciliation.rows.filter(({ saleId }) => saleId === evidence.saleId);
  const sum = (side: 'valkey' | 'ledger', account: 'available' | 'reserved' | 'sold'): number =>
    rows.reduce((total, row) => total + (row[side]?.[account] ?? 0), 0);
  const sold = sum('ledger', 'sold');
  const onSale = sum('valkey', 'available');
  const told = crowd.purchases.map(({ reservationId }) => reservationId);
  const twins = twinsAmong(told);
  const seconds = Math.max(0.001, (crowd.lastAnswerAtMs - evidence.opensAtMs) / 1_000);
  const figures: SaleFigures = {
    units,
    buyers,
    sold,
    refused: buyers - crowd.bought,
    oversold: Math.max(0, sold - units) + twins,
    stranded: Math.max(0, units - sold - onSale),
    answersPerSecond: Math.round(crowd.answers / seconds),
    p50Ms: rounded(crowd.p50Ms),
    p99Ms: rounded(crowd.p99Ms),
    soldOutAfterMs: sold === units && units > 0 ? Math.round(crowd.lastCommitAtMs - evidence.opensAtMs) : null,
    ledgerLagMs: Math.round(evidence.ledgerLagMs ?? -1),
    drift: reconciliation.drift,
    transport: evidence.transport,
  };

  const faults: string[] = [];
  const fault = (wrong: boolean, sentence: string): void => {
    if (wrong) faults.push(sentence);
  };
  const unread = reconciliation.shards.filter((shard) => shard.unread !== null);
  const lost = new Set(told.filter((id) => !committed.has(id))).size;
  const { 'sold-out': refused, late } = crowd.endings;
  fault(sold > units, `The ledger has ${number(sold)} units as sold, of ${number(units)}.`);
  fault(twins > 0, `Sold to more than one buyer: ${many(twins, 'reservation')}.`);
  fault(
    twinsAmong(crowd.purchases.map(({ buyerId }) => buyerId)) > 0,
    'A buyer has bought more than the one unit that the sale allows.',
  );
  fault(
    sold !== crowd.bought,
    `The ledger has ${number(sold)} units as sold, but buyers were told so ${number(crowd.bought)} times.`,
  );
  fault(lost > 0, `Told to buyers, but not in the ledger: ${many(lost, 'purchase')}.`);
  fault(figures.stranded > 0, `Stranded, neither sold nor on sale: ${many(figures.stranded, 'unit')}.`);
  fault(
    refused > 0 && onSale > 0,
    `${many(refused, 'buyer')} left because all was gone, but ${number(onSale)} are on sale.`,
  );
  fault(late > 0, `${many(late, 'buyer')} still had no answer that counts when time was up.`);
  fault(figures.drift > 0, `Valkey and the ledger differ by ${many(figures.drift, 'unit')}.`);
  fault(rows.length === 0, 'The sale is in none of the shards that were compared with the ledger.');
  fault(evidence.ledgerLagMs === null, 'The ledger did not catch up in time.');
  for (const shard of unread) faults.push(`Shard ${shard.shard} was not compared: ${shard.unread}.`);
  fault(crowd.complaintCount > 0, `The crowd complained ${many(crowd.complaintCount, 'time')}:`);
  for (const complaint of crowd.complaints) faults.push(`  ${complaint}`);
  return { figures, onSale, faults };
}

/** The verdict for people. */
export function verdictText({ figures, onSale, faults }: Verdict, crowd: CrowdResult): string {
  const mark = (good: boolean): string => (good ? styleText('green', '✔') : styleText('red', '✘'));
  const table = new Table({
    style: { head: [], border: [] },
    // Without lines between the rows.
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
    colAligns: ['left', 'right', 'left'],
  });
  const row = (name: string, value: string, sign = ''): void => {
    table.push([name, value, sign]);
  };
  const ms = (value: number): string => `${number(Math.round(value))} ms`;
  row('units', number(figures.units));
  row('buyers', number(figures.buyers));
  row('sold', number(figures.sold), mark(figures.sold === crowd.bought && figures.sold <= figures.units));
  if (onSale > 0) row('still on sale', number(onSale));
  row('refused', number(figures.refused));
  row('oversold', number(figures.oversold), mark(figures.oversold === 0));
  row('stranded', number(figures.stranded), mark(figures.stranded === 0));
  row('drift from the ledger', number(figures.drift), mark(figures.drift === 0));
  row('answers a second', number(figures.answersPerSecond));
  row('  in the best second', number(crowd.peakAnswersPerSecond));
  row('reserve answered, p50', ms(figures.p50Ms));
  row('reserve answered, p99', ms(figures.p99Ms));
  if (figures.soldOutAfterMs !== null) row('all sold after', `${(figures.soldOutAfterMs / 1_000).toFixed(1)} s`);
  if (figures.ledgerLagMs >= 0) row('ledger level after', ms(figures.ledgerLagMs));
  row('transport', figures.transport);
  const behaviour = [
    `${many(crowd.doubleClicks, 'double click')}, ${many(crowd.greedy, 'grab')} at a second unit, ${many(crowd.abandoned, 'hold')} left to expire,`,
    `${many(crowd.hangUps, 'hang-up')}, after which the key brought ${many(crowd.replays, 'hold')} back.`,
  ].join('\n');
  const last =
    faults.length === 0
      ? styleText('green', summary(figures, onSale))
      : styleText('red', `Something is wrong:\n${faults.join('\n')}`);
  return `${table.toString()}\n${behaviour}\n${last}`;
}

function summary({ units, sold }: SaleFigures, onSale: number): string {
  if (sold === units) return `Exactly ${many(units, 'unit')} sold, and the ledger proves it.`;
  return `${many(sold, 'unit')} sold, and the ledger proves it; ${number(onSale)} of ${number(units)} stay on sale: nobody else wanted one.`;
}
