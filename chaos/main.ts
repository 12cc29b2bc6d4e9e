/** `npm run chaos`: Stampede under load, broken on purpose again and again, and every promise checked after each time. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { inChild } from './child.ts';
import { type Control, controls } from './controls.ts';
import { faults } from './faults.ts';
import { lineOf, type Run, tableOf } from './report.ts';
import { whyNot } from './requirements.ts';
import { addRun, FolderError, readRuns, workIn, workingIn, writeInto } from './results.ts';
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
      'with a copy of this repository that is broken so: a negative control, once, under a fault of its own',
    ).choices(Object.keys(controls)),
  )
  .addOption(
    new Option(
      '--out <folder>',
      'where results go; runs that it has already are not made again, unless they broke off',
    ),
  )
  .addOption(new Option('--detach', 'go on in the background').default(false))
  .addOption(new Option('--status', 'only say what --out has').default(false))
  .addOption(new Option('--list', 'only name the faults').default(false))
  .addOption(new Option('--json', 'all results as one JSON object on the last line').default(false))
  .addHelpText(
    'after',
    '\nA failing run leaves its history, evidence and logs in a folder under --out, and is run again by\n' +
      '  npm run chaos -- --seed SEED --fault NAME --runs 1\n' +
      'A run counts when a fault struck a hundred calls in flight at least once; calm never does.\n' +
      'Exit code: 0 all promises kept (with --control: what is broken was found), 1 not so, or a run broke off, 2 bad --out.\n\n' +
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
  if (options.status) return status();
  const out = options.out ? resolve(options.out) : mkdtempSync(join(tmpdir(), 'stampede-chaos-'));
  if (options.detach) {
    const log = writeInto(out, () => openSync(join(out, 'log'), 'a'));
    const args = process.argv.slice(1).filter((one) => one !== '--detach');
    const rest = options.out ? [] : ['--out', out];
    const child = spawn(process.execPath, [...args, ...rest], { detached: true, stdio: ['ignore', log, log] });
    child.unref();
    say(`process ${child.pid} goes on in ${out}: npm run chaos -- --out ${out} --status, or read ${join(out, 'log')}`);
    say(`kill ${child.pid} ends it, and all that it has started; the same command goes on where it was`);
    return;
  }
  const control = options.control === undefined ? undefined : controls[options.control];
  workIn(out, control ? 1 : options.runs);
  say(`results in ${out}`);
  if (control) return runControl(control, options.control ?? '', out);
  const known = new Map(readRuns(out).map((run) => [`${run.seed} ${run.fault}`, run]));
  const wanted: Run[] = [];
  const untilMs = performance.now() + options.minutes * 60_000;
  const choice = options.fault.length > 0 ? options.fault : names;
  for (let seed = options.seed; seed < options.seed + options.runs && performance.now() < untilMs; seed++) {
    const fault = choice[seed % choice.length] ?? '';
    let run = known.get(`${seed} ${fault}`);
    // What broke off, or was left out here, may go through now.
    if (!run?.result) {
      run = await runOne(seed, fault, out);
      addRun(out, run);
    }
    wanted.push(run);
    say(lineOf(run));
  }
  finish(wanted);
}

async function runOne(seed: number, fault: string, out: string): Promise<Run> {
  const lacking = whyNot(faults[fault]?.needs ?? []);
  if (lacking) return { seed, fault, folder: '', result: null, failed: null, skipped: lacking };
  const folder = join(out, `${seed}-${fault}`);
  // Of one that was killed in the middle.
  rmSync(folder, { recursive: true, force: true });
  if (process.stdout.isTTY) process.stdout.write(`seed ${seed}  ${fault} …`);
  const run = await inChild(seed, fault, folder);
  if (process.stdout.isTTY) process.stdout.write('\r\x1b[K');
  return run;
}

/** The checker has to find what is broken: that is what is right here. */
async function runControl({ fault, checker }: Control, name: string, out: string): Promise<void> {
  const folder = join(out, name);
  rmSync(folder, { recursive: true, force: true });
  const run = await inChild(options.seed, fault, folder, name);
  say(lineOf(run));
  const caught = (run.result?.findings[checker]?.length ?? 0) > 0;
  say(caught ? `${name}: caught by ${checker}, as it must be` : `${name}: NOT CAUGHT by ${checker}`);
  if (options.json) say(JSON.stringify({ control: name, caught, run }));
  process.exitCode = caught ? 0 : 1;
}

function status(): void {
  if (options.out === undefined || !existsSync(options.out))
    throw new FolderError('--status needs the --out of runs that were begun');
  const runs = readRuns(options.out);
  const working = workingIn(options.out);
  say(working ? `${runs.length} of ${working.runs}; process ${working.pid} is at it` : 'nobody is at work there');
  finish(runs);
}

main().catch((error: unknown) => {
  if (!(error instanceof FolderError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
});
