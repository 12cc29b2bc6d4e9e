/**
 * How long a rebuild takes: `npm run rebuild-time -- 10000 100000 1000000` (live reservations). Real Valkey and Postgres in a
 * temporary folder; reservations are made by the function that makes them, and carried to the ledger by the relay.
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Table from 'cli-table3';
import { openStores, rebuild, startProcess } from '../cli/compose.ts';
import { readConfig } from '../kernel/config.ts';
import { newBuyerId } from '../kernel/ids.ts';
import { createLogger } from '../kernel/logger.ts';
import { readWatermark } from '../ledger/postgres.ts';
import { putSaleCommand, reserveCommand, shardStatusCommand } from '../lua/bindings.ts';
import { saleArgs } from '../lua/testing.ts';
import { startServices } from '../services/services.ts';

const batch = 512;
const counts = process.argv.slice(2).map(Number);
if (counts.length === 0 || counts.some((count) => !Number.isInteger(count) || count < 1)) {
  process.stderr.write('How many live reservations? For instance: npm run rebuild-time -- 10000 100000 1000000\n');
  process.exit(2);
}
const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};
const settings = {
  ...{ id: 'sale', title: 'Rebuild', opensAt: null, closesAt: null, perBuyer: 1, holdSeconds: 86_400 },
  ...{ extendSeconds: 300, extensions: 1, durability: 'fsync', waitingRoom: null },
};
const table = new Table({
  head: ['live reservations', 'rebuild, s', 'a second'],
  style: { head: [], border: [] },
  colAligns: ['right', 'right', 'right'],
});

for (const count of counts) {
  const services = await startServices({
    names: ['valkey', 'postgres'],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-rebuild-time-')),
    removeDataDir: true,
    valkey: { maxmemoryBytes: 4 * 1024 ** 3 },
  });
  try {
    const { valkey, postgres } = services.services;
    const config = readConfig({
      VALKEY_URL: valkey?.socketPath ? `unix://${valkey.socketPath}` : String(valkey?.url),
      DATABASE_URL: String(postgres?.url),
      SHARDS: '1',
      STAMPEDE_MODE: 'development',
      LOG_LEVEL: 'silent',
    });
    const background = await startProcess(config, ['relay', 'ledger']);
    const logger = createLogger({ level: 'silent', name: 'stampede' });
    const stores = await openStores(config, logger);
    const { shards } = stores;
    const stock = { shoe: { east: count } };
    const sale = saleArgs({ stock, settings: JSON.stringify(settings), perBuyer: 1, holdMs: 86_400_000 });
    const { no } = await shards.call(0, putSaleCommand, sale);
    for (let made = 0; made < count; made += batch) {
      const size = Math.min(batch, count - made);
      const ids = (): string[] => Array.from({ length: size }, newBuyerId);
      const baskets = [{ sale: no, lines: [{ sku: 'shoe', quantity: 1 }] }];
      await shards.call(0, reserveCommand, {
        baskets,
        wanted: Array(size).fill(0),
        buyers: ids(),
        keys: ids(),
        tickets: [],
      });
      if (made % (batch * 400) === 0) say(`${made} of ${count} reserved …`);
    }
    const { seq, live } = await shards.call(0, shardStatusCommand, {});
    let shownMs = 0;
    for (;;) {
      const { watermark } = await readWatermark(stores.pool, 0);
      if (watermark === seq) break;
      if (Date.now() - shownMs > 2_000) say(`the ledger has ${watermark} of ${seq} …`);
      if (Date.now() - shownMs > 2_000) shownMs = Date.now();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await background.stop();
    const report = await rebuild(config, stores, 0, logger, {
      progress: (stage, reservations) => reservations % 100_000 === 0 && say(`${stage} ${reservations || ''} …`),
    });
    if (report.liveReservations !== count || live !== count)
      throw new Error(`made ${live} of ${count}, rebuilt ${report.liveReservations}`);
    table.push([count, report.seconds.toFixed(1), Math.round(count / report.seconds)]);
    await stores.close();
  } finally {
    await services.stop();
  }
}
process.stdout.write(`${table.toString()}\n`);
