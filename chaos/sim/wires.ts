/** How a process's statements get to Postgres and back, with what can go wrong on the way. */
import type { Random } from '../random.ts';
import type { Process, Scheduler } from './scheduler.ts';
import type { Wire } from './store.ts';

export type PostgresFaults = {
  /** Nobody gets through. */
  away: boolean;
  /** How many of the next statements fail before, and after, they were done. */
  failing: number;
  losing: number;
  /** Until when it hangs: statements are taken, and neither answered nor refused. */
  hungUntilMs: number;
  /** Whether it ends then, instead of going on. */
  endsHung: boolean;
};

/** As in `ledger/pool.ts`: how long an answer is waited for, and a connection. */
const queryMs = 35_000;
const connectMs = 3_000;
/** A process's; a hung Postgres makes no new ones. */
const idleConnections = 4;

export function createWire(options: {
  scheduler: Scheduler;
  random: Random;
  process: Process;
  faults: PostgresFaults;
  delayMs(): number;
  struck(kind: 'statement failed' | 'answer lost' | 'statement hung'): void;
}): Wire {
  const { scheduler, random, process, faults, delayMs, struck } = options;
  let hanging = 0;
  return {
    statement<Answer>(name: string, work: (nowMs: number) => Answer | Promise<Answer>): Promise<Answer> {
      return new Promise<Answer>((resolve, reject) => {
        const answer = (what: string, tell: () => void): void => {
          scheduler.after(delayMs(), process, `${process.name} sql ${name} ${what}`, tell);
        };
        const fail = (why: string): void => answer('failed', () => reject(new Error(why)));
        const tell = (outcome: () => void): void => {
          if (faults.losing > 0 && /commit|grant|close|finish|report|begin/.test(name)) {
            faults.losing--;
            struck('answer lost');
            fail('Connection terminated unexpectedly');
            return;
          }
          answer('answered', outcome);
        };
        /** Has it done, and then `then` with what is to be told. */
        const perform = (then: (outcome: () => void) => void): void => {
          const failed = (error: unknown): void => then(() => reject(error));
          try {
            const outcome = work(scheduler.nowMs);
            if (outcome instanceof Promise) void outcome.then((found) => then(() => resolve(found)), failed);
            else then(() => resolve(outcome));
          } catch (error) {
            failed(error);
          }
        };
        const hang = (): void => {
          if (hanging >= idleConnections) {
            scheduler.after(connectMs, process, '', () => reject(new Error('no connection in time')));
            return;
          }
          hanging++;
          struck('statement hung');
          scheduler.after(queryMs, process, '', () => reject(new Error('Query read timeout')));
          // Some it has done, and only the answer hangs.
          const told = random.chance(0.3) ? new Promise<() => void>(perform) : null;
          // The others it does when it goes on: at about the same time, in any order, whoever still waits for them.
          scheduler.after(faults.hungUntilMs - scheduler.nowMs + 20 * random.next(), null, '', () => {
            hanging--;
            if (faults.endsHung) fail('Connection terminated unexpectedly');
            else if (told) void told.then(tell);
            else arrive();
          });
        };
        const arrive = (): void => {
          if (faults.hungUntilMs > scheduler.nowMs) hang();
          else if (faults.away) fail('connect ECONNREFUSED');
          else if (faults.failing > 0) {
            faults.failing--;
            struck('statement failed');
            fail('terminating connection due to administrator command');
          } else perform(tell);
        };
        scheduler.after(delayMs(), null, '', arrive);
      });
    },
    onEnd: (listener) => process.onEnd(listener),
  };
}
