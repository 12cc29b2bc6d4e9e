/** Buyers who come when they come: a constant arrival rate, at half of what a closed loop gets through. */
import { answerFaults, countFaults, heldUnits, mostPerSecond, pidOf } from '../contest.ts';
import { fellBehind, type OpenLoad, runOpenLoop } from '../k6.ts';
import { runLoad } from '../load.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Pace, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

const connections = 256;
const units = 1_000_000_000;
/** Where the generator can't keep up, so much of what it managed is tried. */
const backOff = 0.7;
const attemptsMax = 4;

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    await stage.sale(url, 'capacity', { durability: 'fsync', units });
    const watch = { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 };
    const tokens = stage.tokens(mostPerSecond * pace.seconds);
    const args = (sale: string): string[] => [tokens, sale, 'hot', sale];
    const load = { url, connections, script: 'reserve', watch };
    await runLoad({ ...load, seconds: 2, args: args('capacity') });
    await stage.sale(url, 'measured', { durability: 'fsync', units });
    const capacity = await runLoad({ ...load, seconds: pace.seconds, args: args('measured') });
    const rounds: OpenLoad[] = [];
    const all: OpenLoad[] = [];
    const skipped: string[] = [];
    let rate = Math.round(capacity.perSecond / 2);
    for (let attempt = 1; rounds.length < pace.rounds; attempt++) {
      const saleId = `arrivals-${attempt}`;
      await stage.sale(url, saleId, { durability: 'fsync', units });
      const env = { URL: url, TOKENS: tokens, SALE: saleId, SKU: 'hot' };
      const result = await runOpenLoop({
        ...{ script: 'reserve', ratePerSecond: rate, seconds: pace.seconds, connections, env, watch, say },
      });
      all.push(result);
      say(`${rate}/s asked, ${result.perSecond.toFixed(0)}/s done, p99 ${result.p99Ms.toFixed(1)} ms`);
      if (fellBehind(result) && attempt < attemptsMax && rounds.length === 0) {
        skipped.push(`${rate} arrivals a second: k6 was the limit, it came to ${result.perSecond.toFixed(0)}`);
        rate = Math.round(result.perSecond * backOff);
      } else rounds.push(result);
    }
    const figure = (what: string, pick: (one: OpenLoad) => number): Figure => ({
      ...{ what: `${what} at ${rate} arrivals a second`, unit: 'ms', value: spreadOf(rounds.map(pick)) },
    });
    const faults = answerFaults('stampede', all);
    if (rounds.some(fellBehind)) faults.push('k6 was the limit');
    await stage.serveBehind();
    const ledger = await stage.reconcile();
    faults.push(...countFaults('stampede', heldUnits(ledger, 'arrivals'), all, 0));
    return {
      figures: [
        { what: `closed loop, ${connections} connections`, unit: 'per second', value: spreadOf([capacity.perSecond]) },
        figure('p50', (one) => one.p50Ms),
        figure('p99', (one) => one.p99Ms),
        figure('p99.9', (one) => one.p999Ms),
      ],
      ...{ beside: stage.beside('nothing; relay and ledger caught up afterwards'), faults, skipped },
    };
  } finally {
    await stage.close();
  }
}

export const openLoop: Scenario = { about: 'open loop at half of capacity: p50, p99, p99.9', run: play };
