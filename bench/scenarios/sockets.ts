/** Purchases over WebSocket, beside the same number of connections that purchase over HTTP. */
import {
  type Contest,
  contestFaults,
  contestNotes,
  countFaults,
  driftFaults,
  heldUnits,
  mostPerSecond,
  pidOf,
  ratesOf,
  ratiosOf,
} from '../contest.ts';
import { type LoadResult, runLoad, runSockets } from '../load.ts';
import { interleave } from '../rounds.ts';
import type { Pace, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

const units = 1_000_000_000;
const connections = { long: 1_024, quick: 64 };

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    const many = pace.quick ? connections.quick : connections.long;
    const tokens = stage.tokens(mostPerSecond * pace.seconds);
    const all = new Map<string, LoadResult[]>([
      ['over WebSocket', []],
      ['over HTTP', []],
    ]);
    const watch = { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 };
    const contender = (name: 'over WebSocket' | 'over HTTP', load: (saleId: string) => Promise<LoadResult>) => ({
      name,
      async run(round: number) {
        const saleId = `${name === 'over HTTP' ? 'http' : 'ws'}-${round}`;
        // A socket is one buyer, who buys again and again here.
        await stage.sale(url, saleId, { durability: 'fsync', units, perBuyer: 1_000_000 });
        const result = await load(saleId);
        all.get(name)?.push(result);
        return result;
      },
    });
    const common = { url, connections: many, seconds: pace.seconds, watch };
    const contenders = [
      contender('over WebSocket', (saleId) => runSockets({ ...common, tokens, saleId, sku: 'hot' })),
      contender('over HTTP', (saleId) =>
        runLoad({ ...common, script: 'reserve', args: [tokens, saleId, 'hot', saleId] }),
      ),
    ];
    const measured = await interleave(contenders, pace.rounds, (round, name, { perSecond }) =>
      say(`${round === 0 ? 'warm-up' : `round ${round}`} ${name} ${perSecond.toFixed(0)}/s`),
    );
    const result: Contest = { measured, all };
    say('the ledger catches up …');
    await stage.serveBehind();
    const ledger = await stage.reconcile();
    const faults = [...contestFaults(result), ...driftFaults(ledger)];
    for (const [name, prefix] of [
      ['over WebSocket', 'ws-'],
      ['over HTTP', 'http-'],
    ] as const)
      faults.push(...countFaults(name, heldUnits(ledger, prefix), all.get(name) ?? [], many));
    return {
      figures: [...ratesOf(result, many), ...ratiosOf(result, 'over WebSocket', many, [{ against: 'over HTTP' }])],
      ...{
        beside: stage.beside('nothing; relay and ledger caught up afterwards'),
        faults,
        notes: contestNotes(result),
        skipped: [],
      },
    };
  } finally {
    await stage.close();
  }
}

export const sockets: Scenario = { about: 'purchases over 1,024 WebSockets, beside HTTP', run: play };
