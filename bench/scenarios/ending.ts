/** A million holds that end in the same second, while others buy at a quarter of capacity. */
import { systemClock } from '../../kernel/clock.ts';
import { answerFaults, driftFaults, mostPerSecond, pidOf } from '../contest.ts';
import { fill } from '../fill.ts';
import { generatorWasTheLimit, type LoadResult, runLoad } from '../load.ts';
import { spreadOf } from '../rounds.ts';
import type { Pace, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

const connections = 256;
const units = 1_000_000_000;
const holds = { long: 1_000_000, quick: 2_000 };
/** What one process of autocannon makes a second, at least. */
const fillPerSecond = 4_000;
const slackSeconds = 30;
const freeWithinMs = 120_000;
/**
 * Others buy by wrk, with long pauses: k6 makes no quarter of capacity on processors that it shares with the servers, and what it
 * measured there was itself.
 */
const buyers = 2_048;

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    await stage.serveBehind();
    const watch = { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 };
    const tokens = stage.tokens(mostPerSecond * pace.seconds);
    await stage.sale(url, 'capacity', { durability: 'fsync', units });
    const args = [tokens, 'capacity', 'hot', 'capacity'];
    const capacity = await runLoad({ url, connections, seconds: pace.seconds, script: 'reserve', args, watch });
    await stage.reconcile();

    const count = pace.quick ? holds.quick : holds.long;
    const holdSeconds = Math.ceil(count / fillPerSecond) + slackSeconds;
    const endsMs = performance.now() + holdSeconds * 1_000;
    const remaining = (): number => (endsMs - performance.now()) / 1_000;
    const open = (): Promise<void> =>
      stage.sale(url, 'ending', { durability: 'fsync', units: count, holdSeconds: Math.round(remaining()) });
    await open();
    say(`${count.toLocaleString('en')} holds are made, all to end in ${holdSeconds} s …`);
    let filled = false;
    // Each hold is made for as long as there is left.
    const shorten = async (): Promise<void> => {
      while (!filled) {
        await systemClock.wait(1_000);
        if (!filled) await open();
      }
    };
    const filling = fill({ url, saleId: 'ending', sku: 'hot', tokens: stage.buyers(count), connections }).finally(
      () => {
        filled = true;
      },
    );
    await Promise.all([filling, shorten()]);

    const pauseMs = Math.round((buyers * 1_000) / (capacity.perSecond / 4));
    const buy = async (name: string, seconds: number): Promise<LoadResult> => {
      await stage.sale(url, name, { durability: 'fsync', units });
      const load = { url, connections: buyers, seconds, script: 'reserve', args: [tokens, name, 'hot', name], watch };
      return runLoad({ ...load, pauseMs, answerWithinSeconds: 10 });
    };
    const quietSeconds = Math.min(10, Math.max(1, Math.floor(remaining() / 2)));
    const before = await buy('before', quietSeconds);
    await systemClock.wait(Math.max(0, remaining() - 2) * 1_000);
    const duringRun = buy('during', pace.quick ? 5 : 20);
    await systemClock.wait(Math.max(0, remaining()) * 1_000);
    const endedMs = performance.now();
    let available = 0;
    while (available < count && performance.now() < endedMs + freeWithinMs) {
      await systemClock.wait(100);
      available = await stage.available(url, 'ending');
    }
    const freeSeconds = (performance.now() - endedMs) / 1_000;
    const during = await duringRun;
    const ledger = await stage.reconcile();
    const faults: string[] = [];
    if (available < count) faults.push(`${count - available} units are not on sale again`);
    faults.push(...driftFaults(ledger));
    for (const [name, load] of Object.entries({ before, during })) {
      faults.push(...answerFaults(name, [load]));
      if (generatorWasTheLimit(load)) faults.push(`${name}: the load generator was the limit`);
    }
    const ms = (one: LoadResult) => spreadOf([one.p99Ms]);
    const rate = (one: LoadResult): string => `${Math.round(one.perSecond).toLocaleString('en')} a second`;
    return {
      figures: [
        {
          what: `${count.toLocaleString('en')} units on sale again`,
          unit: 's',
          value: spreadOf([freeSeconds]),
          atMost: 20,
          beyond: 10,
        },
        { what: `p99 of others at ${rate(before)}, before`, unit: 'ms', value: ms(before) },
        { what: `p99 of others at ${rate(during)}, meanwhile`, unit: 'ms', value: ms(during) },
        {
          what: 'meanwhile against before',
          unit: 'ratio',
          value: spreadOf([during.p99Ms / before.p99Ms]),
          atMost: 3,
          beyond: 2,
        },
      ],
      ...{
        beside: stage.beside('relay and ledger in one process, the sweeper in another, Postgres'),
        faults,
        skipped: [],
      },
    };
  } finally {
    await stage.close();
  }
}

export const ending: Scenario = {
  about: 'a million holds that end in the same second, others buying at a quarter of capacity',
  run: play,
};
