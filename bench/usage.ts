/** What processes use while something is measured: processor time, memory. From /proc, so that any program can be watched. */
import { readFileSync } from 'node:fs';
import { systemClock } from '../kernel/clock.ts';

/** Linux counts processor time in hundredths of a second, whatever the kernel's own tick is. */
const ticksPerSecond = 100;
const sampleMs = 100;

export type Usage = {
  /** Share of one processor, all threads together: 1 is a whole one. */
  processors: number;
  /** The most memory that was seen, resident. */
  rssMb: number;
};

function read(pid: number): { ticks: number; rssMb: number } | null {
  try {
    // The name, in parentheses, may have spaces; after it stand the fields from the third on.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const rss = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return { ticks: Number(fields[11]) + Number(fields[12]), rssMb: Number(rss ?? 0) / 1_024 };
  } catch {
    return null;
  }
}

/** What a process has in memory now, resident; 0 for one that is gone. */
export const memoryMb = (pid: number): number => read(pid)?.rssMb ?? 0;

/** Watches processes until it is told to stop; one that ends meanwhile counts as far as it was seen. */
export function watchUsage(pids: Record<string, number>): { stop(): Promise<Record<string, Usage>> } {
  const startedMs = performance.now();
  const seen = new Map<string, { pid: number; first: number; last: number; rssMb: number }>();
  for (const [name, pid] of Object.entries(pids)) {
    const now = read(pid);
    if (now) seen.set(name, { pid, first: now.ticks, last: now.ticks, rssMb: now.rssMb });
  }
  let over = false;
  const sample = (): void => {
    for (const one of seen.values()) {
      const now = read(one.pid);
      if (!now) continue;
      one.last = now.ticks;
      one.rssMb = Math.max(one.rssMb, now.rssMb);
    }
  };
  const running = (async () => {
    while (!over) {
      sample();
      await systemClock.wait(sampleMs);
    }
  })();
  return {
    async stop() {
      over = true;
      sample();
      const seconds = (performance.now() - startedMs) / 1_000;
      await running;
      return Object.fromEntries(
        [...seen].map(([name, { first, last, rssMb }]) => [
          name,
          { processors: (last - first) / ticksPerSecond / seconds, rssMb },
        ]),
      );
    },
  };
}
