/** What an engine counts: Prometheus metrics, and the answers a second that the live board shows. */
import { Counter, Gauge, type Registry } from 'prom-client';
import { createTimes } from '../kernel/metrics.ts';
import type { HttpStats } from './http.ts';
import type { Reservations } from './reservations.ts';
import type { Shards } from './shards.ts';

export type EngineStats = HttpStats & {
  /** Answers to purchase calls so far. */
  readonly purchases: number;
  swept(expired: number, forgotten: number): void;
  /** Told how long answers under `replicated` waited for a replica, and whether in vain. */
  replicaWaited(seconds: number, inVain: boolean): void;
  /** Registers the gauges that read live state. */
  observe(parts: {
    shards: Shards;
    reservations?: Reservations;
    sockets?: () => number;
    ticketsWatched?: () => number;
  }): void;
};

export function createEngineStats(registry: Registry): EngineStats {
  const registers = [registry];
  new Counter({
    name: 'stampede_http_answers_total',
    help: 'Answers by route and status',
    labelNames: ['route', 'status'],
    registers,
    collect() {
      for (const [route, statuses] of uncounted) {
        for (const [status, count] of statuses) this.inc({ route, status: String(status) }, count);
        statuses.clear();
      }
    },
  });
  const times = createTimes(registry, {
    name: 'stampede_http_answer_seconds',
    help: 'From the request’s head to its answer',
    labelName: 'route',
  });
  const sweptTotal = new Counter({
    name: 'stampede_swept_reservations_total',
    help: 'Holds ended, and ended reservations forgotten, by the sweep',
    labelNames: ['outcome'],
    registers,
  });
  const replicaTimes = createTimes(registry, {
    name: 'stampede_replica_wait_seconds',
    help: 'How long answers of a shard under `replicated` waited together for a replica’s disk',
    labelName: 'outcome',
  });
  const [replicaHas, replicaHasNot] = [replicaTimes('replicated'), replicaTimes('in-vain')];
  let purchases = 0;
  // Looking a label set up costs more than counting: it is done when somebody asks.
  const uncounted = new Map<string, Map<number, number>>();

  return {
    route(name) {
      const time = times(name);
      const statuses = uncounted.get(name) ?? new Map<number, number>();
      uncounted.set(name, statuses);
      const purchase = name.includes('/v1/reservations') ? 1 : 0;
      return (status, seconds) => {
        purchases += purchase;
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        time(seconds);
      };
    },
    get purchases() {
      return purchases;
    },
    replicaWaited: (seconds, inVain) => (inVain ? replicaHasNot : replicaHas)(seconds),
    swept(expired, forgotten) {
      if (expired > 0) sweptTotal.inc({ outcome: 'expired' }, expired);
      if (forgotten > 0) sweptTotal.inc({ outcome: 'forgotten' }, forgotten);
    },
    observe({ shards, reservations, sockets, ticketsWatched }) {
      const gauge = (
        name: string,
        help: string,
        read: (set: (value: number, shard?: number) => void) => void,
      ): void => {
        const labelNames = name.startsWith('stampede_shard_') ? ['shard'] : [];
        new Gauge({
          name,
          help,
          labelNames,
          // Each process of an engine sees the same shards.
          aggregator: name.startsWith('stampede_shard_') ? 'max' : 'sum',
          registers,
          collect() {
            read((value, shard) => {
              if (shard === undefined) this.set(value);
              else this.set({ shard: String(shard) }, value);
            });
          },
        });
      };
      const perShard = (
        name: string,
        help: string,
        pick: (status: NonNullable<ReturnType<Shards['status']>>) => number,
      ): void =>
        gauge(name, help, (set) => {
          for (let shard = 0; shard < shards.count; shard++) {
            const status = shards.status(shard);
            if (status) set(pick(status), shard);
          }
        });
      perShard('stampede_shard_sequence', 'The shard’s last sequence', (s) => s.seq);
      perShard('stampede_shard_live_reservations', 'Reservations held now', (s) => s.live);
      perShard('stampede_shard_outbox_events', 'Events that the ledger has not yet', (s) => s.seq - s.acked);
      perShard('stampede_shard_outbox_events_limit', 'How many it may be', (s) => s.outboxEvents);
      perShard('stampede_shard_ledger_lag_seconds', 'How old the oldest event is that the ledger has not', (s) =>
        s.waitingSince === 0 ? 0 : Math.max(0, (s.now - s.waitingSince) / 1000),
      );
      gauge('stampede_shard_fenced', '1 while the shard is fenced', (set) => {
        const fenced = new Set(shards.fenced().map((entry) => entry.shard));
        for (let shard = 0; shard < shards.count; shard++) set(fenced.has(shard) ? 1 : 0, shard);
      });
      if (reservations) {
        gauge('stampede_batcher_pending_requests', 'Requests waiting for a call to Valkey', (set) =>
          set(reservations.depth().pending),
        );
        gauge('stampede_batcher_calls_in_flight', 'Calls to Valkey under way', (set) =>
          set(reservations.depth().inFlight),
        );
      }
      if (sockets) gauge('stampede_live_sockets', 'Open WebSockets', (set) => set(sockets()));
      if (ticketsWatched)
        gauge('stampede_line_watched_tickets', 'Tickets that are watched over a WebSocket', (set) =>
          set(ticketsWatched()),
        );
    },
  };
}

/** Answers a second, from a counter that only grows, over the last second or so. */
export function createRate(read: () => number): { perSecond(): number; stop(): void } {
  let last = read();
  let lastMs = performance.now();
  let rate = 0;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    const now = read();
    rate = Math.round(((now - last) * 1000) / (nowMs - lastMs));
    last = now;
    lastMs = nowMs;
  }, 1_000);
  timer.unref();
  return { perSecond: () => rate, stop: () => clearInterval(timer) };
}
