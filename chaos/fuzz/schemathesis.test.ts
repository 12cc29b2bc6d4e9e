/** schemathesis for a short while; `npm run fuzz -- --only schemathesis --minutes 10` is the long form. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { missingForSchemathesis, narrowed, runSchemathesis } from './schemathesis.ts';
import { type FuzzTarget, saleId, sideId, startTarget } from './target.ts';

const missing = await missingForSchemathesis(process.env);
if (missing !== '') process.stderr.write(`schemathesis is skipped: ${missing}\n`);
const sales = { buyers: [saleId], operators: [sideId], skus: ['a', 'b', 'c'], warehouses: ['w'] };

describe.skipIf(missing !== '')('schemathesis', () => {
  let target: FuzzTarget;
  let faulty: Server;
  beforeAll(async () => {
    target = await startTarget();
  });
  afterAll(async () => {
    faulty?.close();
    await target?.stop();
  });

  const run = (url: string, seconds: number) => {
    const [buyerToken = ''] = target.buyerOf.keys();
    const at = { url, adminToken: target.adminToken, buyerToken, sales };
    return runSchemathesis(at, { seed: 1, seconds, env: process.env, progress: () => undefined });
  };

  it('finds nothing, with a buyer’s token and with the operator’s', { timeout: 900_000 }, async () => {
    const { passes, findings, version } = await run(target.url, 32);
    expect(findings).toEqual([]);
    expect(passes.map(({ name }) => name)).toHaveLength(4);
    for (const { name, cases } of passes) expect(cases, name).toBeGreaterThan(10);
    const cases = passes.reduce((sum, pass) => sum + pass.cases, 0);
    process.stderr.write(`schemathesis ${version}: ${cases} cases\n`);
  });

  it('finds what is planted: 500s, other types, what is not announced', { timeout: 900_000 }, async () => {
    const document = await (await fetch(`${target.url}/openapi.json`)).text();
    let asked = 0;
    faulty = createServer((request, response) => {
      request.resume();
      if (request.url === '/openapi.json') response.setHeader('Content-Type', 'application/json').end(document);
      else if (++asked % 3 === 0) response.writeHead(500, { 'Content-Type': 'application/problem+json' }).end('{}');
      else if (asked % 3 === 1) response.writeHead(200, { 'Content-Type': 'text/html' }).end('<p>');
      else response.writeHead(418, { 'Content-Type': 'application/json' }).end('{}');
    });
    await new Promise<void>((resolve) => faulty.listen(0, '127.0.0.1', resolve));
    const { findings } = await run(`http://127.0.0.1:${(faulty.address() as AddressInfo).port}`, 20);
    const text = findings.map(({ what }) => what).join('\n');
    for (const fault of ['Server error', 'Undocumented Content-Type', 'Undocumented status code'])
      expect(text.toLowerCase()).toContain(fault.toLowerCase());
  });
});

it('a narrowed document names the sales that are there, in what is asked only', () => {
  const id = { type: 'string', pattern: '^x$' };
  const parameters = [{ name: 'saleId', in: 'path', schema: id }];
  const requestBody = { schema: { properties: { saleId: id, title: id }, required: ['saleId'] } };
  const document = { paths: { '/': { post: { parameters, requestBody, responses: { saleId: id } } } } };
  const known = { type: 'string', enum: ['fuzz'] };
  expect(narrowed(document, { saleId: ['fuzz'] })).toEqual({
    paths: {
      '/': {
        post: {
          parameters: [{ name: 'saleId', in: 'path', schema: known }],
          requestBody: { schema: { properties: { saleId: known, title: id }, required: ['saleId'] } },
          responses: { saleId: id },
        },
      },
    },
  });
});
