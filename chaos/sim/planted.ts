/** Faults planted at the seams between the code under test and the simulated world: the simulator must catch each. */

import { engineSilenceMs } from '../../ledger/authority.ts';
import type { RebuiltReservation } from '../../ledger/rebuild-content.ts';
import type { LedgerStore, ShardTransaction } from '../../ledger/store.ts';
import { expireCommand } from '../../lua/bindings.ts';
import type { Invariant } from './checks.ts';
import type { Seams } from './node.ts';

/** `by`: the invariants of which one must be named; `within`: so many seeds, of which the first is known to need few. */
export type Planted = { name: string; by: Invariant[]; first?: number; within: number; seams: Seams };

/** A store whose transactions are changed. */
const inTransaction =
  (change: (on: ShardTransaction) => ShardTransaction): NonNullable<Seams['store']> =>
  (store) => ({ ...store, transaction: (shard, work) => store.transaction(shard, (on) => work(change(on))) });

const store =
  (change: (store: LedgerStore) => Partial<LedgerStore>): NonNullable<Seams['store']> =>
  (plain) => ({ ...plain, ...change(plain) });

/** A rebuild that puts other reservations into the book than the ledger has. */
const booking =
  (change: (reservations: RebuiltReservation[]) => RebuiltReservation[]): NonNullable<Seams['target']> =>
  (plain) => ({ ...plain, book: (sale, owners, reservations) => plain.book(sale, owners, change(reservations)) });

/** The header of a call: epoch u32, highest sequence seen f64, deadline f64. */
const seenAt = 4;

/** An empty answer: the time, and zeroes. */
const emptyAnswer = (bytes: number): Buffer => Buffer.alloc(bytes);

export const planted: Planted[] = [
  {
    name: 'the ledger adds balances twice',
    by: ['never-stopped', 'both-sides-agree'],
    within: 20,
    seams: {
      store: inTransaction((on) => ({
        ...on,
        writeRows: (rows) =>
          on.writeRows({
            ...rows,
            balances: rows.balances.map((one) => ({
              ...one,
              available: one.available - one.reserved,
              reserved: 2 * one.reserved,
            })),
          }),
      })),
    },
  },
  {
    name: 'the ledger applies what it has once more',
    by: ['never-stopped', 'converges'],
    within: 20,
    seams: {
      // As if it looked at no watermark.
      store: inTransaction((on) => ({
        ...on,
        row: on.row && { ...on.row, watermark: Math.max(0, on.row.watermark - 1) },
      })),
    },
  },
  {
    name: 'the watermark moves without its events',
    by: ['never-stopped', 'both-sides-agree', 'no-ack-lost'],
    within: 20,
    seams: {
      store: inTransaction((on) => ({
        ...on,
        writeRows: async (rows) => {
          if (rows.reservations.every(({ seq }) => seq % 7 !== 0)) await on.writeRows(rows);
        },
      })),
    },
  },
  {
    name: 'the carrier drops and says done',
    by: ['converges'],
    within: 20,
    seams: {
      carrier: (plain) => ({
        ...plain,
        deliver: async (shard, batches) => {
          const kept = batches.filter(({ seqLast }) => seqLast % 11 !== 0);
          if (kept.length > 0) await plain.deliver(shard, kept);
        },
      }),
    },
  },
  {
    name: 'an epoch is granted without comparing',
    first: 30,
    by: ['no-ack-lost', 'one-history', 'never-stopped', 'converges', 'both-sides-agree'],
    within: 800,
    seams: {
      authority: (plain) => ({
        ...plain,
        current: async (shard) => {
          const grant = await plain.current(shard);
          return grant && { ...grant, watermark: 0 };
        },
        sightings: async () => ({ seq: 0, awaited: 0 }),
      }),
    },
  },
  {
    name: 'engines report no sightings',
    by: ['no-ack-lost', 'one-history', 'loss-is-told'],
    within: 200,
    seams: {
      authority: (plain) => ({
        ...plain,
        report: (engine, runId, _, number) => plain.report(engine, runId, [], number),
      }),
    },
  },
  {
    name: 'the fence is forgotten',
    first: 300,
    by: ['no-ack-lost', 'one-history', 'never-stopped'],
    within: 800,
    seams: {
      // Neither the header nor the opening says what this engine has seen.
      valkey: (plain) => ({
        ...plain,
        call: (name, readOnly, key, argument) => {
          if (name.startsWith('rebuild') || name === 'open_shard') return plain.call(name, readOnly, key, argument);
          const forgetful = Buffer.from(argument);
          forgetful.writeDoubleLE(0, seenAt);
          return plain.call(name, readOnly, key, forgetful);
        },
      }),
    },
  },
  {
    name: 'an answer is given before it is done',
    by: ['no-ack-lost', 'one-history'],
    within: 20,
    seams: {
      valkey: (plain) => ({
        ...plain,
        call: async (name, readOnly, key, argument) => {
          const answer = await plain.call(name, readOnly, key, argument);
          if (name !== 'reserve' || answer.readDoubleLE(8) % 5 !== 0) return answer;
          // As if the hold had been given back behind the buyer's back: another sequence is told.
          const other = Buffer.from(answer);
          const results = other.readUInt16LE(16);
          if (results > 0) other.writeDoubleLE(other.readDoubleLE(18) + 1, 18);
          return other;
        },
      }),
    },
  },
  {
    name: 'nothing is swept',
    by: ['converges'],
    within: 20,
    seams: {
      valkey: (plain) => ({
        ...plain,
        call: (name, readOnly, key, argument) =>
          name === expireCommand.name ? Promise.resolve(emptyAnswer(25)) : plain.call(name, readOnly, key, argument),
      }),
    },
  },
  {
    name: 'a rebuild drains nothing',
    first: 80,
    by: ['rebuild-keeps-what-is-there'],
    within: 400,
    seams: {
      target: (plain) => ({
        ...plain,
        begin: async () => ({ ...(await plain.begin()), seq: 0 }),
        read: async () => [],
      }),
    },
  },
  {
    name: 'a rebuild reports no loss',
    first: 20,
    by: ['no-ack-lost'],
    within: 200,
    seams: { store: store((plain) => ({ closeEpoch: (shard, how) => plain.closeEpoch(shard, { ...how, most: 0 }) })) },
  },
  {
    name: 'a rebuild forgets what is held',
    first: 20,
    by: ['converges', 'both-sides-agree'],
    within: 100,
    seams: {
      target: booking((reservations) => reservations.filter(({ state }) => state !== 'held')),
    },
  },
  {
    name: 'a rebuild clears nothing',
    by: ['never-stopped', 'both-sides-agree', 'converges'],
    within: 100,
    seams: { target: (plain) => ({ ...plain, clear: async () => undefined }) },
  },
  {
    name: 'a rebuild drains a part',
    first: 80,
    by: ['never-stopped'],
    within: 400,
    seams: {
      target: (plain) => ({
        ...plain,
        read: async (after) => (await plain.read(after)).slice(0, 1).filter(() => after < 5),
      }),
    },
  },
  {
    name: 'a rebuild waits for no living engine',
    first: 170,
    by: ['no-ack-lost', 'loss-is-told'],
    within: 800,
    seams: {
      // Those that are silent it names all the same.
      store: store((plain) => ({
        sightings: async (shard) => ({ ...(await plain.sightings(shard, engineSilenceMs)), awaited: 0 }),
      })),
    },
  },
  {
    name: 'engines count as silent though Postgres could not be asked',
    by: ['no-ack-lost', 'loss-is-told'],
    within: 200,
    seams: {
      authority: (plain) => ({
        ...plain,
        sightings: (shard, closedEpoch, runId) => plain.sightings(shard, closedEpoch, runId, Number.MAX_SAFE_INTEGER),
        // Who was not heard would say so later.
        noteEnd: async () => null,
      }),
      store: store((plain) => ({ sightings: (shard) => plain.sightings(shard, engineSilenceMs) })),
    },
  },
  {
    name: 'the ledger takes events of a closed epoch',
    first: 2_230,
    by: ['closed-stays-closed', 'never-stopped'],
    within: 400,
    seams: {
      store: inTransaction((on) => ({ ...on, row: on.row && { ...on.row, closedEpoch: 0 } })),
    },
  },
  {
    name: 'a rebuild takes a closed epoch for an open one',
    first: 180,
    by: ['converges'],
    within: 800,
    seams: {
      target: (plain) => ({
        ...plain,
        begin: async () => ({ ...(await plain.begin()), epoch: Number.MAX_SAFE_INTEGER }),
      }),
      // Where the epoch ended would set it apart as another history.
      store: store(() => ({ sharedUntil: async () => Number.POSITIVE_INFINITY })),
    },
  },
  {
    name: 'a rebuild doesn’t wait for Kafka',
    first: 160,
    by: ['rebuild-keeps-what-is-there'],
    within: 400,
    seams: { rebuildDrained: () => async () => undefined },
  },
  {
    name: 'a shard is opened while Kafka has more than the ledger',
    first: 80,
    by: ['never-stopped'],
    within: 800,
    seams: { drained: () => async () => true },
  },
  {
    name: 'the outbox is trimmed to what was sent',
    by: ['trims-what-is-kept'],
    within: 20,
    seams: {
      source: (plain) => ({
        ...plain,
        read: async (shard, after, max) => {
          await plain.trim(shard, after, 0);
          return plain.read(shard, after, max);
        },
      }),
    },
  },
  {
    name: 'the ledger loses extensions',
    by: ['no-ack-lost'],
    within: 20,
    seams: {
      store: inTransaction((on) => ({
        ...on,
        writeRows: (rows) =>
          on.writeRows({
            ...rows,
            reservations: rows.reservations.map((one) => ({ ...one, expiresAt: one.firstExpiresAt })),
            changes: rows.changes.map((one) => ({ ...one, expiresAt: null })),
          }),
      })),
    },
  },
  {
    name: 'a rebuild forgets extensions',
    first: 460,
    by: ['no-ack-lost'],
    within: 400,
    seams: {
      target: booking((reservations) => reservations.map((one) => ({ ...one, extendedSeconds: 0 }))),
    },
  },
  {
    name: 'another history is taken for the shard’s',
    first: 2_310,
    by: ['never-stopped', 'no-ack-lost', 'loss-is-told', 'both-sides-agree'],
    within: 400,
    seams: {
      authority: (plain) => ({ ...plain, sharedUntil: async () => Number.POSITIVE_INFINITY }),
      store: store(() => ({ sharedUntil: async () => Number.POSITIVE_INFINITY })),
    },
  },
];
