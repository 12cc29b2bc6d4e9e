import { Pool } from 'pg';
import type { Logger } from '../kernel/logger.ts';

/** Connections to the ledger's Postgres; every statement has a time limit. */
export function createPool(databaseUrl: string, logger: Logger, connections = 8): Pool {
  const pool = new Pool({
    connectionString: databaseUrl,
    max: connections,
    connectionTimeoutMillis: 3_000,
    idleTimeoutMillis: 30_000,
    statement_timeout: 30_000,
    query_timeout: 35_000,
    idle_in_transaction_session_timeout: 30_000,
    application_name: 'stampede',
    // An answer's promise is the disk's: never less, whatever the server's default.
    options: '-c synchronous_commit=on',
  });
  pool.on('error', (error) => logger.warn({ error: error.message }, 'an idle connection to Postgres broke'));
  // A client that is in use reports a broken connection by itself too; its query is rejected all the same.
  pool.on('connect', (client) => client.on('error', () => {}));
  return pool;
}
