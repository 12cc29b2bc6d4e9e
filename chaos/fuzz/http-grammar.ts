/** Right requests of every call of the contract. */

import type { Random } from '../random.ts';

/** What requests may name: a buyer's token belongs to the hold of the same place. */
export type World = {
  adminToken: string;
  tokens: string[];
  /** Reservations of those buyers, held when the round began. */
  holds: string[];
  /** The sale that is bought from, and one that the operator changes. */
  saleId: string;
  sideId: string;
  skus: string[];
  warehouse: string;
};

export type Draft = { method: string; target: string; headers: [string, string][]; body: Buffer | null };

export const crlf = '\r\n';

/** A request as bytes. */
export function written({ method, target, headers, body }: Draft, version = 'HTTP/1.1'): Buffer {
  const fields = headers.map(([name, value]) => `${name}: ${value}${crlf}`).join('');
  const head = Buffer.from(`${method} ${target} ${version}${crlf}${fields}${crlf}`, 'latin1');
  return body ? Buffer.concat([head, body]) : head;
}

export const withLength = (draft: Draft): Draft =>
  draft.body ? { ...draft, headers: [...draft.headers, ['Content-Length', String(draft.body.length)]] } : draft;

/** A body in chunks, without what the library doesn't know: extensions and trailers. */
export function chunked(body: Buffer, random: Random): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < body.length; ) {
    const piece = body.subarray(at, at + 1 + random.below(random.pick([3, 40, 400])));
    const size = piece.length.toString(16);
    parts.push(Buffer.from(`${random.pick([size, size.toUpperCase(), `0${size}`])}${crlf}`), piece);
    parts.push(Buffer.from(crlf));
    at += piece.length;
  }
  return Buffer.concat([...parts, Buffer.from(`0${crlf}${crlf}`)]);
}

/** A right request, without a length; `key` is used by no other. */
export function draft(world: World, random: Random, key: string): Draft {
  const who = random.below(world.tokens.length);
  const [token, hold] = [world.tokens[who] ?? '', world.holds[who] ?? ''];
  const common: [string, string][] = [
    ['Host', 'fuzz'],
    ...(random.below(2) ? [['Accept', '*/*'] as [string, string]] : []),
  ];
  const bearer: [string, string] = ['Authorization', `Bearer ${token}`];
  const operator: [string, string] = ['Authorization', `Bearer ${world.adminToken}`];
  const contentType: [string, string] = [
    'Content-Type',
    random.pick(['application/json', 'application/json; charset=utf-8']),
  ];
  const get = (target: string): Draft => ({ method: 'GET', target, headers: common, body: null });
  const of = (method: string, target: string, auth: [string, string], body: unknown): Draft => ({
    method,
    target,
    headers: [...common, auth, ...(body === undefined ? [] : [contentType])],
    body: body === undefined ? null : Buffer.from(JSON.stringify(body)),
  });
  const side = `/v1/admin/sales/${world.sideId}`;
  const lines = Array.from({ length: random.pick([1, 1, 1, 2, 5]) }, () => ({
    sku: random.pick(world.skus),
    quantity: 1 + random.below(3),
  }));
  const reserve = (): Draft => {
    const asked = of('POST', '/v1/reservations', bearer, { saleId: world.saleId, lines });
    asked.headers.push(['Idempotency-Key', key]);
    return asked;
  };
  const change = {
    id: key,
    sku: world.skus[0],
    warehouse: world.warehouse,
    delta: 1 + random.below(3),
    reason: 'fuzz',
  };
  return random.pick<() => Draft>([
    reserve,
    reserve,
    reserve,
    reserve,
    () => get(random.pick(['/healthz', '/readyz', '/openapi.json', '/v1/sales', `/v1/sales/${world.saleId}`, '/'])),
    () => of('GET', `/v1/reservations/${hold}`, random.pick([bearer, operator]), undefined),
    () => of('POST', `/v1/reservations/${hold}/commit`, bearer, undefined),
    () => of('POST', `/v1/reservations/${hold}/extend`, bearer, { seconds: 1 + random.below(100) }),
    () => of('DELETE', `/v1/reservations/${hold}`, bearer, undefined),
    () => ({ ...of('POST', '/v1/sessions', bearer, {}), headers: [...common, contentType] }),
    () => of('PUT', side, operator, { title: `Side ${key}` }),
    () => of('POST', `${side}/stock`, operator, change),
    () => of('POST', `${side}/${random.pick(['pause', 'resume'])}`, operator, undefined),
  ])();
}
