/** Every named checker over one run. */
import type { Evidence } from './evidence.ts';
import type { Finding, History } from './history.ts';
import { fenced, findMissing, noAckLost, withoutLost } from './losses.ts';
import { drains, knownAnswers, noGapNoFork, storesAgree } from './stores.ts';

/** What happened to a run beside what clients and stores say. */
export type Fates = {
  mayLose: boolean;
  /** When Valkey had less than before, the last time; Unix ms. */
  wentBackMs: number | null;
  /** What did not come to an end in time. */
  stuck: string[];
  crashed: string[];
};

/** How much was looked at. */
export type Checked = {
  operations: number;
  acknowledged: number;
  unknown: number;
  facts: number;
  /** Short sales that were searched for linearizability. */
  duels: number;
  /** Acknowledged and gone, all of them reported. */
  lost: number;
};

/** The last answers of a history that is gone may still be on their way when it goes. */
const graceMs = 1_000;

export function check(
  history: History,
  evidence: Evidence,
  fates: Fates,
  outcomes: Record<string, number>,
): { findings: Record<string, Finding[]>; checked: Checked } {
  const missing = findMissing(history, evidence);
  const rest = withoutLost(history, missing, evidence.losses);
  const all: Record<string, Finding[]> = {
    'no-ack-lost': noAckLost(missing, evidence.losses, fates.mayLose),
    fenced: fenced(history, missing, fates.wentBackMs, graceMs),
    'no-gap-no-fork': noGapNoFork(evidence),
    'never-oversold': storesAgree(evidence),
    drains: drains(evidence, fates),
    contract: knownAnswers(outcomes, missing.length > 0),
  };
  void rest;
  const { operations, facts } = history;
  return {
    findings: Object.fromEntries(Object.entries(all).filter(([, found]) => found.length > 0)),
    checked: {
      operations: operations.length,
      acknowledged: operations.filter(({ answered }) => answered && answered.answer.status < 300).length,
      unknown: operations.filter(({ answered }) => answered === null).length,
      facts: facts.length,
      duels: 0,
      lost: missing.length,
    },
  };
}
