/** For tests: a run in which Valkey went back twice, as its clients and its stores tell it. All of it is true. */
import type { Reserved } from './check/findings.ts';
import { asked, ended, history, reserved, settled, shardMs } from './check/one-sale.ts';
import type { BalanceRow, BatchRow, Evidence, Loss } from './evidence.ts';
import type { Answer, Call, Fact, Finding, History, Operation } from './history.ts';
import { check, type Fates } from './verdict.ts';

export type Run = {
  history: History;
  made: { saleId: string }[];
  evidence: Evidence;
  fates: Fates;
  outcomes: Record<string, number>;
};

/** A moment of the run. */
export const at = (ms: number): number => shardMs + ms;

/** So many sequences each report is wide. */
const lost = (shard: number, seq: number, to: number, epoch: number, closedMs: number, openedMs: number): Loss => ({
  ...{ shard, seq, lost: { from: seq + 1, to }, epoch, silentEngines: 0 },
  ...{ closedAtMs: at(closedMs), openedAtMs: at(openedMs) },
});

/** A reserve of one, held for `who` at a sequence. */
export const held = (who: number, seq: number, ms: number, shard = 0): { fact: Reserved; call: Operation } => {
  const fact = reserved(seq, ms + 5, 'k', who, shard);
  return { fact, call: asked(who, at(ms), at(ms + 10), fact) };
};

/** A call that is none of a reserve, commit or release; answered ten ms later. */
export const called = (call: Call, ms: number, told: Partial<Answer> = {}): Operation => ({
  ...{ client: 90, saleId: 'sale', buyer: 'operator____', call, callMs: at(ms) },
  answered: { atMs: at(ms + 10), answer: { status: 200, code: '', reservation: null, replayed: false, ...told } },
});
export const settledAt = (kind: 'commit' | 'release', fact: Reserved, ms: number, code = ''): Operation =>
  settled(kind, fact, at(ms), at(ms + 10), code);
export const extendedAt = (fact: Reserved, ms: number, expiresAtMs = fact.lastExpiresAtMs): Operation => ({
  ...called({ kind: 'extend', reservation: fact.id, seconds: 1 }, ms, {
    reservation: { id: fact.id, state: 'held', expiresAtMs, lines: fact.lines },
  }),
  buyer: fact.buyer,
});
export const adjustedAt = (id: string, delta: number, ms: number): Operation =>
  called({ kind: 'adjust', id, sku: 'shoe', warehouse: 'east', delta }, ms);
export const readAt = (fact: Reserved, state: 'held' | 'committed', ms: number): Operation => ({
  ...called({ kind: 'read', reservation: fact.id }, ms, {
    reservation: { id: fact.id, state, expiresAtMs: fact.lastExpiresAtMs, lines: fact.lines },
  }),
  buyer: fact.buyer,
});
export const refusedAt = (who: number, ms: number, code: string, quantity = 1): Operation => {
  const status = code === 'shard-fenced' ? 503 : 409;
  const call = asked(who, at(ms), at(ms + 10), { status, code });
  return { ...call, call: { kind: 'reserve', key: 'k', lines: [{ sku: 'shoe', quantity }] } };
};

const replayOf = ({ answered, ...first }: Operation, ms: number): Operation => ({
  ...first,
  callMs: at(ms),
  answered: answered && { atMs: at(ms + 5), answer: { ...answered.answer, replayed: true } },
});

const batch = (shard: number, seqFirst: number, seqLast: number, epoch: number): BatchRow => ({
  ...{ shard, seqFirst, seqLast, epoch, atMs: at(0), digest: `${shard} ${seqLast} ${epoch}` },
});
const balance = (shard: number, supply: number, sold: number): BalanceRow => ({
  ...{ shard, no: 1, sku: 'shoe', warehouse: 'east', supply, available: supply - sold, reserved: 0, sold },
});

/**
 * What there is to tell of: `sale` on shard 0, which went back twice, and `s` on shard 1, which did not. By name, so that tests can
 * lie about them.
 */
export function twoLosses() {
  // The first epoch, kept up to 4, lost from 5 to 9.
  const kept = held(2, 2, 2_000);
  const ending = held(4, 4, 2_100);
  const gone = held(5, 5, 2_200);
  // The second, kept up to 7, lost from 8 to 8. The third.
  const second = held(30, 5, 4_000);
  const goneToo = held(31, 8, 4_200);
  const third = held(40, 8, 6_000);
  const released = held(41, 10, 6_040);
  const longer = held(42, 12, 6_080);
  Object.assign(longer.fact, { extensions: 1, lastExpiresAtMs: longer.fact.expiresAtMs + 1_000 });
  const elsewhere = held(60, 2, 2_370, 1);

  const operations = {
    early: refusedAt(10, 1_000, 'insufficient-stock', 50),
    keptReserve: kept.call,
    keptCommit: settledAt('commit', kept.fact, 2_020),
    endingReserve: ending.call,
    // All that follows is lost.
    lostReserve: gone.call,
    lostReplay: replayOf(gone.call, 2_215),
    lostExtend: extendedAt(ending.fact, 2_225, ending.fact.expiresAtMs + 1_000),
    lostCommit: settledAt('commit', ending.fact, 2_240),
    lostAdjust: adjustedAt('a1', -19, 2_260),
    commitOfLost: settledAt('commit', gone.fact, 2_280),
    readOfLost: readAt(gone.fact, 'committed', 2_300),
    lostRead: readAt(ending.fact, 'committed', 2_320),
    keptReplay: replayOf(ending.call, 2_330),
    lostRefusal: refusedAt(20, 2_340, 'sold-out'),
    open: asked(21, at(2_350), null, {}),
    // Valkey goes back at 2,400, is closed at 3,600 and sells again at 3,900.
    fenced: refusedAt(22, 2_500, 'shard-fenced'),
    keptRead: readAt(kept.fact, 'committed', 2_600),
    secondReserve: second.call,
    secondCommit: settledAt('commit', second.fact, 4_020),
    secondRelease: settledAt('release', ending.fact, 4_100),
    lostToo: goneToo.call,
    // It goes back at 4,400, is closed at 5,600 and sells again at 5,900.
    thirdReserve: third.call,
    thirdCommit: settledAt('commit', third.fact, 6_020),
    releasedReserve: released.call,
    release: settledAt('release', released.fact, 6_060),
    longerReserve: longer.call,
    extend: extendedAt(longer.fact, 6_100),
    longerCommit: settledAt('commit', longer.fact, 6_120),
    adjust: adjustedAt('a2', 5, 6_140),
    lateCommitOfLost: settledAt('commit', gone.fact, 6_200, 'not-found'),
    openLate: asked(43, at(6_220), null, {}),
    late: refusedAt(44, 6_240, 'insufficient-stock', 50),
    elsewhere: { ...elsewhere.call, saleId: 's' },
    elsewhereCommit: { ...settledAt('commit', elsewhere.fact, 2_385), saleId: 's' },
    elsewhereOpen: { ...asked(62, at(2_345), null, {}), saleId: 's' },
    elsewhereRefusal: { ...refusedAt(61, 2_340, 'insufficient-stock', 50), saleId: 's' },
  };
  const { sales, facts } = history(
    20,
    [],
    [
      kept.fact,
      ended('committed', 3, 2, 2_025),
      ending.fact,
      second.fact,
      ended('committed', 6, 5, 4_025),
      ended('released', 7, 4, 4_105),
      third.fact,
      ended('committed', 9, 8, 6_025),
      released.fact,
      ended('released', 11, 10, 6_065),
      longer.fact,
      ended('committed', 14, 12, 6_125),
      {
        ...{ shard: 0, no: 1, seq: 15, atMs: at(6_145), kind: 'restocked', id: 'a2' },
        ...{ sku: 'shoe', warehouse: 'east', units: 5 },
      },
    ],
  );
  const [sale] = sales;
  const [opening] = facts;
  if (!sale || !opening) throw new Error('a sale of nothing');
  const stock = [{ sku: 'shoe', warehouse: 'east', quantity: 20 }];
  const other: Fact[] = [opening, elsewhere.fact, ended('committed', 3, 2, 2_390)].map((fact) => ({
    ...fact,
    shard: 1,
  }));
  const batches = [batch(0, 1, 4, 1), batch(0, 5, 7, 2), batch(0, 8, 12, 3), batch(0, 13, 15, 3), batch(1, 1, 3, 1)];
  const run: Run = {
    history: {
      sales: [
        { ...sale, stock },
        { ...sale, saleId: 's', shard: 1, stock },
      ],
      operations: Object.values(operations),
      facts: [...facts, ...other],
    },
    made: [{ saleId: 'sale' }, { saleId: 's' }],
    evidence: {
      facts: [...facts, ...other],
      batches,
      shards: [
        { shard: 0, epoch: 3, watermark: 15, stopped: null },
        { shard: 1, epoch: 1, watermark: 3, stopped: null },
      ],
      losses: [lost(0, 4, 9, 2, 3_600, 3_900), lost(0, 7, 8, 3, 5_600, 5_900)],
      balances: [balance(0, 25, 4), balance(1, 20, 1)],
      entries: [balance(0, 25, 4), balance(1, 20, 1)],
      quarantined: [],
      topic: null,
      outboxes: batches.slice(2),
      sales: [
        { saleId: 'sale', shard: 0, no: 1 },
        { saleId: 's', shard: 1, no: 1 },
      ],
    },
    fates: { mayLose: true, mayReport: false, wentBackMs: [at(2_400), at(4_400)], stuck: [], crashed: [] },
    outcomes: { 201: 9, 200: 10, 'not-found': 1, 'insufficient-stock': 3, 'sold-out': 1, 'shard-fenced': 1 },
  };
  return { ...run, operations };
}

export type TwoLosses = ReturnType<typeof twoLosses>;

/** What every checker says of the run, changed in place. */
export function foundIn(change: (run: TwoLosses) => void): Record<string, Finding[]> {
  const run = twoLosses();
  change(run);
  return check(run.history, run.made, run.evidence, run.fates, run.outcomes).findings;
}

export function lossOf({ evidence }: TwoLosses, index: number): Loss {
  const loss = evidence.losses[index];
  if (!loss) throw new Error(`no loss ${index}`);
  return loss;
}
/** Another report in its place. */
export const report = (run: TwoLosses, index: number, other: Partial<Loss>): void => {
  run.evidence.losses[index] = { ...lossOf(run, index), ...other };
};
export const tell = ({ history }: TwoLosses, ...operations: Operation[]): void => {
  history.operations.push(...operations);
};
/** Takes facts of shard 0 out of the ledger. */
export const forget = ({ history }: TwoLosses, ...seqs: number[]): void => {
  history.facts = history.facts.filter(({ shard, seq }) => shard !== 0 || !seqs.includes(seq));
};
