/** What a run of events means for the ledger's tables: pure, so that it can be tested and simulated without Postgres. */
import type { Batch, LedgerEvent } from './events.ts';

export type Account = 'outside' | 'available' | 'reserved' | 'sold';

/** One entry of each sequence from `seqFirst` to `seqLast`: `units` are those of each. */
export type EntryRow = {
  seqFirst: number;
  seqLast: number;
  line: number;
  sale: number;
  sku: string;
  warehouse: string;
  debit: Account;
  credit: Account;
  units: number;
};

export type BalanceDelta = {
  sale: number;
  sku: string;
  warehouse: string;
  supply: number;
  available: number;
  reserved: number;
  sold: number;
};

export type EndState = 'committed' | 'released' | 'expired';

export type ReservationRow = {
  seq: number;
  sale: number;
  buyer: string;
  key: string;
  state: 'held' | EndState;
  lines: string;
  durability: string;
  firstExpiresAt: string;
  expiresAt: string;
  reservedAt: string;
  endedAt: string | null;
  endedSeq: number | null;
  units: number;
  extensions: number;
};

/** A change of a reservation that the ledger has already: its new expiry, its end, or both. */
export type ReservationChange = {
  seq: number;
  expiresAt: string | null;
  state: EndState | null;
  endedAt: string | null;
  endedSeq: number | null;
  /** How many extensions, and how many units returned, are new. */
  extensions: number;
  returned: number;
};

/** `content`: what the id stands for, as JSON: the event's own members. */
export type StockChangeRow = { seq: number; sale: number; kind: string; id: string; content: string; at: string };
export type SaleRow = { sale: number; id: string; settings: string | null; stockDigest: string; state: string | null };

export type Rows = {
  entries: EntryRow[];
  balances: BalanceDelta[];
  /** Allotments that may be new. */
  opened: { sale: number; sku: string; warehouse: string; seq: number }[];
  reservations: ReservationRow[];
  changes: ReservationChange[];
  stockChanges: StockChangeRow[];
  sales: SaleRow[];
};

/** An event that can't be: the shard's history or this program is wrong. */
export class ImpossibleEvent extends Error {
  constructor(event: LedgerEvent, why: string) {
    super(`event ${event.seq} (${event.type}): ${why}`);
    this.name = 'ImpossibleEvent';
  }
}

const moves: Record<string, [Account, Account]> = {
  reserved: ['available', 'reserved'],
  committed: ['reserved', 'sold'],
  released: ['reserved', 'available'],
  expired: ['reserved', 'available'],
  returned: ['sold', 'available'],
};

const unchanged = (seq: number): ReservationChange => ({
  ...{ seq, expiresAt: null, state: null, endedAt: null, endedSeq: null, extensions: 0, returned: 0 },
});

/** A reservation's sequence, buyer and key, out of its id. */
export type RefOf = (reservationId: string) => { seq: number; buyer: string; key: string } | null;

function deltasOf(entries: EntryRow[]): BalanceDelta[] {
  const deltas = new Map<string, BalanceDelta>();
  for (const { seqFirst, seqLast, sale, sku, warehouse, debit, credit, units: unitsOfEach } of entries) {
    const units = unitsOfEach * (seqLast - seqFirst + 1);
    const name = `${sale}/${sku}/${warehouse}`;
    let delta = deltas.get(name);
    if (!delta) {
      delta = { sale, sku, warehouse, supply: 0, available: 0, reserved: 0, sold: 0 };
      deltas.set(name, delta);
    }
    if (debit === 'outside') delta.supply += units;
    else delta[debit] -= units;
    if (credit === 'outside') delta.supply -= units;
    else delta[credit] += units;
  }
  return [...deltas.values()];
}

/** The rows of batches that follow one another. Throws ImpossibleEvent. */
export function rowsOf(batches: Batch[], refOf: RefOf): Rows {
  const rows: Rows = {
    entries: [],
    balances: [],
    opened: [],
    reservations: [],
    changes: [],
    stockChanges: [],
    sales: [],
  };
  /** The last entry of each line: lines of a basket come in turn, and each goes on where it was. */
  const latest: EntryRow[] = [];
  const fresh = new Map<number, ReservationRow>();
  const changed = new Map<number, ReservationChange>();

  const move = (
    event: LedgerEvent,
    line: number,
    sku: string,
    warehouse: string,
    [debit, credit]: [Account, Account],
    units: number,
  ): void => {
    const { seq, sale } = event;
    const before = latest[line];
    const goesOn =
      before?.seqLast === seq - 1 &&
      before.sale === sale &&
      before.sku === sku &&
      before.warehouse === warehouse &&
      before.debit === debit &&
      before.credit === credit &&
      before.units === units;
    if (goesOn) before.seqLast = seq;
    else {
      const entry = { seqFirst: seq, seqLast: seq, line, sale, sku, warehouse, debit, credit, units };
      latest[line] = entry;
      rows.entries.push(entry);
    }
  };

  const end = (event: LedgerEvent, seq: number, state: EndState, at: string): void => {
    const row = fresh.get(seq);
    const change = changed.get(seq);
    if ((row && row.state !== 'held') || change?.state) throw new ImpossibleEvent(event, 'it has ended before');
    if (row) {
      row.state = state;
      row.endedAt = at;
      row.endedSeq = event.seq;
    } else {
      changed.set(seq, { ...unchanged(seq), ...change, state, endedAt: at, endedSeq: event.seq });
    }
  };

  const giveBack = (seq: number, units: number): void => {
    const change = changed.get(seq) ?? unchanged(seq);
    changed.set(seq, { ...change, returned: change.returned + units });
  };

  const extend = (event: LedgerEvent, seq: number, expiresAt: string): void => {
    const row = fresh.get(seq);
    if ((row && row.state !== 'held') || changed.get(seq)?.state) throw new ImpossibleEvent(event, 'it has ended');
    if (row) {
      row.expiresAt = expiresAt;
      row.extensions++;
    } else {
      const change = changed.get(seq) ?? unchanged(seq);
      changed.set(seq, { ...change, expiresAt, extensions: change.extensions + 1 });
    }
  };

  for (const batch of batches) {
    for (const event of batch.events) {
      switch (event.type) {
        case 'sale-set':
          rows.sales.push({
            sale: event.sale,
            id: event.saleId,
            settings: JSON.stringify(event.settings),
            stockDigest: event.stockDigest,
            state: null,
          });
          break;
        case 'sale-state':
          rows.sales.push({ sale: event.sale, id: event.saleId, settings: null, stockDigest: '', state: event.state });
          break;
        case 'restocked':
        case 'adjusted': {
          const { sale, sku, warehouse, units } = event;
          if (event.type === 'restocked') rows.opened.push({ sale, sku, warehouse, seq: event.seq });
          // An allotment may open with nothing: there is no unit to move then.
          if (units > 0) move(event, 0, sku, warehouse, ['outside', 'available'], units);
          else if (units < 0) move(event, 0, sku, warehouse, ['available', 'outside'], -units);
          const { seq, type: kind, id, reason, after } = event;
          const content = JSON.stringify({ sku, warehouse, units, reason, after });
          rows.stockChanges.push({ seq, sale, kind, id, content, at: batch.at });
          break;
        }
        default: {
          const ref = refOf(event.reservationId);
          if (!ref) throw new ImpossibleEvent(event, `no such reservation id: ${event.reservationId}`);
          if (event.type === 'extended') {
            extend(event, ref.seq, event.expiresAt);
            break;
          }
          const accounts = moves[event.type];
          if (!accounts) throw new ImpossibleEvent(event, 'an unknown type');
          event.lines.forEach((line, i) => {
            move(event, i, line.sku, line.warehouse, accounts, line.quantity);
          });
          if (event.type === 'reserved') {
            const row: ReservationRow = {
              seq: event.seq,
              sale: event.sale,
              buyer: ref.buyer,
              key: ref.key,
              state: 'held',
              lines: JSON.stringify(event.lines),
              durability: event.durability,
              firstExpiresAt: event.expiresAt,
              expiresAt: event.expiresAt,
              reservedAt: batch.at,
              endedAt: null,
              endedSeq: null,
              units: event.lines.reduce((sum, line) => sum + line.quantity, 0),
              extensions: 0,
            };
            if (ref.seq !== event.seq) throw new ImpossibleEvent(event, 'its id speaks of another sequence');
            fresh.set(event.seq, row);
            rows.reservations.push(row);
          } else if (event.type === 'returned') {
            const { seq, sale, id, reservationId, lines } = event;
            const content = JSON.stringify({ reservationId, lines });
            rows.stockChanges.push({ seq, sale, kind: 'returned', id, content, at: batch.at });
            giveBack(
              ref.seq,
              lines.reduce((sum, line) => sum + line.quantity, 0),
            );
          } else {
            end(event, ref.seq, event.type, batch.at);
          }
        }
      }
    }
  }
  rows.balances = deltasOf(rows.entries);
  rows.changes = [...changed.values()];
  return rows;
}
