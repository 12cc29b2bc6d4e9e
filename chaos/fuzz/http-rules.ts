/**
 * What the contract says of a request, written down without the engine's code: whether it may be taken, and what it would
 * do then.
 */
import { type HttpRequest, valuesOf } from './http-text.ts';

export type Lines = { sku: string; quantity: number }[];

/** What a request that is taken does. */
export type Deed =
  | { does: 'nothing' }
  | { does: 'reserve'; saleId: string; token: string; keys: string[]; lines: Lines }
  | { does: 'commit' | 'release' | 'extend'; id: string; token: string }
  | { does: 'put'; saleId: string; stock: number }
  | { does: 'state'; saleId: string }
  | { does: 'adjust'; saleId: string; id: string; delta: number };

export type Who = { adminToken: string; tokens: string[] };

const id = /^[A-Za-z0-9_-]{1,64}$/;
type Members = Record<string, unknown>;

/** The object that a text of JSON is, if it has no members but these. */
function membersOf(body: Buffer, allowed: string[]): Members | null {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body);
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
    return Object.keys(value).every((name) => allowed.includes(name)) ? (value as Members) : null;
  } catch {
    return null;
  }
}

const isWhole = (value: unknown, least: number, most: number): value is number =>
  Number.isInteger(value) && (value as number) >= least && (value as number) <= most;

/** Lines of a reservation, added up by SKU; null when they are no such thing. */
export function linesOf(value: unknown): Lines | null {
  if (!Array.isArray(value) || value.length < 1 || value.length > 50) return null;
  const sums = new Map<string, number>();
  for (const line of value as unknown[]) {
    if (typeof line !== 'object' || line === null || Array.isArray(line)) return null;
    const { sku, quantity, ...more } = line as Members;
    if (Object.keys(more).length > 0 || typeof sku !== 'string' || !id.test(sku)) return null;
    if (!isWhole(quantity, 1, 1_000)) return null;
    sums.set(sku, (sums.get(sku) ?? 0) + quantity);
  }
  return [...sums].map(([sku, quantity]) => ({ sku, quantity }));
}

/** What the request does when it is taken; null when it may not be. */
export function deedOf({ method, target, headers, body }: HttpRequest, who: Who): Deed | null {
  const path = target.split('?')[0] ?? '';
  const bearers = valuesOf(headers, 'authorization').map((value) => /^bearer (.*)$/i.exec(value)?.[1] ?? '');
  const token = bearers.find((each) => who.tokens.includes(each)) ?? '';
  const isOperator = bearers.includes(who.adminToken);
  const isJson = valuesOf(headers, 'content-type').some((value) => /^application\/json\s*(;|$)/i.test(value));
  if (body.length > 65_536) return null;
  if (method === 'GET') {
    if (/^\/(healthz|readyz|metrics|openapi\.json)?$/.test(path)) return { does: 'nothing' };
    if (/^\/v1\/sales(\/[A-Za-z0-9_-]{1,64})?$/.test(path)) return { does: 'nothing' };
    return /^\/v1\/reservations\/[A-Za-z0-9_-]{40}$/.test(path) && (token !== '' || isOperator)
      ? { does: 'nothing' }
      : null;
  }
  const [, hold = '', verb = ''] = /^\/v1\/reservations\/([A-Za-z0-9_-]{40})(?:\/(commit|extend))?$/.exec(path) ?? [];
  if (hold !== '') {
    if (token === '') return null;
    if (method === 'DELETE' && verb === '') return { does: 'release', id: hold, token };
    if (method !== 'POST' || verb === '') return null;
    if (verb === 'commit') return { does: 'commit', id: hold, token };
    const seconds = isJson ? membersOf(body, ['seconds'])?.seconds : undefined;
    return isWhole(seconds, 1, 86_400) ? { does: 'extend', id: hold, token } : null;
  }
  if (method === 'POST' && path === '/v1/sessions') return isJson && membersOf(body, []) ? { does: 'nothing' } : null;
  if (method === 'POST' && path === '/v1/reservations') {
    const keys = valuesOf(headers, 'idempotency-key').filter((key) => /^[\x21-\x7e]{1,128}$/.test(key));
    const asked = isJson ? membersOf(body, ['saleId', 'lines']) : null;
    const lines = linesOf(asked?.lines);
    const saleId = asked && 'saleId' in asked ? asked.saleId : 'shop';
    if (token === '' || keys.length === 0 || !lines || typeof saleId !== 'string' || !id.test(saleId)) return null;
    return { does: 'reserve', saleId, token, keys, lines };
  }
  const [, saleId = '', call = ''] =
    /^\/v1\/admin\/sales\/([A-Za-z0-9_-]{1,64})(?:\/(stock|pause|resume|close))?$/.exec(path) ?? [];
  if (saleId === '' || !isOperator) return null;
  if (method === 'PUT' && call === '') {
    const asked = isJson ? membersOf(body, saleMembers) : null;
    const stock = asked && Array.isArray(asked.stock) ? asked.stock.length : 0;
    return asked && typeof asked.title === 'string' ? { does: 'put', saleId, stock } : null;
  }
  if (method !== 'POST' || call === '') return null;
  if (call !== 'stock') return { does: 'state', saleId };
  const change = isJson ? membersOf(body, ['id', 'sku', 'warehouse', 'delta', 'reason']) : null;
  if (!change || typeof change.id !== 'string' || !isWhole(change.delta, -1e9, 1e9)) return null;
  return { does: 'adjust', saleId, id: change.id, delta: change.delta };
}

const saleMembers = [
  ...['title', 'opensAt', 'closesAt', 'perBuyer', 'holdSeconds', 'extendSeconds', 'extensions', 'durability'],
  ...['waitingRoom', 'stock'],
];
