/** /openapi.json is valid, whole and true; health and metrics say what the contract says. */
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, adminToken, startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem, holder } from '../cli/testbed-checks.ts';

type Schema = Record<string, unknown>;
type Operation = {
  summary: string;
  parameters: { name: string; in: string; required: boolean; schema: Schema }[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: Schema }> }>;
};
type OpenApi = {
  openapi: string;
  info: { title: string; version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
};

let bed: Testbed;
let document: OpenApi;
const ajv = new Ajv2020({ strict: false, allErrors: true });
formats.default(ajv);

beforeAll(async () => {
  bed = await startTestbed();
  document = (await bed.request<OpenApi>('GET', '/openapi.json')).body;
  ajv.addSchema({ ...document, $id: 'openapi' });
});
afterAll(() => bed?.stop());

/** What a schema of the document has against a value. */
function faults(pointer: string[], value: unknown): string {
  const ref = pointer.map((part) => part.replaceAll('~', '~0').replaceAll('/', '~1')).map(encodeURIComponent);
  const validate = ajv.compile({ $ref: `openapi#/${ref.join('/')}` });
  return validate(value) ? '' : ajv.errorsText(validate.errors);
}

/** The answer is one that the document announces, and its body is as the document says. */
function expectAnnounced(method: string, path: string, answer: Answer): void {
  const type = answer.headers['content-type']?.split(';')[0] ?? '';
  const pointer = ['paths', path, method, 'responses', String(answer.status), 'content', type, 'schema'];
  expect(document.paths[path]?.[method]?.responses[answer.status]?.content?.[type]).toBeDefined();
  expect(faults(pointer, answer.body)).toBe('');
}

describe('/openapi.json', () => {
  it('is OpenAPI 3.1 with every call of the chapter "Selling"', () => {
    expect(document.openapi).toMatch(/^3\.1\.\d$/);
    expect(document.info).toMatchObject({ title: expect.any(String), version: expect.any(String) });
    const calls = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(calls).toEqual(
      expect.arrayContaining([
        'POST /v1/sessions',
        'GET /v1/sales',
        'GET /v1/sales/{saleId}',
        'POST /v1/reservations',
        'GET /v1/reservations/{id}',
        'POST /v1/reservations/{id}/commit',
        'POST /v1/reservations/{id}/extend',
        'DELETE /v1/reservations/{id}',
        'PUT /v1/admin/sales/{saleId}',
        'POST /v1/admin/sales/{saleId}/stock',
        'POST /v1/admin/sales/{saleId}/pause',
        'POST /v1/admin/sales/{saleId}/resume',
        'POST /v1/admin/sales/{saleId}/close',
      ]),
    );
  });

  it('has only schemas that compile, parameters that the path names, and a description for every answer', () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      const named = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
      for (const operation of Object.values(methods)) {
        expect(operation.parameters.filter((each) => each.in === 'path').map(({ name }) => name)).toEqual(named);
        expect(operation.parameters.filter((each) => each.in === 'path').every(({ required }) => required)).toBe(true);
        const bodies = [operation.requestBody, ...Object.values(operation.responses)];
        for (const body of bodies) {
          for (const { schema } of Object.values(body?.content ?? {})) {
            const inner = '$ref' in schema ? { $ref: `openapi${String(schema.$ref)}` } : schema;
            expect(() => ajv.compile(inner)).not.toThrow();
          }
        }
        for (const { description } of Object.values(operation.responses)) expect(description).not.toBe('');
      }
    }
  });

  it('has no pattern that clients’ tools in other languages can’t read', () => {
    const patterns = [...JSON.stringify(document).matchAll(/"pattern":("(?:[^"\\]|\\.)*")/g)];
    expect(patterns.length).toBeGreaterThan(5);
    for (const [, text = '""'] of patterns) {
      // Classes of Unicode, and what works with JavaScript's flag `u` alone.
      expect(JSON.parse(text)).not.toMatch(/\\[pPu]/);
      expect(() => new RegExp(JSON.parse(text) as string)).not.toThrow();
    }
  });

  it('says what is really answered', async () => {
    const stock = [{ sku: 'a', warehouse: 'w', quantity: 5 }];
    const opensAt = '2020-01-01T00:00:00Z';
    const sale = { title: 'x', stock, opensAt, closesAt: null, perBuyer: 4 };
    const change = { id: 'c', sku: 'a', warehouse: 'w', delta: 1, reason: 'x' };
    expectAnnounced('put', '/v1/admin/sales/{saleId}', await bed.putSale('api', sale));
    expectAnnounced('put', '/v1/admin/sales/{saleId}', await bed.putSale('api', sale));
    expectAnnounced('put', '/v1/admin/sales/{saleId}', await bed.putSale('api', { title: '' }));
    expectAnnounced('post', '/v1/admin/sales/{saleId}/stock', await bed.operator('POST', 'api/stock', change));
    expectAnnounced('post', '/v1/admin/sales/{saleId}/stock', await bed.operator('POST', 'none/stock', change));
    expectAnnounced('post', '/v1/sessions', await bed.request('POST', '/v1/sessions', { body: {} }));
    expectAnnounced('post', '/v1/sessions', await bed.request('POST', '/v1/sessions', { raw: 'x' }));
    expectAnnounced('get', '/v1/sales', await bed.request('GET', '/v1/sales'));
    expectAnnounced('get', '/v1/sales/{saleId}', await bed.request('GET', '/v1/sales/api'));
    expectAnnounced('get', '/v1/sales/{saleId}', await bed.request('GET', '/v1/sales/none'));
    const { token, key, body, reservation } = await holder(bed, 'api', 'a', 2);
    expectAnnounced('post', '/v1/reservations', await bed.reserve(token, key, body));
    expectAnnounced('post', '/v1/reservations', await bed.reserve(token, 'k', body));
    expectAnnounced('post', '/v1/reservations', await bed.reserve(token, 'l', body));
    expectAnnounced('post', '/v1/reservations', await bed.request('POST', '/v1/reservations', { body }));
    const path = `/v1/reservations/${reservation.id}`;
    const extend = { token, body: { seconds: 5 } };
    for (const asked of [token, adminToken, ''])
      expectAnnounced('get', '/v1/reservations/{id}', await bed.request('GET', path, { token: asked }));
    for (const _ of [1, 2])
      expectAnnounced('post', '/v1/reservations/{id}/extend', await bed.request('POST', `${path}/extend`, extend));
    for (const _ of [1, 2])
      expectAnnounced('post', '/v1/reservations/{id}/commit', await bed.request('POST', `${path}/commit`, { token }));
    expectAnnounced('delete', '/v1/reservations/{id}', await bed.request('DELETE', path, { token }));
    for (const verb of ['pause', 'resume', 'close', 'resume'] as const)
      expectAnnounced('post', `/v1/admin/sales/{saleId}/${verb}`, await bed.operator('POST', `api/${verb}`));
  });

  it('accepts the bodies that are accepted, and no others', () => {
    const schemaOf = (path: string, method: string): string[] => [
      'paths',
      path,
      method,
      'requestBody',
      'content',
      'application/json',
      'schema',
    ];
    const reserve = schemaOf('/v1/reservations', 'post');
    expect(faults(reserve, { lines: [{ sku: 'a', quantity: 1 }] })).toBe('');
    expect(faults(reserve, { lines: [{ sku: 'a', quantity: 0 }] })).not.toBe('');
    expect(faults(reserve, { lines: [], x: 1 })).not.toBe('');
  });
});

describe('health and metrics', () => {
  it('/healthz and /readyz are 200 while all is well', async () => {
    expect((await bed.request('GET', '/healthz')).status).toBe(200);
    const { status, body } = await bed.request<{ degraded?: string[] }>('GET', '/readyz');
    expect([status, body.degraded ?? []]).toEqual([200, []]);
  });

  it('/metrics is Prometheus text whose counters end in _total and whose times are seconds', async () => {
    const answer = await bed.request<string>('GET', '/metrics');
    expect([answer.status, answer.headers['content-type']]).toEqual([200, expect.stringMatching(/^text\/plain/)]);
    const lines = (answer.body as string).split('\n').filter(Boolean);
    const types = new Map<string, string>();
    for (const line of lines) {
      const [, name, type] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? [];
      if (name && type) types.set(name, type);
      else
        expect(line).toMatch(
          /^# HELP \S+ .|^[a-zA-Z_:][\w:]*(\{([a-zA-Z_]\w*="([^"\\]|\\.)*",?)+\})? -?(\d|\.|e[+-]|NaN|[+-]?Inf)+$/,
        );
    }
    expect(types.size).toBeGreaterThan(5);
    for (const [name, type] of types) {
      if (type === 'counter') expect(name).toMatch(/_total$/);
      else expect(name).not.toMatch(/_total$/);
      expect(name).not.toMatch(/_(ms|milliseconds)(_|$)/);
    }
    const samples = lines.filter((line) => !line.startsWith('#')).map((line) => line.split(/[{ ]/)[0] ?? '');
    for (const sample of samples) {
      const family = sample.replace(/_(bucket|sum|count)$/, '');
      expect(types.has(sample) || types.has(family), sample).toBe(true);
    }
  });

  it('/metrics names no buyer and no token', async () => {
    await bed.putSale('metrics', { title: 'x', stock: [{ sku: 'a', warehouse: 'w', quantity: 5 }] });
    const { token, buyerId } = await holder(bed, 'metrics', 'a');
    const text = (await bed.request<string>('GET', '/metrics')).body as string;
    expect(text).not.toContain(buyerId);
    expect(text).not.toContain(token);
  });

  it.each(['/healthz', '/readyz', '/metrics', '/openapi.json', '/'])('POST %s is not allowed', async (path) => {
    expectProblem(await bed.request('POST', path, { body: {} }), 'method-not-allowed');
  });
});
