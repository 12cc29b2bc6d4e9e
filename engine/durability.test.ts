/** What Valkey is set to decides what can be promised: when a sale is made, and while it sells. */
import { Redis } from 'iovalkey';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startTestbed, type Testbed } from '../cli/testbed.ts';
import { expectProblem } from '../cli/testbed-checks.ts';
import { type Durability, whyNot } from './durability.ts';

const asItShould = { appendonly: 'yes', appendfsync: 'always', 'no-appendfsync-on-rewrite': 'no', replicas: '1' };

it.each<[Durability, Partial<typeof asItShould>, RegExp | null]>([
  ['memory', { appendonly: 'no', appendfsync: 'no', replicas: '0' }, null],
  ['fsync', { replicas: '0' }, null],
  ['fsync', { appendonly: 'no' }, /appendonly yes/],
  ['fsync', { appendfsync: 'everysec' }, /appendfsync always/],
  ['fsync', { 'no-appendfsync-on-rewrite': 'yes' }, /no-appendfsync-on-rewrite no/],
  ['replicated', {}, null],
  ['replicated', { replicas: '0' }, /replica/],
  ['replicated', { appendfsync: 'no' }, /appendfsync always/],
])('%s with %o', (durability, settings, why) => {
  const found = whyNot(durability, new Map(Object.entries({ ...asItShould, ...settings })));
  if (why === null) expect(found).toBeNull();
  else expect(found).toMatch(why);
});

describe('settings that change while a sale goes on', () => {
  const sku = 'a';
  const body = (saleId: string) => ({ saleId, lines: [{ sku, quantity: 1 }] });
  const stock = [{ sku, warehouse: 'w', quantity: 10 }];
  const eventually = { timeout: 20_000, interval: 50 };
  let bed: Testbed;
  let redis: Redis;
  let token = '';
  beforeAll(async () => {
    bed = await startTestbed({ env: { LOG_LEVEL: 'silent' } });
    redis = new Redis(bed.services.services.valkey?.url ?? '');
    for (const durability of ['memory', 'fsync'])
      expect((await bed.putSale(durability, { title: 'x', durability, stock })).status).toBe(201);
  });
  afterAll(async () => {
    redis?.disconnect();
    await bed?.stop();
  });
  beforeEach(async () => {
    ({ token } = await bed.session());
  });
  const codeOf = async (key: string, saleId: string): Promise<string> => {
    const { status, body: answered } = await bed.reserve(token, key, body(saleId));
    return answered.code ?? String(status);
  };

  it('no fsync any more: what needs it is unavailable, and the same key tells once it is back', async () => {
    const kept = (await bed.reserve(token, 'kept', body('fsync'))).body;
    await redis.config('SET', 'appendfsync', 'everysec');
    await expect.poll(() => codeOf('kept', 'fsync'), eventually).toBe('unavailable');
    const asked = await bed.reserve(token, 'new', body('fsync'));
    expectProblem(asked, 'unavailable');
    expect(asked.body.detail).toMatch(/appendfsync always/);
    expectProblem(await bed.request('POST', `/v1/reservations/${kept.id}/commit`, { token }), 'unavailable');
    expectProblem(await bed.putSale('late', { title: 'x', stock }), 'invalid-request');
    expect(await codeOf('k', 'memory')).toBe('201');
    await redis.config('SET', 'appendfsync', 'always');
    await expect.poll(() => codeOf('new', 'fsync'), eventually).toBe('201');
    const again = await bed.reserve(token, 'new', body('fsync'));
    expect(again.headers['idempotency-replayed']).toBe('true');
    const read = await bed.request<{ state: string }>('GET', `/v1/reservations/${kept.id}`, { token });
    expect(read.body.state).toBe('committed');
  });

  it('a log that was switched off and on again: no fsync until its first rewrite has ended', async () => {
    await redis.config('SET', 'appendonly', 'no');
    await expect.poll(() => codeOf('off', 'fsync'), eventually).toBe('unavailable');
    // As with much data, the rewrite takes a while.
    await redis.config('SET', 'rdb-key-save-delay', '500000');
    await redis.config('SET', 'appendonly', 'yes');
    const why = async () => (await bed.reserve(token, 'on', body('fsync'))).body.detail;
    await expect.poll(why, eventually).toMatch(/does not say that its log is on its disk/);
    expect(await redis.info('persistence')).toMatch(/aof_rewrite_in_progress:1/);
    await redis.config('SET', 'rdb-key-save-delay', '0');
    await expect.poll(() => codeOf('on', 'fsync'), { ...eventually, timeout: 60_000 }).toBe('201');
  }, 120_000);

  it('an eviction policy: nothing is sold from a Valkey that would throw stock away', async () => {
    await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
    await expect.poll(() => codeOf('k', 'memory'), eventually).toBe('shard-fenced');
    const ready = await bed.request<{ fenced: { reason: string }[] }>('GET', '/readyz');
    expect(ready.body.fenced[0]?.reason).toMatch(/allkeys-lru.* noeviction/);
    await redis.config('SET', 'maxmemory-policy', 'noeviction');
    await expect.poll(() => codeOf('k', 'memory'), eventually).toBe('201');
  });
});
