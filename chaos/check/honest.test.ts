/** Checkers find nothing in honest histories: whatever clients do, whatever gets lost. STAMPEDE_MODEL_RUNS sets how many. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Finding, History } from '../history.ts';
import { limitsHold } from './limits-hold.ts';
import { linearizable } from './linearizable.ts';
import { neverOversold } from './never-oversold.ts';
import { oneOutcome } from './one-outcome.ts';
import { sameKeySameAnswer } from './same-key-same-answer.ts';
import { busy, plansOf, short, simulate } from './testing.ts';
import { witness } from './witness.ts';

const runs = Number(process.env.STAMPEDE_MODEL_RUNS ?? 400);
const all = { witness, neverOversold, oneOutcome, limitsHold, sameKeySameAnswer };

const found = (history: History): Record<string, Finding[]> =>
  Object.fromEntries(
    Object.entries(all)
      .map(([name, check]) => [name, check(history)] as const)
      .filter(([, findings]) => findings.length > 0),
  );

test('nothing is found in honest histories, with time, loss, staleness and retries', { timeout: 600_000 }, () => {
  const seen = new Map<string, number>();
  const count = (what: string): unknown => seen.set(what, (seen.get(what) ?? 0) + 1);
  fc.assert(
    fc.property(plansOf(true, 8, 150), (plans) => {
      const history = simulate(plans, busy);
      expect(found(history)).toEqual({});
      for (const { call, answered } of history.operations) {
        const { status = 0, code = '', replayed = false, reservation } = answered?.answer ?? {};
        count(
          `${call.kind} ${answered ? `${status} ${code || reservation?.state}` : 'unknown'}${replayed ? ' again' : ''}`,
        );
      }
      for (const { kind } of history.facts) count(kind);
    }),
    { numRuns: runs },
  );
  // All that a checker may have to judge comes about.
  const expected = [
    ...['reserve 201 held', 'reserve 201 held again', 'reserve unknown', 'reserve 422 idempotency-mismatch'],
    ...[
      'reserve 409 sold-out',
      'reserve 409 insufficient-stock',
      'reserve 409 purchase-limit',
      'reserve 503 overloaded',
    ],
    ...['commit 200 committed', 'commit 409 reservation-ended', 'commit unknown', 'release 200 released'],
    ...[
      'release 409 reservation-ended',
      'read 200 held',
      'read 200 committed',
      'read 200 released',
      'read 200 expired',
    ],
    ...['extend 200 held', 'extend 409 reservation-ended', 'extend 409 conflict', 'adjust unknown'],
    ...['adjust 409 insufficient-stock', 'adjust 422 idempotency-mismatch', 'expired', 'returned', 'adjusted'],
  ];
  expect(expected.filter((what) => !seen.has(what))).toEqual([]);
});

test('nothing is found without the ledger either, where holds last', { timeout: 600_000 }, () => {
  fc.assert(
    fc.property(plansOf(false, 8, 60), (plans) => {
      const history = simulate(plans, short);
      expect({ ...found(history), linearizable: linearizable(history) }).toEqual({ linearizable: [] });
    }),
    { numRuns: runs },
  );
});
