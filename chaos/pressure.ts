/**
 * A shard under full load: a whole Stampede on servers of its own, load that comes in full batches straight to the shard's
 * functions (more than one engine passes on), and gauges of what must stay bounded.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { openStores, type Stores } from '../cli/compose.ts';
import { type Answer, startTestbed, type Testbed } from '../cli/testbed.ts';
import type { Served } from '../cli/testbed-command.ts';
import { systemClock } from '../kernel/clock.ts';
import { readConfig } from '../kernel/config.ts';
import { RefusalError } from '../kernel/errors.ts';
import { newBuyerId } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import { createLogger } from '../kernel/logger.ts';
import {
  commitCommand,
  readSaleCommand,
  releaseCommand,
  reserveCommand,
  type ShardStatusAnswer,
  shardStatusCommand,
  statusCodes,
} from '../lua/bindings.ts';
import { reserveResults } from '../lua/results.ts';

/** Holds of the one last long; those of the other lapse, and the sweep ends them. */
export type SaleId = 'long' | 'brief';
export const sku = 'shoe';
export const supply = 1_000_000_000;
export const briefSeconds = 3;
const shard = 0;

export type Stage = {
  bed: Testbed;
  stores: Stores;
  redis: Redis;
  sales: Record<SaleId, number>;
  limit: number;
  /** The process that has the roles relay and ledger. */
  background: Served;
  status(): Promise<ShardStatusAnswer>;
  /** Units of a sale. */
  units(sale: SaleId): Promise<{ reserved: number; sold: number }>;
  stop(): Promise<void>;
};

export type StageOptions = {
  outboxEvents: number;
  maxmemoryBytes: number;
  rememberSeconds?: number;
  kafka?: boolean;
};

/** One shard, two sales; HTTP and sweep in one process, relay and ledger in another. */
export async function setStage(options: StageOptions): Promise<Stage> {
  const bed = await startTestbed({
    kafka: options.kafka ?? false,
    valkey: 'single',
    env: {
      SHARDS: '1',
      OUTBOX_EVENTS: String(options.outboxEvents),
      REMEMBER_SECONDS: String(options.rememberSeconds ?? limits.rememberSeconds),
      LOG_LEVEL: 'error',
    },
    serve: ['--roles', 'http,sweeper'],
  });
  const stops = [() => bed.stop()];
  const stop = async (): Promise<void> => {
    for (const each of stops.reverse()) await each();
  };
  try {
    const background = await bed.serve(['--roles', 'relay,ledger']);
    const logger = createLogger({ level: 'silent', name: 'pressure' });
    const stores = await openStores(readConfig(bed.env), logger, { observe: true });
    stops.push(() => stores.close());
    const redis = new Redis(bed.env.VALKEY_URL ?? '');
    stops.push(async () => redis.disconnect());
    await redis.config('SET', 'maxmemory', String(options.maxmemoryBytes));
    const put = async (id: SaleId, holdSeconds: number): Promise<number> => {
      const stock = [{ sku, warehouse: 'east', quantity: supply }];
      const { status, body } = await bed.putSale(id, { title: id, holdSeconds, stock });
      if (status !== 201) throw new Error(`the sale was not made: ${JSON.stringify(body)}`);
      return (await stores.shards.call(shard, readSaleCommand, { id })).no;
    };
    return {
      ...{ bed, stores, redis, background, stop, limit: options.outboxEvents },
      sales: { long: await put('long', limits.holdSecondsMax), brief: await put('brief', briefSeconds) },
      status: () => stores.shards.call(shard, shardStatusCommand, {}),
      async units(id) {
        const [{ reserved = 0, sold = 0 } = {}] = (await stores.shards.call(shard, readSaleCommand, { id })).stock;
        return { reserved, sold };
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

export type Hold = { sale: number; buyer: string; key: string; seq: number };
export type Reserved = { held: Hold[]; refused: number; code: string };

/** One call for `count` new buyers; `code` is that of the refusals, '' when there are none. */
export async function reserveMany({ stores, sales }: Stage, id: SaleId, count: number): Promise<Reserved> {
  const sale = sales[id];
  const names = (): string[] => Array.from({ length: count }, newBuyerId);
  const args = { wanted: Array<number>(count).fill(0), buyers: names(), keys: names(), tickets: [] };
  const baskets = [{ sale, lines: [{ sku, quantity: 1 }] }];
  try {
    const answer = await stores.shards.call(shard, reserveCommand, { baskets, ...args });
    const results = reserveResults(answer, answer.grants);
    const held = results.flatMap(({ grant, seq }, i) =>
      grant === null ? [] : [{ sale, buyer: args.buyers[i] ?? '', key: args.keys[i] ?? '', seq }],
    );
    const wrong = results.find(({ status }) => status !== statusCodes.ok && status !== statusCodes.overloaded);
    if (wrong) throw new Error(`a reserve was answered ${wrong.status}`);
    return { held, refused: count - held.length, code: held.length < count ? 'overloaded' : '' };
  } catch (error) {
    if (!(error instanceof RefusalError)) throw error;
    return { held: [], refused: count, code: error.refusal.code };
  }
}

/** One call that ends holds; answers how many it ended. A refusal of the whole call is thrown. */
export async function endMany({ stores }: Stage, how: 'commit' | 'release', holds: Hold[]): Promise<number> {
  const references = holds.map((hold) => ({ ...hold, seconds: 0 }));
  const command = how === 'commit' ? commitCommand : releaseCommand;
  const { results } = await stores.shards.call(shard, command, { references });
  return results.filter(({ status }) => status === statusCodes.ok).length;
}

/** Ends all of them in calls of `size`, half by commit and half by release. */
export async function endAll(stage: Stage, holds: Hold[], size: number = limits.batchRequests): Promise<number> {
  let ended = 0;
  for (let at = 0, turn = 0; at < holds.length; at += size, turn++)
    ended += await endMany(stage, turn % 2 === 0 ? 'commit' : 'release', holds.slice(at, at + size));
  return ended;
}

const lanes = 4;

/**
 * Load in several lanes: of each batch some holds are brief, and of the others the share `ending` ends at once. `enough` is
 * asked after each batch, with whether holds of it were refused; it may wait. Answers how many holds were made, those that
 * are left for the caller to end, and how the last refusals were.
 */
export async function load(
  stage: Stage,
  enough: (refused: boolean) => Promise<boolean>,
  { ending = 0.5, batch = limits.batchRequests }: { ending?: number; batch?: number } = {},
): Promise<{ made: number; left: Hold[]; code: string }> {
  const left: Hold[] = [];
  let made = 0;
  let code = '';
  const lane = async (): Promise<void> => {
    const brief = Math.ceil(batch / 10);
    const part = Math.ceil((ending * (batch - brief)) / 2);
    for (let refused = false; !(await enough(refused)); ) {
      const long = await reserveMany(stage, 'long', batch - brief);
      const short = await reserveMany(stage, 'brief', brief);
      made += long.held.length + short.held.length;
      await endAll(stage, long.held.splice(0, 2 * part), part);
      left.push(...long.held);
      refused = long.refused + short.refused > 0;
      code = long.code || short.code || code;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return { made, left, code };
}

export type Gauges = {
  usedMemoryBytes: number;
  /** The process's memory as the kernel has it. */
  residentBytes: number;
  /** What clients' connections and unread answers take. */
  clientsBytes: number;
  /** All files of the append-only log. */
  logBytes: number;
  logRewrites: number;
  /** What a rewrite of the log made Valkey copy. */
  copiedBytes: number;
};

const field = (info: string, name: string): number => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0);

function folderBytes(folder: string): number {
  // A rewrite may remove a file between listing and looking.
  return readdirSync(folder).reduce(
    (sum, name) => sum + (statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0),
    0,
  );
}

export async function readGauges({ bed, redis }: Stage): Promise<Gauges> {
  const info = String(await redis.info('memory', 'persistence'));
  return {
    usedMemoryBytes: field(info, 'used_memory'),
    residentBytes: field(info, 'used_memory_rss'),
    clientsBytes: field(info, 'mem_clients_normal'),
    logBytes: folderBytes(join(bed.services.services.valkey?.dataDir ?? '', 'appendonlydir')),
    logRewrites: field(info, 'aof_rewrites'),
    copiedBytes: Math.max(field(info, 'aof_last_cow_size'), field(info, 'current_cow_peak')),
  };
}

/** The whole stream's memory. It holds Valkey up for a moment. */
export const outboxBytes = async ({ redis }: Stage): Promise<number> =>
  Number((await redis.call('MEMORY', 'USAGE', '{s0}:outbox', 'SAMPLES', '0')) ?? 0);

/** Whether no hold lapses and no reservation is forgotten within the next hour. */
export async function nothingDueSoon({ redis, status }: Stage): Promise<boolean> {
  const bucketMs = 100;
  const untilMs = (await status()).now + 3_600_000;
  return (await redis.zcount('{s0}:due', '-inf', Math.floor(untilMs / bucketMs))) === 0;
}

/** What a buyer's entry in the book of a sale takes, on average. */
export async function bookBytes({ redis, sales }: Stage, id: SaleId): Promise<number> {
  const key = `{s0}:book:${sales[id]}`;
  return Number((await redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '10000')) ?? 0) / (await redis.hlen(key));
}

/** How many events the stream has yet, those included that the ledger has. */
export async function eventsKept({ redis, status }: Stage): Promise<number> {
  const [first] = await redis.xrange('{s0}:outbox', '-', '+', 'COUNT', 1);
  return first ? (await status()).seq - Number.parseInt(first[0], 10) + 1 : 0;
}

export type Watch = { most: Gauges; stop(): Promise<void> };

const watchEveryMs = 200;

/** Keeps the largest of each gauge until stopped. */
export function watchGauges(stage: Stage, seen: (now: Gauges, status: ShardStatusAnswer) => void = () => {}): Watch {
  const most: Gauges = {
    ...{ usedMemoryBytes: 0, residentBytes: 0, clientsBytes: 0 },
    ...{ logBytes: 0, logRewrites: 0, copiedBytes: 0 },
  };
  const stopped = new AbortController();
  const watch = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      const now = await readGauges(stage);
      for (const name of Object.keys(most) as (keyof Gauges)[]) most[name] = Math.max(most[name], now[name]);
      seen(now, await stage.status());
      await systemClock.wait(watchEveryMs, stopped.signal);
    }
  };
  const watching = watch();
  return {
    most,
    async stop() {
      stopped.abort();
      await watching;
    },
  };
}

/** The most memory that a process has had so far. */
export const peakBytes = ({ child }: Served): number =>
  1024 * Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1] ?? 0);

/** A buyer over HTTP, with a hold of the long sale. */
export type Guest = { token: string; key: string; id: string };

const longHold = { saleId: 'long', lines: [{ sku, quantity: 1 }] };
const codeOf = ({ status, body }: Answer): string => body.code ?? String(status);

/** A new buyer asks for a hold: its problem's code or its status, and the guest if it is 201. */
export async function askToHold({ bed }: Stage): Promise<{ code: string; guest: Guest }> {
  const { token } = await bed.session();
  const key = 'first';
  const answer = await bed.reserve(token, key, longHold);
  return { code: codeOf(answer), guest: { token, key, id: answer.body.id } };
}

export async function newGuest(stage: Stage): Promise<Guest> {
  const { code, guest } = await askToHold(stage);
  if (code !== '201') throw new Error(`a guest got no hold: ${code}`);
  return guest;
}

/** How each kind of call is answered now: its problem's code, or its status. Both guests lose their holds by it. */
export async function askEach(stage: Stage, [first, second]: [Guest, Guest]): Promise<Record<string, string>> {
  const { bed } = stage;
  const call = ({ id, token }: Guest, method: string, path: string, more: object = {}) =>
    bed.request(method, `/v1/reservations/${id}${path}`, { token, ...more });
  return {
    reserve: (await askToHold(stage)).code,
    'the same key again': codeOf(await bed.reserve(first.token, first.key, longHold)),
    extend: codeOf(await call(first, 'POST', '/extend', { body: { seconds: 10 } })),
    commit: codeOf(await call(first, 'POST', '/commit')),
    release: codeOf(await call(second, 'DELETE', '')),
  };
}
