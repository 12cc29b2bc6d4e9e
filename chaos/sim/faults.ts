/** What goes wrong in a seed's world, and when. */

import type { Random } from '../random.ts';
import type { KafkaFaults, SimKafka } from './kafka.ts';
import type { Node } from './node.ts';
import type { Scheduler } from './scheduler.ts';
import type { SimValkey } from './valkey.ts';
import type { PostgresFaults } from './wires.ts';

export type World = {
  scheduler: Scheduler;
  random: Random;
  valkey: SimValkey;
  kafka: SimKafka | null;
  nodes: Node[];
  postgres: PostgresFaults;
  broker: KafkaFaults;
  network: { slowMs: number };
  /** Starts it anew under its name after `ms`. */
  restart(node: Node, ms: number): void;
  /** Before data are lost: what engines that can't be heard have told nobody. */
  dataLost(): void;
  /** Whether a process is about to be started. */
  starting(): boolean;
  /** Whether Valkey's data may be lost in this world. */
  lossy: boolean;
  struck(kind: string): void;
};

type Fault = { name: string; weight: number; lossy?: true; kafka?: true; strike(world: World): unknown };

const running = (world: World): Node | null => {
  const alive = world.nodes.filter(({ process }) => process.alive && process.wakesMs === undefined);
  return alive[world.random.below(alive.length)] ?? null;
};

/** Ends the primary, and starts it again a moment later less its last `lost` calls. */
function restartValkey(world: World, lostOf: (calls: number) => number): boolean {
  const { valkey, random, scheduler } = world;
  const run = valkey.primary;
  if (!run) return false;
  valkey.crash();
  const lost = Math.min(run.calls.length, lostOf(run.calls.length));
  scheduler.after(random.between(20, 1_500), null, `${run.runId} is started again less ${lost} calls`, () => {
    if (lost > 0) world.dataLost();
    return valkey.restart(run, lost);
  });
  return true;
}

const faults: Fault[] = [
  {
    name: 'process killed',
    weight: 4,
    strike(world) {
      const node = running(world);
      if (node) world.restart(node, world.random.between(30, 4_500));
      return node !== null;
    },
  },
  {
    name: 'all processes killed',
    weight: 1,
    strike(world) {
      for (const node of [...world.nodes]) world.restart(node, world.random.between(30, 2_500));
    },
  },
  {
    name: 'process frozen',
    weight: 3,
    strike(world) {
      const node = running(world);
      node?.process.freeze(world.random.between(200, 9_000));
      return node !== null;
    },
  },
  {
    name: 'connection broken',
    weight: 4,
    strike: (world) => {
      const node = running(world);
      return node !== null && world.valkey.breakConnection(node.process, false);
    },
  },
  {
    name: 'connection silent',
    weight: 2,
    strike: (world) => {
      const node = running(world);
      return node !== null && world.valkey.breakConnection(node.process, true);
    },
  },
  {
    name: 'cut off from Valkey',
    weight: 2,
    strike(world) {
      const node = running(world);
      if (!node) return false;
      world.valkey.cutOff(node.process, true);
      world.valkey.breakConnection(node.process, world.random.chance(0.5));
      world.scheduler.after(world.random.between(300, 6_000), null, `${node.name} can reach Valkey`, () =>
        world.valkey.cutOff(node.process, false),
      );
      return true;
    },
  },
  { name: 'Valkey crashed', weight: 4, strike: (world) => restartValkey(world, () => 0) },
  {
    name: 'Valkey lost its tail',
    weight: 5,
    lossy: true,
    strike: (world) => restartValkey(world, () => 1 + world.random.below(world.random.chance(0.5) ? 6 : 25)),
  },
  {
    name: 'old copy put back',
    weight: 3,
    lossy: true,
    strike: (world) => restartValkey(world, (calls) => Math.ceil(calls * world.random.next())),
  },
  {
    name: 'files deleted',
    weight: 2,
    lossy: true,
    strike: (world) => restartValkey(world, (calls) => calls),
  },
  {
    name: 'FLUSHALL',
    weight: 3,
    lossy: true,
    strike(world) {
      world.dataLost();
      return world.valkey.flushAll();
    },
  },
  {
    name: 'went back in place',
    weight: 2,
    lossy: true,
    strike(world) {
      // Its keys alone, under connections that go on. Where several engines sell only some of them can notice in time.
      if (world.nodes.length !== 1 || world.starting()) return false;
      world.dataLost();
      return world.valkey.goBack(1 + world.random.below(15));
    },
  },
  {
    name: 'Postgres away',
    weight: 3,
    strike(world) {
      world.postgres.away = true;
      world.scheduler.after(world.random.between(100, 5_000), null, 'Postgres is back', () => {
        world.postgres.away = false;
      });
    },
  },
  {
    name: 'statements fail',
    weight: 3,
    strike(world) {
      world.postgres.failing = 1 + world.random.below(4);
    },
  },
  {
    name: 'commit’s answer lost',
    weight: 4,
    strike(world) {
      world.postgres.losing = 1 + world.random.below(3);
    },
  },
  {
    name: 'slow network',
    weight: 3,
    strike(world) {
      world.network.slowMs = world.random.chance(0.2) ? 6_000 : 400;
      world.scheduler.after(world.random.between(200, 2_500), null, 'the network is quick again', () => {
        world.network.slowMs = 0;
      });
    },
  },
  {
    name: 'Kafka away',
    weight: 3,
    kafka: true,
    strike(world) {
      world.broker.away = true;
      world.scheduler.after(world.random.between(200, 5_000), null, 'Kafka is back', () => {
        world.broker.away = false;
      });
    },
  },
  {
    name: 'Kafka’s answer lost',
    weight: 4,
    kafka: true,
    strike(world) {
      world.broker.unacknowledged = 1 + world.random.below(3);
    },
  },
  { name: 'redelivered', weight: 4, kafka: true, strike: (world) => world.kafka?.redeliver() },
  { name: 'Kafka lost its data', weight: 1, kafka: true, strike: (world) => world.kafka?.lose() },
];

/** Has `count` faults strike until `untilMs`. */
export function planFaults(world: World, count: number, untilMs: number): void {
  const { random, scheduler } = world;
  const possible = faults.filter((fault) => (!fault.lossy || world.lossy) && (!fault.kafka || world.kafka !== null));
  const total = possible.reduce((sum, { weight }) => sum + weight, 0);
  let atMs = random.between(200, untilMs);
  for (let i = 0; i < count; i++) {
    // Faults that come together find more than those that come alone.
    atMs = random.chance(0.4) ? Math.min(untilMs, atMs + random.between(0, 1_500)) : random.between(200, untilMs);
    let dice = random.next() * total;
    const fault = possible.find(({ weight }) => {
      dice -= weight;
      return dice < 0;
    });
    if (fault)
      scheduler.after(atMs, null, `FAULT ${fault.name}`, async () => {
        if ((await fault.strike(world)) !== false) world.struck(fault.name);
      });
  }
}
