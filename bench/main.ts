/** `npm run bench`: Stampede measured beside a server that does nothing and beside what others would have built. */
import { resolve } from 'node:path';
import { Argument, Command, Option } from 'commander';
import { type Run, tableOf, verdictOf, write } from './report.ts';
import type { Pace } from './scenario.ts';
import { scenarios } from './scenarios.ts';

const names = Object.keys(scenarios);
const command = new Command('bench')
  .description(
    'Measures this machine in one run: contenders take turns, and ratios count. Without a name: all scenarios.',
  )
  .addArgument(new Argument('[name...]', 'scenarios').choices(names))
  .addOption(new Option('--rounds <n>', 'that count; one more goes before, to warm up').argParser(Number).default(5))
  .addOption(new Option('--seconds <n>', 'of each turn').argParser(Number).default(5))
  .addOption(new Option('--quick', 'one short round: shows that all works, and measures nothing').default(false))
  .addOption(new Option('--out <folder>', 'where results are written').default('results/bench'))
  .addOption(new Option('--json', 'the run as one JSON object on the last line').default(false))
  .addHelpText(
    'after',
    `\n${names.map((name) => `  ${name.padEnd(16)} ${scenarios[name]?.about}`).join('\n')}\n
TIGERBEETLE_BIN names a TigerBeetle server to measure beside (docs/how-to/measure.md); without it that peer is left out.
Exit code: 0 all counts agree, 1 something is wrong with the run, or a goal is missed.`,
  )
  .parse();
const options = command.opts<{ rounds: number; seconds: number; quick: boolean; out: string; json: boolean }>();
const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

const pace: Pace = options.quick
  ? { rounds: 1, seconds: 1, quick: true }
  : { rounds: options.rounds, seconds: options.seconds, quick: false };
const runs: Run[] = [];
for (const name of command.args.length > 0 ? command.args : names) {
  const scenario = scenarios[name];
  if (!scenario) continue;
  say(`${name}: ${scenario.about}`);
  const report = await scenario.run(pace, (line) => say(`  ${line}`));
  runs.push({ name, report });
}
process.stdout.write(`${tableOf(runs)}\n`);
for (const { name, report } of runs) {
  process.stdout.write(`${name}: beside it ran ${report.beside}\n`);
  for (const line of report.skipped) process.stdout.write(`${name}: SKIPPED ${line}\n`);
  for (const line of report.notes ?? []) process.stdout.write(`${name}: NOTE ${line}\n`);
  for (const line of report.faults) process.stdout.write(`${name}: WRONG ${line}\n`);
}
for (const file of write(resolve(options.out), runs, pace)) process.stdout.write(`written: ${file}\n`);
if (options.json) process.stdout.write(`${JSON.stringify({ pace, runs })}\n`);
const missed = runs.some(({ report }) => report.figures.some((figure) => verdictOf(figure) === 'missed'));
if (runs.some(({ report }) => report.faults.length > 0) || (missed && !pace.quick)) process.exitCode = 1;
