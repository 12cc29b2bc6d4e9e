/**
 * A whole Stampede for tests: stores of its own in a temporary folder, and `serve` as a child process on free ports.
 * Everything ends with `stop`, and with the test process, however that ends.
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { Static } from 'typebox';
import { Agent } from 'undici';
import type { ReservationView, SaleView, SessionView } from '../engine/schemas.ts';
import type { Problem } from '../kernel/errors.ts';
import { startServices, type ValkeyLayout, valkeyLayouts, valkeyUrlOf } from '../services/services.ts';
import { runServe, type Served } from './testbed-command.ts';

export const adminToken = 'operator-token-of-the-tests';
export const sessionSecret = 'session-secret-of-the-tests-0123456789';
const waitMs = 30_000;

export type Sale = Static<typeof SaleView>;
export type Reservation = Static<typeof ReservationView>;
/** What a call may answer: the thing, or a problem; tests look at the status first. */
export type Answered<Body> = Body & Problem;
export type Answer<Body = unknown> = { status: number; headers: Record<string, string>; body: Answered<Body> };
export type RequestOptions = {
  token?: string;
  /** The `Idempotency-Key`. */
  key?: string;
  headers?: Record<string, string>;
  /** Sent as JSON. */
  body?: unknown;
  /** Sent as it is, as `application/json` unless `headers` say otherwise. A stream goes out chunked. */
  raw?: string | Uint8Array | Readable;
};

/** Sends a request exactly as given: the path is not normalised. Rejects when the connection breaks. */
export async function request<Body>(
  agent: Agent,
  origin: string,
  method: string,
  path: string,
  { token, key, headers, body, raw }: RequestOptions = {},
): Promise<Answer<Body>> {
  const content = raw ?? (body === undefined ? null : JSON.stringify(body));
  const answer = await agent.request({
    origin,
    method: method as 'GET',
    path,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...(content === null ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    body: content,
  });
  const text = await answer.body.text();
  const isJson = /json/.test(String(answer.headers['content-type']));
  return {
    status: answer.statusCode,
    headers: Object.fromEntries(Object.entries(answer.headers).map(([name, value]) => [name, String(value)])),
    body: (isJson ? JSON.parse(text) : text) as Answered<Body>,
  };
}

export type Testbed = Awaited<ReturnType<typeof startTestbed>>;

export type TestbedOptions = {
  kafka?: boolean;
  /** Default: what STAMPEDE_TEST_VALKEY says, else one server. */
  valkey?: ValkeyLayout;
  env?: Record<string, string>;
  serve?: string[] | false;
};

/** The contract's tests run once on each layout: vitest.config.ts. */
export function layoutOfTests(): ValkeyLayout {
  const wanted = process.env.STAMPEDE_TEST_VALKEY ?? 'single';
  if (wanted === 'single' || wanted === 'replica' || wanted === 'cluster') return wanted;
  throw new Error(`STAMPEDE_TEST_VALKEY=${wanted}: single, replica or cluster`);
}

/**
 * Starts Valkey and Postgres (and Kafka when asked), and serves on them with rate limits off. `env` is for every engine
 * process; `serve` are more arguments of the first, or false for none.
 */
export async function startTestbed(options: TestbedOptions = {}) {
  const services = await startServices({
    names: [
      ...valkeyLayouts[options.valkey ?? layoutOfTests()],
      'postgres',
      ...(options.kafka ? (['kafka'] as const) : []),
    ],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-test-')),
    removeDataDir: true,
    env: { ...process.env, VALKEY_URL: '', DATABASE_URL: '', KAFKA_BROKERS: '' },
  });
  const { postgres, kafka } = services.services;
  const env: Record<string, string> = {
    VALKEY_URL: valkeyUrlOf(services.services) ?? '',
    DATABASE_URL: postgres?.url ?? '',
    KAFKA_BROKERS: kafka?.url ?? '',
    ADMIN_TOKEN: adminToken,
    SESSION_SECRET: sessionSecret,
    RATE_LIMITS: 'off',
    LOG_LEVEL: 'warn',
    ...options.env,
  };
  const agent = new Agent({ connections: 512, headersTimeout: waitMs, bodyTimeout: waitMs });
  const running = new Set<Served>();
  const serve = async (args: string[] = [], more: Record<string, string> = {}): Promise<Served> => {
    const served = await runServe(['--host', '127.0.0.1', '--port', '0', ...args], { ...env, ...more });
    running.add(served);
    return served;
  };
  const stop = async (): Promise<void> => {
    await Promise.all([...running].map((served) => served.stop()));
    await agent.destroy();
    await services.stop();
  };
  const serveFirst = async (): Promise<Served> => serve(options.serve || []);
  let first: Served | null = null;
  try {
    if (options.serve !== false) first = await serveFirst();
  } catch (error) {
    await stop();
    throw error;
  }
  const url = (): string => {
    if (!first) throw new Error('nothing serves: this testbed was started with serve: false');
    return first.url;
  };
  const ask = <Body = unknown>(method: string, path: string, asked: RequestOptions = {}): Promise<Answer<Body>> =>
    request<Body>(agent, url(), method, path, asked);
  const operator = <Body = Sale>(method: string, path: string, body?: unknown): Promise<Answer<Body>> =>
    ask<Body>(method, `/v1/admin/sales/${path}`, { token: adminToken, ...(body === undefined ? {} : { body }) });

  return {
    /** Where the first engine process listens. */
    get url() {
      return url();
    },
    adminToken,
    /** The environment of the engine, for commands on the same stores. */
    env,
    services,
    agent,
    request: ask,
    /** A new guest. */
    async session(): Promise<Static<typeof SessionView>> {
      const { status, body } = await ask<Static<typeof SessionView>>('POST', '/v1/sessions', { body: {} });
      if (status !== 201) throw new Error(`no session: ${status} ${JSON.stringify(body)}`);
      return body;
    },
    /** An operator's call; `path` is what follows `/v1/admin/sales/`. */
    operator,
    putSale: (id: string, body: unknown) => operator('PUT', id, body),
    sale: async (id: string): Promise<Sale> => (await ask<Sale>('GET', `/v1/sales/${id}`)).body,
    reserve: (token: string, key: string, body: unknown) =>
      ask<Reservation>('POST', '/v1/reservations', { token, key, body }),
    /** Starts one more engine process on the same stores. */
    serve,
    /** Ends the first engine process, does what is to be done meanwhile, starts it again on another port; answers how it ended. */
    async restartServe(
      signal?: NodeJS.Signals,
      meanwhile?: () => Promise<unknown>,
    ): Promise<number | NodeJS.Signals | null> {
      const code = first ? await first.stop(signal) : null;
      await meanwhile?.();
      first = await serveFirst();
      return code;
    },
    stop,
  };
}
