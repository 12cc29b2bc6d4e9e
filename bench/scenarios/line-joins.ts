/** Joining a line, each request a new buyer, on disk before each answer, beside a server that does nothing. */
import {
  type Contest,
  contest,
  contestFaults,
  contestNotes,
  countFaults,
  mostPerSecond,
  pidOf,
  ratesOf,
  ratiosOf,
  startNoop,
  type Turns,
} from '../contest.ts';
import type { Pace, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

const connections = 256;

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    const noop = await startNoop(stage);
    const tokens = stage.tokens(mostPerSecond * pace.seconds);
    const waitingRoom = { order: 'fifo', inlet: { perMinute: 1 }, graceSeconds: 3_600 };
    const own: Turns = {
      ...{ name: 'stampede', url, pids: { engine: pidOf(engine), valkey: stage.services.valkey?.pid ?? 0 } },
      prepare: (round) => stage.sale(url, `line-${round}`, { durability: 'fsync', units: 1, waitingRoom }),
      script: 'join',
      args: (round) => [tokens, `line-${round}`],
    };
    const limit: Turns = {
      ...noop,
      script: 'reserve',
      args: (round) => [tokens, `line-${round}`, 'hot', `k-${round}`],
    };
    const result: Contest = await contest([limit, own], connections, pace, say);
    const faults = contestFaults(result);
    // Who joins now stands behind all who have joined.
    for (const [round, load] of (result.all.get('stampede') ?? []).entries()) {
      const behind = await stage.join(url, `line-${round}`);
      faults.push(...countFaults(`stampede, round ${round}`, behind - 1, [load], connections));
    }
    const goals = [{ against: 'noop', rate: { atLeast: 0.4, beyond: 0.55 } }];
    return {
      figures: [...ratesOf(result, connections), ...ratiosOf(result, 'stampede', connections, goals)],
      ...{ beside: stage.beside('nothing'), faults, notes: contestNotes(result), skipped: [] },
    };
  } finally {
    await stage.close();
  }
}

export const lineJoins: Scenario = { about: 'joining a line, on disk, beside a server that does nothing', run: play };
