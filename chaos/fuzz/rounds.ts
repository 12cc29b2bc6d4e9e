/** Rounds of cases against a live engine: after each round the process, the books and a right request are looked at. */
import { waitUntil } from '../../services/waiting.ts';
import { audit, type Books, type Claim, openBooks } from './books.ts';
import type { World } from './http-grammar.ts';
import type { Finding, Progress } from './report.ts';
import { type FuzzTarget, saleId, sideId } from './target.ts';

/** What came of one case. `claims` are for the books. */
export type CaseReport = {
  kind: string;
  lenient?: string;
  statuses: string[];
  claims: Claim[];
  findings: Finding[];
  busy: boolean;
};

/** Something that can make and judge case `number`. */
export type Fuzzer = {
  name: string;
  run(target: FuzzTarget, world: World, seed: number, number: number): Promise<CaseReport>;
};

export type FuzzReport = {
  name: string;
  seed: number;
  cases: number;
  seconds: number;
  rounds: number;
  kinds: Record<string, number>;
  answers: Record<string, number>;
  /** Requests that were taken though the standard forbids them, by what it has against them. */
  lenient: Record<string, number>;
  /** Movements of units that the ledger has, and those that no answer told of (hung up on, or cut off). */
  movements: number;
  untold: number;
  busy: number;
  residentMb: { first: number; last: number };
  files: { first: number; last: number };
  findings: Finding[];
};

export type FuzzOptions = {
  seed: number;
  from: number;
  cases: number;
  minutes: number;
  progress: Progress;
};

const casesARound = 1_000;
const atOnce = 32;
const filesMore = 8;
const residentMoreMb = 400;
const busyShare = 0.001;
const mostFindings = 50;
const healthyMs = 10_000;

const count = (into: Record<string, number>, name: string): void => {
  into[name] = (into[name] ?? 0) + 1;
};

/** What is wrong with the engine after a round. */
async function wrongsAfter(target: FuzzTarget, books: Books, claims: Claim[], report: FuzzReport): Promise<string[]> {
  if (!target.isAlive())
    return [
      `the engine ended: ${target.served.child.exitCode ?? target.served.child.signalCode} ${target.served.stderr().slice(-2_000)}`,
    ];
  const wrongs: string[] = [];
  const began = performance.now();
  const health = await target.ask('GET', '/healthz');
  const tookMs = performance.now() - began;
  if (health.status !== 200 || tookMs > healthyMs)
    wrongs.push(`/healthz: ${health.status} after ${tookMs.toFixed(0)} ms`);
  await target.level();
  const found = await audit(target.ledger, books, claims, target.buyerOf);
  report.movements += found.movements;
  report.untold += found.untold;
  wrongs.push(...found.wrongs.slice(0, 10));
  // What the engine shows is what the ledger has.
  for (const id of [saleId, sideId]) {
    const shown = (await target.sale(id)).stock.map(({ sku, available, reserved, sold }) => ({
      sku,
      available,
      reserved,
      sold,
    }));
    const { rows } = await target.ledger.query<Record<string, string>>(
      `select b.sku, b.available, b.reserved, b.sold from ledger.balance b join ledger.sale s using (shard, sale)
        where s.id = $1 order by b.sku`,
      [id],
    );
    const kept = rows.map(({ sku, ...rest }) => ({
      sku,
      ...Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, Number(value)])),
    }));
    if (JSON.stringify(shown) !== JSON.stringify(kept))
      wrongs.push(`${id}: the engine shows ${JSON.stringify(shown)}, the ledger has ${JSON.stringify(kept)}`);
  }
  // Sockets that the engine closes itself are gone after its own time limit.
  const back = await waitUntil(async () => target.vitals().files <= report.files.first + filesMore, 20_000, 50);
  report.files.last = target.vitals().files;
  if (!back) wrongs.push(`${report.files.last} files are open, ${report.files.first} were`);
  return wrongs;
}

/** Runs cases `from` on, in rounds, until all are done or the time is up. */
export async function runRounds(target: FuzzTarget, fuzzer: Fuzzer, options: FuzzOptions): Promise<FuzzReport> {
  const { seed, from, cases, progress } = options;
  const beganMs = performance.now();
  const untilMs = beganMs + options.minutes * 60_000;
  const first = target.vitals();
  const report: FuzzReport = {
    ...{ name: fuzzer.name, seed, cases: 0, seconds: 0, rounds: 0, kinds: {}, answers: {}, lenient: {} },
    ...{ movements: 0, untold: 0, busy: 0, findings: [] },
    residentMb: { first: first.residentMb, last: first.residentMb },
    files: { first: first.files, last: first.files },
  };
  const books = await openBooks(target.ledger);
  let untold: Claim[] = [];
  let number = from;
  while (number < from + cases && performance.now() < untilMs && report.findings.length < mostFindings) {
    const roundFrom = number;
    const roundTo = Math.min(from + cases, number + casesARound);
    const world = target.worldOf(await target.newHolds(`${fuzzer.name}-${seed}-${roundFrom}`));
    await target.level();
    books.watermarks = (await openBooks(target.ledger)).watermarks;
    // What nobody was told of may come to pass a little later.
    const claims: Claim[] = untold;
    const work = async (): Promise<void> => {
      while (number < roundTo && target.isAlive()) {
        const one = await fuzzer.run(target, world, seed, number++);
        report.cases++;
        count(report.kinds, one.kind);
        for (const status of one.statuses) count(report.answers, status);
        if (one.busy) report.busy++;
        if (one.lenient) count(report.lenient, one.lenient);
        claims.push(...one.claims);
        report.findings.push(...one.findings);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, work));
    const wrongs = await wrongsAfter(target, books, claims, report);
    untold = claims.filter(({ sure }) => !sure);
    const replay = `npm run fuzz -- --only ${fuzzer.name} --seed ${seed} --from ${roundFrom} --cases ${roundTo - roundFrom}`;
    for (const what of wrongs) report.findings.push({ kind: 'after a round', what, replay });
    report.rounds++;
    // The first rounds warm it up.
    if (report.rounds === 3) report.residentMb.first = target.vitals().residentMb;
    if (!target.isAlive()) break;
    report.residentMb.last = target.vitals().residentMb;
    progress(
      `${fuzzer.name}: ${report.cases} of ${cases} cases, ${report.findings.length} findings, ${report.residentMb.last.toFixed(0)} MB`,
    );
  }
  report.seconds = (performance.now() - beganMs) / 1_000;
  const grown = report.residentMb.last - report.residentMb.first;
  if (report.rounds > 3 && grown > residentMoreMb)
    report.findings.push({ kind: 'memory', what: `the engine has grown by ${grown.toFixed(0)} MB` });
  if (report.busy > Math.max(2, report.cases * busyShare))
    report.findings.push({ kind: 'busy', what: `${report.busy} answers were 503 from a healthy engine` });
  return report;
}
