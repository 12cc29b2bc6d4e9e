import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { blockPlaces, createSha256x4, lanes, statePlaces } from './sha256x4.ts';

test('four messages of as many blocks hash as Node hashes them, and none disturbs another, or the next four', () => {
  const { words, compress, begin, write, pad } = createSha256x4();
  const [state, at] = [0, statePlaces];
  const four = fc.integer({ min: 1, max: 4 }).chain((blocks) => {
    const least = Math.max(0, blocks * 64 - 72);
    const bytes = fc.uint8Array({ minLength: least, maxLength: blocks * 64 - 9 });
    const cut = fc.integer({ min: 0, max: least });
    return fc.record({ blocks: fc.constant(blocks), messages: fc.tuple(bytes, bytes, bytes, bytes), cut });
  });
  fc.assert(
    fc.property(four, ({ blocks, messages, cut }) => {
      for (const [lane, message] of messages.entries()) {
        // As a part of a longer text.
        const text = Buffer.from([1, ...message, 2]).toString('latin1');
        write(at, lane, 0, text, 1, 1 + cut);
        write(at, lane, cut, text, 1 + cut, 1 + message.length);
        pad(at, lane, blocks, message.length, 0);
      }
      begin(state);
      for (let i = 0; i < blocks; i++) compress(state, at + i * blockPlaces, state);
      for (const [lane, message] of messages.entries()) {
        const digest = Buffer.alloc(32);
        for (let i = 0; i < 8; i++) digest.writeUInt32BE(words[state + i * lanes + lane] ?? 0, i * 4);
        expect(digest.toString('hex')).toBe(createHash('sha256').update(message).digest('hex'));
      }
    }),
    { numRuns: 500 },
  );
});
