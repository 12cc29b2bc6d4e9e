import { randomBytes } from 'node:crypto';
import { SetupError } from './errors.ts';
import { limits } from './limits.ts';

export type RateLimit = { perSecond: number; burst: number };

/**
 * Requests a second and at once: `address` for everything from one address, `sessions` for new sessions from one
 * address, `joins` for joining lines from one address, `buyer` for everything of one session. Null: not limited.
 */
export type RateLimits = { address: RateLimit; sessions: RateLimit; joins: RateLimit; buyer: RateLimit } | null;

export type Transport = 'direct' | 'kafka';

export type Config = {
  mode: 'development' | 'production';
  host: string;
  port: number;
  /** One server, a primary with its replicas, or some nodes of a cluster. */
  valkeyUrls: string[];
  databaseUrl: string;
  kafkaBrokers: string[];
  transport: Transport;
  adminToken: string;
  sessionSecret: string;
  /** The secrets that were made up because none was given (development only). */
  madeUp: ('ADMIN_TOKEN' | 'SESSION_SECRET')[];
  rateLimits: RateLimits;
  shards: number;
  logLevel: string;
  rememberSeconds: number;
  outboxEvents: number;
};

/** A variable of the environment: what it is for, and what it is when it isn't set. For `--help` and the docs. */
export const variables = {
  VALKEY_URL:
    'redis://HOST:PORT or unix:///PATH of Valkey; of a primary and its replicas all, of a cluster some, with commas between',
  DATABASE_URL: 'postgres://USER:PASSWORD@HOST:PORT/DATABASE of the ledger',
  KAFKA_BROKERS: 'HOST:PORT,… ; without it the ledger reads the outbox directly',
  ADMIN_TOKEN: "the operators' bearer token, 16 characters or more",
  SESSION_SECRET: 'signs session tokens, 32 characters or more',
  RATE_LIMITS:
    'off, or address=PER_SECOND:BURST,sessions=…,joins=…,buyer=… (default address=1000:4000,sessions=200:2000,joins=200:2000,buyer=50:200)',
  HOST: 'address to listen on (default 127.0.0.1)',
  PORT: 'port to listen on, 0 for any (default 8080)',
  SHARDS: 'how many shards stock is spread over; fixed once the ledger exists (default 4)',
  STAMPEDE_MODE: 'development or production (default: development on a loopback address, else production)',
  LOG_LEVEL: 'trace, debug, info, warn, error or silent (default info)',
  REMEMBER_SECONDS: 'how long keys are remembered after a reservation ended (default 3600)',
  OUTBOX_EVENTS: 'events a shard may have that the ledger has not (default 4000000)',
} as const;

type Environment = Record<string, string | undefined>;

function wrong(name: keyof typeof variables, value: string): SetupError {
  // A URL's password is not for the terminal or the log.
  const shown = value.replace(/:[^:@/]*@/g, ':…@');
  return new SetupError('bad-configuration', `${name}=${shown} is not valid: ${variables[name]}`);
}

function integer(env: Environment, name: keyof typeof variables, fallback: number, min: number, max: number): number {
  const text = env[name];
  if (text === undefined || text === '') return fallback;
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > max) throw wrong(name, text);
  return value;
}

const defaultRateLimits = {
  address: { perSecond: 1_000, burst: 4_000 },
  sessions: { perSecond: 200, burst: 2_000 },
  joins: { perSecond: 200, burst: 2_000 },
  buyer: { perSecond: 50, burst: 200 },
};

function rateLimitsOf(text: string | undefined): RateLimits {
  if (text === 'off') return null;
  const found = { ...defaultRateLimits };
  for (const part of (text ?? '').split(',').filter(Boolean)) {
    const [, name = '', perSecond, burst] = /^(address|sessions|joins|buyer)=(\d+(?:\.\d+)?):(\d+)$/.exec(part) ?? [];
    if (name !== 'address' && name !== 'sessions' && name !== 'joins' && name !== 'buyer')
      throw wrong('RATE_LIMITS', text ?? '');
    found[name] = { perSecond: Number(perSecond), burst: Number(burst) };
    if (!(found[name].perSecond > 0) || !(found[name].burst > 0)) throw wrong('RATE_LIMITS', text ?? '');
  }
  return found;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

function secret(
  env: Environment,
  name: 'ADMIN_TOKEN' | 'SESSION_SECRET',
  chars: number,
  mode: Config['mode'],
  madeUp: Config['madeUp'],
): string {
  const given = env[name];
  if (given) {
    if (given.length < chars)
      throw new SetupError('bad-configuration', `${name} is too short: give ${chars} characters or more`);
    return given;
  }
  if (mode === 'production')
    throw new SetupError(
      'missing-secret',
      `${name} is not set: ${variables[name]} (only development mode makes one up; see STAMPEDE_MODE)`,
    );
  madeUp.push(name);
  return randomBytes(24).toString('base64url');
}

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/**
 * The configuration in `env`; `overrides` are what the command line said.
 * Throws a SetupError of one clear line for what is wrong or missing.
 */
export function readConfig(
  env: Environment,
  overrides: { host?: string; port?: number; transport?: 'auto' | Transport } = {},
): Config {
  const host = overrides.host ?? env.HOST ?? '127.0.0.1';
  const modeText = env.STAMPEDE_MODE ?? (isLoopback(host) ? 'development' : 'production');
  if (modeText !== 'development' && modeText !== 'production') throw wrong('STAMPEDE_MODE', modeText);
  const port = overrides.port ?? integer(env, 'PORT', 8080, 0, 65_535);
  const valkeyUrls = (env.VALKEY_URL ?? '').split(',').map((url) => url.trim());
  for (const url of valkeyUrls)
    if (!/^(redis|valkey):\/\/.|^unix:\/\/\/./.test(url)) throw wrong('VALKEY_URL', env.VALKEY_URL ?? '');
  const databaseUrl = env.DATABASE_URL ?? '';
  if (!/^postgres(ql)?:\/\/./.test(databaseUrl)) throw wrong('DATABASE_URL', databaseUrl);
  const kafkaBrokers = (env.KAFKA_BROKERS ?? '').split(',').filter(Boolean);
  if (kafkaBrokers.some((broker) => !/^[^\s:]+:\d+$/.test(broker)))
    throw wrong('KAFKA_BROKERS', env.KAFKA_BROKERS ?? '');
  const wanted = overrides.transport ?? 'auto';
  const transport = wanted === 'auto' ? (kafkaBrokers.length > 0 ? 'kafka' : 'direct') : wanted;
  if (transport === 'kafka' && kafkaBrokers.length === 0)
    throw new SetupError('missing-kafka', `--transport kafka needs KAFKA_BROKERS: ${variables.KAFKA_BROKERS}`);
  const logLevel = env.LOG_LEVEL ?? 'info';
  if (!logLevels.includes(logLevel)) throw wrong('LOG_LEVEL', logLevel);
  const madeUp: Config['madeUp'] = [];
  return {
    mode: modeText,
    host,
    port,
    valkeyUrls,
    databaseUrl,
    kafkaBrokers,
    transport,
    adminToken: secret(env, 'ADMIN_TOKEN', 16, modeText, madeUp),
    sessionSecret: secret(env, 'SESSION_SECRET', 32, modeText, madeUp),
    madeUp,
    rateLimits: rateLimitsOf(env.RATE_LIMITS),
    shards: integer(env, 'SHARDS', 4, 1, limits.shardsMax),
    logLevel,
    rememberSeconds: integer(env, 'REMEMBER_SECONDS', limits.rememberSeconds, 1, 30 * 86_400),
    outboxEvents: integer(env, 'OUTBOX_EVENTS', limits.outboxEvents, 100, 1_000_000_000),
  };
}
