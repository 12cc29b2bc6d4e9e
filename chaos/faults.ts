/** Everything that is done to a running Stampede: one entry a fault. Each leaves all healed when it resolves. */
import { companyFaults } from './faults/company.ts';
import { dataFaults } from './faults/data.ts';
import { type Fault, rest, wait } from './faults/fault.ts';
import { networks } from './faults/network.ts';
import { several, single } from './faults/processes.ts';
import type { Random } from './random.ts';

/** Three of them, each but once: two that start the same process would be in each other's way. */
function threeOf<One>(all: readonly One[], random: Random): One[] {
  const left = [...all];
  return Array.from({ length: 3 }, () => left.splice(random.below(left.length), 1)).flat();
}

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
  ...single,
  ...several,
  ...networks,
  storm: {
    about: 'three of the kills, freezes and bad networks above, at about the same time',
    prepare: async () => {
      const all = await Promise.all([single, networks].flatMap(Object.values<Fault>).map((one) => one.prepare('')));
      return {
        bed: { proxied: ['valkey', 'postgres', 'kafka'], transport: 'kafka', replica: true },
        async strike(scene) {
          const { random } = scene;
          const three = threeOf(all, random).map((one) => ({
            one,
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
  ...dataFaults,
  ...companyFaults,
};
