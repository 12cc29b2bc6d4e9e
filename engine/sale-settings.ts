/** A sale's settings: out of what an operator gave, and as the shard keeps them. */
import { createHash } from 'node:crypto';
import { timestamp } from '../kernel/clock.ts';
import { RefusalError, refusal } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import { newSeed } from './draw.ts';
import { type Durability, durabilityCode } from './durability.ts';
import { packRoom, type WaitingRoom } from './room.ts';
import type { SaleBody } from './schemas.ts';

/** 2000-01-01. In a shard's packed times 0 stands for none. */
const earliestMs = 946_684_800_000;

/** A sale as its operator set it: kept with it as JSON. */
export type Settings = {
  id: string;
  title: string;
  opensAt: string | null;
  closesAt: string | null;
  perBuyer: number | null;
  holdSeconds: number;
  extendSeconds: number;
  extensions: number;
  durability: Durability;
  waitingRoom: WaitingRoom | null;
};

/** What the shard keeps of settings: packed numbers, 0 for none. */
export function rulesOf(settings: Settings) {
  return {
    settings: JSON.stringify(settings),
    opensAt: settings.opensAt ? Date.parse(settings.opensAt) : 0,
    closesAt: settings.closesAt ? Date.parse(settings.closesAt) : 0,
    perBuyer: settings.perBuyer ?? 0,
    holdMs: settings.holdSeconds * 1000,
    durability: durabilityCode(settings.durability),
    extensions: settings.extensions,
    extendMs: settings.extendSeconds * 1000,
    room: packRoom(settings.waitingRoom),
    seed: settings.waitingRoom ? newSeed() : '',
  };
}

/** What the opening stock is, whatever order its SKUs come in; the order of a SKU's warehouses counts. */
export function stockDigest(stock: { sku: string; warehouse: string; quantity: number }[]): string {
  const bySku = Map.groupBy(stock, (row) => row.sku);
  const canonical = [...bySku.keys()]
    .sort()
    .map((sku) => [sku, (bySku.get(sku) ?? []).map((row) => [row.warehouse, row.quantity])]);
  return createHash('sha256').update(JSON.stringify(canonical)).digest('base64url');
}

/** A time as the sale keeps it. A leap second is a date-time of RFC 3339 that no clock here can tell. */
function timeOf(member: 'opensAt' | 'closesAt', text: string | null | undefined): string | null {
  if (text === null || text === undefined) return null;
  const ms = Date.parse(text);
  if (ms >= earliestMs) return timestamp(ms);
  throw new RefusalError(
    refusal('invalid-request', `/${member} is no time of this century.`, {
      errors: [{ path: `/${member}`, message: 'must be a time from 2000 on' }],
    }),
  );
}

function checkLanes(room: SaleBody['waitingRoom']): void {
  const names = room?.lanes?.map(({ name }) => name) ?? [];
  for (const [i, name] of names.entries())
    if (names.indexOf(name) !== i)
      throw new RefusalError(
        refusal('invalid-request', `The waiting room names the lane ${name} twice.`, {
          errors: [{ path: `/waitingRoom/lanes/${i}/name`, message: 'is there twice' }],
        }),
      );
}

function checkStock(stock: { sku: string; warehouse: string }[]): void {
  const seen = new Set<string>();
  for (const [sku, rows] of Map.groupBy(stock, (row) => row.sku))
    if (rows.length > limits.warehousesPerSku)
      throw new RefusalError(
        refusal('invalid-request', `${sku} is in ${rows.length} warehouses: ${limits.warehousesPerSku} at most.`, {
          errors: [{ path: '/stock', message: `has more than ${limits.warehousesPerSku} warehouses of ${sku}` }],
        }),
      );
  stock.forEach((row, i) => {
    const allotment = `${row.sku}/${row.warehouse}`;
    if (seen.has(allotment))
      throw new RefusalError(
        refusal('invalid-request', `The stock names ${allotment} twice: give each SKU and warehouse once.`, {
          errors: [{ path: `/stock/${i}`, message: 'is there twice' }],
        }),
      );
    seen.add(allotment);
  });
}

/** What an operator gave, with what was left out as it is by default, but for the waiting room. Throws a refusal of what can't be. */
export function settingsOfBody(saleId: string, body: SaleBody): Settings {
  if (body.stock) checkStock(body.stock);
  checkLanes(body.waitingRoom);
  if (body.opensAt && body.closesAt && Date.parse(body.closesAt) <= Date.parse(body.opensAt))
    throw new RefusalError(
      refusal('invalid-request', 'The sale would close before it opens.', {
        errors: [{ path: '/closesAt', message: 'must be after opensAt' }],
      }),
    );
  return {
    id: saleId,
    title: body.title,
    opensAt: timeOf('opensAt', body.opensAt),
    closesAt: timeOf('closesAt', body.closesAt),
    perBuyer: body.perBuyer ?? null,
    holdSeconds: body.holdSeconds ?? limits.holdSecondsDefault,
    extendSeconds: body.extendSeconds ?? limits.extendSecondsDefault,
    extensions: body.extensions ?? limits.extensionsDefault,
    durability: body.durability ?? 'fsync',
    waitingRoom: null,
  };
}
