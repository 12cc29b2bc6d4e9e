/**
 * Stock in TigerBeetle: a unit that is held is a pending transfer, with a timeout, from the SKU's account to that of holds.
 * Requests that arrive while a batch is under way are folded into the next. TIGERBEETLE_ADDRESS names a server with
 * fresh data. Each answer comes after TigerBeetle has it on disk.
 */
import { createHash } from 'node:crypto';
import { AccountFlags, CreateTransferStatus, createClient, type Transfer, TransferFlags } from 'tigerbeetle-node';
import { atEnd, type Order, type Outcome, serveFront } from './front.ts';

const stock = BigInt(process.env.BENCH_STOCK ?? 1_000_000_000);
const [ledger, code] = [1, 1];
const accounts = { outside: 1n, hot: 2n, held: 3n };
const holdSeconds = 600;
/** What a server takes at once. */
const batchMax = 8_189;

const client = createClient({ cluster_id: 0n, replica_addresses: [process.env.TIGERBEETLE_ADDRESS ?? ''] });
const account = (id: bigint, flags: number) => ({
  ...{ id, ledger, code, flags, debits_pending: 0n, debits_posted: 0n, credits_pending: 0n, credits_posted: 0n },
  ...{ user_data_128: 0n, user_data_64: 0n, user_data_32: 0, reserved: 0, timestamp: 0n },
});
const transfer = (id: bigint, debit: bigint, credit: bigint, amount: bigint, flags: number): Transfer => ({
  ...{ id, debit_account_id: debit, credit_account_id: credit, amount, ledger, code, flags },
  ...{ pending_id: 0n, user_data_128: 0n, user_data_64: 0n, user_data_32: 0, timestamp: 0n },
  timeout: flags === TransferFlags.pending ? holdSeconds : 0,
});
await client.createAccounts([
  account(accounts.outside, 0),
  account(accounts.hot, AccountFlags.debits_must_not_exceed_credits),
  account(accounts.held, 0),
]);
await client.createTransfers([transfer(1n, accounts.outside, accounts.hot, stock, 0)]);

/** The same buyer and key make the same transfer: TigerBeetle says so of the second. */
function idOf({ buyer, key }: Order): bigint {
  const digest = createHash('sha256').update(`${buyer} ${key}`).digest();
  return (digest.readBigUInt64LE(0) << 64n) | digest.readBigUInt64LE(8);
}

type Waiting = { transfer: Transfer; answer(outcome: Outcome): void };
const waiting: Waiting[] = [];
let busy = false;
let scheduled = false;

const outcomeOf = (status: number): Outcome => {
  if (status === CreateTransferStatus.created || status === CreateTransferStatus.exists) return 'held';
  return status === CreateTransferStatus.exceeds_credits ? 'sold-out' : 'failed';
};

async function flush(): Promise<void> {
  scheduled = false;
  if (busy) return;
  busy = true;
  while (waiting.length > 0) {
    const batch = waiting.splice(0, batchMax);
    try {
      const results = await client.createTransfers(batch.map((one) => one.transfer));
      // Answers go out while the next batch is under way.
      setImmediate(() => {
        for (const [i, { answer }] of batch.entries()) answer(outcomeOf(results[i]?.status ?? -1));
      });
    } catch {
      for (const { answer } of batch) answer('failed');
    }
  }
  busy = false;
}

serveFront((order, answer) => {
  const amount = BigInt(order.lines[0]?.quantity ?? 0);
  waiting.push({ transfer: transfer(idOf(order), accounts.hot, accounts.held, amount, TransferFlags.pending), answer });
  if (scheduled || busy) return;
  scheduled = true;
  setImmediate(() => void flush());
});
atEnd(async () => {
  const [found] = await client.lookupAccounts([accounts.hot]);
  client.destroy();
  return { held: Number(found?.debits_pending ?? 0n), stock: Number(stock) };
});
