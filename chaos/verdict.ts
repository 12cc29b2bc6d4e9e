/** Every named checker over one run. */
import { limitsHold } from './check/limits-hold.ts';
import { linearizable } from './check/linearizable.ts';
import { neverOversold } from './check/never-oversold.ts';
import { oneOutcome } from './check/one-outcome.ts';
import { sameKeySameAnswer } from './check/same-key-same-answer.ts';
import { topicWhole } from './check/topic-whole.ts';
import { witness } from './check/witness.ts';
import { duelPrefix } from './crowd.ts';
import type { Evidence } from './evidence.ts';
import type { Finding, History, SaleRules } from './history.ts';
import { fenced, findMissing, noAckLost, salesLost, withoutLost } from './losses.ts';
import { drains, knownAnswers, noGapNoFork, storesAgree } from './stores.ts';

/** What happened to a run beside what clients and stores say. */
export type Fates = {
  mayLose: boolean;
  mayReport: boolean;
  /** When Valkey had less than before, each time; by the clients' clock. */
  wentBackMs: number[];
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

/** What is about one sale: each is an object of its own. */
const alone = ({ operations, facts }: History, sale: SaleRules): History => ({
  sales: [sale],
  operations: operations.filter(({ saleId }) => saleId === sale.saleId),
  facts: facts.filter(({ shard, no }) => shard === sale.shard && no === sale.no),
});

export function check(
  history: History,
  made: readonly { saleId: string }[],
  evidence: Evidence,
  fates: Fates,
  outcomes: Record<string, number>,
): { findings: Record<string, Finding[]>; checked: Checked } {
  const missing = findMissing(history, evidence);
  const rest = withoutLost(history, missing, evidence.losses);
  const duels = rest.sales.filter(({ saleId }) => saleId.startsWith(duelPrefix));
  const all: Record<string, Finding[]> = {
    'no-ack-lost': [...noAckLost(history, missing, evidence.losses, fates), ...salesLost(made, evidence)],
    fenced: fenced(history, missing, evidence.losses, fates.wentBackMs),
    'no-gap-no-fork': [...noGapNoFork(evidence), ...topicWhole(evidence)],
    'never-oversold': [...neverOversold(rest), ...storesAgree(evidence, history.facts)],
    'one-outcome': oneOutcome(rest),
    'limits-hold': limitsHold(rest),
    'same-key-same-answer': sameKeySameAnswer(rest),
    witness: witness(rest),
    linearizable: duels.flatMap((sale) => linearizable(alone(rest, sale))),
    drains: drains(evidence, fates),
    contract: knownAnswers(outcomes, fates.mayLose || missing.length > 0),
  };
  const { operations, facts } = history;
  return {
    findings: Object.fromEntries(Object.entries(all).filter(([, found]) => found.length > 0)),
    checked: {
      operations: operations.length,
      acknowledged: operations.filter(({ answered }) => answered && answered.answer.status < 300).length,
      unknown: operations.filter(({ answered }) => answered === null).length,
      facts: facts.length,
      duels: duels.length,
      lost: missing.length,
    },
  };
}
