/** More processes: one, two and four engines before one Valkey; and one Valkey beside three in a cluster. */

import type { Started } from '../command.ts';
import {
  type Contest,
  contestFaults,
  contestNotes,
  driftFaults,
  mostPerSecond,
  pidOf,
  ratesOf,
  ratiosOf,
} from '../contest.ts';
import { type LoadResult, runLoad } from '../load.ts';
import { interleave } from '../rounds.ts';
import type { Pace, Report, Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

const connections = 256;
const units = 1_000_000_000;
const many = { sales: 12, skus: 10 };
const shards = '12';

/** What several load generators came to that ran at the same time. */
function together(results: readonly LoadResult[]): LoadResult {
  const sum = (pick: (one: LoadResult) => number): number => results.reduce((all, one) => all + pick(one), 0);
  const most = (pick: (one: LoadResult) => number): number => Math.max(...results.map(pick));
  return {
    ...{ requests: sum((one) => one.requests), perSecond: sum((one) => one.perSecond) },
    ...{ p50Ms: most((one) => one.p50Ms), p99Ms: most((one) => one.p99Ms), p999Ms: most((one) => one.p999Ms) },
    ...{ refused: sum((one) => one.refused), failed: sum((one) => one.failed) },
    usage: Object.assign({}, ...results.map(({ usage }) => usage)) as LoadResult['usage'],
  };
}

type Layout = { name: string; stage: Stage; engines: number };

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stages: Stage[] = [];
  const open = async (names: Parameters<typeof openStage>[0]['names']): Promise<Stage> => {
    const stage = await openStage({ names, say, env: { SHARDS: shards } });
    stages.push(stage);
    return stage;
  };
  try {
    const one = await open(['valkey', 'postgres']);
    const three = await open(['valkey-1', 'valkey-2', 'valkey-3', 'postgres']);
    const layouts: Layout[] = [
      ...[1, 2, 4].map((engines) => ({
        name: `${engines} engine${engines > 1 ? 's' : ''}, 1 Valkey`,
        stage: one,
        engines,
      })),
      { name: '1 engine, 3 Valkeys', stage: three, engines: 1 },
    ];
    const all = new Map<string, LoadResult[]>(layouts.map(({ name }) => [name, []]));
    const contenders = await Promise.all(
      layouts.map(async ({ name, stage, engines }) => {
        const served: Started[] = [];
        for (let i = 0; i < engines; i++) served.push(await stage.serve('http'));
        const tokens = served.map(() => stage.tokens(Math.ceil((mostPerSecond * pace.seconds) / engines)));
        return {
          name,
          async run(round: number): Promise<LoadResult> {
            const prefix = `${name.replaceAll(/\W+/g, '-')}-${round}-`;
            const url = String(served[0]?.ready.url);
            for (let i = 0; i < many.sales; i++)
              await stage.sale(url, `${prefix}${i}`, { durability: 'fsync', units, skus: many.skus });
            const loads = served.map((engine, i) =>
              runLoad({
                ...{ url: String(engine.ready.url), connections: connections / engines, seconds: pace.seconds },
                ...{ script: 'reserve-many', watch: { [`engine ${i + 1}`]: pidOf(engine) } },
                args: [tokens[i] ?? '', prefix, String(many.sales), String(many.skus)],
              }),
            );
            const result = together(await Promise.all(loads));
            all.get(name)?.push(result);
            return result;
          },
        };
      }),
    );
    const measured = await interleave(contenders, pace.rounds, (round, name, { perSecond }) =>
      say(`${round === 0 ? 'warm-up' : `round ${round}`} ${name.padEnd(22)} ${perSecond.toFixed(0)}/s`),
    );
    const result: Contest = { measured, all };
    const faults = contestFaults(result);
    say('the ledgers catch up …');
    for (const stage of stages) {
      await stage.serveBehind();
      faults.push(...driftFaults(await stage.reconcile()));
    }
    const [base = '', ...rest] = layouts.map(({ name }) => name);
    const figures = [
      ...ratesOf(result, connections),
      ...rest.flatMap((name) => ratiosOf(result, name, connections, [{ against: base }])),
    ];
    const beside = one.beside('nothing; relays and ledgers caught up afterwards; all on the same processors');
    return { figures, beside, faults, notes: contestNotes(result), skipped: [] };
  } finally {
    for (const stage of stages) await stage.close();
  }
}

export const processes: Scenario = {
  about: '1, 2 and 4 engine processes before one Valkey; one beside three Valkeys in a cluster',
  run: play,
};
