import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sendSignal } from './children.ts';
import { runCommand } from './commands.ts';
import type { ServiceName } from './recipe.ts';

/** A service that answers. */
export type RunningService = {
  name: ServiceName;
  /** `redis://…`, `postgres://…/stampede`, or for Kafka `host:port`. */
  url: string;
  source: 'environment' | 'path' | 'registry' | 'compose';
  /** Null where the process isn't ours: from the environment or Compose. */
  pid: number | null;
  /** The service's own folder: data, log, and what it needs to start again. */
  dataDir: string | null;
  /** Valkey's Unix socket, where the folder's name is short enough for one. */
  socketPath?: string;
  /** `unknown` from the environment. */
  version: string;
};

/** What a service's folder remembers of its last start. */
export type ServiceRecord = RunningService & {
  /** With the pid, this names one process for ever: pids are used again. */
  processStart: string | null;
  ports: number[];
};

const FILE = 'service.json';

/** Replaces the folder's record; only its owner can read it, since URLs carry passwords. */
export function writeRecord(folder: string, record: ServiceRecord): void {
  const draft = join(folder, `${FILE}.new`);
  writeFileSync(draft, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  renameSync(draft, join(folder, FILE));
}

/** The folder's record; null when there is none, or none that can be read. */
export function readRecord(folder: string): ServiceRecord | null {
  try {
    return JSON.parse(readFileSync(join(folder, FILE), 'utf8')) as ServiceRecord;
  } catch {
    return null;
  }
}

/** Whether the very process that the record names still runs. */
export async function isAlive(record: Pick<ServiceRecord, 'pid' | 'processStart'>): Promise<boolean> {
  if (record.pid === null || record.processStart === null) return false;
  return (await processStart(record.pid)) === record.processStart;
}

/** When a process started, in the system's own notation; null when it is gone. */
export async function processStart(pid: number): Promise<string | null> {
  if (process.platform !== 'linux') {
    if (!sendSignal(pid, 0)) return null;
    const { output } = await runCommand(['ps', '-o', 'lstart=', '-p', String(pid)], {
      env: process.env,
      timeoutMs: 10_000,
    });
    return output.trim() || null;
  }
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in brackets may hold spaces; what follows it is the state, and 19 fields on the start in clock ticks.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? null : (fields[19] ?? null);
  } catch {
    return null;
  }
}
