/**
 * `npm run fuzz`: bytes that are nearly HTTP, nearly WebSocket, and requests out of the OpenAPI document, against a live
 * engine on real stores. Ends with 1 if anything is not as it must be, and says how to do it again.
 */
import Table from 'cli-table3';
import { Command, InvalidArgumentError, Option } from 'commander';
import { wholeNumber } from '../whole-number.ts';
import { httpFuzzer } from './http-fuzzer.ts';
import type { Finding } from './report.ts';
import { type Fuzzer, type FuzzReport, runRounds } from './rounds.ts';
import { missingForSchemathesis, runSchemathesis, type SchemathesisReport } from './schemathesis.ts';
import { saleId, sideId, startTarget } from './target.ts';
import { webSocketFuzzer } from './websocket-fuzzer.ts';

const parts = ['http', 'websocket', 'schemathesis'] as const;
const whole = wholeNumber(0);
const minutesOf = (text: string): number => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('a number above 0');
  return value;
};

const options = new Command('fuzz')
  .description(
    'Sends what is nearly right to a live engine, and looks: the process lives, every answer is one of the contract, and no\nunit moved but by a call that was answered with success (held against the ledger).',
  )
  .addOption(new Option('--seed <n>', 'the same seed makes the same cases').argParser(whole).default(1))
  .addOption(new Option('--from <n>', 'the first case of bytes').argParser(whole).default(0))
  .addOption(
    new Option('--cases <n>', 'cases of bytes, for HTTP and for WebSocket each').argParser(whole).default(20_000),
  )
  .addOption(
    new Option('--minutes <n>', 'at most, for each part; schemathesis takes all of it').argParser(minutesOf).default(5),
  )
  .addOption(new Option('--only <part>', 'one part').choices(parts))
  .addOption(new Option('--json', 'the report as one JSON object on the last line').default(false))
  .addHelpText(
    'after',
    `
The parts:
  http          requests of every call, with bytes, lengths, chunks, lines, headers and JSON changed, on raw sockets
  websocket     handshakes and frames of /v1/sales/{id}/live, likewise
  schemathesis  requests made out of /openapi.json, as a buyer and as the operator (needs python3 with pip)

Examples:
  npm run fuzz
  npm run fuzz -- --only http --cases 300000 --minutes 60
  npm run fuzz -- --only http --seed 7 --from 4711 --cases 1     one case again

Exit codes: 0 nothing found, 1 something found, 2 it could not run.`,
  )
  .parse()
  .opts<{ seed: number; from: number; cases: number; minutes: number; only?: (typeof parts)[number]; json: boolean }>();

const number = new Intl.NumberFormat('en').format;
const sayEveryMs = 2_000;
let saidMs = performance.now();
const progress = (text: string): void => {
  if (performance.now() - saidMs < sayEveryMs) return;
  saidMs = performance.now();
  process.stderr.write(`${text}\n`);
};

const listOf = (counts: Record<string, number>): string =>
  Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${name} ${number(count)}`)
    .join(', ');

function linesOf(report: FuzzReport): string[] {
  const table = new Table({
    head: [report.name, 'cases'],
    style: { head: [], border: [] },
    colAligns: ['left', 'right'],
  });
  for (const [kind, count] of Object.entries(report.kinds).sort(([a], [b]) => a.localeCompare(b)))
    table.push([kind, number(count)]);
  return [
    table.toString(),
    `${number(report.cases)} cases in ${report.seconds.toFixed(0)} s, ${report.rounds} rounds, seed ${report.seed}`,
    `answers: ${listOf(report.answers)}`,
    `taken though RFC 9112 or 6455 forbids it: ${listOf(report.lenient) || 'none'}`,
    `${number(report.movements)} movements of units in the ledger, each explained by an answer, but ${number(report.untold)} by a request whose answer was lost with its connection`,
    `memory ${report.residentMb.first.toFixed(0)} to ${report.residentMb.last.toFixed(0)} MB, files ${report.files.first} to ${report.files.last}`,
  ];
}

const schemathesisLines = ({ version, passes }: SchemathesisReport): string[] => [
  `schemathesis ${version}: ${number(passes.reduce((sum, { cases }) => sum + cases, 0))} cases`,
  ...passes.map(
    ({ name, cases, operations, seconds }) =>
      `  as ${name}: ${number(cases)} cases of ${operations} operations in ${seconds.toFixed(0)} s`,
  ),
];

const print = (text: string): boolean => process.stdout.write(`${text}\n`);
const isWanted = (part: (typeof parts)[number]): boolean => (options.only ?? part) === part;
const findings: Finding[] = [];
const reports: Record<string, unknown> = {};
try {
  progress('starting Valkey, Postgres and an engine');
  const target = await startTarget();
  try {
    for (const fuzzer of [httpFuzzer, webSocketFuzzer] satisfies Fuzzer[]) {
      if (!isWanted(fuzzer.name as 'http' | 'websocket')) continue;
      const report = await runRounds(target, fuzzer, { ...options, progress });
      for (const line of linesOf(report)) print(line);
      findings.push(...report.findings);
      reports[fuzzer.name] = report;
    }
    const missing = isWanted('schemathesis') ? await missingForSchemathesis(process.env) : '';
    if (isWanted('schemathesis') && missing !== '') print(`schemathesis: skipped, ${missing}`);
    else if (isWanted('schemathesis')) {
      const [buyerToken = ''] = target.buyerOf.keys();
      const sales = { buyers: [saleId], operators: [sideId], skus: ['a', 'b', 'c'], warehouses: ['w'] };
      const { url, adminToken } = target;
      const seconds = options.minutes * 60;
      const report = await runSchemathesis(
        { url, adminToken, buyerToken, sales },
        { seed: options.seed, seconds, env: process.env, progress },
      );
      for (const line of schemathesisLines(report)) print(line);
      findings.push(...report.findings);
      reports.schemathesis = report;
    }
  } finally {
    await target.stop();
  }
  for (const { kind, what, bytes, replay } of findings)
    print(`\nFOUND ${kind}: ${what}${bytes ? `\n  sent: ${bytes}` : ''}${replay ? `\n  again: ${replay}` : ''}`);
  print(findings.length === 0 ? 'Nothing found.' : `\n${findings.length} findings.`);
  if (options.json) print(JSON.stringify({ reports, findings: findings.length }));
  process.exitCode = findings.length === 0 ? 0 : 1;
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
}
