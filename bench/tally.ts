/** What one crowd process counts and checks, and how the counts of several are put together. */
import { build, decodeFromCompressedBase64, encodeIntoCompressedBase64, type Histogram } from 'hdr-histogram-js';

/** Wall-clock milliseconds that never jump: comparable between the processes of one machine. */
export const nowMs = (): number => performance.timeOrigin + performance.now();

/** How a buyer's visit ended. `sold-out`, `gave-up` and `late` left with nothing; so did who ran into a `fault`. */
export type Ending = 'bought' | 'sold-out' | 'gave-up' | 'late' | 'fault';

export type Purchase = { reservationId: string; buyerId: string };

/** Counts while a sale goes on; they only grow. */
export type Counts = {
  /** Answers to reserve and commit calls since the sale opened. */
  answers: number;
  bought: number;
  /** Buyers who left with nothing. */
  left: number;
  doubleClicks: number;
  hangUps: number;
  /** Hang-ups whose unit had been taken: the same key brought it back. */
  replays: number;
  /** Buyers who asked for a second unit while they held one. */
  greedy: number;
  /** Holds that were left to expire. */
  abandoned: number;
  /** Requests that had to be sent again: refused with 429 or 503, or unanswered. */
  resent: number;
};

/** All that a crowd process knows at its end. Times are `nowMs`; 0 when there was none. */
export type CrowdReport = Counts & {
  endings: Record<Ending, number>;
  purchases: Purchase[];
  /** The first complaints, in words; `complaintCount` of them in all. */
  complaints: string[];
  complaintCount: number;
  lastAnswerAtMs: number;
  lastCommitAtMs: number;
  /** The answers of each second since the opening. */
  answersBySecond: number[];
  /** Microseconds from pressing the button to the answer, of every reserve call; HdrHistogram's own text. */
  reserveMicros: string;
};

export type Tally = {
  readonly counts: Counts;
  /** A reserve or commit call was answered after `ms`. */
  answered(call: 'reserve' | 'commit', ms: number): void;
  count(what: 'doubleClicks' | 'hangUps' | 'replays' | 'greedy' | 'abandoned' | 'resent'): void;
  /** Something that must never happen did. */
  complain(text: string): void;
  ended(ending: Ending, purchase?: Purchase): void;
  report(): CrowdReport;
};

const complaintsKept = 20;

const newHistogram = (): Histogram => build({ bitBucketSize: 32, numberOfSignificantValueDigits: 3 });
const noEndings = (): Record<Ending, number> => ({ bought: 0, 'sold-out': 0, 'gave-up': 0, late: 0, fault: 0 });
const noCounts = (): Counts => ({
  answers: 0,
  bought: 0,
  left: 0,
  doubleClicks: 0,
  hangUps: 0,
  replays: 0,
  greedy: 0,
  abandoned: 0,
  resent: 0,
});

/** Answers that come before `opensAtMs` are not counted: those buyers pressed early. */
export function createTally(opensAtMs: number): Tally {
  const counts = noCounts();
  const endings = noEndings();
  const purchases: Purchase[] = [];
  const complaints: string[] = [];
  const answersBySecond: number[] = [];
  const micros = newHistogram();
  let complaintCount = 0;
  let lastAnswerAtMs = 0;
  let lastCommitAtMs = 0;
  return {
    counts,
    answered(call, ms) {
      const atMs = nowMs();
      if (atMs < opensAtMs) return;
      counts.answers++;
      const second = Math.floor((atMs - opensAtMs) / 1_000);
      answersBySecond[second] = (answersBySecond[second] ?? 0) + 1;
      lastAnswerAtMs = atMs;
      if (call === 'commit') lastCommitAtMs = atMs;
      else micros.recordValue(Math.round(ms * 1_000));
    },
    count(what) {
      counts[what]++;
    },
    complain(text) {
      complaintCount++;
      if (complaints.length < complaintsKept) complaints.push(text);
    },
    ended(ending, purchase) {
      endings[ending]++;
      if (purchase) {
        counts.bought++;
        purchases.push(purchase);
      } else counts.left++;
    },
    report: () => ({
      ...counts,
      endings,
      purchases,
      complaints,
      complaintCount,
      lastAnswerAtMs,
      lastCommitAtMs,
      answersBySecond: Array.from(answersBySecond, (answers) => answers ?? 0),
      reserveMicros: encodeIntoCompressedBase64(micros),
    }),
  };
}

export function addCounts(all: Counts[]): Counts {
  const sum = noCounts();
  for (const counts of all) for (const name of Object.keys(sum) as (keyof Counts)[]) sum[name] += counts[name];
  return sum;
}

/** What the whole crowd knows. `p50Ms` and `p99Ms`: of every reserve call. */
export type CrowdResult = Omit<CrowdReport, 'reserveMicros' | 'answersBySecond'> & {
  p50Ms: number;
  p99Ms: number;
  /** The answers of the best second. */
  peakAnswersPerSecond: number;
};

export function addReports(reports: CrowdReport[]): CrowdResult {
  const endings = noEndings();
  const micros = newHistogram();
  const answersBySecond: number[] = [];
  for (const report of reports) {
    for (const name of Object.keys(endings) as Ending[]) endings[name] += report.endings[name];
    micros.add(decodeFromCompressedBase64(report.reserveMicros, 32, false));
    report.answersBySecond.forEach((answers, second) => {
      answersBySecond[second] = (answersBySecond[second] ?? 0) + answers;
    });
  }
  const inMs = (percentile: number): number => micros.getValueAtPercentile(percentile) / 1_000;
  return {
    ...addCounts(reports),
    endings,
    purchases: reports.flatMap(({ purchases }) => purchases),
    complaints: reports.flatMap(({ complaints }) => complaints).slice(0, complaintsKept),
    complaintCount: reports.reduce((sum, { complaintCount }) => sum + complaintCount, 0),
    lastAnswerAtMs: Math.max(0, ...reports.map(({ lastAnswerAtMs }) => lastAnswerAtMs)),
    lastCommitAtMs: Math.max(0, ...reports.map(({ lastCommitAtMs }) => lastCommitAtMs)),
    p50Ms: inMs(50),
    p99Ms: inMs(99),
    peakAnswersPerSecond: Math.max(0, ...answersBySecond),
  };
}
