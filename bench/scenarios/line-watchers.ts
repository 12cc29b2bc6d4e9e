/** People who wait over WebSockets: what one costs, how soon all hear of a change of stock, and what buyers notice meanwhile. */
import { systemClock } from '../../kernel/clock.ts';
import type { Started } from '../command.ts';
import { answerFaults, mostPerSecond, pidOf } from '../contest.ts';
import { gatherLine } from '../line-crowd.ts';
import { runLoad } from '../load.ts';
import { spreadOf } from '../rounds.ts';
import type { Figure, Pace, Report, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { memoryMb } from '../usage.ts';

const perEngine = 17_000;
const buyers = 64;
const changes = 5;
const units = 1_000_000;

const one = (value: number) => spreadOf([value]);

async function play(count: number, pace: Pace, say: (line: string) => void): Promise<Report> {
  const stage = await openStage({ names: ['valkey', 'postgres'], say });
  try {
    const engines: Started[] = [];
    for (let i = 0; i < Math.ceil(count / perEngine); i++) engines.push(await stage.serve('http'));
    await stage.serveBehind();
    const urls = engines.map(({ ready }) => String(ready.url));
    const [url = ''] = urls;
    const memory = (): number => engines.reduce((sum, engine) => sum + memoryMb(pidOf(engine)), 0);
    const waitingRoom = { order: 'fifo', inlet: { perMinute: 1 }, graceSeconds: 120 };
    await stage.sale(url, 'line', { durability: 'fsync', units, waitingRoom });
    await stage.sale(url, 'beside', { durability: 'fsync', units: 1_000_000_000 });

    const load = async (seconds: number) => {
      const tokens = stage.tokens((mostPerSecond / 10) * seconds);
      const args = [tokens, 'beside', 'hot', String(performance.now())];
      return runLoad({
        url,
        connections: buyers,
        seconds,
        script: 'reserve',
        args,
        pauseMs: 50,
        watch: {},
        answerWithinSeconds: 10,
      });
    };
    // The first warms up; its memory is there before anybody waits.
    await load(pace.quick ? 1 : 5);
    const before = await load(pace.quick ? 1 : 10);
    const emptyMb = memory();
    say(`${count.toLocaleString('en')} people join and watch …`);
    const beganMs = performance.now();
    const crowd = await gatherLine({
      ...{ urls, saleId: 'line', sku: 'hot', tokens: stage.tokens(count), count },
      ...{ buys: false, thinkMs: 0, lapseRate: 0 },
    });
    stage.onClose(async () => crowd.stop());
    const joinSeconds = (performance.now() - beganMs) / 1_000;
    const fullMb = memory();
    const seconds: number[] = [];
    const during = load(pace.quick ? 4 : 30);
    let delta = 0;
    for (let i = 0; i < changes; i++) {
      await systemClock.wait(pace.quick ? 200 : 3_000);
      delta++;
      // One unit is with whoever was let in first, if at all: the available ones are told by the sale itself.
      const available = (await stage.available(url, 'line')) + 1;
      const { heard } = crowd.expect(available);
      const changedMs = Date.now();
      await stage.restock(url, 'line', `more-${delta}`, 1);
      seconds.push(((await heard) - changedMs) / 1_000);
      say(`all heard of a change of stock after ${seconds.at(-1)?.toFixed(2)} s`);
    }
    const beside = await during;
    const counts = await crowd.counts();
    const faults = [...answerFaults('before', [before]), ...answerFaults('meanwhile', [beside])];
    if (counts.open !== count || counts.lost > 0)
      faults.push(`${counts.open} sockets were opened, ${counts.lost} lost`);
    const figures: Figure[] = [
      { what: `${count} people joined and watched`, unit: 'per second', value: one(count / joinSeconds) },
      {
        what: 'engines’ memory a person',
        unit: 'KB',
        value: one(((fullMb - emptyMb) * 1_024) / count),
        atMost: 6,
        beyond: 4,
      },
      { what: 'a change of stock reached all', unit: 's', value: spreadOf(seconds), atMost: 3, beyond: 1.5 },
      { what: 'p99 of reservations beside, before', unit: 'ms', value: one(before.p99Ms) },
      { what: 'p99 of reservations beside, meanwhile', unit: 'ms', value: one(beside.p99Ms) },
      { what: 'reservations beside, meanwhile', unit: 'per second', value: one(beside.perSecond) },
    ];
    const text = `${engines.length} engines; relay and ledger in one process, the sweeper in another; Postgres`;
    return { figures, beside: stage.beside(text), faults, skipped: [] };
  } finally {
    await stage.close();
  }
}

export const lineWatchers = (count: number): Scenario => ({
  about: `${count.toLocaleString('en')} people who wait over WebSockets, a change of stock, buyers beside`,
  run: (pace, say) => play(pace.quick ? 300 : count, pace, say),
});
