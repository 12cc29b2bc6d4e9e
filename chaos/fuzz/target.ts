/** The engine that is fuzzed: real servers, one engine process, a sale, buyers, and how the process is doing. */
import { readdirSync, readFileSync } from 'node:fs';
import { Redis } from 'iovalkey';
import { Client } from 'pg';
import { type Answer, type Reservation, request, type Sale, startTestbed } from '../../cli/testbed.ts';
import type { Served } from '../../cli/testbed-command.ts';
import { shardKey } from '../../kernel/ids.ts';
import { waitUntil } from '../../services/waiting.ts';
import { watermarksOf } from './books.ts';
import type { World } from './http-grammar.ts';

const units = 500_000_000;
const skus = ['a', 'b', 'c', 'gone'];
const warehouse = 'w';
export const saleId = 'fuzz';
export const sideId = 'side';
const buyers = 48;
const levelMs = 60_000;

export type Vitals = { residentMb: number; files: number };

export type FuzzTarget = {
  url: string;
  port: number;
  adminToken: string;
  ledger: Client;
  served: Served;
  /** The buyers' tokens, and whose they are. */
  buyerOf: Map<string, string>;
  /** A hold for each buyer: made by right requests, named by `round`. */
  newHolds(round: string): Promise<string[]>;
  worldOf(holds: string[]): World;
  ask<Body>(method: string, path: string, more?: Parameters<typeof request>[4]): Promise<Answer<Body>>;
  /** Waits until the ledger has all that Valkey has. */
  level(): Promise<void>;
  sale(id: string): Promise<Sale>;
  vitals(): Vitals;
  isAlive(): boolean;
  stop(): Promise<void>;
};

export async function startTarget(): Promise<FuzzTarget> {
  const bed = await startTestbed({ valkey: 'single', serve: false });
  const ledger = new Client({ connectionString: bed.env.DATABASE_URL ?? '' });
  const valkey = new Redis(bed.env.VALKEY_URL ?? '', { maxRetriesPerRequest: 5 });
  valkey.on('error', () => undefined);
  ledger.on('error', () => undefined);
  const stop = async (): Promise<void> => {
    valkey.disconnect();
    await ledger.end().catch(() => undefined);
    await bed.stop();
  };
  try {
    const served = await bed.serve();
    await ledger.connect();
    const { pid = 0 } = served.child;
    const ask: FuzzTarget['ask'] = (method, path, more) => request(bed.agent, served.url, method, path, more);
    const must = async <Body>(status: number, answering: Promise<Answer<Body>>): Promise<Body> => {
      const answer = await answering;
      if (answer.status !== status) throw new Error(`${answer.status}, not ${status}: ${JSON.stringify(answer.body)}`);
      return answer.body;
    };
    const stock = skus.map((sku) => ({ sku, warehouse, quantity: sku === 'gone' ? 0 : units }));
    for (const id of [saleId, sideId])
      await must(
        201,
        ask('PUT', `/v1/admin/sales/${id}`, {
          token: bed.adminToken,
          body: { title: id, stock, holdSeconds: 86_400, extensions: 100, extendSeconds: 86_400 },
        }),
      );
    const sessions = await Promise.all(
      Array.from({ length: buyers }, () =>
        must(201, ask<{ token: string; buyerId: string }>('POST', '/v1/sessions', { body: {} })),
      ),
    );
    const tokens = sessions.map(({ token }) => token);
    const shards = [...(await watermarksOf(ledger)).keys()];
    const isLevel = async (): Promise<boolean> => {
      const seqs = await Promise.all(shards.map((shard) => valkey.hget(shardKey(shard), 'seq')));
      const marks = await watermarksOf(ledger);
      return shards.every((shard, i) => Number(seqs[i]) === marks.get(shard));
    };
    return {
      url: served.url,
      port: Number(new URL(served.url).port),
      adminToken: bed.adminToken,
      ledger,
      served,
      buyerOf: new Map(sessions.map(({ token, buyerId }) => [token, buyerId])),
      ask,
      newHolds: async (round) =>
        Promise.all(
          tokens.map(async (token, i) => {
            const body = { saleId, lines: [{ sku: skus[i % 3] ?? 'a', quantity: 1 }] };
            const asked = { token, key: `hold-${round}`, body };
            return (await must(201, ask<Reservation>('POST', '/v1/reservations', asked))).id;
          }),
        ),
      worldOf: (holds) => ({ adminToken: bed.adminToken, tokens, holds, saleId, sideId, skus, warehouse }),
      async level() {
        if (!(await waitUntil(isLevel, levelMs, 20))) throw new Error('the ledger doesn’t catch up');
      },
      sale: async (id) => must(200, ask<Sale>('GET', `/v1/sales/${id}`)),
      vitals: () => ({
        residentMb: Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1_024,
        files: readdirSync(`/proc/${pid}/fd`).length,
      }),
      isAlive: () => served.child.exitCode === null && served.child.signalCode === null,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
