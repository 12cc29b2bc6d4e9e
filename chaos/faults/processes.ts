/** Processes that are killed or frozen: one, two, or all of them. */
import type { BedOptions, Member, Store } from '../bed.ts';
import type { Random } from '../random.ts';
import { type Fault, rest, type Scene, startAll } from './fault.ts';

/** `engine` is either of the two, by chance. */
type Target = Store | 'engine' | 'relay' | 'ledger';
const memberOf = (target: Target, random: Random): Member =>
  target === 'engine' ? random.pick(['engine-1', 'engine-2']) : target;
const bedFor = (...targets: Target[]): Partial<BedOptions> => ({
  ...(targets.includes('replica') ? { replica: true } : {}),
  ...(targets.includes('kafka') || targets.includes('ledger') ? { transport: 'kafka' as const } : {}),
});
const targets: readonly Target[] = ['valkey', 'replica', 'engine', 'relay', 'ledger', 'kafka', 'postgres'];

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

/** Of one process each. */
export const single: Record<string, Fault> = {
  ...Object.fromEntries(targets.map((target) => [`kill-${target}`, killing(target)])),
  ...Object.fromEntries(targets.map((target) => [`freeze-${target}`, freezing(target)])),
};

export const several: Record<string, Fault> = {
  'kill-pair': {
    about: 'SIGKILL of two of them at once, started again in any order',
    prepare: async () => ({
      bed: {},
      async strike(scene) {
        const pair = twoOf(scene);
        scene.struck(`kill ${pair.join(' and ')}`);
        await Promise.all(pair.map((one) => scene.bed.kill(one)));
        await rest(scene.random, 0, 1_500);
        await startAll(scene.bed, pair);
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
        await startAll(bed, all);
      },
    }),
  },
};
