/** What must hold in every seed, while it runs and at its end. */
import { snapshotCommand } from '../../lua/bindings.ts';
import type { Acknowledged } from './buyers.ts';
import type { RealServer } from './server.ts';
import type { Database } from './store.ts';
import type { ShardTables, Tables } from './tables.ts';
import type { Run } from './valkey.ts';

export const invariants = [
  'opens',
  'watermark-never-falls',
  'epochs-only-grow',
  'never-stopped',
  'converges',
  'never-oversold',
  'both-sides-agree',
  'entries-make-balances',
  'no-gap-no-fork',
  'closed-stays-closed',
  'trims-what-is-kept',
  'no-ack-lost',
  'rebuild-keeps-what-is-there',
  'loss-is-told',
  'one-history',
  'one-outcome',
  'limits-hold',
  'same-key-same-answer',
] as const;
export type Invariant = (typeof invariants)[number];
export type Finding = { invariant: Invariant; detail: string };

/** The limit of the simulated sale. */
export const perBuyer = 6;

/** Looks after every event; answers what is wrong. */
export function watchOver(database: Database): () => Finding | null {
  let watermark = 0;
  let epoch = 0;
  return () => {
    const row = database.tables.shards.get(0)?.row;
    if (!row || (row.watermark === watermark && row.epoch === epoch)) return null;
    if (row.watermark < watermark)
      return { invariant: 'watermark-never-falls', detail: `from ${watermark} to ${row.watermark}` };
    if (row.epoch < epoch) return { invariant: 'epochs-only-grow', detail: `from ${epoch} to ${row.epoch}` };
    ({ watermark, epoch } = row);
    return null;
  };
}

/** The header of a call is epoch u32, highest sequence seen f64, deadline f64. */
const headerBytes = 20;

/** What is wrong with a call of outbox_trim that was executed; null for nothing. */
export function trimmedTooFar(argument: Buffer, watermark: number): string | null {
  const acked = argument.readDoubleLE(headerBytes);
  return acked > watermark ? `the outbox is trimmed to ${acked}, the ledger is at ${watermark}` : null;
}

export async function findingsOf(world: {
  database: Database;
  real: RealServer;
  run: Run | null;
  acknowledged: Acknowledged[];
  converged: boolean;
  /** By a rebuild's token: the last sequences that the shard's outbox and Kafka had as it began. */
  found: Map<string, { outbox: number; kafka: number }>;
  /** When Valkey's data were lost, each time. */
  lostAtMs: number[];
  /** Whether keys are forgotten while it runs. */
  forgets: boolean;
}): Promise<Finding[]> {
  const { tables } = world.database;
  const shard = tables.shards.get(0);
  if (!shard) return [{ invariant: 'opens', detail: 'the ledger has no shard' }];
  const found: Finding[] = [];
  const add = (invariant: Finding['invariant'], detail: string): void => {
    found.push({ invariant, detail });
  };
  const { row } = shard;
  if (row.stopped !== null) add('never-stopped', row.stopped);
  else if (!world.converged) {
    const at = world.run ? JSON.stringify(await world.real.shardAt(world.run.place)) : 'no Valkey';
    add('converges', `the ledger is at ${row.watermark} of epoch ${row.epoch}, the shard at ${at}`);
  }
  if (world.converged && world.run) await compare(shard, world.real, world.run, add);
  lookAtLedger(shard, add);
  lookAtEpochs(tables, shard, add);
  for (const { token, seq, epoch } of tables.rebuilds.values()) {
    const { outbox, kafka } = world.found.get(token) ?? { outbox: 0, kafka: 0 };
    const had = Math.max(outbox, kafka);
    if (had > seq)
      add('rebuild-keeps-what-is-there', `epoch ${epoch} begins after ${seq}, and ${had} was there to be kept`);
  }
  // What engines told that ended before they reported so much may be lost, and if nobody else had seen it, unnoticed.
  const mayBeLost = ({ orphan, epoch, atMs }: Acknowledged): boolean =>
    orphan && (after(tables, epoch).length > 0 || world.lostAtMs.some((lostMs) => lostMs >= atMs));
  lookAtAnswers(tables, shard, world.acknowledged, mayBeLost, add);
  if (!world.forgets) lookAtKeys(tables, world.acknowledged, mayBeLost, add);
  return found;
}

type Add = (invariant: Finding['invariant'], detail: string) => void;

/** Both sides' counters, as reconcile compares them. */
async function compare(shard: ShardTables, real: RealServer, run: Run, add: Add): Promise<void> {
  const header = { epoch: shard.row.epoch, seen: 0, deadlineMs: Number.MAX_SAFE_INTEGER };
  const answer = await real.call(run.place, 'snapshot', true, snapshotCommand.encode(header, {}), 0);
  const { sales } = snapshotCommand.decode(answer);
  const seen = new Set<string>();
  for (const { no, stock } of sales)
    for (const { sku, warehouse, onHand, reserved, sold } of stock) {
      const name = `${no}/${sku}/${warehouse}`;
      seen.add(name);
      const balance = shard.balances.get(name);
      const valkey = `${onHand - reserved}/${reserved}/${sold}`;
      const ledger = balance ? `${balance.available}/${balance.reserved}/${balance.sold}` : 'nothing';
      if (valkey !== ledger) add('both-sides-agree', `${name} is ${valkey} in Valkey and ${ledger} in the ledger`);
      if (balance && balance.supply !== onHand + sold)
        add('never-oversold', `${name}: supply ${balance.supply}, on hand ${onHand}, sold ${sold}`);
    }
  for (const [name, { supply }] of shard.balances)
    if (supply !== 0 && !seen.has(name)) add('both-sides-agree', `${name} is not in Valkey`);
}

/** The ledger's own tables, one with another. */
function lookAtLedger(shard: ShardTables, add: Add): void {
  const sums = new Map<string, Record<string, number>>();
  for (const { sale, sku, warehouse, debit, credit, ...entry } of shard.entries.values()) {
    const name = `${sale}/${sku}/${warehouse}`;
    const units = entry.units * (entry.seqLast - entry.seqFirst + 1);
    const sum = sums.get(name) ?? { outside: 0, available: 0, reserved: 0, sold: 0 };
    sum[debit] = (sum[debit] ?? 0) - units;
    sum[credit] = (sum[credit] ?? 0) + units;
    sums.set(name, sum);
  }
  const held = new Map<string, number>();
  const sold = new Map<string, number>();
  for (const { sale, state, lines } of shard.reservations.values())
    for (const { sku, warehouse, quantity } of lines) {
      const into = state === 'held' ? held : state === 'committed' ? sold : null;
      const name = `${sale}/${sku}/${warehouse}`;
      into?.set(name, (into.get(name) ?? 0) + quantity);
    }
  for (const [name, balance] of shard.balances) {
    const sum = sums.get(name) ?? {};
    for (const account of ['available', 'reserved', 'sold'] as const)
      if ((sum[account] ?? 0) !== balance[account])
        add('entries-make-balances', `${name}: ${account} is ${balance[account]}, its entries make ${sum[account]}`);
    if (balance.available < 0 || balance.supply !== balance.available + balance.reserved + balance.sold)
      add('never-oversold', `${name}: ${JSON.stringify(balance)}`);
    if ((sold.get(name) ?? 0) !== balance.sold || (held.get(name) ?? 0) !== balance.reserved)
      add('one-outcome', `${name}: reservations make ${held.get(name) ?? 0} held, ${sold.get(name) ?? 0} sold`);
  }
  const owned = new Map<string, number>();
  for (const { buyer, state, units, returned } of shard.reservations.values())
    if (state === 'held' || state === 'committed') owned.set(buyer, (owned.get(buyer) ?? 0) + units - returned);
  for (const [buyer, units] of owned)
    if (units > perBuyer) add('limits-hold', `${buyer} holds and owns ${units} units, of ${perBuyer}`);
  let next = 1;
  let epoch = 1;
  for (const batch of [...shard.batches.values()].sort((a, b) => a.seqFirst - b.seqFirst)) {
    if (batch.seqFirst !== next) add('no-gap-no-fork', `a batch begins at ${batch.seqFirst}, not at ${next}`);
    if (batch.epoch < epoch) add('no-gap-no-fork', `epoch ${batch.epoch} after ${epoch} at ${batch.seqFirst}`);
    next = batch.seqLast + 1;
    ({ epoch } = batch);
  }
  if (next !== shard.row.watermark + 1)
    add('no-gap-no-fork', `the watermark is ${shard.row.watermark}, the last batch's end ${next - 1}`);
}

/** What an epoch sends after it was closed is kept apart. */
function lookAtEpochs(tables: Tables, shard: ShardTables, add: Add): void {
  for (const { seqLast, epoch } of shard.batches.values())
    for (const rebuild of tables.rebuilds.values())
      if (epoch < rebuild.epoch && seqLast > rebuild.seq)
        add('closed-stays-closed', `the ledger has ${seqLast} of epoch ${epoch}, closed at ${rebuild.seq}`);
}

const after = (tables: Tables, epoch: number) => [...tables.rebuilds.values()].filter((one) => epoch < one.epoch);

/** Whether a rebuild said that what has this sequence of this epoch may be lost, or an engine that could not be heard before. */
function isReported(tables: Tables, epoch: number, seq: number): boolean {
  if ([...tables.losses.values()].some((one) => one.epoch === epoch && seq >= one.from && seq <= one.to)) return true;
  return after(tables, epoch).some(({ lost }) => lost !== null && seq >= lost.from && seq <= lost.to);
}

/** Whether one said at least that engines had fallen silent, which may have told buyers more than they reported. */
function isHinted(tables: Tables, epoch: number): boolean {
  return after(tables, epoch).some(({ report }) => (report?.silentEngines ?? 0) > 0);
}

/** Whether a rebuild has left out what has this sequence of this epoch. */
function isLeftOut(tables: Tables, epoch: number, seq: number): boolean {
  return [...tables.rebuilds.values()].some((one) => epoch < one.epoch && seq > one.seq);
}

type MayBeLost = (one: Acknowledged) => boolean;

function lookAtAnswers(tables: Tables, shard: ShardTables, told: Acknowledged[], mayBeLost: MayBeLost, add: Add): void {
  const holders = new Map<number, string>();
  for (const one of told) {
    const { kind, buyer, key, seq, shardSeq, epoch, first, expiresAtMs, orphan } = one;
    const row = shard.reservations.get(seq);
    const mine = row?.buyer === buyer && row.key === key;
    const about = `${buyer}/${key} ${seq} of epoch ${epoch}`;
    const excused = (at: number): boolean => mayBeLost(one) || isReported(tables, epoch, at);
    const said = isReported(tables, epoch, seq) || isHinted(tables, epoch);
    if (kind === 'reserved' && !mine && orphan && isLeftOut(tables, epoch, seq) && !said)
      add('loss-is-told', `${about} was reserved by an engine that then fell silent, and no rebuild says so`);
    if (kind === 'reserved' && !mine && !excused(seq))
      add('no-ack-lost', `${about} was reserved, and the ledger has it not`);
    // Its own event: that of the answer where nothing was replayed, else one before.
    const lostEnd = (): boolean =>
      excused(seq) || (first ? excused(shardSeq) : [...tables.rebuilds.values()].some(({ lost }) => lost));
    if ((kind === 'committed' || kind === 'released') && !(mine && row.state === kind) && !lostEnd())
      add('no-ack-lost', `${about} was ${kind} at ${shardSeq}, and is ${mine ? row.state : 'not there'}`);
    if (kind === 'extended' && !lostEnd() && !(mine && row.expiresAtMs >= expiresAtMs))
      add('no-ack-lost', `${about} was extended to ${expiresAtMs}, and ends at ${mine ? row.expiresAtMs : 'no time'}`);
    if (kind === 'reserved' && mine && !excused(seq) && row.firstExpiresAtMs !== expiresAtMs)
      add('no-ack-lost', `${about} was reserved until ${expiresAtMs}, and the ledger has ${row.firstExpiresAtMs}`);
    if (expiresAtMs > 0 && mine && row.state === 'expired' && (row.endedAtMs ?? 0) < expiresAtMs && !lostEnd())
      add('no-ack-lost', `${about} was promised until ${expiresAtMs}, and expired at ${row.endedAtMs}`);
    if (kind === 'reserved' && !excused(seq)) {
      const holder = holders.get(seq);
      if (holder !== undefined && holder !== `${buyer}/${key}`)
        add('one-history', `${seq} was told to ${holder} and to ${buyer}/${key}`);
      holders.set(seq, `${buyer}/${key}`);
    }
  }
}

function lookAtKeys(tables: Tables, told: Acknowledged[], mayBeLost: MayBeLost, add: Add): void {
  const answers = new Map<string, Acknowledged>();
  for (const one of told) {
    if (one.kind !== 'reserved') continue;
    const name = `${one.buyer}/${one.key}`;
    const before = answers.get(name);
    const gone = before && (mayBeLost(before) || isReported(tables, before.epoch, before.seq));
    if (before && before.seq !== one.seq && !gone)
      add('same-key-same-answer', `${name} was told ${before.seq}, and then ${one.seq}`);
    answers.set(name, one);
  }
}
