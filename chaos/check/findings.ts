/** How checkers speak: a bounded list of sentences, and names of operations and facts that a person can look up. */
import type { Call, Fact, Finding, Line, Operation, Wanted } from '../history.ts';

export type Reserved = Extract<Fact, { kind: 'reserved' }>;
/** An end of a reservation, or a return of what it bought. */
export type Ending = Extract<Fact, { reservation: number }>;
export type StockChange = Extract<Fact, { units: number }>;

/** So many of one checker are enough to start looking. */
const maxFindings = 20;

export type Findings = { add(finding: Finding): void; full(): boolean; list(): Finding[] };

export function createFindings(): Findings {
  const found: Finding[] = [];
  let more = 0;
  return {
    add(finding) {
      if (found.length < maxFindings) found.push(finding);
      else more++;
    },
    full: () => found.length >= maxFindings,
    list: () => (more > 0 ? [...found, `… and ${more} more.`] : found),
  };
}

/** A moment of the clients' clock. */
export function clock(ms: number): string {
  return Number.isFinite(ms) ? `${new Date(ms).toISOString().slice(11, 23)} (${ms.toFixed(3)})` : 'no known time';
}

export const linesText = (lines: Line[]): string =>
  lines.map(({ sku, warehouse, quantity }) => `${quantity} ${sku} from ${warehouse}`).join(', ');

export const wantedText = (lines: Wanted[]): string =>
  lines.map(({ sku, quantity }) => `${quantity} ${sku}`).join(', ');

function callText(call: Call): string {
  switch (call.kind) {
    case 'reserve':
      return `reserve of ${wantedText(call.lines)} under key ${call.key}`;
    case 'adjust':
      return `adjust ${call.id} of ${call.sku} in ${call.warehouse} by ${call.delta}`;
    case 'extend':
      return `extend of ${call.reservation} by ${call.seconds} s`;
    default:
      return `${call.kind} of ${call.reservation}`;
  }
}

export function operationText({ client, saleId, buyer, call, callMs, answered }: Operation): string {
  const who = `client ${client} (buyer ${buyer}, sale ${saleId}), ${callText(call)}, called ${clock(callMs)}`;
  if (!answered) return `${who}, never answered`;
  const { status, code, reservation, replayed } = answered.answer;
  const told = reservation ? ` ${reservation.state} ${reservation.id}` : '';
  return `${who}, answered ${clock(answered.atMs)} ${status}${code && ` ${code}`}${told}${replayed ? ' (a replay)' : ''}`;
}

export function factText(fact: Fact): string {
  const name = fact.kind === 'reserved' || 'id' in fact ? fact.id : `what was reserved at ${fact.reservation}`;
  return `${fact.kind} ${name}, sequence ${fact.seq} of shard ${fact.shard}`;
}

export const succeeded = ({ answered }: Operation): boolean =>
  answered !== null && answered.answer.status >= 200 && answered.answer.status < 300;

/** Whether it may have changed something: nobody knows, or it did. Every refusal says that nothing was taken. */
export const mayHaveHappened = (operation: Operation): boolean => !operation.answered || succeeded(operation);

/** Units of each SKU: what makes two reserves the same body. */
export function unitsBySku(lines: readonly { sku: string; quantity: number }[]): Map<string, number> {
  const units = new Map<string, number>();
  for (const { sku, quantity } of lines) units.set(sku, (units.get(sku) ?? 0) + quantity);
  return units;
}

export const bodyOf = (lines: readonly { sku: string; quantity: number }[]): string =>
  JSON.stringify([...unitsBySku(lines)].sort(([a], [b]) => (a < b ? -1 : 1)));

export const unitsOf = (lines: readonly { quantity: number }[]): number =>
  lines.reduce((sum, { quantity }) => sum + quantity, 0);

export const sameLines = (a: Line[], b: Line[]): boolean =>
  a.length === b.length &&
  a.every(({ sku, warehouse, quantity }, i) => {
    const other = b[i];
    return other?.sku === sku && other.warehouse === warehouse && other.quantity === quantity;
  });

/** The same units, whatever their order. */
export const sameUnits = (a: Line[], b: Line[]): boolean => {
  const sorted = (lines: Line[]): Line[] =>
    lines.toSorted((x, y) => (`${x.sku}/${x.warehouse}` < `${y.sku}/${y.warehouse}` ? -1 : 1));
  return sameLines(sorted(a), sorted(b));
};
