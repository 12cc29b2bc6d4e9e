import { describe, expect, test } from 'vitest';
import { systemClock, timestamp, within } from './clock.ts';
import { assert, type ErrorCode, errorCodes, problemOf, RefusalError, refusal } from './errors.ts';

// The contract's table of codes.
const contract: [number, ErrorCode[]][] = [
  [400, ['invalid-request']],
  [401, ['unauthorized']],
  [403, ['forbidden', 'not-admitted', 'challenge-required']],
  [404, ['not-found']],
  [405, ['method-not-allowed']],
  [409, ['conflict', 'sale-not-open', 'purchase-limit', 'sold-out', 'insufficient-stock', 'reservation-ended']],
  [413, ['payload-too-large']],
  [415, ['unsupported-media-type']],
  [422, ['idempotency-mismatch']],
  [429, ['rate-limited']],
  [503, ['overloaded', 'shard-fenced', 'unavailable']],
];

test.each(contract)('%i is the status of %j', (status, codes) => {
  for (const code of codes) expect(errorCodes[code].status).toBe(status);
});

test('the contract’s codes are all there are', () => {
  expect(Object.keys(errorCodes).sort()).toEqual(contract.flatMap(([, codes]) => codes).sort());
});

test.each(Object.keys(errorCodes) as ErrorCode[])('%s says when to come again, or that it is of no use', (code) => {
  const { status } = errorCodes[code];
  expect('retryAfterSeconds' in errorCodes[code]).toBe(status === 429 || status === 503);
});

test('a problem has the members of RFC 9457 and what its code adds', () => {
  const problem = problemOf(refusal('reservation-ended', 'It has expired.', { reservationState: 'expired' }), 'r1');
  expect(problem).toEqual({
    ...{ type: 'urn:stampede:error:reservation-ended', title: 'The reservation has ended', status: 409 },
    ...{ detail: 'It has expired.', code: 'reservation-ended', requestId: 'r1', reservationState: 'expired' },
  });
});

test('a refusal travels as an error, and says what it is', () => {
  const error = new RefusalError(refusal('sold-out', 'Gone.'));
  expect([error.message, error.refusal.code]).toEqual(['sold-out: Gone.', 'sold-out']);
});

test('what must hold is said when it does not', () => {
  expect(() => assert(false, 'one and one is two')).toThrow('assertion failed: one and one is two');
  expect(() => assert(1, 'fine')).not.toThrow();
});

describe('time', () => {
  test('a wait ends at once when its signal aborts, before or during', async () => {
    const stop = new AbortController();
    const start = performance.now();
    const waiting = systemClock.wait(60_000, stop.signal);
    stop.abort();
    await waiting;
    await systemClock.wait(60_000, stop.signal);
    expect(performance.now() - start).toBeLessThan(1_000);
  });

  test('many waits on one signal leave no listener behind', async () => {
    const stop = new AbortController();
    let added = 0;
    let removed = 0;
    const { signal } = stop;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      added++;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      removed++;
      remove(...args);
    };
    for (let i = 0; i < 10; i++) await systemClock.wait(1, signal);
    expect([added, removed]).toEqual([10, 10]);
  });

  test('what takes too long is given up; what does not passes, or fails as it did', async () => {
    await expect(within(new Promise(() => undefined), 5, 'too late')).rejects.toThrow('too late');
    await expect(within(Promise.resolve(7), 1_000, 'too late')).resolves.toBe(7);
    await expect(within(Promise.reject(new Error('its own')), 1_000, 'too late')).rejects.toThrow('its own');
  });

  test('is written as RFC 3339 in UTC with milliseconds', () => {
    expect(timestamp(0)).toBe('1970-01-01T00:00:00.000Z');
    expect(timestamp(1_793_491_200_007)).toBe('2026-11-01T00:00:00.007Z');
  });

  test('the monotonic clock does not go back', () => {
    const times = Array.from({ length: 1_000 }, () => systemClock.monotonicMs());
    expect(times).toEqual(times.toSorted((a, b) => a - b));
  });
});
