import { describe, expect, test } from 'vitest';
import { isLoopback, readConfig } from './config.ts';
import { SetupError } from './errors.ts';

const stores = { VALKEY_URL: 'redis://127.0.0.1:6379', DATABASE_URL: 'postgres://me:pass@127.0.0.1:5432/stampede' };
const secrets = { ADMIN_TOKEN: 'a'.repeat(16), SESSION_SECRET: 's'.repeat(32) };

test('what is not set has its default, and secrets are made up in development', () => {
  const config = readConfig(stores);
  expect(config).toMatchObject({
    ...{ mode: 'development', host: '127.0.0.1', port: 8080, shards: 4, logLevel: 'info', transport: 'direct' },
    ...{ kafkaBrokers: [], rememberSeconds: 3_600, madeUp: ['ADMIN_TOKEN', 'SESSION_SECRET'] },
    rateLimits: { address: { perSecond: 1_000, burst: 4_000 } },
  });
  expect(config.adminToken.length).toBeGreaterThanOrEqual(16);
  expect(config.sessionSecret).not.toBe(readConfig(stores).sessionSecret);
});

type Env = Record<string, string>;

test.each<[string, Env, object]>([
  ['a loopback address means development', { HOST: '127.0.0.9' }, { mode: 'development' }],
  ['another address means production', { HOST: '0.0.0.0', ...secrets }, { mode: 'production', madeUp: [] }],
  ['unless told otherwise', { HOST: '0.0.0.0', STAMPEDE_MODE: 'development' }, { mode: 'development' }],
  ['any port', { PORT: '0' }, { port: 0 }],
  ['brokers mean Kafka', { KAFKA_BROKERS: 'a:1,b:2' }, { transport: 'kafka', kafkaBrokers: ['a:1', 'b:2'] }],
  ['no rate limits', { RATE_LIMITS: 'off' }, { rateLimits: null }],
  [
    'one rate limit',
    { RATE_LIMITS: 'buyer=0.5:2' },
    { rateLimits: { address: { perSecond: 1_000 }, buyer: { perSecond: 0.5, burst: 2 } } },
  ],
  ['a Unix socket', { VALKEY_URL: 'unix:///run/valkey.sock' }, { valkeyUrls: ['unix:///run/valkey.sock'] }],
  [
    'a primary and its replica',
    { VALKEY_URL: 'redis://a:1, redis://b:2' },
    { valkeyUrls: ['redis://a:1', 'redis://b:2'] },
  ],
  ['Valkey’s own scheme', { VALKEY_URL: 'valkey://host' }, { valkeyUrls: ['valkey://host'] }],
])('%s', (_name, env, expected) => {
  expect(readConfig({ ...stores, ...env })).toMatchObject(expected);
});

test('one limit in the environment does not change the defaults of the next reading', () => {
  readConfig({ ...stores, RATE_LIMITS: 'address=1:1' });
  expect(readConfig(stores).rateLimits?.address).toEqual({ perSecond: 1_000, burst: 4_000 });
});

describe('a wrong value is one clear line that names the variable', () => {
  test.each<[string, Env]>([
    ['VALKEY_URL', { VALKEY_URL: '' }],
    ['VALKEY_URL', { VALKEY_URL: 'http://127.0.0.1' }],
    ['VALKEY_URL', { VALKEY_URL: 'redis://a:1,' }],
    ['DATABASE_URL', { DATABASE_URL: 'mysql://x' }],
    ['DATABASE_URL', { DATABASE_URL: '' }],
    ['KAFKA_BROKERS', { KAFKA_BROKERS: 'no-port' }],
    ['PORT', { PORT: '65536' }],
    ['PORT', { PORT: '-1' }],
    ['PORT', { PORT: 'eighty' }],
    ['PORT', { PORT: '8.5' }],
    ['SHARDS', { SHARDS: '0' }],
    ['SHARDS', { SHARDS: '1025' }],
    ['REMEMBER_SECONDS', { REMEMBER_SECONDS: '0' }],
    ['OUTBOX_EVENTS', { OUTBOX_EVENTS: '99' }],
    ['LOG_LEVEL', { LOG_LEVEL: 'loud' }],
    ['RATE_LIMITS', { RATE_LIMITS: 'on' }],
    ['RATE_LIMITS', { RATE_LIMITS: 'address=0:5' }],
    ['RATE_LIMITS', { RATE_LIMITS: 'address=5' }],
    ['RATE_LIMITS', { RATE_LIMITS: 'nobody=5:5' }],
    ['STAMPEDE_MODE', { STAMPEDE_MODE: 'staging' }],
    ['ADMIN_TOKEN', { ADMIN_TOKEN: 'short' }],
    ['SESSION_SECRET', { SESSION_SECRET: 's'.repeat(31) }],
    ['ADMIN_TOKEN', { HOST: '0.0.0.0' }],
    ['SESSION_SECRET', { STAMPEDE_MODE: 'production', ADMIN_TOKEN: secrets.ADMIN_TOKEN }],
  ])('%s: %j', (name, env) => {
    let refused: unknown;
    try {
      readConfig({ ...stores, ...env });
    } catch (error) {
      refused = error;
    }
    expect(refused).toBeInstanceOf(SetupError);
    expect(String(refused)).toContain(name);
    expect(String(refused)).not.toContain('\n');
  });

  test('and tells no password', () => {
    const env = { DATABASE_URL: 'mysql://me:opensesame@host/db' };
    expect(() => readConfig({ ...stores, ...env })).toThrow(/^(?!.*opensesame)/);
    expect(() => readConfig({ ...stores, VALKEY_URL: 'rediss://me:opensesame@host' })).toThrow(/^(?!.*opensesame)/);
    expect(() => readConfig({ ...stores, ADMIN_TOKEN: 'opensesame' })).toThrow(/^(?!.*opensesame)/);
  });
});

test('Kafka asked for without brokers', () => {
  expect(() => readConfig(stores, { transport: 'kafka' })).toThrow(/KAFKA_BROKERS/);
  const env = { ...stores, KAFKA_BROKERS: 'a:1' };
  expect(readConfig(env, { transport: 'direct' }).transport).toBe('direct');
});

test('the command line goes before the environment', () => {
  const env = { ...stores, ...secrets, HOST: '0.0.0.0', PORT: '1' };
  expect(readConfig(env, { host: 'localhost', port: 0 })).toMatchObject({
    host: 'localhost',
    port: 0,
    mode: 'development',
  });
});

test.each([
  ['127.0.0.1', true],
  ['127.8.8.8', true],
  ['::1', true],
  ['localhost', true],
  ['0.0.0.0', false],
  ['::', false],
  ['10.0.0.1', false],
  ['127.0.0.1.example.org', false],
  ['localhost.example.org', false],
])('whether %s is loopback: %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected);
});
