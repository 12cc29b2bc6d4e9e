/**
 * Folds requests that arrive together into one call. Several calls may be under way at once: while one is being written
 * to disk the next is decided, and the answers of a third go out.
 */
import type { Clock } from '../kernel/clock.ts';
import { type Refusal, RefusalError, refusal } from '../kernel/errors.ts';

/** Called exactly once for every request: with its result, or with the refusal of the whole call. */
export type Done<Result> = (result: Result | null, refused: Refusal | null) => void;

export type Batcher<Request, Result> = {
  submit(request: Request, done: Done<Result>): void;
  /** Requests waiting for a call, and calls under way. */
  readonly depth: number;
  readonly inFlight: number;
  /** Resolves when nothing waits and nothing is under way. */
  idle(): Promise<void>;
};

type Pending<Request, Result> = { request: Request; done: Done<Result>; sinceMs: number };

const overloaded = refusal('overloaded', 'Too many requests are waiting. Nothing was taken; try again shortly.');

export function createBatcher<Request, Result>(options: {
  /** Sends a batch; answers a result for each request, in order, or rejects with a RefusalError. */
  send(requests: Request[]): Promise<Result[]>;
  /** How much of a batch's room a request takes, 1 or more. */
  weight(request: Request): number;
  maxWeight: number;
  maxInFlight: number;
  /** While a call is under way, this many requests start another; fewer wait for the answer. */
  minBatch: number;
  maxPending: number;
  /** A request that has waited this long is refused: nobody may be waiting for its answer any more. */
  maxWaitMs: number;
  /** Told when a `done` has thrown. */
  onFault(error: unknown): void;
  clock: Clock;
}): Batcher<Request, Result> {
  const { clock } = options;
  let pending: Pending<Request, Result>[] = [];
  let inFlight = 0;
  let scheduled = false;
  let idleWaiters: (() => void)[] = [];

  /** One request's fault in taking its answer must not cost its neighbours theirs. */
  const finish = (item: Pending<Request, Result>, result: Result | null, refused: Refusal | null): void => {
    try {
      item.done(result, refused);
    } catch (error) {
      options.onFault(error);
    }
  };

  const take = (): Pending<Request, Result>[] => {
    const oldestMs = clock.monotonicMs() - options.maxWaitMs;
    const batch: Pending<Request, Result>[] = [];
    let weight = 0;
    let taken = 0;
    for (const item of pending) {
      if (item.sinceMs < oldestMs) {
        taken++;
        finish(item, null, overloaded);
        continue;
      }
      weight += options.weight(item.request);
      if (batch.length > 0 && weight > options.maxWeight) break;
      taken++;
      batch.push(item);
    }
    pending = taken === pending.length ? [] : pending.slice(taken);
    return batch;
  };

  const flush = (): void => {
    scheduled = false;
    while (pending.length > 0 && inFlight < options.maxInFlight) {
      if (inFlight > 0 && pending.length < options.minBatch) return;
      const batch = take();
      if (batch.length > 0) run(batch);
    }
    settle();
  };

  const run = (batch: Pending<Request, Result>[]): void => {
    inFlight++;
    options.send(batch.map((item) => item.request)).then(
      (results) => {
        inFlight--;
        // The next batch is on its way before the answers of this one are written.
        flush();
        batch.forEach((item, i) => {
          finish(item, results[i] ?? null, results[i] === undefined ? unknown : null);
        });
        settle();
      },
      (error: unknown) => {
        inFlight--;
        const refused = error instanceof RefusalError ? error.refusal : unknown;
        for (const item of batch) finish(item, null, refused);
        flush();
        settle();
      },
    );
  };

  const settle = (): void => {
    if (pending.length > 0 || inFlight > 0) return;
    const waiters = idleWaiters;
    idleWaiters = [];
    for (const resolve of waiters) resolve();
  };

  return {
    submit(request, done) {
      if (pending.length >= options.maxPending) {
        done(null, overloaded);
        return;
      }
      pending.push({ request, done, sinceMs: clock.monotonicMs() });
      if (scheduled || inFlight >= options.maxInFlight) return;
      // Everything that this turn of the event loop still reads from its sockets goes along.
      scheduled = true;
      setImmediate(flush);
    },
    get depth() {
      return pending.length;
    },
    get inFlight() {
      return inFlight;
    },
    idle: () =>
      pending.length === 0 && inFlight === 0
        ? Promise.resolve()
        : new Promise((resolve) => {
            idleWaiters.push(resolve);
          }),
  };
}

/** Of a call that got no answer. */
export const unknown = refusal(
  'unavailable',
  'What happened is not known. Ask again with the same key: it is safe, and tells.',
);
