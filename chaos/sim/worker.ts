/** A process that runs every `step`th seed, and says what came of it: each line a report. `main.ts` starts it. */
import { runSeeds } from './run.ts';

export type WorkerOrder = { first: number; step: number; end: number; untilMs: number };

process.once('message', (order: WorkerOrder) => {
  let seed = order.first;
  const next = (): number | null => {
    if (seed >= order.end || Date.now() > order.untilMs) return null;
    const taken = seed;
    seed += order.step;
    return taken;
  };
  runSeeds(next, (report) => {
    // A trace is long; the seed brings it back.
    const trace = report.findings.length > 0 ? report.trace.slice(-60) : [];
    process.send?.({ ...report, trace });
  }).then(
    () => process.disconnect(),
    (error: unknown) => {
      process.stderr.write(`${error instanceof Error ? error.stack : error}\n`);
      process.exit(1);
    },
  );
});
process.on('disconnect', () => setTimeout(() => process.exit(1), 5_000).unref());
