/** Whether an inlet lets in as many as it says, and what an inlet that knows the stock saves people from. */
import { systemClock } from '../../kernel/clock.ts';
import { gatherLine, type LineCounts } from '../line-crowd.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Pace, Report, Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

const one = (value: number) => spreadOf([value]);
const beside = 'two engines, each with relay, ledger and sweeper; Postgres';

async function startTwo(stage: Stage): Promise<string[]> {
  const engines = [await stage.serve('all'), await stage.serve('all')];
  return engines.map(({ ready }) => String(ready.url));
}

/** So many a minute, over two engine processes that both let people in. */
async function playRate(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const urls = await startTwo(stage);
    const [url = ''] = urls;
    const [perMinute, minuteMs, minutes] = pace.quick ? [600, 3_000, 1] : [600, 60_000, 5];
    const count = perMinute * (minutes + 1);
    const waitingRoom = { order: 'fifo', inlet: { perMinute }, admissionSeconds: 3_600, state: 'paused' };
    await stage.sale(url, 'line', {
      durability: 'fsync',
      units: 1_000_000,
      waitingRoom,
    });
    const crowd = await gatherLine({
      ...{ urls, saleId: 'line', sku: 'hot', tokens: stage.tokens(count), count },
      ...{ buys: false, thinkMs: 0, lapseRate: 0 },
    });
    stage.onClose(async () => crowd.stop());
    await stage.room(url, 'line', { action: 'resume' });
    // What was saved up while nobody was let in has gone by then.
    await systemClock.wait(2_000);
    const admitted: number[] = [];
    let [before, sinceMs] = [(await crowd.counts()).admitted, performance.now()];
    for (let minute = 1; minute <= minutes; minute++) {
      await systemClock.wait(sinceMs + minuteMs - performance.now());
      const now = (await crowd.counts()).admitted;
      const tookMs = performance.now() - sinceMs;
      admitted.push(((now - before) * 60_000) / tookMs);
      [before, sinceMs] = [now, sinceMs + tookMs];
      say(`minute ${minute}: ${admitted.at(-1)?.toFixed(1)} a minute`);
    }
    const most = Math.max(...admitted.map((each) => Math.abs(each - perMinute)));
    const counts = await crowd.counts();
    const figures: Figure[] = [
      { what: 'let in a minute, of 600', unit: 'per minute', value: spreadOf(admitted) },
      { what: 'furthest from 600', unit: 'people', value: one(most), ...(pace.quick ? {} : { atMost: 6, beyond: 3 }) },
    ];
    const faults = counts.lost > 0 ? [`${counts.lost} sockets were lost`] : [];
    return { figures, beside: stage.beside(beside), faults, skipped: [] };
  } finally {
    await stage.close();
  }
}

type Outcome = LineCounts & { sold: number; seconds: number };

/** A small sale to a large line, one in five of whom lets the hold lapse, until all is sold and nobody is inside any more. */
async function sell(pace: Pace, inlet: object, say: (line: string) => void): Promise<Outcome> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const urls = await startTwo(stage);
    const [url = ''] = urls;
    const [units, count] = pace.quick ? [20, 200] : [1_000, 20_000];
    const waitingRoom = { order: 'fifo', inlet, admissionSeconds: pace.quick ? 3 : 30, state: 'paused' };
    const sale = { durability: 'fsync', units, holdSeconds: pace.quick ? 2 : 10, waitingRoom } as const;
    await stage.sale(url, 'line', sale);
    const crowd = await gatherLine({
      ...{ urls, saleId: 'line', sku: 'hot', tokens: stage.tokens(count), count },
      ...{ buys: true, thinkMs: pace.quick ? 200 : 2_000, lapseRate: 0.2 },
    });
    stage.onClose(async () => crowd.stop());
    const beganMs = performance.now();
    await stage.room(url, 'line', { action: 'resume' });
    let seconds = 0;
    const endMs = performance.now() + 600_000;
    for (let last = ''; performance.now() < endMs; ) {
      await systemClock.wait(pace.quick ? 1_000 : 5_000);
      const counts = await crowd.counts();
      const sold = await stage.sold(url, 'line');
      if (sold === units && seconds === 0) seconds = (performance.now() - beganMs) / 1_000;
      const over = counts.bought + counts.lapsed + counts.emptyHanded === counts.admitted;
      say(`sold ${sold}, let in ${counts.admitted}, empty-handed ${counts.emptyHanded}`);
      const now = JSON.stringify(counts);
      if (sold === units && over && now === last) break;
      last = now;
    }
    return { ...(await crowd.counts()), sold: await stage.sold(url, 'line'), seconds };
  } finally {
    await stage.close();
  }
}

async function playStock(pace: Pace, say: (line: string) => void): Promise<Report> {
  const units = pace.quick ? 20 : 1_000;
  say('an inlet that knows the stock:');
  const knowing = await sell(pace, { stock: true }, say);
  say('an inlet of as many inside as there are units, blind to the stock:');
  const blind = await sell(pace, { maxInside: units }, say);
  const faults = [knowing, blind].flatMap(({ sold, lost }) => [
    ...(sold === units ? [] : [`sold ${sold} of ${units}`]),
    ...(lost > 0 ? [`${lost} sockets were lost`] : []),
  ]);
  const figures = (name: string, outcome: Outcome): Figure[] => [
    { what: `${name}: sold`, unit: 'units', value: one(outcome.sold) },
    { what: `${name}: all sold after`, unit: 's', value: one(outcome.seconds) },
    { what: `${name}: let in`, unit: 'people', value: one(outcome.admitted) },
    { what: `${name}: let in, and left empty-handed`, unit: 'people', value: one(outcome.emptyHanded) },
  ];
  return {
    figures: [...figures('by stock', knowing), ...figures('blind', blind)],
    ...{ beside: `${beside}, anew for each inlet`, faults, skipped: [] },
  };
}

export const lineInlet: Scenario = {
  about: 'an inlet of 600 a minute, for five minutes over two engines',
  run: playRate,
};
export const lineStock: Scenario = {
  about:
    '1,000 units to a line of 20,000, one in five of whom lets the hold lapse: an inlet by stock beside a blind one',
  run: playStock,
};
