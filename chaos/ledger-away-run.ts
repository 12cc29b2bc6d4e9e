/**
 * The ledger goes away under full load until the outbox is full, and comes back: what is refused then, what goes on, what
 * grows and how far, and how it drains.
 */
import { systemClock } from '../kernel/clock.ts';
import { limits } from '../kernel/limits.ts';
import { reconcile } from '../ledger/reconcile.ts';
import { waitUntil } from '../services/waiting.ts';
import {
  askEach,
  askToHold,
  bookBytes,
  briefSeconds,
  endAll,
  eventsKept,
  type Gauges,
  type Guest,
  load,
  newGuest,
  nothingDueSoon,
  outboxBytes,
  peakBytes,
  readGauges,
  type Stage,
  setStage,
  type Watch,
  watchGauges,
} from './pressure.ts';

export type AwayOptions = {
  /** How many events the outbox may have: it is filled. */
  events: number;
  away: 'postgres' | 'kafka';
  /** Events of a load that goes on once the ledger is back and runs beside; until its reservations are forgotten. */
  churnEvents: number;
  rememberSeconds: number;
};

/** A part of the run. Events are those that came, or those that the ledger took; the others are as of its end. */
export type Phase = {
  name: string;
  seconds: number;
  events: number;
  waiting: number;
  outboxBytes: number;
  gauges: Gauges;
};

export type AwayReport = {
  away: AwayOptions['away'];
  limit: number;
  maxmemoryBytes: number;
  phases: Phase[];
  /** Reservations that load made until holds were refused, and how the last were. */
  reservations: number;
  refusedWith: string;
  /** Calls over HTTP with the outbox full: the code of the problem, or the status. */
  whenFull: Record<string, string>;
  /** Holds that lived when the outbox was full: how many were ended by calls, lapsed and were swept, or are left. */
  endings: { holds: number; ended: number; lapsing: number; left: number };
  /** Events in the outbox once all of them had ended, and what each takes, its share of the reservations included. */
  mostWaiting: number;
  bytesPerEvent: number;
  /** What a purchase leaves in Valkey as long as its sale is known; null when no load went on. */
  bytesPerPurchase: number | null;
  /** How a new hold is answered with the outbox full, and once the ledger is level. */
  reserve: { full: string; after: string };
  /** At the end: events that the ledger has not, events that the outbox keeps for a ledger that comes back older. */
  lag: number;
  kept: number;
  drift: number;
  unread: string[];
  /** The largest of each over the whole run. */
  most: Gauges;
  relayPeakBytes: number;
};

/** What shows how it goes on. */
export type Teller = { step(name: string): void; detail(text: string): void; stepDone(text: string): void };

/** Enough for the reservations that so many events are of: measured, 120 bytes an event. */
const maxmemoryFor = (events: number): number => 64 * 1024 ** 2 + events * 250;
/** No machine is slower. */
const leastPerSecond = 500;
const whole = (value: number): string => Math.round(value).toLocaleString('en');

/** What must not be in a report. */
export function wrongsOf(report: AwayReport): string[] {
  const { limit, whenFull, endings, reserve, most } = report;
  const least = limit - 1;
  const expected = { reserve: 'overloaded', 'the same key again': '201', commit: '200', release: '200' };
  const checks: [boolean, string][] = [
    [report.refusedWith === 'overloaded', `holds were refused as ${report.refusedWith || 'nothing'}`],
    ...Object.entries(expected).map(([name, code]): [boolean, string] => [
      whenFull[name] === code,
      `with the outbox full, ${name} was answered ${whenFull[name]}`,
    ]),
    [endings.ended === endings.holds, `${endings.ended} of ${endings.holds} holds could be ended`],
    [endings.left === 0, `${endings.left} holds are left that nothing has ended`],
    [report.mostWaiting <= limit, `${report.mostWaiting} events wait, and ${limit} may`],
    [report.mostWaiting >= least, `holds were refused although ${limit - report.mostWaiting} more events had room`],
    [reserve.full === 'overloaded', `with the outbox full a hold was answered ${reserve.full}`],
    [reserve.after === '201', `once the ledger was level a hold was answered ${reserve.after}`],
    [report.lag === 0, `the ledger is ${report.lag} events behind`],
    [report.kept <= limits.outboxTailEvents + 1_000, `the outbox still has ${report.kept} events`],
    [report.drift === 0, `a drift of ${report.drift} units`],
    [report.unread.length === 0, report.unread.join('; ')],
    [most.usedMemoryBytes <= report.maxmemoryBytes, 'Valkey’s memory went over its bound'],
  ];
  return checks.flatMap(([right, wrong]) => (right ? [] : [wrong]));
}

/**
 * Load beside a ledger that is there: where it is refused, it waits until half of the outbox is free. Answers what each
 * purchase leaves in Valkey once its reservation is forgotten.
 */
async function churn(stage: Stage, events: number, limitMs: number): Promise<number> {
  const until = (await stage.status()).seq + events;
  const hasRoom = async (): Promise<boolean> => {
    const { seq, acked, live } = await stage.status();
    return seq - acked + live < stage.limit / 2;
  };
  const enough = async (refused: boolean): Promise<boolean> =>
    (await stage.status()).seq >= until || (refused && !(await waitUntil(hasRoom, limitMs)));
  await load(stage, enough, { ending: 1 });
  await waitUntil(() => nothingDueSoon(stage), limitMs);
  return bookBytes(stage, 'long');
}

export async function runLedgerAway(options: AwayOptions, tell: Teller): Promise<AwayReport> {
  const { events, away, rememberSeconds } = options;
  const maxmemoryBytes = maxmemoryFor(events + options.churnEvents);
  tell.step(`Starting Valkey, Postgres${away === 'kafka' ? ', Kafka' : ''} and Stampede`);
  const stage = await setStage({ outboxEvents: events, maxmemoryBytes, kafka: away === 'kafka', rememberSeconds });
  let watch: Watch | undefined;
  try {
    watch = watchGauges(stage, (now, { seq, acked, live }) =>
      tell.detail(`${whole(seq - acked)} events wait, ${whole(live)} holds, ${whole(now.usedMemoryBytes / 1e6)} MB`),
    );
    return await playAway(stage, watch, { ...options, maxmemoryBytes }, tell);
  } finally {
    await watch?.stop();
    await stage.stop();
  }
}

async function playAway(
  stage: Stage,
  watch: Watch,
  options: AwayOptions & { maxmemoryBytes: number },
  tell: Teller,
): Promise<AwayReport> {
  const { away, churnEvents, maxmemoryBytes } = options;
  const limitMs = 60_000 + ((stage.limit + churnEvents) / leastPerSecond) * 1000;
  const phases: Phase[] = [];
  const phase = async <T>(name: string, count: 'seq' | 'acked', work: () => Promise<T>): Promise<T> => {
    tell.step(name);
    const before = await stage.status();
    const beganMs = performance.now();
    const result = await work();
    const seconds = (performance.now() - beganMs) / 1000;
    const now = await stage.status();
    const came = now[count] - before[count];
    const waiting = now.seq - now.acked;
    const sizes = { outboxBytes: await outboxBytes(stage), gauges: await readGauges(stage) };
    phases.push({ name, seconds, events: came, waiting, ...sizes });
    tell.stepDone(`${name}: ${whole(came)} events in ${seconds.toFixed(1)} s, ${whole(waiting)} wait`);
    return result;
  };
  const level = async (): Promise<boolean> => {
    const { seq, acked } = await stage.status();
    return acked === seq;
  };
  const nobodyHolds = async (): Promise<boolean> => (await stage.status()).live === 0;
  const tryToHold = async (): Promise<string> => (await askToHold(stage)).code;

  const guests: [Guest, Guest] = [await newGuest(stage), await newGuest(stage)];
  await phase('the ledger is there', 'acked', () => waitUntil(level, limitMs));
  const begun = await stage.status();
  await stage.bed.services.stopOne(away);

  const made = await phase('the ledger is away, until holds are refused', 'seq', () =>
    load(stage, async (refused) => refused),
  );
  const whenFull = await askEach(stage, guests);
  const endings = await phase('every hold ends', 'seq', async () => {
    const lapsing = (await stage.units('brief')).reserved;
    const ended = await endAll(stage, made.left);
    await waitUntil(nobodyHolds, limitMs + briefSeconds * 1000);
    return { holds: made.left.length, ended, lapsing, left: (await stage.status()).live };
  });
  const full = await stage.status();
  const bytesBefore = phases[0]?.gauges.usedMemoryBytes ?? 0;
  const bytesFull = phases.at(-1)?.gauges.usedMemoryBytes ?? 0;
  const refused = await tryToHold();

  tell.step(`Starting ${away} again`);
  await stage.bed.services.startOne(away);
  await phase('the ledger is back, and catches up', 'acked', () => waitUntil(level, limitMs));
  const after = await tryToHold();
  let bytesPerPurchase: number | null = null;
  if (churnEvents > 0)
    bytesPerPurchase = await phase('load goes on beside it', 'seq', () => churn(stage, churnEvents, limitMs));
  await phase('the ledger is level', 'acked', () => waitUntil(level, limitMs));
  const { pool, outbox } = stage.stores;
  const found = await reconcile({ pool, source: outbox, shards: 1, waitMs: 30_000, clock: systemClock });
  return {
    ...{ away, limit: stage.limit, maxmemoryBytes, phases, whenFull, endings },
    ...{ reservations: made.made, refusedWith: made.code },
    mostWaiting: full.seq - full.acked,
    bytesPerPurchase,
    bytesPerEvent: (bytesFull - bytesBefore) / (full.seq - begun.seq),
    reserve: { full: refused, after },
    lag: phases.at(-1)?.waiting ?? 0,
    kept: await eventsKept(stage),
    drift: found.drift,
    unread: found.shards.flatMap(({ unread }) => unread ?? []),
    most: watch.most,
    relayPeakBytes: peakBytes(stage.background),
  };
}
