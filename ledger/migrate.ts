/** Numbered SQL files, applied once each, in order, in a transaction each. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Pool } from 'pg';
import { SetupError } from '../kernel/errors.ts';

export type Migration = { name: string; sql: string; digest: string };

export function readMigrations(): Migration[] {
  const folder = join(import.meta.dirname, 'migrations');
  return readdirSync(folder)
    .filter((name) => name.endsWith('.sql'))
    .sort()
    .map((name) => {
      const sql = readFileSync(join(folder, name), 'utf8');
      return { name, sql, digest: createHash('sha256').update(sql).digest('hex') };
    });
}

/**
 * Applies what is missing; answers the names of what was applied. Several processes may do it at once. Throws a
 * SetupError when a migration that was applied has been edited since.
 */
export async function migrate(pool: Pool): Promise<string[]> {
  const client = await pool.connect();
  const applied: string[] = [];
  try {
    await client.query("select pg_advisory_lock(hashtext('stampede.migrations'))");
    await client.query('create schema if not exists ledger');
    await client.query(
      'create table if not exists ledger.migration (name text primary key, digest text not null, at timestamptz not null default now())',
    );
    const { rows } = await client.query<{ name: string; digest: string }>('select name, digest from ledger.migration');
    const known = new Map(rows.map((row) => [row.name, row.digest]));
    for (const migration of readMigrations()) {
      const digest = known.get(migration.name);
      if (digest === migration.digest) continue;
      if (digest !== undefined)
        throw new SetupError(
          'edited-migration',
          `the migration ${migration.name} was edited after it was applied: write a new one instead`,
        );
      await client.query('begin');
      try {
        await client.query(migration.sql);
        await client.query('insert into ledger.migration (name, digest) values ($1, $2)', [
          migration.name,
          migration.digest,
        ]);
        await client.query('commit');
      } catch (error) {
        await client.query('rollback');
        throw error;
      }
      applied.push(migration.name);
    }
  } finally {
    await client.query("select pg_advisory_unlock(hashtext('stampede.migrations'))").catch(() => undefined);
    client.release();
  }
  return applied;
}
