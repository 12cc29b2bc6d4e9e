/** A seed's world: it is made, goes wrong, is left in peace, and is looked at. */

import { limits } from '../../kernel/limits.ts';
import { rebuildableSale } from '../../ledger/testing.ts';
import {
  openShardCommand,
  outboxTrimCommand,
  putSaleCommand,
  rebuildBeginCommand,
  setSaleStateCommand,
} from '../../lua/bindings.ts';
import { saleArgs } from '../../lua/testing.ts';
import { createRandom } from '../random.ts';
import { type Buyers, startBuyers } from './buyers.ts';
import { type Finding, findingsOf, perBuyer, trimmedTooFar, watchOver } from './checks.ts';
import { planFaults, type World } from './faults.ts';
import { createSimKafka } from './kafka.ts';
import { type Node, type Role, type Seams, startNode } from './node.ts';
import { createScheduler, type Process } from './scheduler.ts';
import type { RealServer } from './server.ts';
import { createDatabase } from './store.ts';
import { createSimValkey } from './valkey.ts';
import { createWire } from './wires.ts';

export type SeedReport = {
  seed: number;
  findings: Finding[];
  digest: string;
  trace: string[];
  /** How often each fault struck. */
  faults: Record<string, number>;
  acknowledged: number;
  events: number;
  rebuilds: number;
  virtualMs: number;
};

const faultsUntilMs = 5_000;
const drainMs = 120_000;
const lookMs = 250;

export async function runSeed(seed: number, real: RealServer, seams: Seams = {}): Promise<SeedReport> {
  const random = createRandom(seed);
  const scheduler = createScheduler(random);
  const struckFaults: Record<string, number> = {};
  const struck = (kind: string): void => {
    struckFaults[kind] = (struckFaults[kind] ?? 0) + 1;
  };
  const network = { slowMs: 0 };
  const delayMs = (): number => {
    const base = 0.1 + random.next() * (random.chance(0.05) ? 40 : 1.5);
    return network.slowMs > 0 && random.chance(0.2) ? base + random.next() * network.slowMs : base;
  };
  const database = createDatabase();
  /** By a rebuild's token, up to where outbox and Kafka went as it began: it may lose none of that. */
  const found = new Map<string, { outbox: number; kafka: number }>();
  /** After which sequence an epoch was first sold from, by what Valkey answered. */
  const beginnings = new Map<number, number>();
  const findings: Finding[] = [];
  const lostAtMs: number[] = [];
  const valkey = createSimValkey({
    ...{ scheduler, random, real, delayMs },
    executed(name, argument, _run, outcome) {
      const row = database.tables.shards.get(0)?.row;
      if (outcome instanceof Error || !row) return;
      if (name === outboxTrimCommand.name) {
        const detail = trimmedTooFar(argument, row.watermark);
        if (detail) findings.push({ invariant: 'trims-what-is-kept', detail });
      }
      if (name === openShardCommand.name) {
        const { state, found: epoch, seq } = openShardCommand.decode(outcome);
        if (state === 0 && !beginnings.has(epoch)) beginnings.set(epoch, seq);
      }
      if (name !== rebuildBeginCommand.name) return;
      const { epoch, seq } = rebuildBeginCommand.decode(outcome);
      const inKafka = kafka?.reachesFrom(row.watermark, row.closedEpoch) ?? 0;
      // What goes on beyond the beginning of a later epoch is another history: files of before that were put back.
      const later = [...beginnings].filter(([begun]) => begun > epoch).map(([, from]) => from);
      const kept = epoch > row.closedEpoch ? Math.min(seq, ...later) : 0;
      found.set(argument.toString('latin1', 0, 12), { outbox: kept, kafka: inKafka });
    },
  });
  const postgres = { away: false, failing: 0, losing: 0, hungUntilMs: 0, endsHung: false };
  const broker = { away: false, unacknowledged: 0, unreadUntilMs: 0 };
  const kafka = random.chance(0.5)
    ? createSimKafka({
        ...{ scheduler, random, faults: broker, delayMs, struck },
        lost() {
          const closed = new Set([...database.tables.rebuilds.values()].map(({ token }) => token));
          for (const [token, had] of found) if (!closed.has(token)) had.kafka = 0;
        },
      })
    : null;
  const rebuilding: { by: Process | null } = { by: null };
  const nodes: Node[] = [];
  let buyers: Buyers | null = null;
  let peace = false;
  const outboxEvents = random.chance(0.1) ? 60 : limits.outboxEvents;
  const tailEvents = random.chance(0.5) ? random.below(20) : limits.outboxTailEvents;
  const rememberSeconds = random.chance(0.2) ? 3 : 3_600;

  /** What it has told buyers and nobody else. */
  const orphan = (node: Node): void => {
    const reported = database.tables.sightings.get(`${node.engine}/0`);
    for (const one of buyers?.acknowledged ?? [])
      if (one.node === node && (reported?.seq ?? 0) < one.shardSeq) one.orphan = true;
  };
  const start = (name: string, roles: readonly Role[]): void => {
    nodes.push(
      startNode({
        ...{
          name,
          roles,
          scheduler,
          random,
          valkey,
          database,
          kafka,
          seams,
          outboxEvents,
          tailEvents,
          rememberSeconds,
          rebuilding,
        },
        wire: (process) => createWire({ scheduler, random, process, faults: postgres, delayMs, struck }),
        failed(node, error) {
          scheduler.note(`${node.name} could not start: ${error}`);
          restart(node, 500);
        },
        began(node) {
          if (peace || !random.chance(0.4)) return;
          // Between any two of its steps.
          scheduler.after(random.between(0, 60), null, `FAULT ${node.name} dies as it rebuilds`, () => {
            if (rebuilding.by !== node.process) return;
            struck('killed while it rebuilt');
            restart(node, random.between(30, 1_500));
          });
        },
      }),
    );
  };
  const restart = (node: Node, ms: number): void => {
    if (!node.process.alive) return;
    orphan(node);
    node.process.kill();
    valkey.gone(node.process);
    nodes.splice(nodes.indexOf(node), 1);
    scheduler.note(`${node.name} ends`);
    starts++;
    scheduler.after(ms, null, `${node.name} starts`, () => {
      starts--;
      start(node.name, node.roles);
    });
  };
  let starts = 0;

  const roles = (always: Role[], maybe: Role[]): Role[] => [...always, ...maybe.filter(() => random.chance(0.4))];
  const consumer: Role[] = kafka ? ['ledger'] : [];
  await valkey.begin();
  start('a', ['http', 'relay', 'sweeper', 'rebuild', ...consumer]);
  if (random.chance(0.8)) start('b', roles(['http'], ['relay', 'sweeper', 'rebuild', ...consumer]));
  if (random.chance(0.25)) start('c', roles(['rebuild'], ['http', 'relay', 'sweeper', ...consumer]));

  const operator = scheduler.start('operator');
  const watch = watchOver(database);
  const makeSale = async (): Promise<void> => {
    const sale = rebuildableSale();
    const settings = { ...JSON.parse(sale.settings), holdSeconds: 3, extendSeconds: 5, perBuyer };
    const stock = { shoe: { east: 8 + random.below(20), west: 5 }, hat: { west: 1 + random.below(8) } };
    const args = saleArgs({ ...sale, settings: JSON.stringify(settings), holdMs: 3_000, perBuyer, stock });
    for (;;)
      try {
        const shards = nodes.find((node) => node.shards)?.shards;
        await shards?.call(0, putSaleCommand, { ...args, extendMs: 5_000 });
        await shards?.call(0, setSaleStateCommand, { sale: 1, state: 1 });
        return;
      } catch (error) {
        scheduler.note(`the sale could not be made: ${error}`);
        await operator.clock.wait(500);
      }
  };
  const ended = { opened: false, converged: false };
  const done = (): boolean => {
    const wrong = watch();
    if (wrong) findings.push(wrong);
    return findings.length > 0;
  };
  const until = async (untilMs: number, condition: () => boolean): Promise<boolean> =>
    (await scheduler.run(untilMs, () => done() || condition())) && findings.length === 0;

  ended.opened = await until(15_000, () => nodes.every((node) => node.shards?.sellable()));
  if (!ended.opened) findings.push({ invariant: 'opens', detail: 'the shard was not opened within 15 s' });
  else {
    let made = false;
    void makeSale().then(() => {
      made = true;
    });
    await until(scheduler.nowMs + 10_000, () => made);
    if (!made) findings.push({ invariant: 'opens', detail: 'no sale could be made within 10 s' });
    const world: World = {
      ...{ scheduler, random, valkey, kafka, nodes, postgres, broker, network, restart, struck },
      starting: () => starts > 0,
      reportedMs: () => Math.max(0, ...[...database.tables.sightings.values()].map(({ atMs }) => atMs)),
      lastTold() {
        const node = buyers?.acknowledged.at(-1)?.node;
        return node && nodes.includes(node) && node.process.wakesMs === undefined ? node : null;
      },
      lossy: random.chance(0.6),
      dataLost() {
        lostAtMs.push(scheduler.nowMs);
      },
    };
    buyers = startBuyers({
      ...{ scheduler, random, nodes: () => nodes },
      ...{ count: 4, operations: 40 + random.below(40), pauseMs: random.between(100, 900) },
    });
    if (findings.length === 0) planFaults(world, 1 + random.below(6), faultsUntilMs);
    await until(scheduler.nowMs + faultsUntilMs + 1_000, () => false);
  }

  if (findings.length === 0) {
    peace = true;
    scheduler.note('faults end');
    Object.assign(postgres, { away: false, failing: 0, losing: 0 });
    Object.assign(broker, { away: false, unacknowledged: 0 });
    network.slowMs = 0;
    for (const { process } of nodes) valkey.cutOff(process, false);
    const look = (): void => {
      scheduler.after(lookMs, null, '', async () => {
        const row = database.tables.shards.get(0)?.row;
        const run = valkey.primary;
        const calm =
          row && run?.up && starts === 0 && row.rebuilding === null && buyers?.finished === true && !rebuilding.by;
        if (calm && nodes.every((node) => node.shards?.sellable())) {
          const shard = await real.shardAt(run.place);
          ended.converged =
            shard !== null && shard.seq === row.watermark && shard.live === 0 && shard.epoch === row.epoch;
        }
        if (!ended.converged && row?.stopped === null) look();
      });
    };
    look();
    const stopped = (): boolean => typeof database.tables.shards.get(0)?.row.stopped === 'string';
    await until(scheduler.nowMs + drainMs, () => ended.converged || stopped());
    const run = valkey.primary;
    findings.push(
      ...(await findingsOf({
        ...{
          database,
          real,
          run,
          acknowledged: buyers?.acknowledged ?? [],
          converged: ended.converged,
          found,
          lostAtMs,
        },
        forgets: rememberSeconds < 3_600,
      })),
    );
  }
  for (const { invariant, detail } of findings) scheduler.note(`FINDING ${invariant}: ${detail}`);
  const report: SeedReport = {
    ...{ seed, findings, digest: scheduler.digest(), trace: scheduler.trace, faults: struckFaults },
    acknowledged: buyers?.acknowledged.length ?? 0,
    events: database.tables.shards.get(0)?.row.watermark ?? 0,
    rebuilds: database.tables.rebuilds.size,
    virtualMs: scheduler.nowMs,
  };
  for (const { process } of nodes) process.kill();
  return report;
}
