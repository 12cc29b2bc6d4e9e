/** `stampede reconcile`: prints what Valkey and the ledger each have. */
import { styleText } from 'node:util';
import Table from 'cli-table3';
import { systemClock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { createLogger } from '../kernel/logger.ts';
import { type Counts, type Reconciliation, reconcile } from '../ledger/reconcile.ts';
import { planRepair } from '../ledger/repair.ts';
import { openStores } from './compose.ts';

const counts = (side: Counts | null): string =>
  side ? `${side.available} / ${side.reserved} / ${side.sold}` : 'nothing';

/** The comparison as a table for people. */
export function reconciliationTable(found: Reconciliation): string {
  const table = new Table({
    head: ['sale', 'SKU', 'warehouse', 'Valkey', 'ledger', 'drift'],
    style: { head: [], border: [] },
    colAligns: ['left', 'left', 'left', 'right', 'right', 'right'],
  });
  for (const row of found.rows) {
    const drift = row.drift === 0 ? '0' : styleText('red', String(row.drift));
    table.push([row.saleId, row.sku, row.warehouse, counts(row.valkey), counts(row.ledger), drift]);
  }
  return table.toString();
}

/** Answers the exit code: 0 agrees, 1 drift, 2 couldn't look. */
export async function reconcileCommand(
  config: Config,
  options: { waitMs: number; json: boolean; repair?: 'valkey' | 'ledger' },
  print: (line: string) => void,
): Promise<0 | 1 | 2> {
  const logger = createLogger({ level: 'silent', name: 'stampede' });
  let found: Reconciliation;
  try {
    const stores = await openStores(config, logger, { observe: true });
    try {
      found = await reconcile({
        pool: stores.pool,
        source: stores.outbox,
        shards: config.shards,
        waitMs: options.waitMs,
        clock: systemClock,
      });
      // An operator is told more than a buyer.
      for (const { shard, reason } of stores.shards.fenced())
        for (const report of found.shards)
          if (report.shard === shard && report.unread !== null) report.unread = `it is fenced: ${reason}`;
    } finally {
      await stores.close();
    }
  } catch (error) {
    const message = `could not look: ${error instanceof Error ? error.message : String(error)}`;
    if (options.json) print(JSON.stringify({ error: message }));
    else process.stderr.write(`stampede: ${message}\n`);
    return 2;
  }
  const unread = found.shards.filter((shard) => shard.unread !== null);
  if (options.repair) {
    // The plan alone on standard output, so that it can be looked at, kept, and piped.
    for (const step of planRepair(found, options.repair)) print(JSON.stringify(step));
    process.stderr.write(`${reconciliationTable({ ...found, rows: found.rows.filter((row) => row.drift > 0) })}\n`);
  } else if (options.json) {
    print(JSON.stringify(found));
  } else {
    print('available / reserved / sold, as of each shard’s sequence:');
    print(reconciliationTable(found));
    for (const { shard, epoch, from, to, by } of found.losses)
      print(
        `Shard ${shard}, sequences ${from} to ${to} after epoch ${epoch}: may have been told to buyers, and are lost (${by === 'rebuild' ? 'a rebuild’s report' : 'by an engine that was not heard in time'}).`,
      );
    for (const shard of unread)
      print(styleText('red', `Shard ${shard.shard} was not compared: ${(shard.unread ?? '').replace(/\.$/, '')}.`));
    if (found.drift > 0) print(styleText('red', `Drift: ${found.drift} units.`));
    else if (unread.length === 0) print(styleText('green', 'Valkey and the ledger agree.'));
  }
  if (found.drift > 0) return 1;
  return unread.length > 0 ? 2 : 0;
}
