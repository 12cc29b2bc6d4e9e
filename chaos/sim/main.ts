/**
 * `npm run simulate -- --seeds 10000`: relay, ledger, epochs and rebuild in simulated worlds, on real functions of Valkey.
 * Ends with 1 if anything is not as it must be.
 */
import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import { createSaleView } from '../../cli/sale-view.ts';
import { wholeNumber } from '../whole-number.ts';
import type { WorkerOrder } from './worker.ts';
import type { SeedReport } from './world.ts';

const count = wholeNumber(1);

const options = new Command('simulate')
  .description(
    `Runs seeded worlds of engines, relays, ledger, sweepers and rebuilds in virtual time: the real code on a real Valkey,
with simulated time, network, Postgres and Kafka. Processes are killed and frozen, connections break, answers are lost,
Valkey and Kafka lose data. At the end of each world both sides must agree, and have what buyers were told.`,
  )
  .addOption(new Option('--seed <n>', 'one seed alone, with its whole trace on standard error').argParser(count))
  .addOption(new Option('--first <n>', 'the first of many').argParser(count).default(1))
  .addOption(new Option('--seeds <n>', 'how many').argParser(count).default(2_000))
  .addOption(new Option('--minutes <m>', 'begin no seed after so long').argParser(count))
  .addOption(
    new Option('--workers <n>', 'processes, each with a Valkey of its own')
      .argParser(count)
      .default(Math.max(1, availableParallelism() - 1)),
  )
  .addOption(new Option('--json', 'the report as one JSON object on the last line').default(false))
  .addHelpText(
    'after',
    `
Examples:
  npm run simulate -- --seeds 100000 --workers 2
  npm run simulate -- --seed 4711          replays a seed: the same events in the same order

Exit code 0: nothing was found. 1: something was; the seed, the finding, the end of its trace and the command that
replays it are printed. Seeds that are broken off with Ctrl-C count as not run.`,
  )
  .parse()
  .opts<{ seed?: number; first: number; seeds: number; minutes?: number; workers: number; json: boolean }>();

const first = options.seed ?? options.first;
const end = first + (options.seed ? 1 : options.seeds);
const workers = Math.min(options.workers, end - first);
const untilMs = options.minutes === undefined ? Number.MAX_SAFE_INTEGER : Date.now() + options.minutes * 60_000;
const startedMs = performance.now();

const totals = { seeds: 0, acknowledged: 0, events: 0, rebuilds: 0, virtualMs: 0 };
const faults: Record<string, number> = {};
const failed: Pick<SeedReport, 'seed' | 'findings' | 'trace' | 'digest'>[] = [];
let lastDigest = '';

const elapsed = (): number => (performance.now() - startedMs) / 1000;
const whole = (value: number): string => Math.round(value).toLocaleString('en');
const replay = (seed: number): string => `npm run simulate -- --seed ${seed}`;

function take(report: SeedReport): void {
  totals.seeds++;
  for (const key of ['acknowledged', 'events', 'rebuilds', 'virtualMs'] as const) totals[key] += report[key];
  for (const [kind, times] of Object.entries(report.faults)) faults[kind] = (faults[kind] ?? 0) + times;
  lastDigest = report.digest;
  if (report.findings.length === 0) return;
  const { seed, findings, trace, digest } = report;
  failed.push({ seed, findings, trace, digest });
  const lines = [
    ...trace.slice(-40).map((line) => `  ${line}`),
    ...findings.map((one) => `${one.invariant}: ${one.detail}`),
  ];
  process.stderr.write(`seed ${seed} failed\n${lines.join('\n')}\nAgain: ${replay(seed)}\n`);
}

const progress = (): string =>
  `${whole(totals.seeds)} seeds, ${whole((totals.seeds / elapsed()) * 60)} a minute, ${failed.length} with findings`;

async function runAlone(seed: number): Promise<void> {
  const { runSeeds } = await import('./run.ts');
  let left = 1;
  await runSeeds(
    () => (left-- > 0 ? seed : null),
    (report) => {
      process.stderr.write(`${report.trace.join('\n')}\n`);
      take(report);
    },
  );
}

function runWorker(number: number): Promise<void> {
  const child = fork(join(import.meta.dirname, 'worker.ts'), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const order: WorkerOrder = { first: first + number, step: workers, end, untilMs };
  child.send(order);
  child.on('message', (report: SeedReport) => take(report));
  return new Promise((resolve, reject) => {
    child.on('exit', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`a worker ended with ${signal ?? code}`));
    });
  });
}

const view = createSaleView(process.stderr);
const showing = setInterval(() => view.detail(progress()), 500);
view.step(options.seed === undefined ? `${whole(end - first)} seeds from ${first} on` : `seed ${options.seed}`);
try {
  if (options.seed === undefined) await Promise.all(Array.from({ length: workers }, (_, number) => runWorker(number)));
  else await runAlone(options.seed);
  view.stepDone(progress());
} finally {
  clearInterval(showing);
  view.close();
}

const seconds = elapsed();
const struck = Object.entries(faults).sort(([, a], [, b]) => b - a);
const report = {
  ...{ first, seeds: totals.seeds, failed: failed.map(({ seed, findings }) => ({ seed, findings })), seconds, workers },
  ...{ seedsPerMinute: (totals.seeds / seconds) * 60, virtualHours: totals.virtualMs / 3_600_000 },
  ...{ acknowledged: totals.acknowledged, events: totals.events, rebuilds: totals.rebuilds },
  faults: Object.fromEntries(struck),
  ...(options.seed === undefined ? {} : { digest: lastDigest }),
};
const table = new Table({
  head: ['what struck', 'times'],
  style: { head: [], border: [] },
  colAligns: ['left', 'right'],
});
for (const [kind, times] of struck) table.push([kind, whole(times)]);
const injected = struck.reduce((sum, [, times]) => sum + times, 0);
process.stdout.write(
  `${table.toString()}
${whole(totals.seeds)} seeds, ${whole(report.seedsPerMinute)} a minute with ${workers} workers; ${report.virtualHours.toFixed(1)} hours of virtual time
${whole(injected)} faults; ${whole(totals.rebuilds)} rebuilds; ${whole(totals.events)} events in the ledgers
${whole(totals.acknowledged)} answers to buyers checked
${options.seed === undefined ? '' : `digest of its trace: ${lastDigest}\n`}${failed.length === 0 ? 'nothing found' : `FOUND in ${failed.length}: ${failed.map(({ seed }) => replay(seed)).join('; ')}`}
`,
);
if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
process.exitCode = failed.length === 0 ? 0 : 1;
