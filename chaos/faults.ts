/** Everything that is done to a running Stampede: one entry a fault. Each leaves all healed when it resolves. */
import { closeSync, mkdirSync, openSync, realpathSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { systemClock } from '../kernel/clock.ts';
import type { Bed, BedOptions, Member, Networked, Store } from './bed.ts';
import { copyTree } from './broken-tree.ts';
import type { Crowd } from './crowd.ts';
import { startEcho } from './kafka-echo.ts';
import { copyFiles } from './old-copy.ts';
import { makeFragileDisk } from './power-loss.ts';
import type { Random } from './random.ts';
import { faketimePath, type Requirement } from './requirements.ts';

/** What a fault has to strike with. */
export type Scene = {
  bed: Bed;
  crowd: Crowd;
  random: Random;
  /** Says that the fault strikes now, and what it is exactly: the calls in flight are counted. */
  struck(what: string): void;
  /** From now on Valkey has less than it had: nothing may be sold from it. */
  wentBack(): void;
};

export type Fault = {
  about: string;
  needs?: readonly Requirement[];
  /** Where it takes more than any durability covers: what is lost must be reported then. */
  mayLose?: true;
  /** Called once a run, with the run's folder, before anything is started. */
  prepare(folder: string): Promise<Prepared>;
};
/** `bed`: what the bed must have; the seed chooses the rest. */
export type Prepared = { bed: Partial<BedOptions>; strike(scene: Scene): Promise<void> };

const wait = (ms: number): Promise<void> => systemClock.wait(ms);
const rest = (random: Random, fromMs: number, toMs: number): Promise<void> => wait(random.int(fromMs, toMs));

/** `engine` is either of the two, by chance. */
type Target = Store | 'engine' | 'relay' | 'ledger';
const memberOf = (target: Target, random: Random): Member =>
  target === 'engine' ? random.pick(['engine-1', 'engine-2']) : target;
const bedFor = (...targets: Target[]): Partial<BedOptions> => ({
  ...(targets.includes('replica') ? { replica: true } : {}),
  ...(targets.includes('kafka') || targets.includes('ledger') ? { transport: 'kafka' as const } : {}),
});
const targets: readonly Target[] = ['valkey', 'replica', 'engine', 'relay', 'ledger', 'kafka', 'postgres'];

/** Stores before roles: a role does not start without them. */
async function startAll({ bed }: Scene, members: readonly Member[]): Promise<void> {
  const stores = members.filter((one) => ['valkey', 'postgres', 'kafka'].includes(one));
  await Promise.all(stores.map((one) => bed.start(one)));
  if (members.includes('replica')) await bed.start('replica');
  await Promise.all(members.filter((one) => !stores.includes(one) && one !== 'replica').map((one) => bed.start(one)));
}

function killing(target: Target): Fault {
  return {
    about: `SIGKILL of ${target}, started again a little later`,
    prepare: async () => ({
      bed: bedFor(target),
      async strike(scene) {
        const member = memberOf(target, scene.random);
        scene.struck(`kill ${member}`);
        await scene.bed.kill(member);
        await rest(scene.random, 0, 1_500);
        await scene.bed.start(member);
      },
    }),
  };
}

function freezing(target: Target): Fault {
  return {
    about: `SIGSTOP of ${target}, thawed after a while`,
    prepare: async () => ({
      bed: bedFor(target),
      async strike({ bed, random, struck }) {
        const member = memberOf(target, random);
        struck(`freeze ${member}`);
        await bed.freeze(member);
        await rest(random, 800, 4_000);
        await bed.thaw(member);
      },
    }),
  };
}

function twoOf({ bed, random }: Scene): [Member, Member] {
  const there = targets.filter((one) => one === 'engine' || bed.has(one));
  const first = random.pick(there);
  const second = random.pick(there.filter((one) => one !== first));
  return [memberOf(first, random), memberOf(second, random)];
}

function network(store: Networked, weather: 'cut' | 'silent' | 'deaf' | 'slow', about: string): Fault {
  return {
    about,
    prepare: async () => ({
      bed: { proxied: [store], ...(store === 'kafka' ? { transport: 'kafka' as const } : {}) },
      async strike({ bed, random, struck }) {
        struck(`${store}: ${weather}`);
        bed.proxy(store).set(weather, random.int(20, 250));
        await rest(random, 800, weather === 'silent' || weather === 'deaf' ? 6_500 : 3_000);
        bed.proxy(store).set('fine');
      },
    }),
  };
}

const networked: readonly Networked[] = ['valkey', 'postgres', 'kafka'];
const networks: Record<string, Fault> = Object.fromEntries(
  networked.flatMap((store) => [
    [`cut-${store}`, network(store, 'cut', `all lose their connections to ${store}, and get no new ones`)],
    [`partition-${store}`, network(store, 'silent', `nothing gets through to ${store}, and nobody is told`)],
    [`half-open-${store}`, network(store, 'deaf', `what is sent to ${store} arrives; its answers do not`)],
    [`slow-${store}`, network(store, 'slow', `each piece to and from ${store} comes 20 to 250 ms late`)],
  ]),
);

/** Fills a file until there is no room, again and again; what it answers makes room. */
async function fillDisk(folder: string, forMs: number): Promise<() => void> {
  const path = join(folder, 'filler');
  const file = openSync(path, 'w');
  const block = Buffer.alloc(64 * 1024);
  for (const untilMs = Date.now() + forMs; Date.now() < untilMs; await wait(5))
    for (let bytes = block.length; bytes > 0; )
      try {
        bytes = writeSync(file, block, 0, bytes) > 0 ? bytes : 0;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        bytes = Math.floor(bytes / 2);
      }
  closeSync(file);
  return () => rmSync(path);
}

function diskFull(store: 'valkey' | 'postgres'): Fault {
  return {
    about: `${store}'s disk is full for a while (a small tmpfs)`,
    needs: ['root'],
    prepare: async () => ({
      bed: { small: [store] },
      async strike({ bed, random, struck }) {
        struck(`disk full: ${store}`);
        const makeRoom = await fillDisk(bed.service(store).dataDir ?? '', random.int(800, 2_500));
        makeRoom();
        // It may have given up meanwhile.
        await bed.start(store);
      },
    }),
  };
}

async function onValkey<T>(bed: Bed, store: 'valkey' | 'replica', work: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(bed.service(store).url, { maxRetriesPerRequest: 3 });
  redis.on('error', () => undefined);
  try {
    return await work(redis);
  } finally {
    redis.disconnect();
  }
}

const enough = 300;
const enoughMs = 20_000;

export const faults: Record<string, Fault> = {
  calm: {
    about: 'nothing: what the load alone does',
    prepare: async () => ({
      bed: {},
      async strike({ random, struck }) {
        struck('nothing');
        await rest(random, 1_000, 2_000);
      },
    }),
  },
  ...Object.fromEntries(targets.map((target) => [`kill-${target}`, killing(target)])),
  ...Object.fromEntries(targets.map((target) => [`freeze-${target}`, freezing(target)])),

  'kill-pair': {
    about: 'SIGKILL of two of them at once, started again in any order',
    prepare: async () => ({
      bed: {},
      async strike(scene) {
        const pair = twoOf(scene);
        scene.struck(`kill ${pair.join(' and ')}`);
        await Promise.all(pair.map((one) => scene.bed.kill(one)));
        await rest(scene.random, 0, 1_500);
        await startAll(scene, pair);
      },
    }),
  },
  'freeze-pair': {
    about: 'SIGSTOP of two of them, thawed one after the other',
    prepare: async () => ({
      bed: {},
      async strike(scene) {
        const pair = twoOf(scene);
        scene.struck(`freeze ${pair.join(' and ')}`);
        for (const one of pair) await scene.bed.freeze(one);
        for (const one of pair) {
          await rest(scene.random, 500, 2_500);
          await scene.bed.thaw(one);
        }
      },
    }),
  },

  ...networks,
  'disk-full-valkey': diskFull('valkey'),
  'disk-full-postgres': diskFull('postgres'),

  'power-loss': {
    about: 'Valkey is killed and whatever was not synced is cut from its files',
    needs: ['cc'],
    async prepare(folder) {
      const dataDir = join(folder, 'valkey');
      mkdirSync(dataDir, { recursive: true });
      const disk = await makeFragileDisk(realpathSync(dataDir));
      return {
        bed: { valkeyEnv: disk.env, replica: false },
        async strike({ bed, random, struck }) {
          struck('power loss');
          await bed.kill('valkey');
          await disk.lose({ names: random.pick(['synced', 'found']), tail: random.pick(['gone', 'half']) });
          await bed.start('valkey');
        },
      };
    },
  },
  'old-copy': {
    about: "Valkey's files are replaced by an older copy of them",
    mayLose: true,
    prepare: async () => ({
      bed: { replica: false },
      async strike({ bed, crowd, struck, wentBack }) {
        await bed.freeze('valkey');
        const putBack = copyFiles(bed.service('valkey').dataDir ?? '');
        await bed.thaw('valkey');
        await crowd.more(enough, enoughMs);
        struck('old copy put back');
        await bed.kill('valkey');
        putBack();
        wentBack();
        await bed.start('valkey');
      },
    }),
  },
  flushall: {
    about: 'somebody calls FLUSHALL',
    mayLose: true,
    prepare: async () => ({
      bed: {},
      async strike({ bed, struck, wentBack }) {
        struck('FLUSHALL');
        // From its answer on: calls before it in the connection's queue are still answered rightly.
        await onValkey(bed, 'valkey', (redis) => redis.flushall());
        wentBack();
      },
    }),
  },
  'lagging-replica': {
    about: 'a replica that has lagged is promoted; the primary is dead, or wakes later as a second one',
    mayLose: true,
    prepare: async () => ({
      bed: { replica: true },
      async strike({ bed, crowd, random, struck, wentBack }) {
        // From here on it lags: the primary sells on, and nobody is told.
        await onValkey(bed, 'replica', (redis) => redis.replicaof('NO', 'ONE'));
        await crowd.more(enough, enoughMs);
        const dead = random.chance(0.5);
        struck(dead ? 'primary killed' : 'primary frozen');
        await (dead ? bed.kill('valkey') : bed.freeze('valkey'));
        wentBack();
        await crowd.more(enough, 60_000);
        if (dead) return;
        await bed.thaw('valkey');
        await rest(random, 500, 1_500);
        // Two primaries are not looked into: the operator makes one a replica of the other.
        const { hostname, port } = new URL(bed.service('replica').url);
        await onValkey(bed, 'valkey', (redis) => redis.replicaof(hostname, port));
      },
    }),
  },
  'kafka-twice': {
    about: 'all that the topic has comes again, shuffled, among what is new',
    prepare: async () => ({
      bed: { transport: 'kafka' },
      async strike({ bed, random, struck }) {
        const echo = await startEcho(bed.service('kafka').url, random);
        struck('Kafka delivers twice and out of order');
        await rest(random, 2_000, 4_000);
        await echo.stop();
      },
    }),
  },
  'two-of-each': {
    about: 'a second relay, ledger and sweeper run beside the first, and are killed',
    prepare: async () => ({
      bed: {},
      async strike({ bed, random, struck }) {
        const roles = (['relay', 'ledger', 'sweeper'] as const).filter(bed.has);
        await Promise.all(roles.map((role) => bed.serve(role, { name: `${role}-2` })));
        struck(`two of ${roles.join(', ')}`);
        await rest(random, 2_000, 4_000);
        await Promise.all(roles.map((role) => bed.endRole(`${role}-2`, 'SIGKILL')));
      },
    }),
  },
  'late-engine': {
    about: 'an engine is frozen for longer than any call may take, while Valkey begins another run, and wakes then',
    prepare: async () => ({
      bed: {},
      async strike({ bed, random, struck }) {
        const engine = random.pick(['engine-1', 'engine-2'] as const);
        struck(`${engine} sleeps`);
        await bed.freeze(engine);
        await rest(random, 0, 1_000);
        await bed.kill('valkey');
        await bed.start('valkey');
        await rest(random, 4_000, 6_000);
        struck(`${engine} wakes late`);
        await bed.thaw(engine);
      },
    }),
  },
  'clock-jump': {
    about: "Valkey's and the engines' clocks jump ahead and back by seconds (libfaketime)",
    needs: ['faketime'],
    async prepare(folder) {
      const file = join(folder, 'clock');
      writeFileSync(file, '+0');
      const env = {
        LD_PRELOAD: faketimePath,
        FAKETIME_TIMESTAMP_FILE: file,
        FAKETIME_NO_CACHE: '1',
        FAKETIME_DONT_FAKE_MONOTONIC: '1',
      };
      return {
        bed: { valkeyEnv: env, engineEnv: env },
        async strike({ random, struck }) {
          for (const seconds of [random.int(1, 4), -random.int(1, 4), 0]) {
            struck(`the clock goes ${seconds} s wrong`);
            writeFileSync(file, `${seconds < 0 ? '' : '+'}${seconds}`);
            await rest(random, 500, 1_500);
          }
        },
      };
    },
  },
  rollout: {
    about:
      'another release, with another function library, runs beside the first; then the first is stopped, then put back',
    prepare: async () => ({
      bed: {},
      async strike({ bed, random, struck }) {
        const tree = copyTree(join(bed.folder, `release-${random.int(0, 1e9)}`), [
          { file: 'lua/includes/10-status.lua', find: '\n', replace: '\n-- Another release.\n' },
        ]);
        const roles = (['engine-1', 'relay', 'ledger', 'sweeper'] as const).filter(bed.has);
        await Promise.all(roles.map((role) => bed.serve(role, { name: `${role}-next`, tree })));
        struck('two releases at once');
        await rest(random, 1_500, 2_500);
        await Promise.all(roles.map((role) => bed.endRole(role, 'SIGTERM')));
        await bed.endRole('engine-2', 'SIGTERM');
        await rest(random, 500, 1_000);
        struck('rolled back');
        await startAll({ bed } as Scene, [...roles, 'engine-2']);
        await Promise.all(roles.map((role) => bed.endRole(`${role}-next`, 'SIGTERM')));
      },
    }),
  },
  storm: {
    about: 'three of the kills, freezes and bad networks above, at about the same time',
    prepare: async () => {
      const all = [...targets.map(killing), ...targets.map(freezing), ...Object.values(networks)];
      const single = await Promise.all(all.map((one) => one.prepare('')));
      return {
        bed: { proxied: ['valkey', 'postgres', 'kafka'], transport: 'kafka', replica: true },
        async strike(scene) {
          const { random } = scene;
          const three = Array.from({ length: 3 }, () => ({
            one: random.pick(single),
            own: random.fork(),
            ms: random.int(0, 800),
          }));
          await Promise.all(
            three.map(({ one, own, ms }) => wait(ms).then(() => one.strike({ ...scene, random: own }))),
          );
        },
      };
    },
  },
  'restart-all': {
    about: 'everything is killed at once, and started again',
    prepare: async () => ({
      bed: {},
      async strike(scene) {
        const { bed, struck } = scene;
        const all = (
          ['valkey', 'replica', 'postgres', 'kafka', 'engine-1', 'engine-2', 'relay', 'ledger', 'sweeper'] as const
        ).filter(bed.has);
        struck('everything is killed');
        await Promise.all(all.map((one) => bed.kill(one)));
        await startAll(scene, all);
      },
    }),
  },
};
