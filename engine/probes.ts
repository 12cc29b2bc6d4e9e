/** What probes, operators and clients' tools read: health, metrics, the interface itself, and the live board. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from '../kernel/logger.ts';
import type { Route } from './http.ts';
import { openApiOf } from './openapi.ts';
import { json } from './replies.ts';
import type { Shards } from './shards.ts';

const boardHeaders = {
  'X-Content-Type-Options': 'nosniff',
  'Content-Security-Policy':
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
};

export function probeRoutes(parts: {
  /** The other routes, for /openapi.json. */
  selling: Route[];
  version: string;
  shards: Shards;
  /** Names of the dependencies that are away. */
  away(): string[];
  /** The text of /metrics. */
  metrics(): Promise<string>;
  logger: Logger;
}): Route[] {
  const { shards } = parts;
  const board = readFileSync(join(import.meta.dirname, 'board.html'), 'utf8');
  const plain = (path: string, summary: string, handle: Route['handle']): Route => ({
    method: 'get',
    path,
    summary,
    who: 'anyone',
    answers: { 200: null },
    errors: [],
    unlimited: true,
    handle,
  });

  const routes = [
    plain('/healthz', 'Whether the process lives', (call) => call.answer(json(200, { ok: true }))),
    plain('/readyz', 'Whether anything can be sold', (call) => {
      const fenced = shards.fenced();
      const degraded = parts.away();
      if (shards.sellable()) call.answer(json(200, { ready: true, degraded, fenced }));
      else call.answer(json(503, { ready: false, degraded: ['valkey', ...degraded], fenced }, { 'Retry-After': '1' }));
    }),
    plain('/metrics', 'Prometheus metrics', (call) => {
      parts.metrics().then(
        (body) => call.answer({ status: 200, body, contentType: 'text/plain; version=0.0.4; charset=utf-8' }),
        (error: unknown) => {
          parts.logger.error({ error: String(error) }, 'the metrics could not be read');
          call.answer({ status: 503, body: 'the metrics could not be read', contentType: 'text/plain' });
        },
      );
    }),
    plain('/openapi.json', 'This interface', (call) => call.answer({ status: 200, body: document })),
    plain('/', 'The live board of a sale', (call) =>
      call.answer({ status: 200, body: board, contentType: 'text/html; charset=utf-8', headers: boardHeaders }),
    ),
  ];
  const document = JSON.stringify(openApiOf([...parts.selling, ...routes], parts.version));
  return routes;
}
