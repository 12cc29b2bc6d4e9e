/** Token buckets by name, in memory, for one process: a bounded number of them. */
import type { RateLimit } from '../kernel/config.ts';
import { limits } from '../kernel/limits.ts';

export type RateLimiter = {
  /** Takes one; answers how many seconds to wait when there is none, else 0. */
  take(name: string, nowMs: number): number;
};

export function createRateLimiter(limit: RateLimit): RateLimiter {
  const buckets = new Map<string, { tokens: number; atMs: number }>();
  return {
    take(name, nowMs) {
      let bucket = buckets.get(name);
      if (bucket) {
        bucket.tokens = Math.min(limit.burst, bucket.tokens + ((nowMs - bucket.atMs) * limit.perSecond) / 1000);
        bucket.atMs = nowMs;
      } else {
        // The oldest makes room: whoever comes back gets a full bucket, which is all that a stranger gets.
        if (buckets.size >= limits.addressesTracked) {
          const oldest = buckets.keys().next().value;
          if (oldest !== undefined) buckets.delete(oldest);
        }
        bucket = { tokens: limit.burst, atMs: nowMs };
        buckets.set(name, bucket);
      }
      if (bucket.tokens < 1) return Math.max(1, Math.ceil((1 - bucket.tokens) / limit.perSecond));
      bucket.tokens -= 1;
      return 0;
    },
  };
}
