/** What buyers do other than fight for one SKU, beside a server that does nothing: many SKUs, whole lives, refusals, replays. */
import {
  type Contest,
  contest,
  contestFaults,
  contestNotes,
  driftFaults,
  mostPerSecond,
  pidOf,
  ratesOf,
  ratiosOf,
  startNoop,
  type Turns,
} from '../contest.ts';
import type { Goal, Pace, Report, Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

type Doings = {
  /** Prepared before each round. */
  prepare(stage: Stage, url: string, round: number): Promise<void>;
  script: string;
  args(round: number, tokens: string): readonly string[];
  tokens?: { count?: number; named?: boolean };
  refuses?: true;
  /** Events that the ledger must have; null: it has to have as many as there were answers of success. */
  events?: (contest: Contest) => number;
  rate?: Goal;
};

const connections = 256;
const units = 1_000_000_000;

async function play(doings: Doings, pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    const noop = await startNoop(stage);
    const plain = stage.tokens(mostPerSecond * pace.seconds);
    const { count = mostPerSecond * pace.seconds, named = false } = doings.tokens ?? {};
    const tokens = doings.tokens ? stage.tokens(count, { named }) : plain;
    const turns: Turns[] = [
      { ...noop, script: 'reserve', args: (round) => [plain, `round-${round}`, 'hot', `round-${round}`] },
      {
        ...{ name: 'stampede', url, pids: { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 } },
        prepare: (round) => doings.prepare(stage, url, round),
        script: doings.script,
        args: (round) => doings.args(round, tokens),
      },
    ];
    const result = await contest(turns, connections, pace, say);
    say('the ledger catches up …');
    await stage.serveBehind();
    const ledger = await stage.reconcile();
    const { events = 0 } = await stage.ask(
      `select count(*) + count(ended_at) filter (where state <> 'expired') as events from ledger.reservation`,
    );
    const refusing = doings.refuses ? 'stampede' : undefined;
    const faults = [...contestFaults(result, refusing), ...driftFaults(ledger)];
    const own = result.all.get('stampede') ?? [];
    const granted = own.reduce((sum, { requests, refused }) => sum + requests - refused, 0);
    const least = doings.events?.(result) ?? granted;
    const most = doings.events ? least : least + own.length * connections;
    if (events < least || events > most) faults.push(`${least} changes were answered, the ledger has ${events}`);
    const goal = doings.rate ? { against: 'noop', rate: doings.rate } : { against: 'noop' };
    return {
      figures: [...ratesOf(result, connections), ...ratiosOf(result, 'stampede', connections, [goal])],
      beside: stage.beside('nothing; relay and ledger caught up afterwards'),
      ...{ faults, notes: contestNotes(result), skipped: [] },
    };
  } finally {
    await stage.close();
  }
}

const one = (round: number, tokens: string): string[] => [tokens, `round-${round}`, 'hot', `round-${round}`];
const openSale = (stage: Stage, url: string, round: number): Promise<void> =>
  stage.sale(url, `round-${round}`, { durability: 'fsync', units });

const many = { sales: 16, skus: 625 };
const replayed = 2_000;

const scenario = (about: string, doings: Doings): Scenario => ({
  about,
  run: (pace, say) => play(doings, pace, say),
});

export const besideNoop: Record<string, Scenario> = {
  'many-skus': scenario('10,000 SKUs in 16 sales', {
    async prepare(stage, url, round) {
      for (let i = 0; i < many.sales; i++)
        await stage.sale(url, `round-${round}-${i}`, { durability: 'fsync', units: 1_000_000, skus: many.skus });
    },
    script: 'reserve-many',
    args: (round, tokens) => [tokens, `round-${round}-`, String(many.sales), String(many.skus)],
  }),
  life: scenario("a unit's whole life: reserve, then commit or release", {
    prepare: openSale,
    script: 'life',
    args: one,
    tokens: { named: true },
  }),
  'sold-out': scenario('refusals when all is sold out', {
    prepare: (stage, url, round) => stage.sale(url, `round-${round}`, { durability: 'fsync', units: 0 }),
    script: 'reserve',
    args: one,
    refuses: true,
    rate: { atLeast: 0.7, beyond: 0.85 },
  }),
  replays: scenario('the same 2,000 requests again and again', {
    prepare: openSale,
    script: 'reserve',
    args: (round, tokens) => [...one(round, tokens), 'again'],
    tokens: { count: replayed },
    events: ({ all }) => replayed * (all.get('stampede')?.length ?? 0),
  }),
};
