/** Sales as the HTTP interface shows them, and the operator's changes to them. */
import { timestamp } from '../kernel/clock.ts';
import { RefusalError, refusal } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import {
  adjustCommand,
  listSalesCommand,
  type PutSaleAnswer,
  putSaleCommand,
  type ReadSaleAnswer,
  readSaleCommand,
  saleCodes,
  setSaleStateCommand,
  statusCodes,
} from '../lua/bindings.ts';
import { inletOf, roomOf } from './room.ts';
import { rulesOf, type Settings, settingsOfBody, stockDigest } from './sale-settings.ts';
import type { RoomActionBody, SaleBody, StockChangeBody } from './schemas.ts';
import type { Shards } from './shards.ts';

export type SaleState = 'scheduled' | 'open' | 'paused' | 'closed';

export type StockRow = {
  sku: string;
  warehouse: string;
  onHand: number;
  reserved: number;
  available: number;
  sold: number;
};

/** A sale as the contract shows it, and the shard's progress with the ledger. */
export type Sale = Settings & {
  state: SaleState;
  stock: StockRow[];
  at: string;
};

/** How far the ledger is behind the shard: events not yet written, and the age of the oldest of them. */
export type Lag = { events: number; lagMs: number };

export type SaleReading = { no: number; sale: Sale; lag: Lag };

export type SaleDirectory = {
  /** The sale now, or null when there is none. Linearizable; readers that come together share a call. */
  read(saleId: string): Promise<SaleReading | null>;
  list(): Promise<Sale[]>;
  /** The sale's number on its shard: never changes. Null when there is none. */
  locate(saleId: string): { shard: number; no: number } | null;
  /** The id of a shard's sale, by its number. */
  nameOf(shard: number, no: number): Promise<string | null>;
  put(saleId: string, body: SaleBody): Promise<{ sale: Sale; created: boolean }>;
  setState(saleId: string, state: 'open' | 'paused' | 'closed'): Promise<Sale>;
  adjust(saleId: string, body: StockChangeBody): Promise<StockRow>;
  /** Pauses, resumes or closes the sale's waiting room, or sets its inlet. */
  changeRoom(saleId: string, action: RoomActionBody['action'], inlet: RoomActionBody['inlet']): Promise<Sale>;
};

/** How often a change is tried that others' changes keep coming before. */
const writeTries = 5;

const noReplica = refusal(
  'unavailable',
  'No replica says that it has things on its disk (it needs appendonly yes). Nothing was changed.',
);

/** The sale to which ordinary stock belongs. */
export const standingSale = 'shop';

const noSuchSale = (saleId: string): RefusalError =>
  new RefusalError(refusal('not-found', `There is no sale ${saleId}.`));

const changedMeanwhile = (saleId: string): RefusalError =>
  new RefusalError(
    refusal('conflict', `The sale ${saleId} is being changed by others too: look at it, and try again.`),
  );

const staysClosed = (saleId: string): RefusalError =>
  new RefusalError(refusal('conflict', `The line of ${saleId} is closed, and stays so.`));

/** What its operator set of a sale; null of none. */
function settingsOf(sale: Sale | undefined): Settings | null {
  if (!sale) return null;
  const { state: _state, stock: _stock, at: _at, ...settings } = sale;
  return settings;
}

function stateOf(answer: ReadSaleAnswer, settings: Settings): SaleState {
  if (answer.state === saleCodes.closed) return 'closed';
  if (settings.closesAt && answer.now >= Date.parse(settings.closesAt)) return 'closed';
  if (answer.state === saleCodes.paused) return 'paused';
  return settings.opensAt && answer.now < Date.parse(settings.opensAt) ? 'scheduled' : 'open';
}

function readingOf(answer: ReadSaleAnswer): SaleReading | null {
  if (answer.state === 0) return null;
  const settings = JSON.parse(answer.settings) as Settings;
  const stock = answer.stock.map((row) => ({ ...row, available: row.onHand - row.reserved }));
  // By SKU; a SKU's warehouses stay in the order in which they serve (the sort is stable).
  stock.sort((a, b) => (a.sku < b.sku ? -1 : a.sku > b.sku ? 1 : 0));
  const events = answer.seq - answer.acked;
  return {
    no: answer.no,
    sale: { ...settings, state: stateOf(answer, settings), stock, at: timestamp(answer.now) },
    lag: { events, lagMs: answer.waitingSince === 0 ? 0 : Math.max(0, Math.round(answer.now - answer.waitingSince)) },
  };
}

export function createSaleDirectory(shards: Shards): SaleDirectory {
  const numbers = new Map<string, { shard: number; no: number }>();
  const names = new Map<string, string>();
  /** Reads that wait for the next call; one call a sale is under way at a time. */
  const reads = new Map<string, { next: Promise<SaleReading | null> | null; current: Promise<unknown> }>();

  const readNow = async (saleId: string): Promise<SaleReading | null> => {
    const shard = shards.shardOf(saleId);
    const reading = readingOf(await shards.call(shard, readSaleCommand, { id: saleId }));
    if (reading && numbers.size < limits.salesPerShard) numbers.set(saleId, { shard, no: reading.no });
    return reading;
  };

  const read = (saleId: string): Promise<SaleReading | null> => {
    const under = reads.get(saleId);
    if (!under) {
      const current = readNow(saleId).finally(() => {
        const entry = reads.get(saleId);
        if (entry?.current === current && !entry.next) reads.delete(saleId);
      });
      reads.set(saleId, { current, next: null });
      return current;
    }
    // A read that has begun may have looked before this reader came: it joins the one after.
    under.next ??= under.current
      .catch(() => null)
      .then(() => {
        reads.delete(saleId);
        return read(saleId);
      });
    return under.next;
  };

  const mustRead = async (saleId: string): Promise<SaleReading> => {
    const reading = await read(saleId);
    if (!reading) throw noSuchSale(saleId);
    return reading;
  };

  /** The sale after it was changed, once the change is as durable as the sale says. */
  const secured = async (saleId: string): Promise<Sale> => {
    const { sale } = await mustRead(saleId);
    await shards.secure(shards.shardOf(saleId), sale.durability);
    return sale;
  };

  /**
   * Writes a sale's settings as they come of those that it has (null: a new sale), and of those alone: what somebody else
   * has changed meanwhile is looked at again.
   */
  const write = async (
    saleId: string,
    given: { digest: string; stock: { sku: string; warehouse: string; quantity: number }[] },
    settingsFrom: (before: Settings | null) => Settings,
  ): Promise<PutSaleAnswer> => {
    for (let left = writeTries; ; left--) {
      const before = settingsOf((await read(saleId))?.sale);
      const expected = before ? JSON.stringify(before) : '';
      const rules = rulesOf(settingsFrom(before));
      const answer = await shards.call(shards.shardOf(saleId), putSaleCommand, {
        id: saleId,
        expected,
        ...given,
        ...rules,
      });
      if (answer.status !== statusCodes.changed || left === 1) return answer;
    }
  };

  const listShard = async (shard: number): Promise<string[]> => {
    const { sales } = await shards.call(shard, listSalesCommand, {});
    for (const sale of sales) names.set(`${shard}/${sale.no}`, sale.id);
    return sales.map((sale) => sale.id);
  };

  return {
    read,
    locate: (saleId) => numbers.get(saleId) ?? null,
    async nameOf(shard, no) {
      const name = `${shard}/${no}`;
      if (!names.has(name)) await listShard(shard);
      return names.get(name) ?? null;
    },
    async list() {
      const ids: string[] = [];
      for (let shard = 0; shard < shards.count; shard++) ids.push(...(await listShard(shard)));
      const sales: Sale[] = [];
      for (const id of ids.sort()) {
        const reading = await read(id);
        if (reading) sales.push(reading.sale);
      }
      return sales;
    },

    async put(saleId, body) {
      const durability = body.durability ?? 'fsync';
      const shard = shards.shardOf(saleId);
      const missing = await shards.offers(shard, durability);
      if (missing)
        throw new RefusalError(
          refusal('invalid-request', missing, { errors: [{ path: '/durability', message: missing }] }),
        );
      const settings = settingsOfBody(saleId, body);
      // A replica may be there and not write to its disk, or not in time: then the sale could promise nothing.
      await shards.secure(shard, durability)?.catch(() => {
        throw new RefusalError(noReplica);
      });
      const digest = body.stock ? stockDigest(body.stock) : '';
      const answer = await write(saleId, { digest, stock: body.stock ?? [] }, (before) => {
        const [room, wasRoom] = [roomOf(body.waitingRoom, before?.waitingRoom ?? null), before?.waitingRoom];
        if (wasRoom?.state === 'closed' && room && room.state !== 'closed') throw staysClosed(saleId);
        return { ...settings, waitingRoom: room };
      });
      switch (answer.status) {
        case statusCodes.ok:
          return { sale: await secured(saleId), created: answer.created === 1 };
        case statusCodes.unknownSale:
          throw new RefusalError(
            refusal('invalid-request', `The sale ${saleId} is new: give its stock.`, {
              errors: [{ path: '/stock', message: 'is required for a new sale' }],
            }),
          );
        case statusCodes.conflict:
          throw new RefusalError(
            refusal(
              'conflict',
              `The sale ${saleId} was made with other stock. Leave stock out, and change it by POST /v1/admin/sales/${saleId}/stock.`,
            ),
          );
        case statusCodes.notAllowed:
          throw new RefusalError(
            refusal(
              'conflict',
              'People have tickets: the waiting room stays, with its lanes, and so does whether places are drawn. To let everybody in give it the order `pass`.',
            ),
          );
        case statusCodes.tooMany:
          throw new RefusalError(
            refusal('conflict', 'This shard holds no more sales, or no more with a waiting room.'),
          );
        case statusCodes.changed:
          throw changedMeanwhile(saleId);
        default:
          throw new RefusalError(refusal('overloaded', 'The ledger is too far behind. Nothing was changed.'));
      }
    },

    async changeRoom(saleId, action, inlet) {
      await mustRead(saleId);
      const answer = await write(saleId, { digest: '', stock: [] }, (settings) => {
        const room = settings?.waitingRoom;
        if (!settings || !room) throw new RefusalError(refusal('not-found', `The sale ${saleId} has no waiting room.`));
        if (room.state === 'closed' && action !== 'close' && action !== 'set') throw staysClosed(saleId);
        const states = { pause: 'paused', resume: 'open', close: 'closed', set: room.state } as const;
        const changed = inlet ? inletOf({ ...room.inlet, ...inlet }) : room.inlet;
        return { ...settings, waitingRoom: { ...room, state: states[action], inlet: changed } };
      });
      if (answer.status === statusCodes.changed) throw changedMeanwhile(saleId);
      if (answer.status !== statusCodes.ok)
        throw new RefusalError(refusal('overloaded', 'The ledger is too far behind. Nothing was changed.'));
      return secured(saleId);
    },

    async setState(saleId, state) {
      const { no } = await mustRead(saleId);
      const answer = await shards.call(shards.shardOf(saleId), setSaleStateCommand, {
        sale: no,
        state: saleCodes[state],
      });
      if (answer.status === statusCodes.notAllowed)
        throw new RefusalError(refusal('conflict', `The sale ${saleId} is closed, and stays so.`));
      return secured(saleId);
    },

    async adjust(saleId, body) {
      const { no, sale } = await mustRead(saleId);
      const answer = await shards.call(shards.shardOf(saleId), adjustCommand, {
        sale: no,
        ...body,
        open: saleId === standingSale ? 1 : 0,
      });
      const { sku, warehouse } = body;
      switch (answer.status) {
        case statusCodes.ok:
        case statusCodes.replay: {
          const { onHand, reserved, sold } = answer;
          await shards.secure(shards.shardOf(saleId), sale.durability);
          return { sku, warehouse, onHand, reserved, available: onHand - reserved, sold };
        }
        case statusCodes.unknownSku:
        case statusCodes.unknownSale:
          throw new RefusalError(refusal('not-found', `The sale ${saleId} has no stock of ${sku} in ${warehouse}.`));
        case statusCodes.mismatch:
          throw new RefusalError(
            refusal('idempotency-mismatch', `The id ${body.id} was used for another change. Take a new id.`),
          );
        case statusCodes.insufficientStock:
          throw new RefusalError(
            refusal(
              'insufficient-stock',
              `Only ${answer.onHand - answer.reserved} units are available; ${-body.delta} can't be taken away.`,
            ),
          );
        case statusCodes.tooMany:
          throw new RefusalError(refusal('conflict', `An allotment holds at most ${limits.unitsPerAllotment} units.`));
        default:
          throw new RefusalError(refusal('overloaded', 'The ledger is too far behind. Nothing was changed.'));
      }
    },
  };
}
