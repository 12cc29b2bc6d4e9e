/**
 * One thing after the other, in virtual time. Whatever waits in the code under test waits for an event here; after each event
 * all continuations run until nothing can, so the order of events is all that there is to chance, and the seed decides it.
 */
import { createHash } from 'node:crypto';
import { nextTick } from 'node:process';
import type { Clock } from '../../kernel/clock.ts';
import type { Random } from '../random.ts';

/** Later than any real clock's: the shard's time is then the simulation's alone (`holdTime` in lua/testing.ts). */
export const startOfTimeMs = 4_102_444_800_000;

/** A simulated process: everything that it waits for is lost when it ends, and late when it is frozen. */
export type Process = {
  readonly name: string;
  readonly alive: boolean;
  /** When it wakes, while it is frozen. */
  readonly wakesMs: number | undefined;
  /** When it last woke. */
  readonly wokeMs: number;
  readonly clock: Clock;
  kill(): void;
  freeze(forMs: number): void;
  /** Called once when it ends; what it answers takes the listener back. */
  onEnd(listener: () => void): () => void;
};

type Event = { atMs: number; tie: number; process: Process | null; what: string; run: (() => unknown) | null };

export type Scheduler = ReturnType<typeof createScheduler>;

export function createScheduler(random: Random) {
  const heap: Event[] = [];
  const trace: string[] = [];
  let nowMs = 0;
  let frozenOrder = 0;
  const wakes = new Map<Process, number>();

  const before = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.tie < b.tie);
  const push = (event: Event): void => {
    let at = heap.push(event) - 1;
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = heap[up];
      if (!parent || !before(event, parent)) break;
      heap[at] = parent;
      at = up;
    }
    heap[at] = event;
  };
  const pop = (): Event | undefined => {
    const top = heap[0];
    const last = heap.pop();
    if (!top || !last || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      let smaller = heap[child];
      if (!smaller) break;
      const right = heap[child + 1];
      if (right && before(right, smaller)) {
        smaller = right;
        child++;
      }
      if (!before(smaller, last)) break;
      heap[at] = smaller;
      at = child;
    }
    heap[at] = last;
    return top;
  };

  const note = (what: string): void => {
    trace.push(`${nowMs.toFixed(3)} ${what}`);
  };

  /** Has `run` done after `ms`; of a process that has ended by then, never. `what` '': not worth a line. */
  const after = (ms: number, process: Process | null, what: string, run: () => unknown): Event => {
    const event = { atMs: nowMs + Math.max(0, ms), tie: random.next(), process, what, run };
    push(event);
    return event;
  };

  const start = (name: string): Process => {
    let alive = true;
    let wokeMs = Number.NEGATIVE_INFINITY;
    const listeners = new Set<() => void>();
    const process: Process = {
      name,
      get alive() {
        return alive;
      },
      get wakesMs() {
        return wakes.get(process);
      },
      get wokeMs() {
        return wokeMs;
      },
      clock: {
        nowMs: () => Math.floor(startOfTimeMs + nowMs),
        monotonicMs: () => nowMs,
        wait: (ms, signal) =>
          new Promise((resolve) => {
            if (signal?.aborted) return resolve();
            const event = after(ms, process, '', () => {
              signal?.removeEventListener('abort', aborted);
              resolve();
            });
            const aborted = (): void => {
              event.run = null;
              resolve();
            };
            signal?.addEventListener('abort', aborted, { once: true });
          }),
        later: (ms, action) => {
          const event = after(ms, process, '', action);
          return () => {
            event.run = null;
          };
        },
      },
      kill() {
        if (!alive) return;
        alive = false;
        wakes.delete(process);
        for (const listener of listeners) listener();
      },
      freeze(forMs) {
        wakes.set(process, nowMs + forMs);
        after(forMs, null, `${name} wakes`, () => {
          wakes.delete(process);
          wokeMs = nowMs;
        });
      },
      onEnd(listener) {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
    };
    return process;
  };

  return {
    after,
    start,
    note,
    trace,
    get nowMs() {
      return nowMs;
    },
    /** The digest of all that happened. */
    digest: (): string => createHash('sha256').update(trace.join('\n')).digest('hex').slice(0, 16),

    /** Lets time go on until `done`, or `untilMs`. Answers whether it was done. */
    async run(untilMs: number, done: () => boolean): Promise<boolean> {
      for (;;) {
        if (done()) return true;
        const event = pop();
        if (!event) return false;
        if (event.atMs > untilMs) {
          push(event);
          nowMs = untilMs;
          return false;
        }
        const { process } = event;
        if (!event.run) continue;
        nowMs = Math.max(nowMs, event.atMs);
        if (process && !process.alive) continue;
        const wakesMs = process ? wakes.get(process) : undefined;
        if (wakesMs !== undefined) {
          // In the order in which it would have come.
          push({ ...event, atMs: wakesMs + ++frozenOrder * 1e-6 });
          continue;
        }
        if (event.what !== '') note(event.what);
        const running = event.run();
        if (running instanceof Promise) await running;
        // Its turn comes when no continuation is left; unlike a turn of the event loop it costs no system call.
        await new Promise<void>((resolve) => nextTick(resolve));
      }
    },
  };
}
