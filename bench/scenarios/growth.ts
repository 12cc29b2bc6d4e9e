/** Whether a sale gets slower, and how much memory it takes, as reservations pile up: a stage for each size, all measured in turn. */
import { Redis } from 'iovalkey';
import {
  contest,
  contestFaults,
  contestNotes,
  driftFaults,
  mostPerSecond,
  pidOf,
  ratesOf,
  ratiosOf,
  type Turns,
} from '../contest.ts';
import { fill } from '../fill.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Pace, Report, Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

const connections = 256;
const units = 1_000_000_000;
const sizes = { long: [1_000, 100_000, 1_000_000], quick: [100, 1_000, 2_000] };
const holdSeconds = 3_600;

async function usedBytes({ services }: Stage): Promise<number> {
  const redis = new Redis(services.valkey?.url ?? '');
  try {
    return Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1]);
  } finally {
    redis.disconnect();
  }
}

type Grown = { turns: Turns; live: number; bytesEach: number; stage: Stage };

/** A stage on which so many reservations are held, by as many buyers, and the ledger has them all. */
async function grow(stage: Stage, size: number, pace: Pace, say: (line: string) => void): Promise<Grown> {
  const engine = await stage.serve('http');
  const url = String(engine.ready.url);
  const ledger = await stage.serveBehind();
  await stage.sale(url, 'growing', { durability: 'fsync', units, holdSeconds, perBuyer: 100 });
  await stage.reconcile();
  const before = await usedBytes(stage);
  say(`${size.toLocaleString('en')} reservations are made …`);
  await fill({
    ...{ url, saleId: 'growing', sku: 'hot', tokens: stage.buyers(size), connections },
    progress: (made) => (made % 100_000 === 0 ? say(`  ${made.toLocaleString('en')}`) : undefined),
  });
  await stage.reconcile();
  const { held: live = 0 } = await stage.ask("select count(*) as held from ledger.reservation where state = 'held'");
  const bytesEach = ((await usedBytes(stage)) - before) / live;
  await ledger.stop();
  const named = stage.tokens(mostPerSecond * pace.seconds, { named: true });
  return {
    ...{ live, bytesEach, stage },
    turns: {
      ...{ name: `${size.toLocaleString('en')} live`, url, script: 'life' },
      pids: { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 },
      args: (round) => [named, 'growing', 'hot', `round-${round}`],
    },
  };
}

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stages: Stage[] = [];
  const grown: Grown[] = [];
  try {
    for (const size of pace.quick ? sizes.quick : sizes.long) {
      const stage = await openStage({ names: ['valkey', 'postgres'], say: () => undefined });
      stages.push(stage);
      grown.push(await grow(stage, size, pace, say));
    }
    const turns = grown.map((one) => one.turns);
    const result = await contest(turns, connections, pace, say);
    const [smallest, largest] = [turns[0]?.name ?? '', turns.at(-1)?.name ?? ''];
    const goal = { against: smallest, rate: { atLeast: 0.9, beyond: 0.95 } };
    const figures: Figure[] = [...ratesOf(result, connections), ...ratiosOf(result, largest, connections, [goal])];
    for (const { turns: one, bytesEach } of grown.slice(1))
      figures.push({
        ...{ what: `${one.name}: memory of each, outbox apart`, unit: 'bytes', value: spreadOf([bytesEach]) },
        ...(one.name === largest ? { atMost: 300, beyond: 200 } : {}),
      });
    const faults = contestFaults(result);
    for (const { stage, turns: one } of grown) {
      await stage.serveBehind();
      faults.push(...driftFaults(await stage.reconcile()).map((fault) => `${one.name}: ${fault}`));
    }
    const text = 'nothing; each size on a Valkey of its own, whose ledger had all before, and caught up afterwards';
    const beside = grown[0]?.stage.beside(text) ?? text;
    return { figures, beside, faults, notes: contestNotes(result), skipped: [] };
  } finally {
    for (const stage of stages) await stage.close();
  }
}

export const growth: Scenario = {
  about: 'whole lives beside 1,000, 100,000 and 1,000,000 live reservations; memory of each',
  run: play,
};
