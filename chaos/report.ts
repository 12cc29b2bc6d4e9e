/** What runs came to, for people. */
import Table from 'cli-table3';
import type { RunResult } from './one-run.ts';

export type Run = {
  seed: number;
  fault: string;
  folder: string;
  result: RunResult | null;
  /** Why there is no result. */
  failed: string | null;
  /** Why it was not run at all. */
  skipped?: string;
};

const number = (value: number): string => value.toLocaleString('en-GB');
const findingsOf = ({ result }: Run): [string, string[]][] => Object.entries(result?.findings ?? {});

const againOf = ({ seed, fault, control }: RunResult): string =>
  control === null ? `--seed ${seed} --fault ${fault} --runs 1` : `--control ${control} --seed ${seed}`;

export function lineOf(run: Run): string {
  const head = `seed ${run.seed}  ${run.fault.padEnd(19)}`;
  if (run.skipped !== undefined) return `${head} skipped: ${run.skipped}`;
  const { result } = run;
  if (!result) return `${head} BROKE OFF: ${run.failed} (${run.folder})`;
  const { checked, strikes, counts, bed, seconds } = result;
  const most = Math.max(0, ...strikes.map(({ inFlight }) => inFlight));
  const layout = [bed.transport, bed.durability, ...(bed.replica ? ['replica'] : [])].join(' ');
  const verdict = findingsOf(run).length > 0 ? `FOUND (${run.folder})` : counts ? 'ok' : 'ok, does not count';
  return [
    `${head} ${verdict}: struck ${strikes.length}×, ${most} in flight; ${number(checked.acknowledged)} acknowledged,`,
    `${number(checked.unknown)} unknown, ${number(checked.lost)} lost and reported; ${layout}; ${seconds.toFixed(0)} s`,
    ...findingsOf(run).flatMap(([checker, found]) => found.slice(0, 3).map((text) => `\n    ${checker}: ${text}`)),
    ...(findingsOf(run).length > 0 ? [`\n    again: npm run chaos -- ${againOf(result)}`] : []),
  ].join(' ');
}

/** One row a fault, and the sum. */
export function tableOf(runs: Run[]): string {
  const table = new Table({
    head: [
      'fault',
      'runs',
      'count',
      'strikes',
      'in flight',
      'operations',
      'acknowledged',
      'lost, reported',
      'findings',
    ],
    style: { head: [], border: [] },
  });
  const row = (name: string, some: Run[]): (string | number)[] => {
    const results = some.flatMap(({ result }) => result ?? []);
    const sum = (pick: (one: RunResult) => number): string => number(results.reduce((all, one) => all + pick(one), 0));
    const failed = some.filter((one) => one.failed !== null).length;
    const found = some.filter((one) => findingsOf(one).length > 0).length;
    return [
      ...[name, some.length, results.filter(({ counts }) => counts).length, sum(({ strikes }) => strikes.length)],
      sum(({ strikes }) => strikes.reduce((all, { inFlight }) => all + inFlight, 0)),
      ...[sum(({ checked }) => checked.operations), sum(({ checked }) => checked.acknowledged)],
      ...[sum(({ checked }) => checked.lost), failed > 0 ? `${found}, ${failed} broke off` : found],
    ];
  };
  for (const [fault, some] of Map.groupBy(runs, (run) => run.fault)) table.push(row(fault, some));
  table.push(row('all', runs));
  return table.toString();
}
