/**
 * Everything running, Kafka too: the highest rate at which the ledger's lag stays flat; and how a million events that have piled up
 * are worked off.
 */
import { systemClock } from '../../kernel/clock.ts';
import { driftFaults, mostPerSecond, pidOf } from '../contest.ts';
import { generatorWasTheLimit, runLoad } from '../load.ts';
import { spreadOf } from '../rounds.ts';
import type { Pace, Report, Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

const connections = 256;
const units = 1_000_000_000;
const everyMs = 250;
const burst = { long: 1_000_000, quick: 5_000 };
const workedOffWithinMs = 600_000;
/** wrk paces a connection by waiting before it asks: these many ms give rates from a crawl to all that is possible. */
const pauses = [100, 50, 35, 25, 18, 14, 11, 8, 6, 4, 2, 0];

type Sample = [seconds: number, events: number];

/** The lag again and again until `over` says so. */
async function sampleLag(stage: Stage, url: string, over: (events: number) => boolean): Promise<Sample[]> {
  const startedMs = performance.now();
  const samples: Sample[] = [];
  for (;;) {
    const events = await stage.lagEvents(url);
    samples.push([(performance.now() - startedMs) / 1_000, events]);
    if (over(events)) return samples;
    await systemClock.wait(everyMs);
  }
}

/** Whether the lag at the end is no more than at the beginning, but for what comes in within half a second. */
function isFlat(samples: readonly Sample[], perSecond: number): boolean {
  const quarter = Math.max(1, Math.floor(samples.length / 4));
  const mean = (some: readonly Sample[]): number => some.reduce((sum, [, events]) => sum + events, 0) / some.length;
  // What it was before it settled doesn't count.
  return mean(samples.slice(-quarter)) <= mean(samples.slice(quarter, 2 * quarter)) + perSecond / 2;
}

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres', 'kafka'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    const workers = await stage.serveBehind();
    const watch = { engine: pidOf(engine), workers: pidOf(workers), valkey: stage.services.valkey?.pid ?? 0 };
    const seconds = pace.quick ? 2 : 12;
    const tokens = stage.tokens(mostPerSecond * Math.max(seconds, 10));
    const buy = async (saleId: string, pauseMs: number) => {
      await stage.sale(url, saleId, { durability: 'fsync', units });
      const args = [tokens, saleId, 'hot', saleId];
      return runLoad({ url, connections, seconds, script: 'reserve', args, pauseMs, watch });
    };
    const faults: string[] = [];
    await buy('warm-up', 0);
    await stage.reconcile();
    let flat = { perSecond: 0, lagEvents: 0 };
    for (const pauseMs of pace.quick ? [100, 0] : pauses) {
      let over = false;
      const sampling = sampleLag(stage, url, () => over);
      const load = await buy(`pause-${pauseMs}`, pauseMs).finally(() => {
        over = true;
      });
      const samples = await sampling;
      const flatNow = isFlat(samples, load.perSecond);
      say(`${load.perSecond.toFixed(0)}/s: lag ${samples.at(-1)?.[1]} events, ${flatNow ? 'flat' : 'growing'}`);
      if (generatorWasTheLimit(load)) faults.push(`at ${pauseMs} ms: the load generator was the limit`);
      if (load.refused + load.failed > 0)
        faults.push(`at ${pauseMs} ms: ${load.refused + load.failed} refused or failed`);
      if (!flatNow) break;
      flat = { perSecond: load.perSecond, lagEvents: samples.at(-1)?.[1] ?? 0 };
      await stage.reconcile();
    }
    await stage.reconcile();

    const wanted = pace.quick ? burst.quick : burst.long;
    await workers.stop();
    say(`${wanted.toLocaleString('en')} events pile up …`);
    for (let i = 0; (await stage.lagEvents(url)) < wanted; i++) await buy(`burst-${i}`, 0);
    const piled = await stage.lagEvents(url);
    const startedMs = performance.now();
    await stage.serveBehind();
    const late = (): boolean => performance.now() - startedMs > workedOffWithinMs;
    const points = await sampleLag(stage, url, (events) => events === 0 || late());
    const workedOffSeconds = points.at(-1)?.[0] ?? 0;
    const ledger = await stage.reconcile();
    faults.push(...driftFaults(ledger));
    if (late()) faults.push('what had piled up was not worked off in time');
    return {
      figures: [
        {
          ...{ what: 'reservations with a flat lag', unit: 'per second', value: spreadOf([flat.perSecond]) },
          ...{ atLeast: 15_000, beyond: 30_000 },
        },
        { what: 'events behind at that rate', unit: 'units', value: spreadOf([flat.lagEvents]) },
        { what: `${piled.toLocaleString('en')} events worked off`, unit: 's', value: spreadOf([workedOffSeconds]) },
        { what: 'events worked off', unit: 'per second', value: spreadOf([piled / workedOffSeconds]) },
      ],
      plots: [
        {
          ...{ title: `${piled.toLocaleString('en')} events that had piled up, Kafka and all running` },
          ...{ x: 'seconds', y: 'events that the ledger has not', lines: [{ name: 'ledger lag', points }] },
        },
      ],
      ...{
        beside: stage.beside('relay and ledger in one process, the sweeper in another, Kafka, Postgres'),
        faults,
        skipped: [],
      },
    };
  } finally {
    await stage.close();
  }
}

export const lag: Scenario = {
  about: 'everything running: the highest rate with a flat ledger lag; a million events worked off',
  run: play,
};
