/** Ten minutes of whole lives with everything running, and rewrites of the log: memory and disk of every process over time. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { systemClock } from '../../kernel/clock.ts';
import { answerFaults, driftFaults, pidOf } from '../contest.ts';
import { runLoad } from '../load.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Pace, Plot, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { memoryMb } from '../usage.ts';

const connections = 64;
const units = 1_000_000_000;
const soakSeconds = { long: 600, quick: 4 };
const pauseMs = 10;
const buyers = 20_000;

function folderMb(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile())
      try {
        bytes += statSync(join(entry.parentPath, entry.name)).size;
      } catch {
        // It has just been replaced.
      }
  return bytes / 1_048_576;
}

async function play(pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres', 'kafka'], say, env: { REMEMBER_SECONDS: '60' } });
  const redis = new Redis(stage.services.valkey?.url ?? '');
  try {
    const engine = await stage.serve('http');
    const url = String(engine.ready.url);
    const workers = await stage.serveBehind();
    const { valkey, postgres, kafka } = stage.services;
    const pids = {
      ...{ engine: pidOf(engine), workers: pidOf(workers) },
      ...{ valkey: valkey?.pid ?? 0, postgres: postgres?.pid ?? 0, kafka: kafka?.pid ?? 0 },
    };
    await stage.sale(url, 'soak', { durability: 'fsync', units, perBuyer: 1_000_000 });
    const tokens = stage.tokens(buyers, { named: true });
    const seconds = pace.quick ? soakSeconds.quick : soakSeconds.long;
    const memory = new Map<string, [number, number][]>(Object.keys(pids).map((name) => [name, []]));
    const disk = new Map<string, [number, number][]>(['valkey', 'postgres', 'kafka'].map((name) => [name, []]));
    const startedMs = performance.now();
    let over = false;
    const sampling = (async () => {
      while (!over) {
        const at = (performance.now() - startedMs) / 1_000;
        for (const [name, pid] of Object.entries(pids)) memory.get(name)?.push([at, memoryMb(pid)]);
        for (const [name, points] of disk) points.push([at, folderMb(join(stage.folder, 'data', name))]);
        // As often as a busy hour would bring it.
        if (memory.get('valkey')?.length === 2 || (memory.get('valkey')?.length ?? 0) % 60 === 0)
          await redis.call('BGREWRITEAOF').catch(() => undefined);
        await systemClock.wait(1_000);
      }
    })();
    const args = [tokens, 'soak', 'hot', 'soak'];
    const asked = { url, connections, seconds, script: 'life', args, pauseMs };
    const load = await runLoad({ ...asked, watch: pids }).finally(() => {
      over = true;
    });
    await sampling;
    say(`${load.perSecond.toFixed(0)} requests a second for ${seconds} s`);
    const ledger = await stage.reconcile();
    const faults = [...answerFaults('stampede', [load]), ...driftFaults(ledger)];
    const grown = (points: [number, number][], what: string): Figure[] => {
      // From when it has settled.
      const settled = points.slice(Math.floor(points.length / 3));
      const [first, last] = [settled[0]?.[1] ?? 0, settled.at(-1)?.[1] ?? 0];
      return [
        { what: `${what}, at the end`, unit: 'MB', value: spreadOf([last]) },
        { what: `${what}, grown in the last two thirds`, unit: 'MB', value: spreadOf([last - first]) },
      ];
    };
    const linesOf = (from: Map<string, [number, number][]>): Plot['lines'] =>
      [...from].map(([name, points]) => ({ name, points }));
    return {
      figures: [
        { what: 'requests', unit: 'per second', value: spreadOf([load.perSecond]) },
        { what: 'p99', unit: 'ms', value: spreadOf([load.p99Ms]) },
        ...[...memory].flatMap(([name, points]) => grown(points, `${name}: memory`)),
        ...[...disk].flatMap(([name, points]) => grown(points, `${name}: disk`)),
      ],
      plots: [
        { title: 'Soak: memory', x: 'seconds', y: 'MB', lines: linesOf(memory) },
        { title: 'Soak: disk', x: 'seconds', y: 'MB', lines: linesOf(disk) },
      ],
      ...{
        beside: stage.beside('relay and ledger in one process, the sweeper in another, Kafka, Postgres'),
        faults,
        skipped: [],
      },
    };
  } finally {
    redis.disconnect();
    await stage.close();
  }
}

export const soak: Scenario = {
  about: 'ten minutes with rewrites of the log: memory and disk of every process',
  run: play,
};
