/**
 * Negative controls: for each promise, Stampede broken in just that way, so that its checker has something to find. What is
 * changed is a copy of this repository (`broken-tree.ts`); nothing of it can be switched on in the real one.
 */
import type { BedOptions } from './bed.ts';
import type { Change } from './broken-tree.ts';

export type Control = {
  /** What the system does wrong then. */
  breaks: string;
  /** The checker that has to find it; others may too. */
  checker: string;
  /** The fault under which it shows; `calm` where the load alone is enough. */
  fault: string;
  changes: readonly Change[];
  bed?: Partial<BedOptions>;
};

const replace = (file: string, find: string, by: string): Change => ({ file, find, replace: by });

export const controls: Record<string, Control> = {
  'skip-limit': {
    breaks: 'a buyer may hold and own as much as there is',
    checker: 'limits-hold',
    fault: 'calm',
    changes: [replace('lua/reserve.lua', 'owned + basket.units > sale.per_buyer', 'false')],
  },
  oversell: {
    breaks: 'five units more than there are, in Valkey and in the ledger',
    checker: 'never-oversold',
    fault: 'calm',
    changes: [
      replace(
        'lua/reserve.lua',
        'if available < basket.quantities[line] then',
        'if available + 5 < basket.quantities[line] then',
      ),
      replace('lua/reserve.lua', 'if reserved <= w.on_hand then', 'if reserved <= w.on_hand + 5 then'),
      replace(
        'lua/includes/30-sale.lua',
        "assert(w.on_hand >= w.reserved and w.reserved >= 0 and w.sold >= 0, 'stock below zero')",
        '',
      ),
      replace('ledger/migrations/001-ledger.sql', 'check (available >= 0)', 'check (available >= -1000000)'),
    ],
  },
  'commit-twice': {
    breaks: 'what was released can still be committed',
    checker: 'one-outcome',
    fault: 'calm',
    changes: [
      replace(
        'lua/commit.lua',
        'if state ~= RESERVATION.held then',
        'if state ~= RESERVATION.held and state ~= RESERVATION.released then',
      ),
    ],
  },
  'commit-late': {
    breaks: 'a hold past its time can be committed until it is swept',
    checker: 'witness',
    fault: 'calm',
    changes: [
      replace('lua/commit.lua', 'local state = state_now(call, r)', 'local state = r.state'),
      // Late enough that somebody comes in between for certain.
      replace('engine/sweeper.ts', 'const sweepEveryMs = 100;', 'const sweepEveryMs = 1_000;'),
    ],
  },
  'skip-a-sequence': {
    breaks: 'a sequence is left out now and then',
    checker: 'no-gap-no-fork',
    fault: 'calm',
    changes: [
      replace(
        'lua/includes/20-shard.lua',
        'call.seq = call.seq + 1',
        'call.seq = call.seq + (call.seq % 200 == 0 and 2 or 1)',
      ),
    ],
  },
  'reuse-a-sequence': {
    breaks: 'the shard now and then takes a step back after an entry',
    checker: 'no-gap-no-fork',
    fault: 'calm',
    changes: [
      replace(
        'lua/includes/20-shard.lua',
        "server.call(\n    'HSET', call.key, 'seq', string.format('%.0f', call.seq), 'at'",
        "server.call(\n    'HSET', call.key, 'seq', string.format('%.0f', n > 1 and call.seq % 50 == 0 and call.seq - 1 or call.seq), 'at'",
      ),
    ],
  },
  'lose-an-event': {
    breaks: 'an event is left out of the outbox now and then',
    checker: 'no-ack-lost',
    fault: 'calm',
    changes: [
      replace(
        'lua/includes/20-shard.lua',
        'if n > 0 then\n    local used',
        'if n > 0 and call.seq % 100 ~= 0 then\n    local used',
      ),
    ],
  },
  'answer-before-sync': {
    breaks: 'fsync is promised by a Valkey that syncs once a second',
    checker: 'no-ack-lost',
    fault: 'power-loss',
    changes: [replace('engine/durability.ts', "['appendfsync', 'always']", "['appendfsync', 'everysec']")],
    bed: { valkey: { appendfsync: 'everysec' } },
  },
  'forget-the-loss': {
    breaks: 'a rebuild says that nothing was lost',
    checker: 'no-ack-lost',
    fault: 'old-copy',
    changes: [
      replace('ledger/rebuild.ts', 'lost: most > seq ? { from: seq + 1, to: most } : null', 'lost: null'),
      replace('ledger/rebuild.ts', 'if (ranges.length > 0)', 'if (ranges.length > 1e9)'),
    ],
  },
  'pass-by-the-topic': {
    breaks: 'a rebuild gives the ledger what the topic never gets',
    checker: 'no-gap-no-fork',
    fault: 'rebuild',
    changes: [replace('ledger/rebuild.ts', 'await forward(batches);', '')],
    bed: { transport: 'kafka' },
  },
  'forget-the-fence': {
    breaks: 'nobody compares how far a shard was seen with how far it is',
    checker: 'fenced',
    fault: 'old-copy',
    changes: [
      replace('lua/includes/20-shard.lua', 'if seq < seen then', 'if false then'),
      replace('engine/epochs.ts', 'if (found.seq < grant.watermark)', 'if (found.seq < 0)'),
      replace('engine/epochs.ts', 'if (found.seq < most)', 'if (found.seq < 0)'),
      replace(
        'engine/epochs.ts',
        'if (found.state === 2 && (found.found !== grant.epoch - 1 ||',
        'if (found.state === 2 && (found.found > grant.epoch - 1 ||',
      ),
    ],
  },
  'forget-the-key': {
    breaks: 'the same key holds again',
    checker: 'same-key-same-answer',
    fault: 'calm',
    changes: [replace('lua/reserve.lua', 'if packed then\n    return replay', 'if false then\n    return replay')],
  },
  'never-sweep': {
    breaks: 'lapsed holds stay where they are',
    checker: 'drains',
    fault: 'calm',
    changes: [
      replace(
        'engine/sweeper.ts',
        'expireCommand, { max: limits.sweepReservations }',
        'expireCommand, { max: limits.sweepReservations * 0 }',
      ),
    ],
  },
  'apply-twice': {
    breaks: "the ledger moves a batch's units twice",
    checker: 'never-oversold',
    fault: 'calm',
    changes: [
      replace(
        'ledger/postgres-rows.ts',
        'set supply = b.supply + d.supply, available = b.available + d.available,',
        'set supply = b.supply + 2 * d.supply, available = b.available + 2 * d.available,',
      ),
      replace(
        'ledger/postgres-rows.ts',
        'reserved = b.reserved + d.reserved, sold = b.sold + d.sold',
        'reserved = b.reserved + 2 * d.reserved, sold = b.sold + 2 * d.sold',
      ),
    ],
  },
  'refuse-too-early': {
    breaks: 'the last unit is never sold',
    checker: 'witness',
    fault: 'calm',
    changes: [
      replace(
        'lua/reserve.lua',
        'if available < basket.quantities[line] then',
        'if available <= basket.quantities[line] then',
      ),
    ],
  },
  'read-the-past': {
    breaks: 'a reservation that has ended reads as held',
    checker: 'linearizable',
    fault: 'calm',
    changes: [
      replace(
        'lua/read_reservations.lua',
        'outcome(STATUS.ok, state_now(call, r), r)',
        'outcome(STATUS.ok, RESERVATION.held, r)',
      ),
    ],
  },
  'refuse-and-take': {
    breaks: 'what may have happened is refused as if it had not',
    checker: 'witness',
    fault: 'half-open-valkey',
    changes: [
      replace(
        'engine/refusals.ts',
        'isRefused(error) ? overloaded : unknown',
        'isRefused(error) ? overloaded : overloaded',
      ),
    ],
  },
};
