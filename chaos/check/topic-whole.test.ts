/** The consumer that docs/reference/events.md describes, and the checker that plays it. */
import { expect, test } from 'vitest';
import type { BatchRow, Evidence } from '../evidence.ts';
import { consume, topicWhole } from './topic-whole.ts';

/** `1-3` of epoch 1, `4@2` of epoch 2, `4@2!` the same with other content. */
function batch(text: string): BatchRow {
  const [, from, to = from, epoch = '1', other = ''] = /^(\d+)(?:-(\d+))?(?:@(\d+))?(!?)$/.exec(text) ?? [];
  return { shard: 0, seqFirst: Number(from), seqLast: Number(to), epoch: Number(epoch), atMs: 0, digest: text + other };
}
const row = (text: string): BatchRow[] => text.split(' ').filter(Boolean).map(batch);
const said = (batches: readonly { digest: string }[]): string => batches.map(({ digest }) => digest).join(' ');

test.each([
  ['in order', '1 2-3 4', '1 2-3 4'],
  ['all of it twice', '1 2-3 4 1 2-3 4', '1 2-3 4'],
  ['something before it is missing: set aside until it comes again', '1 4 2-3 4', '1 2-3 4'],
  ['another epoch', '1 2 3@2 4@2 1 2', '1 2 3@2 4@2'],
  ['late, of a closed epoch', '1 2 3@2 3-4 4-5', '1 2 3@2'],
  ['applied, and then its epoch turns out to be closed before it', '1 2 3 4-5 3@2 4@2', '1 2 3@2 4@2'],
  ['in the middle of what was applied', '1 2-4 3@2', '1'],
])('a consumer: %s', (_, topic, taken) => {
  expect(said(consume(row(topic)).taken)).toBe(taken);
  expect(consume(row(topic)).forks).toEqual([]);
});

test('a consumer stops at two histories of one epoch', () => {
  expect(said(consume(row('1 2 2@1! 3')).forks)).toBe('2@1!!');
});

test.each([
  ['the same', '1 2-3', '1 2-3', ''],
  ['no Kafka', null, '1 2-3', ''],
  ['one is missing', '1 4', '1 2-3 4', 'the ledger has 2 to 3 of epoch 1; a reader of the topic never gets it'],
  [
    'another one',
    '1 2-3',
    '1 2',
    'the ledger has 2 to 2 of epoch 1; a reader of the topic has 2 to 3 of epoch 1 there',
  ],
  ['one more', '1 2 3', '1 2', '1 batches more than the ledger'],
  ['a fork', '1 2 2@1!', '1 2', 'two histories at 2'],
])('the topic and the ledger: %s', (_, topic, ledger, finding) => {
  const evidence = {
    topic: topic === null ? null : row(topic),
    batches: row(ledger),
    shards: [{ shard: 0, epoch: 1, watermark: 9, stopped: null }],
  } as Pick<Evidence, 'topic' | 'batches' | 'shards'> as Evidence;
  expect(topicWhole(evidence).join()).toContain(finding);
  expect(topicWhole(evidence)).toHaveLength(finding === '' ? 0 : 1);
});
