/** Runs many seeds on one real Valkey, side by side: while one waits for the server others go on. */
import type { Seams } from './node.ts';
import { startRealServer } from './server.ts';
import { runSeed, type SeedReport } from './world.ts';

/** More gain nothing: the server is busy then. */
const manySeeds = 32;
/** After so many the server is emptied. */
const betweenClears = 512;

/**
 * Runs seeds from `next` until it answers null, and tells `done` of each. A seed whose world breaks down is a finding too.
 */
export async function runSeeds(
  next: () => number | null,
  done: (report: SeedReport) => void,
  seams: Seams = {},
  sideBySide = manySeeds,
): Promise<void> {
  const real = await startRealServer();
  try {
    for (let more = true; more; ) {
      let left = betweenClears;
      const run = async (): Promise<void> => {
        while (left-- > 0) {
          const seed = next();
          if (seed === null) {
            more = false;
            return;
          }
          done(await runSeed(seed, real, seams));
        }
      };
      await Promise.all(Array.from({ length: sideBySide }, run));
      await real.clear();
    }
  } finally {
    await real.stop();
  }
}
