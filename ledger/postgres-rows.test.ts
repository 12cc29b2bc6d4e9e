import type { Pool } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeReservationId, encodeReservationId } from '../kernel/ids.ts';
import type { ServiceSet } from '../services/services.ts';
import { applyBatches } from './apply.ts';
import { createLedgerStore } from './postgres.ts';
import { rowsOf } from './rows.ts';
import { batchOf, createLedger, type Happening, happenings, startTestServices } from './testing.ts';

const { set, restocked } = happenings;
let services: ServiceSet;
let pool: Pool;

beforeAll(async () => {
  services = await startTestServices(['postgres']);
  pool = await createLedger(services);
});
afterAll(async () => {
  await pool.end();
  await services.stop();
});

/** Everybody is somebody else, with a key of their own. */
const idAt = (seq: number): string =>
  encodeReservationId({
    shard: 0,
    sale: 1,
    seq,
    buyer: `buyer_${seq}`.padEnd(12, '_'),
    key: `key_${seq}`.padEnd(12, '_'),
  });
const held = (seq: number, skus: string[], quantity = 1): Happening => ({
  ...{ type: 'reserved', reservationId: idAt(seq), buyerId: 'whoever', durability: 'fsync' },
  ...{ lines: skus.map((sku) => ({ sku, warehouse: 'east', quantity })), expiresAt: '2026-11-01T00:30:00.000Z' },
});
const committed = (of: number, skus: string[]): Happening => ({
  ...{ type: 'committed', reservationId: idAt(of), buyerId: 'whoever' },
  lines: skus.map((sku) => ({ sku, warehouse: 'east', quantity: 1 })),
});

test('what was written together stands row by row: who, which key, at which sequence, on which line', async () => {
  const events = [
    ...[set(), restocked(100), restocked(100, 'hat')],
    ...[held(4, ['shoe']), held(5, ['shoe']), held(6, ['shoe']), committed(5, ['shoe'])],
    ...[held(8, ['shoe', 'hat']), held(9, ['shoe', 'hat']), held(10, ['hat'], 2), held(11, ['hat', 'shoe'])],
  ];
  const batch = batchOf(1, events);
  await applyBatches(createLedgerStore(pool), 0, [batch]);
  const expected = rowsOf([batch], decodeReservationId);

  const entries = await pool.query(
    `select seq_first as "seqFirst", seq_last as "seqLast", line, sale, sku, warehouse, debit, credit, units
       from ledger.entry order by seq_first, line`,
  );
  const numbers = (row: Record<string, string>) => ({
    ...{ ...row, seqFirst: Number(row.seqFirst), seqLast: Number(row.seqLast), units: Number(row.units) },
  });
  const inOrder = expected.entries.toSorted((a, b) => a.seqFirst - b.seqFirst || a.line - b.line);
  expect(entries.rows.map(numbers)).toEqual(inOrder);
  const reservations = await pool.query(
    'select seq, sale, buyer, key, state, lines, units, ended_seq as "endedSeq" from ledger.reservation order by seq',
  );
  const found = reservations.rows.map(({ seq, endedSeq, ...row }) => ({
    ...{ ...row, seq: Number(seq), endedSeq: endedSeq === null ? null : Number(endedSeq) },
  }));
  expect(found).toEqual(
    expected.reservations.map(({ seq, sale, buyer, key, state, lines, units, endedSeq }) => ({
      ...{ seq, sale, buyer, key, state, units, endedSeq, lines: JSON.parse(lines) },
    })),
  );
  expect(found).toHaveLength(7);
});
