/** `npm run chaos`: Stampede under load, broken on purpose again and again, and every promise checked after each time. */
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { inChild } from './child.ts';
import { controls } from './controls.ts';
import { faults } from './faults.ts';
import { lineOf, type Run, tableOf } from './report.ts';
import { whyNot } from './requirements.ts';
import { wholeNumber } from './whole-number.ts';

const names = Object.keys(faults);
const whole = wholeNumber(0, 999_999_999);
const faultName = (text: string, before: string[]): string[] => {
  if (!names.includes(text)) throw new InvalidArgumentError(`one of ${names.join(', ')}`);
  return [...before, text];
};

const command = new Command('chaos')
  .description(
    'Runs a whole Stampede under load from recorded clients, strikes it with faults, and then checks every promise of\n' +
      'docs/reference/guarantees.md. A seed decides the fault, the layout, and what clients do; a run takes about half a minute.',
  )
  .addOption(new Option('--seed <n>', 'of the first run; the next has the next').argParser(whole).default(1))
  .addOption(new Option('--runs <n>', 'how many').argParser(whole).default(10))
  .addOption(new Option('--minutes <n>', 'begin no run after so long').argParser(whole).default(720))
  .addOption(
    new Option('--fault <name>', 'only this one; may be given again').argParser(faultName).default([] as string[]),
  )
  .addOption(
    new Option(
      '--control <name>',
      'with a copy of this repository that is broken so: a negative control, once',
    ).choices(Object.keys(controls)),
  )
  .addOption(new Option('--out <folder>', 'where results go; what it has already is not run again'))
  .addOption(new Option('--detach', 'go on in the background').default(false))
  .addOption(new Option('--status', 'only say what --out has').default(false))
  .addOption(new Option('--list', 'only name the faults').default(false))
  .addOption(new Option('--json', 'all results as one JSON object on the last line').default(false))
  .addHelpText(
    'after',
    '\nA failing run leaves its history, evidence and logs in a folder under --out, and is run again by\n' +
      '  npm run chaos -- --seed SEED --fault NAME --runs 1\n' +
      'Exit code: 0 all promises kept, 1 a finding, or a run that broke off.\n\n' +
      'npm run chaos -- --runs 200 --out /tmp/chaos --detach    all faults, in the background\n' +
      'npm run chaos -- --out /tmp/chaos --status               how far it is\n' +
      'npm run chaos -- --fault power-loss --fault old-copy     only these',
  )
  .parse();
const options = command.opts<{
  seed: number;
  runs: number;
  minutes: number;
  fault: string[];
  control?: string;
  out?: string;
  detach: boolean;
  status: boolean;
  list: boolean;
  json: boolean;
}>();

const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

function resultsIn(folder: string): Run[] {
  const path = join(folder, 'results.jsonl');
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n').filter(Boolean);
  return lines.map((line) => JSON.parse(line) as Run);
}

function finish(runs: Run[]): void {
  say(tableOf(runs));
  if (options.json) say(JSON.stringify({ runs }));
  process.exitCode = runs.some(
    ({ failed, result }) => failed !== null || Object.keys(result?.findings ?? {}).length > 0,
  )
    ? 1
    : 0;
}

async function main(): Promise<void> {
  if (options.list) {
    for (const [name, { about }] of Object.entries(faults)) say(`${name.padEnd(20)} ${about}`);
    say('\nand, with --control:');
    for (const [name, { breaks, checker }] of Object.entries(controls))
      say(`${name.padEnd(20)} ${breaks} (found by ${checker})`);
    return;
  }
  const out = options.out ? resolve(options.out) : mkdtempSync(join(tmpdir(), 'stampede-chaos-'));
  if (options.status) return finish(resultsIn(out));
  mkdirSync(out, { recursive: true });
  if (options.detach) {
    const log = openSync(join(out, 'log'), 'a');
    const args = process.argv.slice(1).filter((one) => one !== '--detach');
    const rest = options.out ? [] : ['--out', out];
    const child = spawn(process.execPath, [...args, ...rest], { detached: true, stdio: ['ignore', log, log] });
    child.unref();
    say(`process ${child.pid} goes on in ${out}: npm run chaos -- --out ${out} --status, or read ${join(out, 'log')}`);
    return;
  }
  say(`results in ${out}`);
  const control = options.control === undefined ? undefined : controls[options.control];
  if (control) {
    const run = await inChild(options.seed, control.fault, join(out, options.control ?? ''), options.control);
    say(lineOf(run));
    return finish([run]);
  }
  const runs = resultsIn(out);
  const known = new Map(runs.map((run) => [`${run.seed} ${run.fault}`, run]));
  const wanted: Run[] = [];
  const untilMs = performance.now() + options.minutes * 60_000;
  const choice = options.fault.length > 0 ? options.fault : names;
  for (let seed = options.seed; seed < options.seed + options.runs && performance.now() < untilMs; seed++) {
    const fault = choice[seed % choice.length] ?? '';
    let run = known.get(`${seed} ${fault}`);
    if (!run) {
      const lacking = whyNot(faults[fault]?.needs ?? []);
      run = lacking
        ? { seed, fault, folder: '', result: null, failed: null, skipped: lacking }
        : await inChild(seed, fault, join(out, `${seed}-${fault}`));
      appendFileSync(join(out, 'results.jsonl'), `${JSON.stringify(run)}\n`);
    }
    wanted.push(run);
    say(lineOf(run));
  }
  finish(wanted);
}

await main();
