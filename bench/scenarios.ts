/** All scenarios, by name: `npm run bench -- NAME`. */
import type { Scenario } from './scenario.ts';
import { besideNoop } from './scenarios/beside-noop.ts';
import { ending } from './scenarios/ending.ts';
import { growth } from './scenarios/growth.ts';
import { hotSku } from './scenarios/hot-sku.ts';
import { lag } from './scenarios/lag.ts';
import { lineInlet, lineStock } from './scenarios/line-inlet.ts';
import { lineJoins } from './scenarios/line-joins.ts';
import { linePerson } from './scenarios/line-person.ts';
import { lineWatchers } from './scenarios/line-watchers.ts';
import { openLoop } from './scenarios/open-loop.ts';
import { processes } from './scenarios/processes.ts';
import { soak } from './scenarios/soak.ts';
import { sockets } from './scenarios/sockets.ts';

const stopped = { running: 'nothing', peers: 'none' } as const;

export const scenarios: Record<string, Scenario> = {
  'hot-sku': hotSku('one hot SKU, 256 connections, ledger stopped, beside all peers', {
    ...{ ...stopped, connections: 256, peers: 'durable' },
    goals: [
      { against: 'noop', rate: { atLeast: 0.55, beyond: 0.7 }, p99: { atMost: 3, beyond: 2 } },
      { against: 'tigerbeetle', rate: { atLeast: 1.25, beyond: 1.6 } },
      { against: 'postgres-row-lock', rate: { atLeast: 40, beyond: 60 } },
      { against: 'postgres-optimistic' },
    ],
  }),
  'hot-sku-64': hotSku('the same with 64 connections, beside a server that does nothing', {
    ...{ ...stopped, connections: 64 },
    goals: [{ against: 'noop', rate: { atLeast: 0.35, beyond: 0.5 } }],
  }),
  'hot-sku-1024': hotSku('the same with 1,024 connections', {
    ...{ ...stopped, connections: 1_024 },
    goals: [{ against: 'noop', rate: { atLeast: 0.55, beyond: 0.7 } }],
  }),
  'hot-sku-memory': hotSku('the same in memory alone, beside a script call a request on Valkey', {
    ...{ ...stopped, connections: 256, peers: 'memory' },
    goals: [{ against: 'valkey-per-request', rate: { atLeast: 1.4, beyond: 2 } }, { against: 'noop' }],
  }),
  'hot-sku-ledger': hotSku('the same with 256 connections, relay and ledger running', {
    ...{ connections: 256, running: 'ledger', peers: 'none' },
    goals: [{ against: 'noop' }],
  }),
  'hot-sku-all': hotSku('the same with everything running: relay, Kafka, ledger, sweeper', {
    ...{ connections: 256, running: 'all', peers: 'none' },
    goals: [{ against: 'noop', rate: { atLeast: 0.35, beyond: 0.55 } }],
  }),
  ...besideNoop,
  growth,
  'open-loop': openLoop,
  ending,
  sockets,
  processes,
  'line-joins': lineJoins,
  'line-inlet': lineInlet,
  'line-stock': lineStock,
  'line-person': linePerson,
  'line-watchers': lineWatchers(100_000),
  'line-watchers-200k': lineWatchers(200_000),
  lag,
  soak,
};
