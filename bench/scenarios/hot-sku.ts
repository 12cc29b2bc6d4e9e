/**
 * One hot SKU, each request a new buyer, on disk before each answer: Stampede beside a server that does nothing, and beside what
 * others would have built, all in turn.
 */
import {
  contest,
  contestFaults,
  contestNotes,
  countFaults,
  driftFaults,
  heldUnits,
  mostPerSecond,
  type Peer,
  pidOf,
  ratesOf,
  ratiosOf,
  startNoop,
  startPeers,
  type Turns,
} from '../contest.ts';
import { runLoad } from '../load.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Goal, Pace, Report, Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

const units = 1_000_000_000;

export type HotSku = {
  connections: number;
  /** Whether relay, ledger and sweeper run beside, and Kafka. */
  running: 'nothing' | 'ledger' | 'all';
  /** Beside what others would have built on stores that write to disk, or on a Valkey that does not, too. */
  peers: 'durable' | 'memory' | 'none';
  goals: { against: string; rate?: Goal; p99?: Goal }[];
};

/** What is kept in memory alone is measured on a Valkey that does not wait for its disk. */
const memoryOnly = { appendfsync: 'no' } as const;

async function startOthers(
  stage: Stage,
  { peers }: HotSku,
  skipped: string[],
  say: (line: string) => void,
): Promise<Peer[]> {
  if (peers === 'none') return [];
  if (peers === 'durable') return startPeers(stage, skipped);
  const other = await openStage({ names: ['valkey'], valkey: memoryOnly, say });
  stage.onClose(other.close);
  const one = await other.peer('valkey-per-request');
  const pids = { server: pidOf(one), valkey: other.services.valkey?.pid ?? 0 };
  return [{ ...one, name: 'valkey-per-request', pids }];
}

const besideOf = {
  nothing: 'nothing; relay and ledger caught up afterwards',
  ledger: 'relay and ledger in one process, the sweeper in another, Postgres',
  all: 'relay and ledger in one process, the sweeper in another, Kafka, Postgres',
} as const;

/** What articles print, let loose on a thousand units: how many it sells. */
async function textbook(stage: Stage, tokens: string, connections: number, seconds: number): Promise<Figure> {
  const stock = 1_000;
  const env = { DATABASE_URL: await stage.database(), BENCH_STOCK: String(stock) };
  const peer = await stage.peer('postgres', ['as-printed'], env);
  const args = [tokens, 'textbook', 'hot', 'textbook'];
  const load = { url: peer.url, connections, seconds, script: 'reserve', args, watch: {} };
  await runLoad({ ...load, answerWithinSeconds: 10 });
  const { held } = await peer.stop();
  return { what: 'textbook-as-printed: sold of 1,000', unit: 'units', value: spreadOf([Number(held)]) };
}

async function play(options: HotSku, pace: Pace, say: (line: string) => void): Promise<Report> {
  const { connections, running } = options;
  const skipped: string[] = [];
  const names = running === 'all' ? (['valkey', 'postgres', 'kafka'] as const) : (['valkey', 'postgres'] as const);
  const durability = options.peers === 'memory' ? 'memory' : 'fsync';
  const stage = await openStage({ names, say, ...(durability === 'memory' ? { valkey: memoryOnly } : {}) });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    if (running !== 'nothing') await stage.serveBehind();
    const peers = [await startNoop(stage), ...(await startOthers(stage, options, skipped, say))];
    const tokens = stage.tokens(mostPerSecond * pace.seconds);
    const asked = { script: 'reserve', args: (round: number) => [tokens, `round-${round}`, 'hot', `round-${round}`] };
    const own: Turns = {
      ...{ name: 'stampede', url, pids: { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 }, ...asked },
      prepare: (round) => stage.sale(url, `round-${round}`, { durability, units }),
    };
    const turns = [...peers.map((peer): Turns => ({ ...peer, ...asked })), own];
    const result = await contest(turns, connections, pace, say);

    say('the ledger catches up …');
    if (running === 'nothing') await stage.serveBehind();
    const ledger = await stage.reconcile();
    const faults = [
      ...contestFaults(result),
      ...driftFaults(ledger),
      ...countFaults('stampede', heldUnits(ledger), result.all.get('stampede') ?? [], connections),
    ];
    for (const { name, stop } of peers.filter((one) => one.name !== 'noop'))
      faults.push(...countFaults(name, Number((await stop()).held), result.all.get(name) ?? [], connections));
    const figures = [...ratesOf(result, connections), ...ratiosOf(result, 'stampede', connections, options.goals)];
    if (options.peers === 'durable') figures.push(await textbook(stage, tokens, connections, pace.seconds));
    return { figures, beside: stage.beside(besideOf[running]), faults, notes: contestNotes(result), skipped };
  } finally {
    await stage.close();
  }
}

export const hotSku = (about: string, options: HotSku): Scenario => ({
  about,
  run: (pace, say) => play(options, pace, say),
});
