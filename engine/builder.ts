/** The side of a rebuild that speaks with Valkey; what it builds comes from the ledger. */
import { type Clock, within } from '../kernel/clock.ts';
import { RefusalError, refusal } from '../kernel/errors.ts';
import { shardKey } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import {
  rebuildBeginCommand,
  rebuildBookCommand,
  rebuildChangesCommand,
  rebuildClearCommand,
  rebuildFinishCommand,
  rebuildReadCommand,
  rebuildSaleCommand,
  reservationCodes,
  type ShardCommand,
  saleCodes,
} from '../lua/bindings.ts';
import { encodeLines, type Line } from '../lua/outbox.ts';
import { durabilityCode, durabilityOfName } from './durability.ts';
import { batchOf, type OutboxBatch } from './outbox.ts';
import { rulesOf, type Settings } from './sale-settings.ts';
import type { Valkey } from './valkey.ts';

type Reservation = {
  buyer: string;
  key: string;
  state: keyof typeof reservationCodes;
  seq: number;
  expiresAt: number;
  extendedSeconds: number;
  extensions: number;
  durability: string;
  forgetAt: number;
  units: number;
  lines: Line[];
};

/** Rebuilds `shard` in Valkey as the rebuild `token`. Rejects with `shard-fenced` once another rebuild has begun. */
export function createBuilder(options: {
  valkey: Valkey;
  shard: number;
  token: string;
  outboxEvents: number;
  rememberSeconds: number;
  clock: Clock;
}) {
  const { valkey, shard, token, clock } = options;
  // Rebuild's commands carry no header: they go past the fence, and the token guards them.
  const noHeader = { epoch: 0, seen: 0, deadlineMs: 0 };
  // All of it happens on one connection: another server may have the token too, and lack what was built.
  let link = 0;
  const call = async <Args, Answer>(command: ShardCommand<Args, Answer>, args: Args): Promise<Answer> => {
    if (link === 0 || valkey.linkOf(shardKey(shard)) !== link)
      throw new Error(`the connection to the Valkey of shard ${shard} has changed: rebuild it again`);
    const calling = valkey.call(command.name, command.readOnly, shardKey(shard), command.encode(noHeader, args));
    try {
      return command.decode(await within(calling, limits.rebuildCallMs, 'Valkey did not answer in time', clock));
    } catch (error) {
      if (String(error).includes('FENCED'))
        throw new RefusalError(refusal('shard-fenced', `Another rebuild of shard ${shard} has begun.`));
      throw error;
    }
  };
  return {
    async begin() {
      const runId = valkey.runId(shardKey(shard));
      link = valkey.linkOf(shardKey(shard));
      return { ...(await call(rebuildBeginCommand, { token })), runId };
    },
    async read(after: number): Promise<OutboxBatch[]> {
      const { entries } = await call(rebuildReadCommand, { token, after, max: limits.relayEntries });
      return entries.map(({ body }) => batchOf(shard, body));
    },
    async clear() {
      while ((await call(rebuildClearCommand, { token })).more === 1);
    },
    async sale(sale: {
      no: number;
      id: string;
      settings: string;
      stockDigest: string;
      state: 'open' | 'paused' | 'closed';
      stock: { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
    }) {
      const settings = JSON.parse(sale.settings) as Settings;
      await call(rebuildSaleCommand, {
        ...{ token, no: sale.no, id: sale.id, digest: sale.stockDigest, stock: sale.stock },
        ...rulesOf(settings),
        state: saleCodes[sale.state],
      });
    },
    async book(no: number, owners: { buyer: string; units: number }[], reservations: Reservation[]) {
      const rows = reservations.map(({ state, durability, extendedSeconds, lines, ...rest }) => ({
        ...rest,
        state: reservationCodes[state],
        durability: durabilityCode(durabilityOfName(durability)),
        extended: extendedSeconds,
        lines: encodeLines(lines),
      }));
      await call(rebuildBookCommand, { token, no, owners, reservations: rows });
    },
    async changes(
      no: number,
      changes: {
        adjustments: { id: string; sku: string; warehouse: string; units: number; after: Counters }[];
        returns: { id: string; buyer: string; key: string; seq: number; lines: Line[] }[];
      },
    ) {
      await call(rebuildChangesCommand, {
        token,
        no,
        adjustments: changes.adjustments.map(({ units, after, ...rest }) => ({ ...rest, ...after, delta: units })),
        returns: changes.returns.map(({ lines, ...rest }) => ({ ...rest, lines: encodeLines(lines) })),
      });
    },
    async finish(end: { epoch: number; seq: number; atMs: number; live: number }) {
      await call(rebuildFinishCommand, {
        ...{ token, epoch: end.epoch, seq: end.seq, at: end.atMs, live: end.live },
        outboxEvents: options.outboxEvents,
        rememberMs: options.rememberSeconds * 1000,
      });
    },
  };
}

type Counters = { onHand: number; reserved: number; sold: number };
