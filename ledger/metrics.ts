/** What the relay and the ledger count. */
import { Counter, type Registry } from 'prom-client';
import type { Applied } from './apply.ts';
import type { ConsumerStats } from './kafka.ts';
import type { RelayStats } from './relay.ts';

export function createLedgerStats(registry: Registry): RelayStats & ConsumerStats {
  const counter = (name: string, help: string, labelNames: string[] = []): Counter =>
    new Counter({ name, help, labelNames, registers: [registry] });
  const relayed = counter('stampede_relay_events_total', 'Events that the relay delivered');
  const failures = counter('stampede_relay_failures_total', 'Deliveries that failed', ['shard']);
  const rewinds = counter('stampede_relay_rewinds_total', 'Times that a relay sent again from the watermark', [
    'shard',
  ]);
  const applied = counter('stampede_ledger_events_total', 'Events that the ledger wrote');
  const known = counter('stampede_ledger_known_batches_total', 'Batches that the ledger had already');
  const setAside = counter('stampede_ledger_set_aside_batches_total', 'Batches that came before their turn');
  const quarantined = counter(
    'stampede_ledger_quarantined_batches_total',
    'Batches of a closed epoch that came too late, kept in ledger.quarantine',
  );
  const stops = counter('stampede_ledger_stops_total', 'Batches of a stopped shard', ['shard']);
  return {
    relayed: (events) => relayed.inc(events),
    failed: (shard) => failures.inc({ shard: String(shard) }),
    rewound: (shard) => rewinds.inc({ shard: String(shard) }),
    applied(result: Applied) {
      applied.inc(result.events);
      known.inc(result.known);
      setAside.inc(result.setAside);
      quarantined.inc(result.quarantined);
    },
    stoppedShard: (shard) => stops.inc({ shard: String(shard) }),
  };
}
