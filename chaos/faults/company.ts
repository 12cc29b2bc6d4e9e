/** Others who do the same: a second of each, another release, one that is late, Kafka that says all twice; and a wrong clock. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitUntil } from '../../services/waiting.ts';
import { shards } from '../bed.ts';
import { copyTree } from '../broken-tree.ts';
import { startEcho } from '../kafka-echo.ts';
import { faketimePath } from '../requirements.ts';
import { enough, enoughMs, type Fault, rest, startAll } from './fault.ts';

/** So many messages come again at least, within so long. */
const echoed = 100;
const echoMs = 20_000;

export const companyFaults: Record<string, Fault> = {
  'kafka-twice': {
    about: 'all that the topic has comes again, shuffled, and a second relay brings what is new in reverse order',
    prepare: async () => ({
      bed: { transport: 'kafka' },
      async strike({ bed, random, struck }) {
        const tree = copyTree(join(bed.folder, `reversed-${random.int(0, 1e9)}`), [
          {
            file: 'ledger/kafka.ts',
            find: 'const messages = batches.map(',
            replace: 'const messages = batches.toReversed().map(',
          },
        ]);
        await bed.serve('relay', { name: 'relay-reversed', tree });
        const echo = await startEcho(bed.service('kafka').url, random);
        struck('Kafka delivers twice and out of order');
        await rest(random, 2_000, 4_000);
        if (!(await waitUntil(async () => echo.sent() >= echoed, echoMs))) throw new Error('Kafka said nothing twice');
        await echo.stop();
        await bed.endRole('relay-reversed', 'SIGKILL');
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
        await rest(random, 5_500, 7_000);
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
  rebuild: {
    about: 'an operator rebuilds a shard that sells, at times with much in its outbox: its relay is away',
    prepare: async () => ({
      bed: {},
      async strike({ bed, crowd, random, struck, first }) {
        const relayAway = first || random.chance(0.5);
        if (relayAway) {
          await bed.kill('relay');
          await crowd.more(enough, enoughMs);
        }
        const shard = String(random.below(shards));
        struck(`rebuild of shard ${shard}${relayAway ? ', its relay away' : ''}`);
        const command = bed.command(['rebuild', '--shard', shard, '--json']);
        if ((await command.ended) !== 0) throw new Error(`the rebuild failed: ${command.stderr()}`);
        if (relayAway) await bed.start('relay');
      },
    }),
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
        await startAll(bed, [...roles, 'engine-2']);
        await Promise.all(roles.map((role) => bed.endRole(`${role}-next`, 'SIGTERM')));
      },
    }),
  },
};
