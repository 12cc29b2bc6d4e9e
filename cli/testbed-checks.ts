/** What tests of the HTTP contract look at again and again. The statuses are the contract's, written down here anew. */
import { expect } from 'vitest';
import type { Answer, Sale, Testbed } from './testbed.ts';

export const statusOfCode = {
  'invalid-request': 400,
  unauthorized: 401,
  forbidden: 403,
  'not-admitted': 403,
  'challenge-required': 403,
  'not-found': 404,
  'method-not-allowed': 405,
  conflict: 409,
  'sale-not-open': 409,
  'purchase-limit': 409,
  'sold-out': 409,
  'insufficient-stock': 409,
  'reservation-ended': 409,
  'payload-too-large': 413,
  'unsupported-media-type': 415,
  'idempotency-mismatch': 422,
  'rate-limited': 429,
  overloaded: 503,
  'shard-fenced': 503,
  unavailable: 503,
} as const;
export type Code = keyof typeof statusOfCode;

const withRetryAfter: readonly Code[] = ['rate-limited', 'overloaded', 'shard-fenced', 'unavailable'];

/** The body is the problem `code` with all members that the contract names. */
export function expectProblemBody(body: unknown, code: Code): void {
  expect(body).toMatchObject({
    type: expect.stringMatching(/./),
    title: expect.stringMatching(/./),
    status: statusOfCode[code],
    detail: expect.stringMatching(/./),
    code,
    requestId: expect.stringMatching(/./),
  });
  const { errors } = body as { errors?: { path: string; message: string }[] };
  if (code !== 'invalid-request') return;
  expect(errors?.length).toBeGreaterThan(0);
  for (const error of errors ?? [])
    expect(error).toEqual({ path: expect.stringMatching(/./), message: expect.stringMatching(/./) });
}

/** The answer is the problem `code`: status, media type, members, and `Retry-After` where it belongs. */
export function expectProblem(answer: Answer, code: Code): void {
  expect({ status: answer.status, code: answer.body.code }).toEqual({ status: statusOfCode[code], code });
  expect(answer.headers['content-type']).toMatch(/^application\/problem\+json(;|$)/);
  expectProblemBody(answer.body, code);
  expect(answer.headers['x-request-id']).toBe(answer.body.requestId);
  if (withRetryAfter.includes(code)) expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
  else expect(answer.headers['retry-after']).toBeUndefined();
}

/** A SKU's units over all warehouses, and that they add up to the supply. */
export function unitsOf(
  sale: Sale,
  sku: string,
  supply: number,
): { available: number; reserved: number; sold: number } {
  const units = { available: 0, reserved: 0, sold: 0 };
  for (const row of sale.stock.filter((each) => each.sku === sku)) {
    expect(row.available).toBe(row.onHand - row.reserved);
    expect(Math.min(row.available, row.reserved, row.sold)).toBeGreaterThanOrEqual(0);
    units.available += row.available;
    units.reserved += row.reserved;
    units.sold += row.sold;
  }
  expect(units.available + units.reserved + units.sold).toBe(supply);
  return units;
}

/** A guest that has reserved `quantity` of `sku`: token, key and the reservation. */
export async function holder(bed: Testbed, saleId: string, sku: string, quantity = 1) {
  const { token, buyerId } = await bed.session();
  const key = 'first';
  const body = { saleId, lines: [{ sku, quantity }] };
  const answer = await bed.reserve(token, key, body);
  expect(answer, JSON.stringify(answer.body)).toMatchObject({ status: 201, body: { state: 'held' } });
  return { token, buyerId, key, body, reservation: answer.body };
}
