/** Contenders load the same way in turn, one of them Stampede; what comes of it as figures, and what is wrong with it as faults. */
import type { Started } from './command.ts';
import { generatorWasTheLimit, type Load, type LoadResult, runLoad } from './load.ts';
import { type Contender, interleave, ratios, spreadOf } from './rounds.ts';
import type { Figure, Goal, Pace } from './scenario.ts';
import type { Reconciled, Stage } from './stage.ts';
import { startTigerBeetle } from './tigerbeetle.ts';

/** More than any contender answers in a second: so many buyers there must be. */
export const mostPerSecond = 130_000;

/** Who answers. `name` is Stampede's own name for what is measured, or that of a peer. */
export type Turns = {
  name: string;
  url: string;
  pids: Record<string, number>;
  /** Of a round; made ready before it is loaded. */
  prepare?(round: number): Promise<void>;
  script: string;
  args(round: number): readonly string[];
  answerWithinSeconds?: number;
};

/** What contenders came to, each round but the first; and all rounds, for what is counted afterwards. */
export type Contest = { measured: Map<string, LoadResult[]>; all: Map<string, LoadResult[]> };

export async function contest(
  turns: readonly Turns[],
  connections: number,
  pace: Pace,
  say: (line: string) => void,
): Promise<Contest> {
  const all = new Map<string, LoadResult[]>(turns.map(({ name }) => [name, []]));
  const contenders: Contender<LoadResult>[] = turns.map(
    ({ name, url, pids, prepare, script, args, answerWithinSeconds = 2 }) => ({
      name,
      async run(round) {
        await prepare?.(round);
        const load: Load = { url, connections, seconds: pace.seconds, script, args: args(round), watch: pids };
        const result = await runLoad({ ...load, answerWithinSeconds });
        all.get(name)?.push(result);
        return result;
      },
    }),
  );
  const measured = await interleave(contenders, pace.rounds, (round, name, { perSecond, p99Ms }) => {
    const when = round === 0 ? 'warm-up' : `round ${round}`;
    say(`${when.padEnd(8)} ${name.padEnd(22)} ${perSecond.toFixed(0).padStart(7)}/s, p99 ${p99Ms.toFixed(1)} ms`);
  });
  return { measured, all };
}

/** What each contender came to. */
export function ratesOf({ measured }: Contest, connections: number): Figure[] {
  const figures: Figure[] = [];
  for (const [name, some] of measured) {
    const what = `${name}, ${connections} connections`;
    figures.push({ what, unit: 'per second', value: spreadOf(some.map((one) => one.perSecond)) });
    figures.push({ what: `${name}, p99`, unit: 'ms', value: spreadOf(some.map((one) => one.p99Ms)) });
    for (const process of Object.keys(some[0]?.usage ?? {})) {
      const value = spreadOf(some.map(({ usage }) => usage[process]?.processors ?? 0));
      figures.push({ what: `${name}, processor time of ${process}`, unit: 'share', value });
    }
  }
  return figures;
}

/** One contender beside others, with what is asked of it; those that did not take part are left out. */
export function ratiosOf(
  { measured }: Contest,
  own: string,
  connections: number,
  goals: { against: string; rate?: Goal; p99?: Goal }[],
): Figure[] {
  const ours = measured.get(own) ?? [];
  return goals.flatMap(({ against, rate, p99 }) => {
    const others = measured.get(against);
    if (!others) return [];
    const what = `${own} against ${against}, ${connections} connections`;
    const figures: Figure[] = [{ what, unit: 'ratio', value: ratios(ours, others, (one) => one.perSecond), ...rate }];
    if (p99)
      figures.push({ what: `${what}, p99`, unit: 'ratio', value: ratios(ours, others, (one) => one.p99Ms), ...p99 });
    return figures;
  });
}

/** What is wrong with the answers to some loads. `refuses`: all have to be refused. */
export function answerFaults(name: string, some: readonly LoadResult[], { refuses = false } = {}): string[] {
  const faults: string[] = [];
  const refused = some.reduce((sum, one) => sum + one.refused, 0);
  const failed = some.reduce((sum, one) => sum + one.failed, 0);
  if (failed > 0) faults.push(`${name}: ${failed} got no answer`);
  if (refused > 0 && !refuses) faults.push(`${name}: ${refused} refused`);
  if (refuses && some.some(({ requests, refused: one }) => one < requests))
    faults.push(`${name}: not all were refused`);
  return faults;
}

/** What is wrong with the loads themselves. `refusing`: whose loads have to be refused. */
export function contestFaults({ all }: Pick<Contest, 'all'>, refusing?: string): string[] {
  return [...all].flatMap(([name, some]) => answerFaults(name, some, { refuses: name === refusing }));
}

/** Whom the load generator could not load fully: who is that fast is faster still. */
export function contestNotes({ measured }: Pick<Contest, 'measured'>): string[] {
  return [...measured]
    .map(([name, some]): [string, number] => [name, some.filter(generatorWasTheLimit).length])
    .filter(([, times]) => times > 0)
    .map(([name, times]) => `${name}: the load generator was the limit in ${times} rounds; it may be faster than that`);
}

export const driftFaults = ({ drift }: Reconciled): string[] => (drift === 0 ? [] : [`drift of ${drift} units`]);

/** Units that the ledger has as held, of sales whose names begin so. */
export const heldUnits = ({ rows }: Reconciled, saleIdPrefix = ''): number =>
  rows
    .filter(({ saleId }) => saleId.startsWith(saleIdPrefix))
    .reduce((sum, { ledger }) => sum + (ledger?.reserved ?? 0), 0);

/**
 * What a store has must be what was answered; wrk hangs up on a request a connection at its end, which may have been granted.
 * `results`: every load that the store was given.
 */
export function countFaults(name: string, held: number, results: readonly LoadResult[], connections: number): string[] {
  const granted = results.reduce((sum, { requests, refused }) => sum + requests - refused, 0);
  const most = granted + results.length * connections;
  return held >= granted && held <= most ? [] : [`${name}: ${granted} answers of success, ${held} in its store`];
}

/** A peer that is served; the last line that it says when it ends has what its store `held`. */
export type Peer = Pick<Turns, 'name' | 'url' | 'pids' | 'answerWithinSeconds'> & { stop: Started['stop'] };

export const pidOf = ({ child }: Started): number => child.pid ?? 0;

export async function startNoop(stage: Stage): Promise<Peer> {
  const one = await stage.peer('noop');
  return { ...one, name: 'noop', pids: { server: pidOf(one) } };
}

/** What others would have built, on Postgres and TigerBeetle. */
export async function startPeers(stage: Stage, skipped: string[]): Promise<Peer[]> {
  const peers: Peer[] = [];
  for (const manner of ['row-lock', 'optimistic'] as const) {
    const one = await stage.peer('postgres', [manner], { DATABASE_URL: await stage.database() });
    // Transactions on one row queue for seconds.
    peers.push({ ...one, name: `postgres-${manner}`, pids: { server: pidOf(one) }, answerWithinSeconds: 10 });
  }
  const tiger = await startTigerBeetle(stage.folder);
  if (tiger) {
    stage.onClose(tiger.stop);
    const one = await stage.peer('tigerbeetle', [], { TIGERBEETLE_ADDRESS: tiger.address });
    peers.push({ ...one, name: 'tigerbeetle', pids: { server: pidOf(one), tigerbeetle: tiger.pid } });
  } else skipped.push('tigerbeetle: TIGERBEETLE_BIN names no server (docs/how-to/measure.md says how to build one)');
  return peers;
}
