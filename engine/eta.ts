/** How long somebody will wait, as a range: what the inlet did lately says so much and no more. */

export type Eta = { low: number | null; high: number | null };

/** Admissions lately, and in how many ms. */
export type Measured = { recentAdmitted: number; recentMs: number };

/** Fewer admissions than that say nothing of how long it may take at most. */
const toldBy = 10;

/**
 * Seconds until `ahead` people, and then this one, are let in. Admissions that come by chance vary by the root of their number, those that
 * were counted and those to come: the range is that of two such deviations to either side. `null`: nothing can be said. `perMinute`:
 * the inlet's own bound, or null; `opensInMs`: until the sale opens.
 */
export function etaOf(ahead: number, measured: Measured, perMinute: number | null, opensInMs: number): Eta {
  const { recentAdmitted, recentMs } = measured;
  const opens = Math.max(0, opensInMs) / 1_000;
  const least = perMinute === null ? 0 : (ahead * 60) / perMinute;
  if (recentAdmitted === 0)
    return { low: perMinute === null && opens === 0 ? null : Math.floor(opens + least), high: null };
  const each = Math.max(1, recentMs / 1_000) / recentAdmitted;
  const spread = Math.exp(2 * Math.sqrt(1 / recentAdmitted + 1 / (ahead + 1)));
  return {
    low: Math.floor(opens + Math.max(least, (ahead * each) / spread)),
    high: recentAdmitted < toldBy ? null : Math.ceil(opens + Math.max(least, (ahead + 1) * each) * spread),
  };
}
