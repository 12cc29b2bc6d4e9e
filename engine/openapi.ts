/** OpenAPI 3.1 of all routes, from the schemas that validate. */
import { errorCodes } from '../kernel/errors.ts';
import { idPattern } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Route } from './http.ts';
import { ProblemView } from './schemas.ts';

const framed = ['payload-too-large', 'rate-limited'] as const;

export function openApiOf(routes: Route[], version: string): unknown {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const names = [...route.path.matchAll(/:(\w+)/g)].map((match) => match[1] ?? '');
    const path = route.path.replace(/:(\w+)/g, '{$1}');
    const responses: Record<string, unknown> = {};
    for (const [status, schema] of Object.entries(route.answers))
      responses[status] = schema
        ? { description: 'Done', content: { 'application/json': { schema } } }
        : { description: 'Done' };
    const codes = new Set([
      ...route.errors,
      ...framed,
      ...(route.who === 'anyone' ? [] : (['unauthorized', 'forbidden'] as const)),
      ...(route.body ? (['invalid-request', 'unsupported-media-type'] as const) : []),
      ...(route.path.startsWith('/v1/') ? (['overloaded', 'shard-fenced', 'unavailable'] as const) : []),
    ]);
    for (const [status, same] of Map.groupBy(codes, (code) => errorCodes[code].status))
      responses[String(status)] = {
        description: same.join(', '),
        content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
      };
    const parameters: unknown[] = names.map((name) => ({
      name,
      in: 'path',
      required: true,
      schema: { type: 'string', pattern: idPattern },
    }));
    if (route.keyed)
      parameters.push({
        name: 'Idempotency-Key',
        in: 'header',
        required: true,
        schema: { type: 'string', pattern: `^[\\x21-\\x7e]{1,${limits.idempotencyKeyChars}}$` },
      });
    if (route.admitted)
      parameters.push({ name: 'Admission-Token', in: 'header', required: false, schema: { type: 'string' } });
    paths[path] ??= {};
    paths[path][route.method === 'del' ? 'delete' : route.method] = {
      summary: route.summary,
      parameters,
      ...(route.who === 'anyone' ? { security: [] } : {}),
      ...(route.body
        ? { requestBody: { required: true, content: { 'application/json': { schema: route.body } } } }
        : {}),
      responses,
    };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Stampede', version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    paths,
    components: {
      schemas: { Problem: ProblemView },
      securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } },
    },
    security: [{ bearer: [] }],
  };
}
