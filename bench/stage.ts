/** What a scenario is played on: stores of its own, engines, roles beside them, peers; all ended with it, whatever ends it. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createSigner } from 'fast-jwt';
import { Client } from 'pg';
import { newBuyerId } from '../kernel/ids.ts';
import {
  type ServiceName,
  type ServiceSet,
  startServices,
  type ValkeyOptions,
  valkeyUrlOf,
} from '../services/services.ts';
import { type Started, serve, stampede, startNode } from './command.ts';

export type StageOptions = {
  names: readonly ServiceName[];
  valkey?: ValkeyOptions;
  /** More for every process of Stampede on it. */
  env?: Record<string, string>;
  /** Told in one line what takes long. */
  say(line: string): void;
};

export type SaleOptions = {
  durability: 'memory' | 'fsync';
  /** Of each SKU. */
  units: number;
  skus?: number;
  holdSeconds?: number;
  perBuyer?: number;
  waitingRoom?: object;
};

type Row = { saleId: string; ledger: { reserved: number; sold: number } | null };
export type Reconciled = { drift: number; rows: Row[] };

export type Stage = Awaited<ReturnType<typeof openStage>>;

const reconcileMs = 600_000;

/** Opens a stage. */
export async function openStage(options: StageOptions) {
  const folder = mkdtempSync(join(tmpdir(), 'stampede-bench-'));
  const adminToken = randomBytes(18).toString('base64url');
  const sessionSecret = randomBytes(32).toString('base64url');
  const sign = createSigner({ key: sessionSecret, algorithm: 'HS256', expiresIn: 3_600_000 });
  const started: Started[] = [];
  let set: ServiceSet | null = null;
  const closers: (() => Promise<void>)[] = [];
  let databases = 0;
  let tokenFiles = 0;
  try {
    set = await startServices({
      names: options.names,
      dataDir: join(folder, 'data'),
      onProgress: options.say,
      ...(options.valkey ? { valkey: options.valkey } : {}),
    });
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  const { services } = set;
  const valkey = services.valkey;
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    VALKEY_URL: valkey?.socketPath ? `unix://${valkey.socketPath}` : (valkeyUrlOf(services) ?? ''),
    DATABASE_URL: services.postgres?.url ?? '',
    ...(services.kafka ? { KAFKA_BROKERS: services.kafka.url, TRANSPORT: 'kafka' } : {}),
    ADMIN_TOKEN: adminToken,
    SESSION_SECRET: sessionSecret,
    RATE_LIMITS: 'off',
    LOG_LEVEL: 'error',
    ...options.env,
  };
  const keep = async (starting: Promise<Started>): Promise<Started> => {
    const one = await starting;
    started.push(one);
    return one;
  };

  const operate = async (url: string, method: string, path: string, body: object): Promise<void> => {
    const headers = { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json', connection: 'close' };
    const answer = await fetch(`${url}/v1/admin/sales/${path}`, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${path} was refused: ${await answer.text()}`);
  };
  const units = async (url: string, saleId: string, kind: 'available' | 'sold'): Promise<number> => {
    const answer = await fetch(`${url}/v1/sales/${saleId}`, { headers: { connection: 'close' } });
    const { stock } = (await answer.json()) as { stock: { available: number; sold: number }[] };
    return stock.reduce((sum, one) => sum + one[kind], 0);
  };

  return {
    folder,
    services,
    env,
    /** What ran beside, with the versions of the servers: for `Report.beside`. */
    beside(text: string): string {
      const versions = Object.values(services).map(({ name, version }) => `${name} ${version}`);
      return `${text} (${versions.join(', ')})`;
    },
    /** An engine, or other roles; several share a port where `more` says so. */
    serve: (roles: string, more: NodeJS.ProcessEnv = {}, args: string[] = []): Promise<Started> =>
      keep(serve(['--port', '0', '--roles', roles, ...args], { ...env, ...more })),
    /** What runs beside the engines: the sweeper; and relay and ledger, which yield to all others, and are answered. */
    async serveBehind(): Promise<Started> {
      await this.serve('sweeper');
      return this.serve('relay,ledger');
    },
    /** `bench/peers/NAME.ts`, with its URL. */
    async peer(name: string, args: string[] = [], more: NodeJS.ProcessEnv = {}): Promise<Started & { url: string }> {
      const file = fileURLToPath(new URL(`./peers/${name}.ts`, import.meta.url));
      const one = await keep(startNode(file, ['0', ...args], { ...env, ...more }));
      return { ...one, url: `http://127.0.0.1:${String(one.ready.port)}` };
    },
    /** Another database on the same Postgres. */
    async database(): Promise<string> {
      const url = new URL(services.postgres?.url ?? '');
      const client = new Client({ connectionString: url.href });
      await client.connect();
      const name = `bench_${++databases}`;
      await client.query(`create database ${name}`);
      await client.end();
      url.pathname = `/${name}`;
      return url.href;
    },
    /** Something more that ends with the stage, after its processes. */
    onClose(close: () => Promise<void>): void {
      closers.push(close);
    },
    /** Tokens of new buyers. */
    buyers: (count: number): string[] => Array.from({ length: count }, () => sign({ sub: newBuyerId() })),
    /** A file with a token a line, each of a new buyer, whose name stands before it where that is wanted. */
    tokens(count: number, { named = false } = {}): string {
      const file = join(folder, `tokens-${++tokenFiles}`);
      const lines = Array.from({ length: count }, () => {
        const sub = newBuyerId();
        return named ? `${sub} ${sign({ sub })}` : sign({ sub });
      });
      writeFileSync(file, `${lines.join('\n')}\n`);
      return file;
    },
    /** One row of numbers from the ledger. */
    async ask(sql: string): Promise<Record<string, number>> {
      const client = new Client({ connectionString: services.postgres?.url });
      await client.connect();
      try {
        const { rows } = await client.query<Record<string, string>>(sql);
        return Object.fromEntries(Object.entries(rows[0] ?? {}).map(([name, value]) => [name, Number(value)]));
      } finally {
        await client.end();
      }
    },
    /** Makes a sale, or changes its rules. */
    async sale(url: string, saleId: string, options: SaleOptions): Promise<void> {
      const { durability, units, skus = 1, holdSeconds = 600, perBuyer = 1, waitingRoom = null } = options;
      await operate(url, 'PUT', saleId, {
        ...{ title: 'bench', perBuyer, durability, holdSeconds, waitingRoom },
        stock: Array.from({ length: skus }, (_, i) => ({
          ...{ sku: skus === 1 ? 'hot' : `sku-${i}`, warehouse: 'w1', quantity: units },
        })),
      });
    },
    /** Pauses, resumes, closes or changes a sale's waiting room. */
    room: (url: string, saleId: string, body: object) => operate(url, 'POST', `${saleId}/waiting-room`, body),
    /** More of its only SKU. */
    restock: (url: string, saleId: string, id: string, delta: number) =>
      operate(url, 'POST', `${saleId}/stock`, { id, sku: 'hot', warehouse: 'w1', delta, reason: 'bench' }),
    /** Has one more buyer join a sale's line; answers the position. */
    async join(url: string, saleId: string): Promise<number> {
      const answer = await fetch(`${url}/v1/sales/${saleId}/tickets`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${sign({ sub: newBuyerId() })}`,
          'content-type': 'application/json',
          connection: 'close',
        },
        body: '{}',
      });
      return ((await answer.json()) as { position: number }).position;
    },
    /** Events that the ledger has not yet, over all shards. */
    async lagEvents(url: string): Promise<number> {
      const text = await (await fetch(`${url}/metrics`, { headers: { connection: 'close' } })).text();
      const values = [...text.matchAll(/^stampede_shard_outbox_events\{[^}]*\} (\d+)/gm)].map(([, value]) =>
        Number(value),
      );
      return values.reduce((sum, one) => sum + one, 0);
    },
    /** Units of a sale that are on sale now, and that are sold. */
    available: (url: string, saleId: string) => units(url, saleId, 'available'),
    sold: (url: string, saleId: string) => units(url, saleId, 'sold'),
    /** Waits until the ledger has all, and answers what it has. Rejects when it does not get there. */
    async reconcile(): Promise<Reconciled> {
      const found = (await stampede(['reconcile', '--json', '--wait', String(reconcileMs)], env)) as Reconciled & {
        error?: string;
      };
      if (found.error) throw new Error(found.error);
      return found;
    },
    async close(): Promise<void> {
      for (const one of started.reverse()) await one.stop().catch(() => undefined);
      for (const close of closers.reverse()) await close();
      await set.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
