import { Redis } from 'iovalkey';
import { Pool } from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startTestbed, type Testbed } from './testbed.ts';
import { runCommand } from './testbed-command.ts';

let bed: Testbed;
let pool: Pool;
let redis: Redis;
beforeAll(async () => {
  bed = await startTestbed({ env: { SHARDS: '1', LOG_LEVEL: 'silent' } });
  pool = new Pool({ connectionString: bed.services.services.postgres?.url ?? '' });
  redis = new Redis(bed.services.services.valkey?.url ?? '');
});
afterAll(async () => {
  await pool.end();
  redis.disconnect();
  await bed.stop();
});

const drop = { title: 'Drop', stock: ['shoe', 'hat'].map((sku) => ({ sku, warehouse: 'east', quantity: 100 })) };

async function run(args: string[], input?: string) {
  const command = runCommand(args, bed.env, input === undefined ? {} : { input });
  return { code: await command.ended, out: command.stdout(), err: command.stderr() };
}

/** Adds to the units on hand in Valkey, past every function. */
async function tamper(sku: string, units: number): Promise<void> {
  const packed = await redis.hgetBuffer('{s0}:stock:1', sku);
  if (!packed) throw new Error('no such stock');
  const at = 1 + (packed[0] ?? 0);
  packed.writeUInt32LE(packed.readUInt32LE(at) + units, at);
  await redis.hset('{s0}:stock:1', sku, packed);
}

const buy = async (sku: string) => {
  const { token } = await bed.session();
  const answer = await bed.reserve(token, 'k', { saleId: 'drop', lines: [{ sku, quantity: 2 }] });
  expect(answer.status).toBe(201);
};

it('shows what would make one side agree with the other, changes nothing by itself, and does it once', async () => {
  await bed.putSale('drop', drop);
  await buy('shoe');
  expect((await run(['reconcile'])).code).toBe(0);
  expect(await run(['reconcile', '--repair', 'valkey'])).toMatchObject({ code: 0, out: '' });

  await tamper('shoe', 5);
  await tamper('hat', -3);
  const plan = await run(['reconcile', '--repair', 'valkey']);
  expect(plan.code).toBe(1);
  expect(plan.out.trim().split('\n')).toHaveLength(2);
  expect(plan.err).toMatch(/shoe/);
  expect((await run(['reconcile'])).code).toBe(1);
  // Selling goes on between looking and repairing.
  await buy('shoe');
  const repaired = await run(['repair'], plan.out);
  expect(repaired).toMatchObject({ code: 0, err: '' });
  expect(repaired.out).toMatch(/^done: valkey, drop shoe east: available -5, reserved 0, sold 0$/m);
  expect((await run(['reconcile'])).code).toBe(0);
  expect((await run(['repair'], plan.out)).out).toMatch(/^done before: /);
  expect((await run(['reconcile'])).code).toBe(0);
  expect((await bed.sale('drop')).stock?.map(({ sku, onHand, reserved }) => [sku, onHand, reserved])).toEqual([
    ['hat', 100, 0],
    ['shoe', 100, 4],
  ]);

  // The other way round: what Valkey has is right.
  await tamper('shoe', 5);
  const other = await run(['reconcile', '--repair', 'ledger', '--json']);
  expect((await run(['repair', '--json'], other.out)).out).toMatch(/"outcome":"done"/);
  expect((await run(['reconcile'])).code).toBe(0);
  expect((await run(['repair'], other.out)).out).toMatch(/^done before: /);
  const { rows } = await pool.query('select debit, credit, units from ledger.correction');
  expect(rows).toEqual([{ debit: 'outside', credit: 'available', units: '5' }]);
  await buy('shoe');
  expect((await run(['reconcile'])).code).toBe(0);
});

it('refuses a plan that is none, as a whole, and a step that would take more than there is', async () => {
  expect(await run(['repair'], 'shoe east +5\n')).toMatchObject({
    code: 2,
    err: expect.stringMatching(/line 1 is no step/),
  });
  expect(await run(['repair'], '')).toMatchObject({ code: 0, out: 'Nothing to repair.\n' });
  await tamper('hat', 200);
  const plan = await run(['reconcile', '--repair', 'valkey']);
  await tamper('hat', -250);
  const refused = await run(['repair'], plan.out);
  expect(refused.code).toBe(1);
  expect(refused.out).toMatch(/^refused: valkey, drop hat east: available -200, .*below zero/);
  await tamper('hat', 50);
  expect((await run(['reconcile'])).code).toBe(0);
});

it('refuses a plan of another epoch, whichever side it changes: the shard was rebuilt since', async () => {
  await bed.putSale('drop', drop);
  await tamper('hat', 7);
  const plans = [
    await run(['reconcile', '--repair', 'valkey']),
    await run(['reconcile', '--repair', 'ledger']),
  ] as const;
  const rebuilt = await run(['rebuild', '--shard', '0']);
  expect(rebuilt.code, rebuilt.out + rebuilt.err).toBe(0);
  // Both sides have what the ledger had: what the plans say is no longer so.
  const refused = await run(['repair'], plans[0].out + plans[1].out);
  expect(refused.code).toBe(1);
  expect(refused.out.trim().split('\n')).toEqual(
    ['valkey', 'ledger'].map((side) =>
      expect.stringMatching(new RegExp(`^refused: ${side}, drop hat east: .*of another epoch of the shard`)),
    ),
  );
  const found = await run(['reconcile']);
  expect(found.code, found.out).toBe(0);
});
