/** Metrics of waiting rooms' lines, as whoever tends them sees them. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { LineStats } from './usher.ts';

/** Seconds: a line may be hours long. */
const buckets = [0.1, 1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400];

export function createLineStats(registry: Registry): LineStats {
  const registers = [registry];
  const seen = new Map<number, { waiting: number; inside: number }>();
  // Each process that tends sees the same lines.
  const gauge = (name: string, help: string, pick: (one: { waiting: number; inside: number }) => number): void => {
    new Gauge({
      ...{ name, help, registers, labelNames: ['shard'], aggregator: 'max' },
      collect() {
        for (const [shard, one] of seen) this.set({ shard: String(shard) }, pick(one));
      },
    });
  };
  gauge('stampede_line_waiting', 'People who wait to be let in', ({ waiting }) => waiting);
  gauge('stampede_line_inside', 'People who were let in and have not reserved yet', ({ inside }) => inside);
  const admitted = new Counter({ name: 'stampede_line_admitted_total', help: 'People let in', registers });
  const abandoned = new Counter({
    ...{ name: 'stampede_line_abandoned_total', registers },
    help: 'People who went away and were not back within the grace',
  });
  const waited = new Histogram({
    ...{ name: 'stampede_line_wait_seconds', registers, buckets },
    help: 'From joining a line to being let in',
  });
  return {
    tended(shard, rooms) {
      if (rooms.length === 0 && !seen.has(shard)) return;
      const sum = { waiting: 0, inside: 0 };
      for (const room of rooms) {
        sum.waiting += room.waiting;
        sum.inside += room.inside;
        admitted.inc(room.waited.length);
        abandoned.inc(room.abandoned);
        for (const { ms } of room.waited) waited.observe(ms / 1_000);
      }
      seen.set(shard, sum);
    },
  };
}
