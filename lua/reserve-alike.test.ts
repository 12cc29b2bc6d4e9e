import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { expireCommand } from './bindings.ts';
import {
  counters,
  factsOf,
  holdTime,
  makeSale,
  openTestShard,
  type Reserved,
  reference,
  reserve,
  startTestValkey,
  type TestValkey,
} from './testing.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(async () => {
  await server.stop();
});

test('a call decides its requests as calls of one each would', async () => {
  const wishes = fc.array(
    fc.record({
      buyer: fc.integer({ min: 0, max: 60 }).map((n) => `b${n}`),
      key: fc.constantFrom('k', 'k', 'k', 'l'),
      lines: fc.constantFrom({ shoe: 1 }, { shoe: 1 }, { shoe: 1 }, { shoe: 1 }, { shoe: 2 }, { hat: 1, shoe: 1 }),
    }),
    { minLength: 30, maxLength: 120 },
  );
  const sale = fc.record({
    stock: fc.constantFrom({ shoe: { a: 40, b: 3, c: 30 }, hat: { a: 9 } }, { shoe: { a: 1000 }, hat: { a: 1000 } }),
    perBuyer: fc.constantFrom(0, 1, 2),
  });
  const rooms = fc.constantFrom(40, 10_000);
  await fc.assert(
    fc.asyncProperty(
      wishes,
      sale,
      rooms,
      fc.integer({ min: 0, max: 255 }),
      async (asked, options, outboxEvents, first) => {
        const decide = async (size: number) => {
          const shard = await openTestShard(server, { outboxEvents });
          await makeSale(shard, options);
          // A sequence's last byte runs over somewhere in the call.
          await shard.redis.hincrby(`${shard.prefix}shard`, 'seq', first);
          await shard.redis.hincrby(`${shard.prefix}shard`, 'acked', first);
          const atMs = await holdTime(shard, 1e13);
          const results: Reserved[] = [];
          for (let from = 0; from < asked.length; from += size)
            results.push(...(await reserve(shard, asked.slice(from, from + size))));
          const made = results.flatMap(({ seq, status }, i) => (status === 'ok' ? [reference(seq, asked[i])] : []));
          // What stands in the due list is found by the sweep: everything that is held.
          await holdTime(shard, atMs + 3_600_000);
          let expired = 0;
          for (let more = 1; more === 1; ) {
            const swept = await shard.call(expireCommand, { max: 50 });
            expired += swept.expired;
            more = swept.more;
          }
          expect(expired).toBe(made.length);
          const facts = (await factsOf(shard)).slice(0, made.length + 1 + Object.keys(await counters(shard)).length);
          return { results, facts, counters: await counters(shard) };
        };
        expect(await decide(asked.length)).toEqual(await decide(1));
      },
    ),
    { numRuns: 40 },
  );
}, 60_000);
