/** One run: a bed, a crowd, a fault that strikes it, and then every checker. A seed gives the same plan again. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { Pool } from 'pg';
import { adminToken } from '../cli/testbed.ts';
import { runCommand } from '../cli/testbed-command.ts';
import { systemClock } from '../kernel/clock.ts';
import { shardKey } from '../kernel/ids.ts';
import { type Bed, shards, startBed } from './bed.ts';
import { copyTree } from './broken-tree.ts';
import { type Control, controls } from './controls.ts';
import { type Crowd, nowMs, startCrowd } from './crowd.ts';
import { type Evidence, gatherEvidence, salesOf } from './evidence.ts';
import type { Prepared } from './faults/fault.ts';
import { faults } from './faults.ts';
import type { Finding, History, SaleRules } from './history.ts';
import { createRandom } from './random.ts';
import { type Checked, check, type Fates } from './verdict.ts';

export type RunOptions = {
  seed: number;
  fault: string;
  /** Where the run's data are, and afterwards what it leaves. Made; removed again when all is well. */
  folder: string;
  /** A negative control: the run is made with a copy of this repository that is broken so, and is short. */
  control?: string;
};

export type Strike = { what: string; atMs: number; inFlight: number };

export type RunResult = {
  seed: number;
  fault: string;
  /** The negative control that it was made with, or null. */
  control: string | null;
  /** Checker -> what it found; only those that found something. */
  findings: Record<string, Finding[]>;
  strikes: Strike[];
  /** Whether one strike at least met a hundred calls in flight: else the run says little. */
  counts: boolean;
  bed: { transport: string; durability: string; replica: boolean };
  checked: Checked;
  outcomes: Record<string, number>;
  drainedSeconds: number | null;
  seconds: number;
};

const warmUpCalls = 300;
const afterCalls = 200;
/** How long there is load, how often it strikes at the most, how long things may take to go on, and to come to their end. */
const whole = { liveMs: 7_000, strikesMax: 3, resumeMs: 60_000, drainMs: 60_000 };
const brief = { liveMs: 2_000, strikesMax: 2, resumeMs: 6_000, drainMs: 6_000 };
type Pace = typeof whole;
export const inFlightMin = 100;

/** What the seed chooses: the layout, the transport, the durability. */
function planOf(seed: number, prepared: Prepared, control: Control | null) {
  const random = createRandom(seed);
  // A control shows one thing, in the plainest of layouts.
  const wanted = {
    ...prepared.bed,
    ...(control ? { replica: false, transport: 'direct' as const, ...control.bed } : {}),
  };
  const replica = wanted.replica ?? random.chance(0.2);
  const transport = wanted.transport ?? (random.chance(0.3) ? 'kafka' : 'direct');
  const drawn = random.pick(replica ? (['fsync', 'replicated'] as const) : (['fsync', 'fsync', 'memory'] as const));
  const durability: SaleRules['durability'] = control ? 'fsync' : (prepared.durability ?? drawn);
  return { random, bed: { ...wanted, replica, transport }, durability };
}

function controlOf(name: string): Control {
  const control = controls[name];
  if (!control) throw new Error(`there is no control ${name}: ${Object.keys(controls).join(', ')}`);
  return control;
}

export async function oneRun(options: RunOptions): Promise<RunResult> {
  const { seed, folder } = options;
  const startedMs = performance.now();
  const fault = faults[options.fault];
  if (!fault) throw new Error(`there is no fault ${options.fault}: ${Object.keys(faults).join(', ')}`);
  mkdirSync(folder, { recursive: true });
  const prepared = await fault.prepare(folder);
  const control = options.control === undefined ? null : controlOf(options.control);
  const pace = control ? brief : whole;
  const { random, bed: wanted, durability } = planOf(seed, prepared, control);
  const tree = control ? { tree: copyTree(join(folder, 'broken'), control.changes) } : {};
  const bed = await startBed({ folder, ...wanted, ...tree });
  const strikes: Strike[] = [];
  const fates: Fates = {
    mayLose: fault.mayLose === true,
    mayReport: prepared.mayReport === true,
    wentBackMs: [],
    stuck: [],
    crashed: bed.crashed,
  };
  let crowd: Crowd | null = null;
  let result: RunResult;
  try {
    crowd = await startCrowd({ engines: bed.engines, durability, random: random.fork() });
    await strikeIt(prepared, { bed, crowd, random }, strikes, fates, pace);
    await crowd.stop();
    const drainedSeconds = await drain(bed, fates, pace);
    const pool = new Pool({ connectionString: bed.service('postgres').url });
    let evidence: Evidence;
    try {
      const broker = bed.has('kafka') ? bed.service('kafka').url : null;
      evidence = await gatherEvidence(pool, await primaryUrl(bed), broker, shards);
    } finally {
      await pool.end();
    }
    const history: History = {
      sales: salesOf(crowd.sales, evidence),
      operations: crowd.operations,
      facts: evidence.facts,
    };
    const { findings, checked } = check(history, crowd.sales, evidence, fates, crowd.outcomes());
    result = {
      ...{
        seed,
        fault: options.fault,
        control: options.control ?? null,
        findings,
        strikes,
        checked,
        drainedSeconds,
        outcomes: crowd.outcomes(),
      },
      counts: options.fault !== 'calm' && strikes.some(({ inFlight }) => inFlight >= inFlightMin),
      bed: { transport: wanted.transport, durability, replica: wanted.replica },
      seconds: (performance.now() - startedMs) / 1000,
    };
    if (Object.keys(findings).length > 0) leave(folder, bed, { result, history, evidence });
  } catch (error) {
    await crowd?.stop();
    leave(folder, bed, { error: String(error), strikes, operations: crowd?.operations });
    throw error;
  } finally {
    await bed.stop();
    for (const data of ['valkey', 'ledger', 'broken']) rmSync(join(folder, data), { recursive: true, force: true });
  }
  if (Object.keys(result.findings).length === 0) rmSync(folder, { recursive: true });
  return result;
}

async function strikeIt(
  prepared: Prepared,
  scene: { bed: Bed; crowd: Crowd; random: ReturnType<typeof createRandom> },
  strikes: Strike[],
  fates: Fates,
  { liveMs, strikesMax, resumeMs }: Pace,
): Promise<void> {
  const { crowd, random } = scene;
  const most = prepared.once ? 1 : strikesMax;
  try {
    await crowd.more(warmUpCalls, resumeMs);
    for (const fromMs = nowMs(); strikes.length === 0 || (nowMs() - fromMs < liveMs && strikes.length < most); ) {
      await systemClock.wait(random.int(0, 300));
      await prepared.strike({
        ...scene,
        first: strikes.length === 0,
        struck: (what) => strikes.push({ what, atMs: nowMs(), inFlight: crowd.inFlight() }),
        wentBack: () => {
          fates.wentBackMs.push(nowMs());
        },
      });
      // It is over, so selling goes on.
      await crowd.more(afterCalls, resumeMs);
    }
  } catch (error) {
    fates.stuck.push(`after ${strikes.at(-1)?.what ?? 'the start'}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Waits until every hold that has ended is on sale again, and the ledger has all; answers how long that took. */
async function drain(bed: Bed, fates: Fates, { drainMs }: Pace): Promise<number | null> {
  const fromMs = Date.now();
  let reserved = 'nothing answers';
  for (;;) {
    reserved = await reservedNow(bed.engines()).catch((error) => String(error));
    if (reserved === '') break;
    if (Date.now() - fromMs > drainMs) {
      fates.stuck.push(`${drainMs / 1000} s after the last call: ${reserved}`);
      break;
    }
    await systemClock.wait(100);
  }
  const command = runCommand(['reconcile', '--json', '--wait', String(drainMs / 2)], bed.env);
  const code = await command.ended;
  if (code !== 0)
    fates.stuck.push(`reconcile ends with ${code}: ${command.stdout().slice(-1_500)}${command.stderr().slice(-500)}`);
  return fates.stuck.length === 0 ? (Date.now() - fromMs) / 1000 : null;
}

/** Holds that have not come back, in words; '' when there are none. */
async function reservedNow(engines: string[]): Promise<string> {
  const left: string[] = [];
  for (const saleId of ['drop', 'last']) {
    const answer = await fetch(`${engines[0]}/v1/sales/${saleId}`, {
      headers: { authorization: `Bearer ${adminToken}` },
      signal: AbortSignal.timeout(5_000),
    });
    const body = (await answer.json()) as { stock?: { sku: string; warehouse: string; reserved: number }[] };
    if (!body.stock) return `${saleId} answers ${answer.status} ${JSON.stringify(body).slice(0, 300)}`;
    for (const { sku, warehouse, reserved } of body.stock)
      if (reserved > 0) left.push(`${reserved} of ${saleId}/${sku}/${warehouse} are reserved`);
  }
  return left.join(', ');
}

/** Of a primary and a replica the one that is at the later epoch; the primary when they are alike. */
async function primaryUrl(bed: Bed): Promise<string> {
  let best = { url: bed.service('valkey').url, epoch: -1 };
  for (const store of ['valkey', 'replica'] as const) {
    if (!bed.has(store)) continue;
    const { url } = bed.service(store);
    const redis = new Redis(url, { maxRetriesPerRequest: 1, retryStrategy: () => null });
    redis.on('error', () => undefined);
    const epoch = Number(await redis.hget(shardKey(0), 'epoch').catch(() => -1));
    redis.disconnect();
    if (epoch > best.epoch) best = { url, epoch };
  }
  return best.url;
}

const legend = `What a run of \`npm run chaos\` has left, because something was wrong in it.

result.json    what each checker found, when the fault struck, and how the run was laid out
history.json   sales; operations: every call of every client, what was asked when, what was answered when
               (null: nobody knows what came of it); facts: what the ledger says happened, by shard and sequence
evidence.json  what the stores had at the end: the ledger's batches, shards, balances, entries, rebuilds (losses),
               what was set apart, the outboxes, Kafka's topic
error.json     in the place of these three, when the run broke off
logs/          what each process said, in the order in which they were started

Times are Unix milliseconds: of the clients' clock in operations, of the shard's in facts. A reservation's id names its
shard and sequence. docs/explanation/how-it-is-tested.md says what each checker looks for.
`;

/** What a person needs to see what went wrong, in one folder. */
function leave(folder: string, bed: Bed, content: Record<string, unknown>): void {
  writeFileSync(join(folder, 'README.txt'), legend);
  for (const [name, value] of Object.entries(content))
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(value, null, 1));
  bed.writeLogs(join(folder, 'logs'));
}
