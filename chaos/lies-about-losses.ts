/** For tests: lies about what was lost, each with the checker that must find it. */
import { ended } from './check/one-sale.ts';
import { adjustedAt, at, forget, held, report, type TwoLosses, tell } from './testing.ts';

const unreported = /^not in the ledger, nor in a report of losses: /;
const nothingCouldBe = /reported as lost after \d+, and nothing could be$/;
const twice = /^two reservations were answered at sequence 0\//;
const early = (ms: number, what: string): RegExp =>
  new RegExp(`^sold ${ms} ms after Valkey had gone back: ${what} of sale, `);

/** `says`: how the checker speaks of it. */
export type Lie = [name: string, checker: 'no-ack-lost' | 'fenced', says: RegExp, lie: (run: TwoLosses) => void];

export const lies: Lie[] = [
  ['a hold is missing, and nothing is reported', 'no-ack-lost', unreported, (run) => report(run, 1, { lost: null })],
  ['a hold is missing', 'no-ack-lost', unreported, (run) => forget(run, 8)],
  ['a commit is missing', 'no-ack-lost', unreported, (run) => forget(run, 9)],
  ['a release is missing', 'no-ack-lost', unreported, (run) => forget(run, 11)],
  ['a stock change is missing', 'no-ack-lost', unreported, (run) => forget(run, 15)],
  [
    'a stock change is another sale’s',
    'no-ack-lost',
    unreported,
    ({ history: { facts } }) => {
      const change = facts.find(({ seq }) => seq === 15);
      if (change) change.no = 2;
    },
  ],
  [
    'an extension is missing',
    'no-ack-lost',
    unreported,
    ({ operations: { longerReserve }, history: { facts } }) => {
      const { id = '', expiresAtMs = 0 } = longerReserve.answered?.answer.reservation ?? {};
      const fact = facts.find((one) => one.kind === 'reserved' && one.id === id);
      Object.assign(fact ?? {}, { extensions: 0, lastExpiresAtMs: expiresAtMs });
    },
  ],
  ...(['committed', 'expired'] as const).map(
    (kind): Lie => [
      `what was told as released is ${kind}`,
      'no-ack-lost',
      unreported,
      (run) => {
        forget(run, 11);
        run.history.facts.push(ended(kind, 11, 10, 6_065));
      },
    ],
  ),
  [
    'what was told as committed is released',
    'no-ack-lost',
    unreported,
    (run) => {
      forget(run, 9);
      run.history.facts.push(ended('released', 9, 8, 6_025));
    },
  ],
  ['only another shard has a report', 'no-ack-lost', unreported, (run) => report(run, 1, { shard: 1 })],
  ['a hold was told beyond what is reported', 'no-ack-lost', unreported, (run) => tell(run, held(70, 10, 2_345).call)],
  [
    'a hold was told at a sequence that was kept',
    'no-ack-lost',
    unreported,
    (run) => tell(run, held(70, 4, 2_195).call),
  ],
  [
    'a hold was told at a lost sequence, before what was kept',
    'no-ack-lost',
    unreported,
    (run) => tell(run, held(70, 6, 2_085).call),
  ],
  [
    'a hold of the first epoch is beyond its report, and within the next',
    'no-ack-lost',
    unreported,
    (run) => {
      report(run, 1, { lost: { from: 8, to: 20 } });
      tell(run, held(70, 15, 2_345).call);
    },
  ],
  [
    'a hold was called when the shard had sold again',
    'no-ack-lost',
    unreported,
    (run) => tell(run, held(70, 8, 5_901).call),
  ],
  ['an old commit is missing, and later ones are kept', 'no-ack-lost', unreported, (run) => forget(run, 3)],
  [
    'an old stock change is missing, and later holds are kept',
    'no-ack-lost',
    unreported,
    (run) => tell(run, adjustedAt('a0', -1, 2_050)),
  ],
  [
    'a commit is missing, called when the shard had sold again',
    'no-ack-lost',
    unreported,
    (run) => tell(run, adjustedAt('a3', 1, 5_901)),
  ],
  [
    'what is lost was covered by the durability',
    'no-ack-lost',
    /^lost, and this durability covers this fault: reserve of sale/,
    ({ fates }) => Object.assign(fates, { mayLose: false, mayReport: true }),
  ],
  [
    'a loss is reported under a durability that covers the fault',
    'no-ack-lost',
    nothingCouldBe,
    ({ fates }) => Object.assign(fates, { mayLose: false }),
  ],
  [
    'a loss is reported before Valkey went back',
    'no-ack-lost',
    nothingCouldBe,
    ({ fates }) => Object.assign(fates, { wentBackMs: [at(3_601)] }),
  ],
  [
    'Valkey never went back, and a loss is reported',
    'no-ack-lost',
    nothingCouldBe,
    ({ fates }) => Object.assign(fates, { wentBackMs: [] }),
  ],
  ...[4, 6].map(
    (from): Lie => [
      `a report begins at ${from}, of a shard closed at 4`,
      'no-ack-lost',
      /^shard 0: \d to 9 are reported as lost after 4: not from 5 on$/,
      (run) => report(run, 0, { lost: { from, to: 9 } }),
    ],
  ),
  [
    'a report ends before it begins',
    'no-ack-lost',
    /: not from 5 on$/,
    (run) => report(run, 0, { lost: { from: 5, to: 4 } }),
  ],
  [
    'a report is far wider than what is missing',
    'no-ack-lost',
    /^shard 0: 5 to 5000 are reported as lost after 4: 7 answers are missing, and 1 calls have none$/,
    (run) => report(run, 0, { lost: { from: 5, to: 5_000 } }),
  ],
  [
    'two holds were told at one sequence that is kept',
    'fenced',
    twice,
    (run) => {
      const other = held(70, 8, 6_000);
      tell(run, other.call);
      run.history.facts.push(other.fact);
    },
  ],
  ['two holds were told at one sequence that was lost', 'fenced', twice, (run) => tell(run, held(70, 5, 2_345).call)],
  [
    'two holds were told at one sequence that is kept, and between them one that was lost',
    'fenced',
    twice,
    (run) => {
      const [one, other] = [held(70, 8, 6_000), held(71, 5, 4_000)];
      tell(run, one.call, other.call);
      run.history.facts.push(one.fact, other.fact);
    },
  ],
  ...[50, 900].flatMap((ms): Lie[] => [
    [
      `a hold that is lost was sold ${ms} ms after Valkey had gone back`,
      'fenced',
      early(ms, 'reserve'),
      (run) => tell(run, held(70, 9, 2_400 + ms).call),
    ],
    [
      `a stock change that is lost was made ${ms} ms after Valkey had gone back again`,
      'fenced',
      early(ms, 'adjust'),
      (run) => tell(run, adjustedAt('a3', -1, 4_400 + ms)),
    ],
    [
      `a hold that nobody reports was sold ${ms} ms after Valkey had gone back`,
      'fenced',
      early(ms, 'reserve'),
      (run) => tell(run, held(70, 90, 4_400 + ms).call),
    ],
    [
      `a hold that is kept was sold ${ms} ms after Valkey had gone back`,
      'fenced',
      early(ms, 'release'),
      ({ operations: { secondRelease } }) => {
        secondRelease.callMs = at(4_400 + ms);
        if (secondRelease.answered) secondRelease.answered.atMs = at(4_410 + ms);
      },
    ],
  ]),
];
