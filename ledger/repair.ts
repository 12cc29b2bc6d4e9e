/** Makes Valkey and the ledger agree again, after a person has said which of them is right. */
import type { Pool } from 'pg';
import { Type } from 'typebox';
import { Compile } from 'typebox/compile';
import type { Counts, Reconciliation } from './reconcile.ts';
import type { Account } from './rows.ts';

const Side = Type.Union([
  Type.Object({ available: Type.Integer(), reserved: Type.Integer(), sold: Type.Integer() }),
  Type.Null(),
]);

/** One allotment to repair: what differs, and which side is to be changed. Doing a step twice changes nothing more. */
export const RepairStepSchema = Type.Object({
  repair: Type.Enum(['valkey', 'ledger']),
  id: Type.String({ minLength: 1, maxLength: 64 }),
  shard: Type.Integer({ minimum: 0 }),
  epoch: Type.Integer({ minimum: 1 }),
  seq: Type.Integer({ minimum: 0 }),
  sale: Type.Integer({ minimum: 1 }),
  saleId: Type.String(),
  sku: Type.String(),
  warehouse: Type.String(),
  valkey: Side,
  ledger: Side,
});
export type RepairStep = {
  /** The side that is changed to what the other has. */
  repair: 'valkey' | 'ledger';
  id: string;
  shard: number;
  epoch: number;
  /** As of which sequence the two were compared. */
  seq: number;
  sale: number;
  saleId: string;
  sku: string;
  warehouse: string;
  valkey: Counts | null;
  ledger: Counts | null;
};
const validator = Compile(RepairStepSchema);

/** A step out of a line of JSON; null when it is none. */
export function parseStep(line: string): RepairStep | null {
  try {
    const step: unknown = JSON.parse(line);
    return validator.Check(step) ? (step as RepairStep) : null;
  } catch {
    return null;
  }
}

/** What a comparison's drift takes to put right, changing the side that is wrong. */
export function planRepair(found: Reconciliation, wrong: 'valkey' | 'ledger'): RepairStep[] {
  const shards = new Map(found.shards.map((report) => [report.shard, report]));
  return found.rows
    .filter((row) => row.drift > 0)
    .map(({ shard, sale, saleId, sku, warehouse, valkey, ledger }) => {
      const { epoch = 0, seq = 0 } = shards.get(shard) ?? {};
      // The same finding has the same id, so that a plan that is applied twice is applied once.
      const id = `repair-${epoch}-${seq}`;
      return { repair: wrong, id, shard, epoch, seq, sale, saleId, sku, warehouse, valkey, ledger };
    });
}

const nothing: Counts = { available: 0, reserved: 0, sold: 0 };

/** What must be added to the wrong side, so that it has what the other has. */
export function differenceOf(step: RepairStep): Counts {
  const wrong = (step.repair === 'valkey' ? step.valkey : step.ledger) ?? nothing;
  const right = (step.repair === 'valkey' ? step.ledger : step.valkey) ?? nothing;
  return {
    available: right.available - wrong.available,
    reserved: right.reserved - wrong.reserved,
    sold: right.sold - wrong.sold,
  };
}

/** A difference as double entries: from accounts that have too much to those that have too little, the rest from outside. */
export function entriesOf(difference: Counts): { debit: Account; credit: Account; units: number }[] {
  const { available, reserved, sold } = difference;
  const accounts: [Account, number][] = [
    ['available', available],
    ['reserved', reserved],
    ['sold', sold],
    ['outside', -(available + reserved + sold)],
  ];
  const givers = accounts.filter(([, units]) => units < 0).map(([account, units]) => ({ account, left: -units }));
  const takers = accounts.filter(([, units]) => units > 0).map(([account, units]) => ({ account, left: units }));
  const entries: { debit: Account; credit: Account; units: number }[] = [];
  for (const taker of takers)
    for (const giver of givers) {
      const units = Math.min(giver.left, taker.left);
      if (units === 0) continue;
      giver.left -= units;
      taker.left -= units;
      entries.push({ debit: giver.account, credit: taker.account, units });
    }
  return entries;
}

/**
 * Appends compensating entries to the ledger, once. Answers false when the step was done before. Rejects when a balance
 * would come below zero.
 */
export async function repairLedger(pool: Pool, step: RepairStep): Promise<boolean> {
  const { id, shard, seq, sale, sku, warehouse } = step;
  const difference = differenceOf(step);
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('select 1 from ledger.shard where shard = $1 for update', [shard]);
    let line = 0;
    for (const { debit, credit, units } of entriesOf(difference)) {
      const { rowCount } = await client.query(
        `insert into ledger.correction (shard, sale, sku, warehouse, id, line, as_of_seq, debit, credit, units)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing`,
        [shard, sale, sku, warehouse, id, line++, seq, debit, credit, units],
      );
      if (rowCount === 0) {
        await client.query('rollback');
        return false;
      }
    }
    const { available, reserved, sold } = difference;
    const supply = available + reserved + sold;
    const values = [shard, sale, sku, warehouse, supply, available, reserved, sold];
    const { rowCount } = await client.query(
      `update ledger.balance
          set supply = supply + $5, available = available + $6, reserved = reserved + $7, sold = sold + $8
        where shard = $1 and sale = $2 and sku = $3 and warehouse = $4`,
      values,
    );
    if (rowCount === 0)
      await client.query(
        `insert into ledger.balance (shard, sale, sku, warehouse, supply, available, reserved, sold, opened_seq)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
        [...values, Math.max(1, seq)],
      );
    await client.query('commit');
    return true;
  } catch (error) {
    await client.query('rollback').catch(() => undefined);
    throw error;
  } finally {
    client.release();
  }
}
