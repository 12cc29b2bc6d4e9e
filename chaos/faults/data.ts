/** Stores that lose data, or have no room for more. */
import { closeSync, mkdirSync, openSync, realpathSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { Client } from 'pg';
import { waitUntil } from '../../services/waiting.ts';
import type { Bed } from '../bed.ts';
import { copyFiles } from '../old-copy.ts';
import { makeFragileDisk } from '../power-loss.ts';
import { enough, enoughMs, type Fault, rest, wait } from './fault.ts';

/** Fills a file until there is no room, again and again; what it answers makes room. Rejects when there was room to the end. */
async function fillDisk(folder: string, forMs: number): Promise<() => void> {
  const path = join(folder, 'filler');
  const file = openSync(path, 'w');
  const block = Buffer.alloc(64 * 1024);
  let full = 0;
  for (const untilMs = Date.now() + forMs; Date.now() < untilMs; await wait(5))
    for (let bytes = block.length; bytes > 0; )
      try {
        bytes = writeSync(file, block, 0, bytes) > 0 ? bytes : 0;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        full++;
        bytes = Math.floor(bytes / 2);
      }
  closeSync(file);
  if (full === 0) throw new Error('the disk did not get full');
  return () => rmSync(path);
}

async function answers(bed: Bed, store: 'valkey' | 'postgres'): Promise<boolean> {
  if (store === 'valkey')
    return await onValkey(bed, store, (redis) => redis.ping()).then(
      () => true,
      () => false,
    );
  const client = new Client({ connectionString: bed.service(store).url, connectionTimeoutMillis: 2_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('select 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
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
        // It may have given up meanwhile, and its end not be known yet.
        const works = async (): Promise<boolean> => {
          await bed.start(store);
          return await answers(bed, store);
        };
        if (!(await waitUntil(works, backMs))) throw new Error(`${store} does not come back`);
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

/** A store that has given up replays its log first. */
const backMs = 60_000;

export const dataFaults: Record<string, Fault> = {
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
      // Under `replicated` nothing would be told once the only replica is promoted.
      durability: 'fsync',
      once: true,
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
  'promoted-replica': {
    about:
      'under `replicated`: the primary freezes, its replica is promoted, and the old one comes back as a replica of it',
    prepare: async () => ({
      bed: { replica: true },
      durability: 'replicated',
      mayReport: true,
      async strike({ bed, random, struck }) {
        const [primary, replica] = (await isPrimary(bed, 'valkey'))
          ? (['valkey', 'replica'] as const)
          : (['replica', 'valkey'] as const);
        struck(`${primary} frozen, ${replica} promoted`);
        await bed.freeze(primary);
        await onValkey(bed, replica, (redis) => redis.replicaof('NO', 'ONE'));
        await rest(random, 500, 2_000);
        await bed.thaw(primary);
        const { hostname, port } = new URL(bed.service(replica).url);
        await onValkey(bed, primary, (redis) => redis.replicaof(hostname, port));
      },
    }),
  },
};

const isPrimary = (bed: Bed, store: 'valkey' | 'replica'): Promise<boolean> =>
  onValkey(bed, store, async (redis) => (await redis.info('replication')).includes('role:master'));
