/** What goes wrong in a seed's world, and when. */

import type { Random } from '../random.ts';
import type { KafkaFaults, SimKafka } from './kafka.ts';
import type { Node } from './node.ts';
import type { Scheduler } from './scheduler.ts';
import type { Call } from './server.ts';
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
  /** When an engine last reported what it had seen. */
  reportedMs(): number;
  /** The engine that was the last to tell a buyer something, while it runs. */
  lastTold(): Node | null;
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
function restartValkey(world: World, lostOf: (calls: readonly Call[]) => number): boolean {
  const { valkey, random, scheduler } = world;
  const run = valkey.primary;
  if (!run) return false;
  valkey.crash();
  const lost = Math.min(run.calls.length, lostOf(run.calls));
  scheduler.after(random.between(20, 1_500), null, `${run.runId} is started again less ${lost} calls`, () => {
    if (lost > 0) world.dataLost();
    return valkey.restart(run, lost);
  });
  return true;
}

function flushAll(world: World): boolean {
  if (!world.valkey.primary) return false;
  world.dataLost();
  return world.valkey.flushAll();
}

/** All its keys are gone; later its files from before that are put back, with what was given up meanwhile. */
function putBackWhatWasLost(world: World): boolean {
  const { random } = world;
  // Or every engine dies with what it has not reported, which is lost, so that another history begins there unnoticed.
  const another = random.chance(0.5);
  if (!(another ? loseUnreported(world, 300) : flushAll(world))) return false;
  putBackLater(world, another ? random.between(4_500, 8_500) : random.between(500, 4_500), another);
  return true;
}

/** All processes are killed, to come back within `mostMs`, and Valkey loses what none of them has reported. */
function loseUnreported(world: World, mostMs: number): boolean {
  const { random } = world;
  for (const node of [...world.nodes]) world.restart(node, random.between(30, mostMs));
  return restartValkey(world, (calls) => calls.filter(({ atMs }) => atMs > world.reportedMs()).length);
}

/** `whole`: the last copy as it is; else it may be a part of it. */
function putBackLater(world: World, ms: number, whole: boolean): void {
  const { valkey, random, scheduler } = world;
  scheduler.after(ms, null, 'FAULT files from before are put back', () => {
    const copy = valkey.copies.at(-1);
    if (!copy || !valkey.primary) return;
    valkey.crash();
    scheduler.after(random.between(20, 800), null, 'Valkey is started on files from before', () => {
      world.dataLost();
      world.struck('what was lost put back');
      const part = whole ? 1 : 1 - 0.3 * random.next() * random.next();
      return valkey.restartOn(copy.slice(0, Math.ceil(copy.length * part)));
    });
  });
}

/** Nobody reads Kafka, as when the group waits for a ledger that has ended. */
function leaveUnread({ broker, scheduler }: World, ms: number): void {
  broker.unreadUntilMs = Math.max(broker.unreadUntilMs, scheduler.nowMs + ms);
}

function postgresAway({ postgres, scheduler }: World, ms: number): void {
  postgres.away = true;
  scheduler.after(ms, null, 'Postgres is back', () => {
    postgres.away = false;
  });
}

/** Data are lost while the ledger is behind: then engines, or Kafka, alone know what was told. */
function loseWhileBehind(world: World): void {
  const { random, scheduler } = world;
  const inKafka = world.kafka !== null && random.chance(0.7);
  if (inKafka) leaveUnread(world, random.between(1_000, 9_000));
  else postgresAway(world, random.between(400, 2_200));
  const loseAll = (): unknown => {
    const struck = loseUnreported(world, 1_500);
    // For longer than engines that have ended are waited for.
    if (inKafka) leaveUnread(world, random.between(5_000, 10_000));
    return struck;
  };
  scheduler.after(random.between(300, 2_000), null, 'FAULT data are lost while the ledger is behind', () => {
    const dice = random.next();
    if (dice < 0.4) return loseAll();
    // Not for so long that it is taken for ended.
    if (dice < 0.8) world.lastTold()?.process.freeze(random.between(1_500, 3_900));
    return random.chance(0.2) ? restartValkey(world, () => 1 + random.below(12)) : flushAll(world);
  });
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
    strike: (world) => restartValkey(world, (calls) => Math.ceil(calls.length * world.random.next())),
  },
  {
    name: 'files deleted',
    weight: 2,
    lossy: true,
    strike: (world) => restartValkey(world, (calls) => calls.length),
  },
  { name: 'FLUSHALL', weight: 3, lossy: true, strike: flushAll },
  {
    name: 'went back in place',
    weight: 2,
    lossy: true,
    strike(world) {
      // Its keys alone, under connections that go on. Where several engines sell only some of them can notice in time.
      if (world.nodes.length !== 1 || world.starting() || !world.valkey.primary) return false;
      world.dataLost();
      return world.valkey.goBack(1 + world.random.below(15));
    },
  },
  { name: 'flushed, and files from before put back', weight: 2, lossy: true, strike: putBackWhatWasLost },
  { name: 'data lost while the ledger was behind', weight: 6, lossy: true, strike: loseWhileBehind },
  {
    name: 'Postgres away',
    weight: 3,
    strike: (world) => postgresAway(world, world.random.between(100, 5_000)),
  },
  {
    name: 'Postgres hung',
    weight: 3,
    strike({ postgres, scheduler, random }) {
      // Now and then for longer than anybody waits for an answer.
      const forMs = random.chance(0.1) ? random.between(34_000, 42_000) : random.between(200, 7_000);
      Object.assign(postgres, { hungUntilMs: scheduler.nowMs + forMs, endsHung: random.chance(0.25) });
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
  {
    name: 'Kafka unread',
    weight: 2,
    kafka: true,
    strike: (world) => leaveUnread(world, world.random.between(200, 9_000)),
  },
  {
    name: 'Kafka lost its data',
    weight: 2,
    kafka: true,
    strike(world) {
      const ms = world.random.between(0, 1_200);
      // Some of them before anybody has read them.
      if (world.random.chance(0.5)) leaveUnread(world, ms);
      world.scheduler.after(ms, null, 'Kafka has lost its data', () => world.kafka?.lose());
    },
  },
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
