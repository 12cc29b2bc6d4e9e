import type { Clock } from './clock.ts';

/** Since when something has answered without a break. */
export type Watch = {
  /** It has answered just now. */
  answered(): void;
  /** It has failed: the watch begins anew with the next answer. */
  failed(): void;
  /** From the first answer to the last of those that followed one another without a break, ms. */
  ms(): number;
};

/** An answer that comes later than `gapMs` after the one before begins the watch anew. */
export function createWatch(clock: Clock, gapMs: number): Watch {
  let firstMs = 0;
  let lastMs = Number.NEGATIVE_INFINITY;
  return {
    answered() {
      const nowMs = clock.monotonicMs();
      if (nowMs - lastMs > gapMs) firstMs = nowMs;
      lastMs = nowMs;
    },
    failed() {
      lastMs = Number.NEGATIVE_INFINITY;
    },
    ms: () => (lastMs === Number.NEGATIVE_INFINITY ? 0 : lastMs - firstMs),
  };
}
