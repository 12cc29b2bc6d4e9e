/** For tests: real Valkey, and shards of it that a test has for itself. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'iovalkey';
import { packRoom, type WaitingRoom } from '../engine/room.ts';
import { connectValkey, type Valkey } from '../engine/valkey.ts';
import { shardKey } from '../kernel/ids.ts';
import { type ServiceSet, startServices, type ValkeyOptions } from '../services/services.ts';
import {
  actionCodes,
  changeTicketCommand,
  joinLineCommand,
  openShardCommand,
  putSaleCommand,
  type ReserveArgs,
  readLineCommand,
  reserveCommand,
  type ShardCommand,
  seeTicketsCommand,
  snapshotCommand,
  statusCodes,
  tendLinesCommand,
  ticketCodes,
} from './bindings.ts';
import { decodeLines, decodeOutboxEntry, type Fact, type Line, type OutboxEntry } from './outbox.ts';
import { reserveResults } from './results.ts';

export type TestValkey = {
  url: string;
  services: ServiceSet;
  valkey: Valkey;
  /** A plain client, for what no function does. */
  redis: Redis;
  stop(): Promise<void>;
};

/** What this machine happens to name must not decide what the tests start. */
export function environmentWithoutServices(): NodeJS.ProcessEnv {
  const { VALKEY_URL: _valkey, DATABASE_URL: _database, KAFKA_BROKERS: _kafka, ...env } = process.env;
  return env;
}

export async function startTestValkey(valkey: ValkeyOptions = {}): Promise<TestValkey> {
  const services = await startServices({
    names: ['valkey'],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-lua-')),
    removeDataDir: true,
    env: environmentWithoutServices(),
    valkey,
  });
  const url = String(services.services.valkey?.url);
  const connection = await connectReady(url);
  const redis = new Redis(url, { maxRetriesPerRequest: 3 });
  redis.on('error', () => undefined);
  return {
    url,
    services,
    valkey: connection,
    redis,
    async stop() {
      await connection.close();
      redis.disconnect();
      await services.stop();
    },
  };
}

export async function connectReady(url: string): Promise<Valkey> {
  const connection = connectValkey([url], () => undefined);
  await new Promise<void>((resolve) => connection.onChange(resolve));
  return connection;
}

export type CallOptions = { epoch?: number; seen?: number; deadlineMs?: number };

export type TestShard = {
  number: number;
  /** The shard's hash tag and colon: what every key of it starts with. */
  prefix: string;
  redis: Redis;
  call<Args, Answer>(command: ShardCommand<Args, Answer>, args: Args, options?: CallOptions): Promise<Answer>;
};

/** The shard `number` as a caller sees it, without opening it. */
export function shardOn(server: TestValkey, number: number): TestShard {
  const key = shardKey(number);
  return {
    number,
    prefix: key.slice(0, -'shard'.length),
    redis: server.redis,
    async call(command, args, { epoch = 1, seen = 0, deadlineMs = Number.MAX_SAFE_INTEGER } = {}) {
      const argument = command.encode({ epoch, seen, deadlineMs }, args);
      return command.decode(await server.valkey.call(command.name, command.readOnly, key, argument));
    },
  };
}

let shardsOpened = 0;

/** A new shard at epoch 1. */
export async function openTestShard(
  server: TestValkey,
  { outboxEvents = 1_000_000, rememberMs = 3_600_000 }: { outboxEvents?: number; rememberMs?: number } = {},
  number = shardsOpened++,
): Promise<TestShard> {
  const shard = shardOn(server, number);
  await shard.call(openShardCommand, { epoch: 1, expected: 0, outboxEvents, rememberMs });
  return shard;
}

/** SKU -> warehouse -> units, in serving order. */
export type Stock = Record<string, Record<string, number>>;

export type SaleOptions = {
  id?: string;
  settings?: string;
  digest?: string;
  stock?: Stock;
  opensAt?: number;
  closesAt?: number;
  perBuyer?: number;
  holdMs?: number;
  durability?: number;
  extensions?: number;
  extendMs?: number;
  room?: Buffer;
  expected?: string;
  seed?: string;
};

export function saleArgs(options: SaleOptions = {}) {
  const { stock = { shoe: { east: 10 } } } = options;
  return {
    id: 'sale',
    settings: '{"title":"A sale"}',
    digest: 'opening',
    opensAt: 0,
    closesAt: 0,
    perBuyer: 0,
    holdMs: 60_000,
    durability: 2,
    extensions: 1,
    extendMs: 300_000,
    room: Buffer.alloc(0),
    expected: '',
    seed: '',
    ...options,
    stock: Object.entries(stock).flatMap(([sku, warehouses]) =>
      Object.entries(warehouses).map(([warehouse, quantity]) => ({ sku, warehouse, quantity })),
    ),
  };
}

/** Makes a sale; answers its number. */
export async function makeSale(shard: TestShard, options: SaleOptions = {}): Promise<number> {
  const { status, no } = await shard.call(putSaleCommand, saleArgs(options));
  if (status !== statusCodes.ok) throw new Error(`the sale was not made: ${statusName(status)}`);
  return no;
}

/** Twelve characters that begin with `name`: an id of a buyer, or a key's digest. */
export const short = (name: string): string => name.padEnd(12, '_');

export type Wish = { sale?: number; buyer?: string; key?: string; lines?: Record<string, number> };

/** The packed form's table of baskets, out of plain wishes. */
export function reserveArgs(wishes: Wish[]): ReserveArgs {
  const baskets: ReserveArgs['baskets'][number][] = [];
  const args: ReserveArgs = { baskets, wanted: [], buyers: [], keys: [], tickets: [] };
  const places = new Map<string, number>();
  for (const { sale = 1, buyer = 'ann', key = 'k', lines = { shoe: 1 } } of wishes) {
    const name = JSON.stringify([sale, lines]);
    const basket =
      places.get(name) ??
      baskets.push({ sale, lines: Object.entries(lines).map(([sku, quantity]) => ({ sku, quantity })) }) - 1;
    places.set(name, basket);
    args.wanted.push(basket);
    args.buyers.push(short(buyer));
    args.keys.push(short(key));
  }
  return args;
}

const statusNames = new Map(Object.entries(statusCodes).map(([name, code]) => [code as number, name]));
export type StatusName = keyof typeof statusCodes;
export const statusName = (status: number): StatusName => (statusNames.get(status) ?? String(status)) as StatusName;

/** `line`: of which a refusal speaks. */
export type Reserved = { status: StatusName; seq: number; expiresAt: number; line: number; lines: Line[] };

export async function reserve(shard: TestShard, wishes: Wish[], options?: CallOptions): Promise<Reserved[]> {
  const answer = await shard.call(reserveCommand, reserveArgs(wishes), options);
  return reserveResults(answer, answer.grants).map(({ status, grant, seq, line }) => ({
    status: statusName(status),
    seq,
    expiresAt: grant?.expiresAt ?? 0,
    line,
    lines: grant ? decodeLines(grant.lines) : [],
  }));
}

/** A reservation as calls name it. */
export const reference = (seq: number, { sale = 1, buyer = 'ann', key = 'k' }: Wish = {}, seconds = 0) => ({
  sale,
  buyer: short(buyer),
  key: short(key),
  seq,
  seconds,
});

/** `SALE/SKU/WAREHOUSE` -> `on hand/reserved/sold`. */
export async function counters(shard: TestShard): Promise<Record<string, string>> {
  const { sales } = await shard.call(snapshotCommand, {});
  return Object.fromEntries(
    sales.flatMap(({ no, stock }) =>
      stock.map((w) => [`${no}/${w.sku}/${w.warehouse}`, `${w.onHand}/${w.reserved}/${w.sold}`]),
    ),
  );
}

/** Units held and owned by a buyer in a sale. */
export async function unitsOf(shard: TestShard, buyer: string, sale = 1): Promise<number> {
  const entry = await shard.redis.hgetBuffer(`${shard.prefix}book:${sale}`, short(buyer));
  return entry?.readUIntLE(0, 6) ?? 0;
}

/** The whole outbox: each entry with its stream id, checked and decoded. */
export async function outboxOf(shard: TestShard): Promise<{ id: string; entry: OutboxEntry }[]> {
  const entries = await shard.redis.xrangeBuffer(`${shard.prefix}outbox`, '-', '+');
  return entries.map(([id, fields]) => ({
    id: id.toString(),
    entry: decodeOutboxEntry(fields[1] ?? Buffer.alloc(0)),
  }));
}

export async function factsOf(shard: TestShard): Promise<Fact[]> {
  return (await outboxOf(shard)).flatMap(({ entry }) => entry.facts);
}

/** Every key of the shard with its content, less the shard's time: equal before and after means that nothing was left. */
export async function contentOf(shard: TestShard): Promise<Record<string, string>> {
  const content: Record<string, string> = {};
  for (const key of (await shard.redis.keys(`${shard.prefix}*`)).sort()) {
    if (key === `${shard.prefix}shard`) {
      const { at: _at, ...rest } = await shard.redis.hgetall(key);
      content[key] = JSON.stringify(rest);
    } else content[key] = String((await shard.redis.dumpBuffer(key))?.toString('hex'));
  }
  return content;
}

/** Puts the shard's time ahead of the server's, to where no real time comes: from then on the test alone moves it. */
export async function holdTime(shard: TestShard, atMs = Date.now() + 1e10): Promise<number> {
  await shard.redis.hset(`${shard.prefix}shard`, 'at', String(atMs));
  return atMs;
}

/** A waiting room's rules as tests name them: what is left out is as it is by default. */
export type Room = Partial<Omit<WaitingRoom, 'inlet' | 'lanes' | 'challenge'> & WaitingRoom['inlet']> & {
  lanes?: number[];
};

function rulesOf({ maxInside = null, perMinute = null, stock = false, lanes = [1], ...room }: Room): Buffer {
  return packRoom({
    ...{ order: 'fifo', state: 'open', admissionSeconds: 60, graceSeconds: 120, whenDown: 'closed', challenge: null },
    ...room,
    inlet: { maxInside, perMinute, stock },
    lanes: lanes.map((weight, i) => ({ name: `lane-${i}`, weight })),
  });
}

/** `count` buyers, in order. */
export const names = (count: number, prefix = 'b'): string[] =>
  Array.from({ length: count }, (_, i) => `${prefix}${String(i).padStart(4, '0')}`);

/** A sale with a waiting room on a shard of its own, whose time the test alone moves. */
export async function openRoom(server: TestValkey, room: Room = {}, more: SaleOptions = {}) {
  const shard = await openTestShard(server);
  let nowMs = await holdTime(shard);
  const sale = { stock: { shoe: { east: 10 } }, ...more, room: rulesOf(room), seed: 'ab'.repeat(32) };
  const no = await makeSale(shard, sale);
  const line = {
    shard,
    no,
    get nowMs() {
      return nowMs;
    },
    async pass(ms: number): Promise<void> {
      nowMs += ms;
      await holdTime(shard, nowMs);
    },
    join: async (buyers: string[], lane = 1) => {
      const args = { sale: no, buyers: buyers.map(short), lanes: buyers.map(() => lane) };
      return (await shard.call(joinLineCommand, args)).tickets.map((one) => ({
        ...one,
        status: statusName(one.status),
      }));
    },
    see: async (buyers: string[]) => {
      const tickets = buyers.map((buyer) => ({ buyer: short(buyer), number: 0 }));
      return (await shard.call(seeTicketsCommand, { sale: no, tickets })).tickets;
    },
    async states(buyers: string[]): Promise<string[]> {
      const found = Object.entries(ticketCodes);
      return (await line.see(buyers)).map(({ state }) => found.find(([, code]) => code === state)?.[0] ?? 'none');
    },
    ahead: async (buyers: string[]) => (await line.see(buyers)).map((one) => one.ahead),
    tend: async (max = 500) => {
      const { rooms, more } = await shard.call(tendLinesCommand, { max });
      const found = rooms.find(({ sale }) => sale === no);
      if (!found) throw new Error('the room was not tended');
      return { ...found, more };
    },
    async change(buyer: string, action: keyof typeof actionCodes, position = 0) {
      const [{ number } = { number: 0 }] = await line.see([buyer]);
      const args = { sale: no, buyer: short(buyer), number, action: actionCodes[action], position };
      const answer = await shard.call(changeTicketCommand, args);
      return { ...answer, status: statusName(answer.status) };
    },
    /** Of each buyer who reserves with the ticket that the buyer has. */
    async reserve(buyers: string[], { key = 'k', number }: { key?: string; number?: number } = {}): Promise<string[]> {
      const tickets = (await line.see(buyers)).map((one) => number ?? one.number);
      const wishes = buyers.map((buyer) => ({ sale: no, buyer, key }));
      const answer = await shard.call(reserveCommand, { ...reserveArgs(wishes), tickets });
      return answer.results.map(({ status }) => statusName(status));
    },
    news: (cursor: number) => shard.call(readLineCommand, { sale: no, cursor }),
    put: async (changed: Room | null, options: SaleOptions = {}) =>
      statusName(
        (
          await shard.call(putSaleCommand, {
            ...saleArgs({ ...sale, ...options }),
            room: changed ? rulesOf(changed) : Buffer.alloc(0),
          })
        ).status,
      ),
  };
  return line;
}
