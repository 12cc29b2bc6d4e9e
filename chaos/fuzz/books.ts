/**
 * No unit may move but by a call that was answered with success: every movement that the ledger has is held against the
 * answers, and every answer against the ledger.
 */
import type { Client } from 'pg';
import { encodeReservationId, keyDigest } from '../../kernel/ids.ts';
import type { Deed, Lines } from './http-rules.ts';

/** What was done, by the answers. `sure`: it was answered with success; else nobody knows. */
export type Claim = { sure: boolean; deed: Deed; caseNumber: number } & Partial<{
  /** Of a reservation's answer. */
  id: string;
  state: string;
  lines: Lines;
  /** A replay did nothing, this time. */
  replayed: boolean;
  created: boolean;
}>;

type Watermarks = Map<number, number>;
export type Books = { watermarks: Watermarks };

type ReservationRow = {
  shard: number;
  seq: string;
  sale: number;
  buyer: string;
  key: string;
  state: string;
  lines: Lines;
  ended_seq: string | null;
};
type EntryRow = { shard: number; seq: string; debit: string; credit: string; units: string };
type ChangeRow = { shard: number; seq: string; kind: string; id: string };

/** Where the ledger is now. */
export async function openBooks(ledger: Client): Promise<Books> {
  return { watermarks: await watermarksOf(ledger) };
}

export async function watermarksOf(ledger: Client): Promise<Watermarks> {
  const { rows } = await ledger.query<{ shard: number; watermark: string }>(
    'select shard, watermark from ledger.shard',
  );
  return new Map(rows.map(({ shard, watermark }) => [shard, Number(watermark)]));
}

const linesText = (lines: Lines): string => {
  const sums = new Map<string, number>();
  for (const { sku, quantity } of lines) sums.set(sku, (sums.get(sku) ?? 0) + quantity);
  return JSON.stringify([...sums].sort());
};

/** A movement that the ledger has: what must explain it. */
type Movement =
  | { name: 'reserve'; id: string; row: ReservationRow }
  | { name: 'commit' | 'release'; id: string }
  | { name: 'stock'; change: ChangeRow }
  | { name: 'unknown'; what: string };

const namesOfMoves: Record<string, Movement['name']> = {
  'available>reserved': 'reserve',
  'reserved>sold': 'commit',
  'reserved>available': 'release',
  'outside>available': 'stock',
  'available>outside': 'stock',
};

async function movementsSince(ledger: Client, { watermarks }: Books): Promise<Movement[]> {
  const found: Movement[] = [];
  for (const [shard, after] of watermarks) {
    const values = [shard, after];
    const { rows: entries } = await ledger.query<EntryRow>(
      `select distinct on (seq) shard, seq, debit, credit, units
         from ledger.entry, generate_series(greatest(seq_first, $2::bigint + 1), seq_last) as seq
        where shard = $1 and seq_last > $2 order by seq`,
      values,
    );
    const { rows: reservations } = await ledger.query<ReservationRow>(
      'select shard, seq, sale, buyer, key, state, lines, ended_seq from ledger.reservation where shard = $1 and (seq > $2 or ended_seq > $2)',
      values,
    );
    const { rows: changes } = await ledger.query<ChangeRow>(
      'select shard, seq, kind, id from ledger.stock_change where shard = $1 and seq > $2',
      values,
    );
    const bySeq = new Map(reservations.map((row) => [row.seq, row]));
    const byEnd = new Map(reservations.map((row) => [row.ended_seq ?? '', row]));
    const changed = new Map(changes.map((row) => [row.seq, row]));
    const idOf = ({ sale, seq, buyer, key }: ReservationRow): string =>
      encodeReservationId({ shard, sale, seq: Number(seq), buyer, key });
    for (const { seq, debit, credit, units } of entries) {
      const name = namesOfMoves[`${debit}>${credit}`];
      const [made, ended, change] = [bySeq.get(seq), byEnd.get(seq), changed.get(seq)];
      if (name === 'reserve' && made) found.push({ name, id: idOf(made), row: made });
      else if (name === 'commit' && ended?.state === 'committed') found.push({ name, id: idOf(ended) });
      else if (name === 'release' && ended?.state === 'released') found.push({ name, id: idOf(ended) });
      else if (name === 'stock' && change) found.push({ name, change });
      else
        found.push({ name: 'unknown', what: `${units} units ${debit} > ${credit}, sequence ${seq} of shard ${shard}` });
    }
  }
  return found;
}

const digestsOf = (deed: Deed): string[] => (deed.does === 'reserve' ? deed.keys.map(keyDigest) : []);

/** Whether the claim explains the movement. `buyerOf`: the buyer of a token. */
function explains(claim: Claim, movement: Movement, buyerOf: Map<string, string>): boolean {
  const { deed } = claim;
  switch (movement.name) {
    case 'reserve': {
      if (deed.does !== 'reserve') return false;
      if (claim.sure) return claim.id === movement.id && linesText(claim.lines ?? []) === linesText(movement.row.lines);
      const { buyer, key, lines } = movement.row;
      return (
        buyerOf.get(deed.token) === buyer && digestsOf(deed).includes(key) && linesText(deed.lines) === linesText(lines)
      );
    }
    case 'commit':
    case 'release':
      return deed.does === movement.name && deed.id === movement.id;
    case 'stock':
      if (deed.does === 'put') return movement.change.kind === 'restocked';
      return deed.does === 'adjust' && deed.id === movement.change.id;
    default:
      return false;
  }
}

/** What a movement is looked up by among the claims. */
function nameOf(movement: Movement): string {
  if (movement.name === 'reserve') return `reserve ${movement.row.key}`;
  if (movement.name === 'stock') return 'stock';
  return movement.name === 'unknown' ? '' : `${movement.name} ${movement.id}`;
}
function namesOf({ deed }: Claim): string[] {
  if (deed.does === 'reserve') return digestsOf(deed).map((digest) => `reserve ${digest}`);
  if (deed.does === 'commit' || deed.does === 'release') return [`${deed.does} ${deed.id}`];
  return deed.does === 'adjust' || deed.does === 'put' ? ['stock'] : [];
}

/**
 * What the ledger has since `books` beside what was claimed: what is wrong, and how many movements were told by no answer.
 * The books are then where the ledger is. The ledger must be level with Valkey.
 */
export async function audit(
  ledger: Client,
  books: Books,
  claims: Claim[],
  buyerOf: Map<string, string>,
): Promise<{ wrongs: string[]; movements: number; untold: number }> {
  const movements = await movementsSince(ledger, books);
  const after = await watermarksOf(ledger);
  const byName = new Map<string, Claim[]>();
  for (const claim of claims)
    for (const name of namesOf(claim)) {
      const known = byName.get(name);
      if (known) known.push(claim);
      else byName.set(name, [claim]);
    }
  const wrongs: string[] = [];
  let untold = 0;
  const made = new Set<string>();
  const ended = new Map<string, string>();
  for (const movement of movements) {
    const fitting = (byName.get(nameOf(movement)) ?? []).filter((claim) => explains(claim, movement, buyerOf));
    if (fitting.length === 0) wrongs.push(`nothing explains ${JSON.stringify(movement)}`);
    else if (!fitting.some(({ sure }) => sure)) untold++;
    if (movement.name === 'reserve') made.add(movement.id);
    if (movement.name === 'commit' || movement.name === 'release') ended.set(movement.id, movement.name);
  }
  const committed = new Set(claims.map(({ sure, deed }) => (sure && deed.does === 'commit' ? deed.id : '')));
  for (const claim of claims.filter(({ sure, replayed }) => sure && !replayed)) {
    const { deed, id = '' } = claim;
    if (deed.does === 'reserve' && !made.has(id))
      wrongs.push(`case ${claim.caseNumber}: 201 for ${id}, not in the ledger`);
    if (deed.does === 'release' && committed.has(deed.id))
      wrongs.push(`case ${claim.caseNumber}: ${deed.id} was both committed and released, by the answers`);
  }
  // What moves no unit still takes a sequence each: sales that were set, states that turned, extensions.
  const steps = [...after].reduce((sum, [shard, seq]) => sum + seq - (books.watermarks.get(shard) ?? 0), 0);
  const quiet = steps - movements.length;
  const still = claims.filter(({ deed }) => ['put', 'state', 'extend'].includes(deed.does));
  const least = still.filter(({ sure, deed }) => sure && deed.does !== 'state').length;
  const opened = still.reduce((sum, { deed }) => sum + (deed.does === 'put' ? deed.stock : 0), 0);
  if (quiet < least || quiet > still.length + opened)
    wrongs.push(`${quiet} events that move nothing, though the answers speak of ${least} to ${still.length + opened}`);
  books.watermarks = after;
  return { wrongs, movements: movements.length, untold };
}
