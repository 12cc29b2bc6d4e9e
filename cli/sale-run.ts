/** The course of a `stampede sale`: services, engine, crowd, the sale itself, the ledger's end, the verdict. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Crowd, gatherCrowd } from '../bench/crowd.ts';
import { type CrowdResult, nowMs } from '../bench/tally.ts';
import type { Durability } from '../engine/durability.ts';
import { readConfig } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { startServices, type ValkeyLayout, valkeyLayouts, valkeyUrlOf } from '../services/services.ts';
import { startEngineProcess } from './sale-engine.ts';
import { openSaleLedger, type SaleLedger } from './sale-ledger.ts';
import { judge, type Verdict } from './sale-verdict.ts';
import type { SaleView } from './sale-view.ts';
import { watchLive } from './sale-watch.ts';

export type SaleOptions = {
  units: number;
  buyers: number;
  /** Seconds that a unit is held. */
  hold: number;
  /** How many of the holds are bought, 0 to 1. */
  commitRate: number;
  warehouses: number;
  workers: number;
  transport: 'auto' | 'direct' | 'kafka';
  /** How Valkey is laid out, unless VALKEY_URL names one. */
  valkey: ValkeyLayout;
  durability: Durability;
  seed: number;
  /** Seconds for all of it. */
  timeout: number;
};

/** Where a run leaves word of what has to be stopped. `add` rejects when all is being stopped already. */
export type Stops = { add(stop: () => unknown): Promise<void> };

export type SaleRun = { saleId: string; verdict: Verdict; crowd: CrowdResult };

/** The sale was begun and could not be brought to its end: a sentence says why. */
export class SaleFailed extends Error {}

const sku = 'stampede-tee';
const opensInMs = 3_000;
const callLimitMs = 10_000;
const lookEveryMs = 100;
/** What is kept of the time for what comes after the crowd: the end of its holds, the ledger, the comparison. */
const afterCrowdMs = 60_000;
const buyersPerProcess = 5_000;

const number = new Intl.NumberFormat('en').format;
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The engine's processes need a file for each socket. */
function checkOpenFiles({ buyers, workers }: SaleOptions): void {
  // Without the network's part, which may ask for names and take long.
  Object.assign(process.report, { excludeNetwork: true });
  const { userLimits } = process.report.getReport() as { userLimits?: { open_files?: { soft: number | string } } };
  const allowed = Number(userLimits?.open_files?.soft);
  // A tenth more: for those who click twice, and for those who hung up a moment ago.
  const needed = Math.ceil((buyers / workers) * 1.1) + 300;
  if (needed > allowed)
    throw new SetupError(
      'too-few-files',
      `${number(buyers)} buyers need ${number(needed)} open files in each engine process, and ${number(allowed)} are allowed: give more --workers, or raise ulimit -n`,
    );
}

function splitUnits(units: number, warehouses: number): { sku: string; warehouse: string; quantity: number }[] {
  return Array.from({ length: warehouses }, (_, i) => ({
    sku,
    warehouse: `warehouse-${i + 1}`,
    quantity: Math.floor(units / warehouses) + (i < units % warehouses ? 1 : 0),
  }));
}

async function put(url: string, token: string, saleId: string, body: object): Promise<void> {
  const response = await fetch(new URL(`/v1/admin/sales/${saleId}`, url), {
    method: 'PUT',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(callLimitMs),
  });
  const text = await response.text();
  if (!response.ok) throw new SetupError('sale-refused', `the sale could not be made: ${response.status} ${text}`);
}

/** Waits until no unit is held any more, `waitMs` at the most. */
async function holdsEnded(url: string, saleId: string, waitMs: number): Promise<void> {
  for (const untilMs = nowMs() + waitMs; nowMs() < untilMs; await wait(lookEveryMs)) {
    const response = await fetch(new URL(`/v1/sales/${saleId}`, url), { signal: AbortSignal.timeout(callLimitMs) });
    const { stock } = (await response.json()) as { stock?: { reserved: number }[] };
    if (stock?.every(({ reserved }) => reserved === 0)) return;
  }
}

/** Calls `look` now and then until the work is done. */
async function meanwhile<T>(work: Promise<T>, look: () => void): Promise<T> {
  const looking = setInterval(look, lookEveryMs);
  try {
    return await work;
  } finally {
    clearInterval(looking);
  }
}

/** Starts the services that aren't given, and answers the environment that the engine needs to use them. */
async function openServices(options: SaleOptions, view: SaleView, stops: Stops, folder: string) {
  const kafka = options.transport === 'kafka' || (options.transport === 'auto' && Boolean(process.env.KAFKA_BROKERS));
  const names = [...valkeyLayouts[options.valkey], 'postgres' as const, ...(kafka ? (['kafka'] as const) : [])];
  view.step('Services');
  const startedMs = nowMs();
  const set = await startServices({ names, dataDir: folder, removeDataDir: true, onProgress: view.detail });
  await stops.add(() => set.stop());
  const { valkey, postgres, kafka: broker } = set.services;
  const shown = Object.values(set.services).map(({ name, version, source }) =>
    source === 'environment' ? `${name} (yours)` : `${name} ${version}`,
  );
  view.stepDone(`Services: ${shown.join(', ')} (${elapsed(startedMs)})`);
  return {
    transport: kafka ? ('kafka' as const) : ('direct' as const),
    env: {
      ...process.env,
      VALKEY_URL:
        options.valkey === 'single' && valkey?.socketPath ? `unix://${valkey.socketPath}` : valkeyUrlOf(set.services),
      DATABASE_URL: postgres?.url,
      KAFKA_BROKERS: broker?.url ?? '',
      RATE_LIMITS: 'off',
      LOG_LEVEL: process.env.LOG_LEVEL ?? 'warn',
      ADMIN_TOKEN: randomBytes(24).toString('base64url'),
      SESSION_SECRET: randomBytes(32).toString('base64url'),
    },
  };
}

const elapsed = (fromMs: number): string => `${((nowMs() - fromMs) / 1_000).toFixed(1)} s`;

/**
 * Runs a sale to its verdict; what it starts is left to `stops`. Throws a SetupError when there can be no sale, and
 * a SaleFailed when the engine or the crowd ends in the middle of it.
 */
export async function runSale(options: SaleOptions, view: SaleView, stops: Stops): Promise<SaleRun> {
  const { units, buyers, hold: holdSeconds, commitRate, seed } = options;
  const deadlineMs = nowMs() + options.timeout * 1_000;
  checkOpenFiles(options);
  const folder = mkdtempSync(join(tmpdir(), 'stampede-sale-'));
  const { env, transport } = await openServices(options, view, stops, folder);

  view.step('Engine');
  const startedMs = nowMs();
  const engine = await startEngineProcess({
    args: ['--host', '127.0.0.1', '--port', '0', '--workers', String(options.workers), '--transport', transport],
    env,
    logPath: join(folder, 'engine.log'),
  });
  await stops.add(() => engine.stop());
  const died = engine.died.then((reason) => {
    throw new SaleFailed(reason);
  });
  died.catch(() => undefined);
  view.stepDone(`Engine: ${engine.url} (${elapsed(startedMs)})`);
  const { url } = engine;
  const ledger = await openSaleLedger(readConfig({ ...env, STAMPEDE_MODE: 'development' }, { transport }));
  await stops.add(() => ledger.close());

  const saleId = `sale-${Date.now().toString(36)}`;
  const rules = { title: `${number(units)} units`, perBuyer: 1, holdSeconds, durability: options.durability };
  const far = new Date(Date.now() + 86_400_000).toISOString();
  const stock = splitUnits(units, options.warehouses);
  await put(url, env.ADMIN_TOKEN, saleId, { ...rules, opensAt: far, stock });

  const processes = Math.max(2, Math.ceil(buyers / buyersPerProcess));
  const crowd = gatherCrowd({ url, saleId, sku, buyers, holdSeconds, commitRate, seed, processes });
  await stops.add(() => crowd.stop());
  await Promise.race([gatherThem(crowd, buyers, view), died]);

  const opensAtMs = Date.now() + opensInMs;
  await put(url, env.ADMIN_TOKEN, saleId, { ...rules, opensAt: new Date(opensAtMs).toISOString() });
  const live = watchLive(url, saleId);
  await stops.add(() => live.stop());
  const look = (): void =>
    view.moment({ seconds: (nowMs() - opensAtMs) / 1_000, units, buyers, counts: crowd.counts(), seen: live.seen() });
  const rush = crowd.rush(opensAtMs, Math.max(opensAtMs + 1_000, deadlineMs - afterCrowdMs)).catch((error: Error) => {
    throw new SaleFailed(error.message);
  });
  const result = await Promise.race([meanwhile(rush, look), died]);

  const end = meanwhile(endOf({ url, saleId, ledger, holdSeconds, lastAnswerAtMs: result.lastAnswerAtMs }), look);
  const verdict = judge({
    saleId,
    units,
    buyers,
    transport,
    opensAtMs,
    crowd: result,
    ...(await Promise.race([end, died])),
  });
  return { saleId, verdict, crowd: result };
}

async function gatherThem(crowd: Crowd, buyers: number, view: SaleView): Promise<void> {
  const startedMs = nowMs();
  view.step('Crowd');
  const look = (): void =>
    view.detail(`${number(crowd.arrived())} of ${number(buyers)} buyers have a connection and a session`);
  try {
    await meanwhile(crowd.gathered, look);
  } catch (error) {
    throw new SetupError('no-crowd', `the crowd could not be gathered: ${(error as Error).message}`);
  }
  view.stepDone(`Crowd: ${number(buyers)} buyers, each with a connection and a session (${elapsed(startedMs)})`);
}

/** After the crowd: the ledger gets level, the last holds end, and all is compared. */
async function endOf(sale: {
  url: string;
  saleId: string;
  ledger: SaleLedger;
  holdSeconds: number;
  lastAnswerAtMs: number;
}) {
  const { ledger, saleId } = sale;
  const level = await ledger.level(afterCrowdMs / 2);
  const ledgerLagMs = level ? Math.max(0, nowMs() - sale.lastAnswerAtMs) : null;
  await holdsEnded(sale.url, saleId, sale.holdSeconds * 1_000 + afterCrowdMs / 4);
  const reconciliation = await ledger.reconcile(afterCrowdMs / 2);
  return { ledgerLagMs, reconciliation, committed: await ledger.committed(saleId) };
}
