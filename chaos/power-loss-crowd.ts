/** Buyers who reserve and commit while the power comes and goes, and what they were told. */
import { RefusalError } from '../kernel/errors.ts';
import { commitCommand, readReservationsCommand, reservationCodes, statusCodes } from '../lua/bindings.ts';
import { reference, reserve, statusName, type TestShard, type Wish } from '../lua/testing.ts';

/** A reservation that a buyer was told of. */
export type Told = { wish: Wish; seq: number; commit: 'not asked' | 'asked' | 'told' };

export type Crowd = {
  told: Told[];
  /** How many were told that there are no units any more. */
  soldOut(): number;
  /** Calls that have gone to Valkey and have no answer yet. */
  inFlight(): number;
  /** Calls that were answered. */
  answered(): number;
  /** All go on, each first with the call that had no answer, with the same keys. */
  goOn(): void;
  /** So many calls more were answered. */
  more(answers: number): Promise<void>;
  /** All have stopped: nobody answers, or everything is sold. Rejects with what no buyer should see. */
  ended(): Promise<void>;
};

/** May be made again until it has an answer; then it names the client's next one, or null. */
type Call = () => Promise<Call | null>;

const wishesInCall = 8;
const referencesInCall = 500;
const lines = { shoe: 1 };

export function createCrowd(shard: TestShard, clients: number): Crowd {
  const told: Told[] = [];
  const counts = { inFlight: 0, answered: 0, soldOut: 0 };
  const pending = new Map<number, Call | null>();
  const waiting: { at: number; resolve: () => void }[] = [];
  let calls = 0;
  let running: Promise<unknown> = Promise.resolve();

  const reservation = (client: number): Call => {
    const buyer = `${client}-${++calls}`;
    const wishes = Array.from({ length: wishesInCall }, (_, i) => ({ buyer, key: `${i}`, lines }));
    return async () => {
      const answers = await reserve(shard, wishes);
      const held: Told[] = [];
      for (const [i, { status, seq }] of answers.entries()) {
        if (status === 'ok' || status === 'replay') held.push({ wish: wishes[i] ?? {}, seq, commit: 'not asked' });
        else if (status === 'soldOut') counts.soldOut++;
        else throw new Error(`a wish was answered ${status}`);
      }
      told.push(...held);
      return held.length > 1 ? purchase(held.slice(0, held.length / 2)) : null;
    };
  };
  const purchase =
    (bought: Told[]): Call =>
    async () => {
      for (const one of bought) one.commit = 'asked';
      const references = bought.map(({ seq, wish }) => reference(seq, wish));
      const { results } = await shard.call(commitCommand, { references });
      for (const [i, { status }] of results.entries()) {
        if (status !== statusCodes.ok && status !== statusCodes.replay)
          throw new Error(`a commit was answered ${statusName(status)}`);
        const one = bought[i];
        if (one) one.commit = 'told';
      }
      return null;
    };

  const buy = async (client: number): Promise<void> => {
    while (counts.soldOut === 0) {
      const call = pending.get(client) ?? reservation(client);
      pending.set(client, call);
      counts.inFlight++;
      try {
        pending.set(client, await call());
      } catch (error) {
        if (!(error instanceof RefusalError)) throw error;
        if (error.refusal.code === 'overloaded') continue;
        return;
      } finally {
        counts.inFlight--;
      }
      counts.answered++;
      while ((waiting[0]?.at ?? Number.POSITIVE_INFINITY) <= counts.answered) waiting.shift()?.resolve();
    }
  };

  return {
    told,
    soldOut: () => counts.soldOut,
    inFlight: () => counts.inFlight,
    answered: () => counts.answered,
    goOn() {
      running = Promise.all(Array.from({ length: clients }, (_, client) => buy(client)));
    },
    async more(answers) {
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.push({ at: counts.answered + answers, resolve });
      const over = running.then(() => {
        throw new Error('the crowd has stopped');
      });
      await Promise.race([promise, over]);
    },
    ended: async () => {
      await running;
    },
  };
}

/** What buyers were told and the shard doesn't have, read through the engine. */
export async function missingFrom(shard: TestShard, told: Told[]): Promise<Told[]> {
  const missing: Told[] = [];
  for (let first = 0; first < told.length; first += referencesInCall) {
    const part = told.slice(first, first + referencesInCall);
    const references = part.map(({ seq, wish }) => reference(seq, wish));
    const { results } = await shard.call(readReservationsCommand, { references });
    missing.push(
      ...part.filter((one, i) => {
        const { status, state } = results[i] ?? {};
        return status !== statusCodes.ok || !statesOf(one).some((name) => reservationCodes[name] === state);
      }),
    );
  }
  return missing;
}

/** How a reservation may stand after what its buyer was told. */
export function statesOf({ commit }: Told): ('held' | 'committed')[] {
  if (commit === 'told') return ['committed'];
  return commit === 'asked' ? ['held', 'committed'] : ['held'];
}
