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
};

export function createWire(options: {
  scheduler: Scheduler;
  random: Random;
  process: Process;
  faults: PostgresFaults;
  delayMs(): number;
  struck(kind: 'statement failed' | 'answer lost'): void;
}): Wire {
  const { scheduler, process, faults, delayMs, struck } = options;
  return {
    statement<Answer>(name: string, work: (nowMs: number) => Answer | Promise<Answer>): Promise<Answer> {
      return new Promise<Answer>((resolve, reject) => {
        const answer = (what: string, tell: () => void): void => {
          scheduler.after(delayMs(), process, `${process.name} sql ${name} ${what}`, tell);
        };
        const fail = (why: string): void => answer('failed', () => reject(new Error(why)));
        scheduler.after(delayMs(), null, '', () => {
          if (faults.away) {
            fail('connect ECONNREFUSED');
            return;
          }
          if (faults.failing > 0) {
            faults.failing--;
            struck('statement failed');
            fail('terminating connection due to administrator command');
            return;
          }
          const done = (outcome: () => void): void => {
            if (faults.losing > 0 && /commit|grant|close|finish|report|begin/.test(name)) {
              faults.losing--;
              struck('answer lost');
              fail('Connection terminated unexpectedly');
              return;
            }
            answer('answered', outcome);
          };
          try {
            const outcome = work(scheduler.nowMs);
            if (outcome instanceof Promise)
              void outcome.then(
                (found) => done(() => resolve(found)),
                (error: unknown) => done(() => reject(error)),
              );
            else done(() => resolve(outcome));
          } catch (error) {
            done(() => reject(error));
          }
        });
      });
    },
    onEnd: (listener) => process.onEnd(listener),
  };
}
