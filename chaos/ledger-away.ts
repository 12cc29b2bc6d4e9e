/**
 * `npm run ledger-away -- --events 2000000`: Postgres (or Kafka) is away under full load until the outbox is full, and comes
 * back. Real servers in a temporary folder. Prints what grew, what was refused and what went on; ends with 1 if anything
 * is not as it must be.
 */
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import { createSaleView } from '../cli/sale-view.ts';
import { limits } from '../kernel/limits.ts';
import { type AwayOptions, type AwayReport, runLedgerAway, wrongsOf } from './ledger-away-run.ts';
import { wholeNumber } from './whole-number.ts';

const options = new Command('ledger-away')
  .description('Postgres or Kafka away under full load: what the outbox, Valkey’s memory and its log do')
  .addOption(
    new Option('--events <n>', 'that the outbox may have; it is filled').argParser(wholeNumber(2_000)).default(200_000),
  )
  .addOption(new Option('--away <server>', 'which goes away').choices(['postgres', 'kafka']).default('postgres'))
  .addOption(
    new Option('--churn <n>', 'events of a load that goes on beside the ledger').argParser(wholeNumber(0)).default(0),
  )
  .addOption(
    new Option(
      '--remember <seconds>',
      `how long ended reservations are remembered (default ${limits.rememberSeconds}; with --churn 5)`,
    ).argParser(wholeNumber(1)),
  )
  .addOption(new Option('--json', 'the report as one JSON object on the last line').default(false))
  .parse()
  .opts<{ events: number; away: AwayOptions['away']; churn: number; remember?: number; json: boolean }>();

const whole = (value: number): string => Math.round(value).toLocaleString('en');
const mb = (bytes: number): string => (bytes / 1e6).toFixed(1);

function tableOf({ phases }: AwayReport): string {
  const table = new Table({
    head: ['', 'seconds', 'events', 'a second', 'wait', 'memory, MB', 'outbox, MB', 'log, MB', 'rewrites'],
    style: { head: [], border: [] },
    colAligns: ['left', ...Array<'right'>(8).fill('right')],
  });
  for (const { name, seconds, events, waiting, outboxBytes, gauges } of phases)
    table.push([
      ...[name, seconds.toFixed(1), whole(events), seconds < 0.1 ? '' : whole(events / seconds), whole(waiting)],
      ...[mb(gauges.usedMemoryBytes), mb(outboxBytes), mb(gauges.logBytes), gauges.logRewrites],
    ]);
  return table.toString();
}

function linesOf(report: AwayReport): string[] {
  const { most, endings, reserve } = report;
  return [
    `${whole(report.reservations)} reservations; ${report.bytesPerEvent.toFixed(0)} bytes of Valkey’s memory an event, reservations included`,
    `outbox full: ${Object.entries(report.whenFull)
      .map(([name, code]) => `${name} ${code}`)
      .join(', ')}`,
    `${whole(endings.ended)} of ${whole(endings.holds)} holds ended by calls, ${whole(endings.lapsing)} by the sweep; then ${whole(report.mostWaiting)} of ${whole(report.limit)} events waited`,
    `a new hold: ${reserve.full} with the outbox full, ${reserve.after} once the ledger was level`,
    ...(report.bytesPerPurchase === null
      ? []
      : [
          `a purchase that is forgotten leaves ${report.bytesPerPurchase.toFixed(0)} bytes in Valkey: its buyer’s count`,
        ]),
    `at most: ${mb(most.usedMemoryBytes)} of ${mb(report.maxmemoryBytes)} MB of memory (${mb(most.residentBytes)} resident), ${mb(most.copiedBytes)} MB copied by a rewrite, ${mb(most.clientsBytes)} MB for clients, ${mb(most.logBytes)} MB of log, ${mb(report.relayPeakBytes)} MB the relay’s process`,
  ];
}

const view = createSaleView(process.stderr);
const { events, away, churn, remember = churn > 0 ? 5 : limits.rememberSeconds } = options;
const report = await runLedgerAway({ events, away, churnEvents: churn, rememberSeconds: remember }, view).finally(() =>
  view.close(),
);
const wrongs = wrongsOf(report);
process.stdout.write(`${tableOf(report)}\n${linesOf(report).join('\n')}\n`);
process.stdout.write(wrongs.length === 0 ? 'Drift 0, nothing wrong.\n' : `Wrong: ${wrongs.join('; ')}\n`);
if (options.json) process.stdout.write(`${JSON.stringify({ ...report, wrongs })}\n`);
process.exitCode = wrongs.length === 0 ? 0 : 1;
