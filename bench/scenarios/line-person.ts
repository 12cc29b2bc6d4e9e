/** A person's whole way by k6: join, wait, be let in, reserve, buy; people come at a constant rate, faster than they are let in. */
import { pidOf } from '../contest.ts';
import { fellBehind, type OpenLoad, runOpenLoop } from '../k6.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Pace, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

/** What `person.js` says more than other scripts. */
type PersonLoad = OpenLoad & { bought: number; inLineMs: number; inLineP99Ms: number };

const one = (value: number) => spreadOf([value]);

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    await stage.serveBehind();
    const [rate, seconds] = pace.quick ? [20, 3] : [100, 30];
    const people = rate * seconds;
    // Four in five of those who come are let in at once or nearly; the line grows, and is worked off afterwards.
    const waitingRoom = { order: 'fifo', inlet: { perMinute: rate * 48, stock: true } };
    await stage.sale(url, 'line', { durability: 'fsync', units: people * 2, waitingRoom });
    const env = { URL: url, TOKENS: stage.tokens(people * 2), SALE: 'line', SKU: 'hot', WAIT: String(seconds) };
    const watch = { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 };
    const load = { script: 'person', ratePerSecond: rate, seconds, connections: people, env, watch, say };
    const result = (await runOpenLoop(load)) as PersonLoad;
    const ledger = await stage.reconcile();
    const sold = ledger.rows.reduce((sum, row) => sum + (row.ledger?.sold ?? 0), 0);
    const faults: string[] = [];
    if (sold !== result.bought) faults.push(`${result.bought} people say that they bought, the ledger sold ${sold}`);
    if (result.refused > 0) faults.push(`${result.refused} people went without`);
    if (result.failed > 0) faults.push(`${result.failed} calls got no answer`);
    if (fellBehind(result)) faults.push('k6 was the limit');
    const figures: Figure[] = [
      { what: `people who bought, of ${rate} a second`, unit: 'people', value: one(result.bought) },
      { what: 'in line, median', unit: 'ms', value: one(result.inLineMs) },
      { what: 'in line, p99', unit: 'ms', value: one(result.inLineP99Ms) },
      { what: 'a call, p99', unit: 'ms', value: one(result.p99Ms) },
    ];
    const beside = stage.beside('relay and ledger in one process, the sweeper in another, Postgres');
    return { figures, beside, faults, skipped: [] };
  } finally {
    await stage.close();
  }
}

export const linePerson: Scenario = { about: 'people who join, wait, are let in, reserve and buy, by k6', run: play };
