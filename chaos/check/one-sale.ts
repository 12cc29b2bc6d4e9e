/** For tests: calls and facts of one sale of shoes, made by hand. */
import { encodeReservationId, keyDigest } from '../../kernel/ids.ts';
import type { Answer, Fact, History, Operation } from '../history.ts';
import type { Reserved } from './findings.ts';
import { buyerName } from './testing.ts';

export const shardMs = 4_000_000_000_000;
export const holdMs = 60_000;
const lines = [{ sku: 'shoe', warehouse: 'east', quantity: 1 }];

export const history = (units: number, operations: Operation[], facts: Fact[], perBuyer = 0): History => ({
  sales: [
    { saleId: 'sale', shard: 0, no: 1, perBuyer, holdSeconds: holdMs / 1_000, extensions: 1, durability: 'fsync' },
  ],
  operations,
  facts: [
    {
      ...{ shard: 0, no: 1, seq: 1, atMs: shardMs, kind: 'restocked', id: 'opening' },
      ...{ sku: 'shoe', warehouse: 'east', units },
    },
    ...facts,
  ],
});
export const reserved = (seq: number, atMs = 0, key = 'k', who = seq, shard = 0): Reserved => ({
  ...{ shard, no: 1, seq, atMs: shardMs + atMs, kind: 'reserved', lines, extensions: 0 },
  ...{ id: encodeReservationId({ shard, sale: 1, seq, buyer: buyerName(who), key: keyDigest(key) }) },
  ...{ buyer: buyerName(who), expiresAtMs: shardMs + atMs + holdMs, lastExpiresAtMs: shardMs + atMs + holdMs },
});
export const ended = (
  kind: 'released' | 'expired' | 'committed' | 'returned',
  seq: number,
  reservation: number,
  atMs = 0,
): Fact => ({
  ...{ shard: 0, no: 1, seq, atMs: shardMs + atMs, kind, reservation, lines },
});
export const granted = (fact: Fact): Answer => {
  if (fact.kind !== 'reserved') throw new Error('not a reservation');
  const { id, expiresAtMs } = fact;
  return { status: 201, code: '', replayed: false, reservation: { id, state: 'held', expiresAtMs, lines: fact.lines } };
};
/** A reserve of one: granted as a fact has it, refused, or never answered. */
export const asked = (
  who: number,
  callMs: number,
  atMs: number | null,
  told: Partial<Answer> | Fact,
  key = 'k',
): Operation => {
  const refused = { status: 409, code: '', reservation: null, replayed: false };
  const answer = 'kind' in told ? granted(told) : { ...refused, ...told };
  return {
    ...{ client: who, saleId: 'sale', buyer: buyerName(who), callMs },
    call: { kind: 'reserve', key, lines: [{ sku: 'shoe', quantity: 1 }] },
    answered: atMs === null ? null : { atMs, answer },
  };
};
/** A commit or release of what a fact has, answered 200, or refused with a code. */
export const settled = (
  kind: 'commit' | 'release',
  { id, seq, buyer, lines, lastExpiresAtMs: expiresAtMs }: Reserved,
  callMs: number,
  atMs: number,
  code = '',
): Operation => {
  const state = kind === 'commit' ? ('committed' as const) : ('released' as const);
  const done = { status: 200, code: '', replayed: false, reservation: { id, state, expiresAtMs, lines } };
  return {
    ...{ client: seq, saleId: 'sale', buyer, callMs },
    call: { kind, reservation: id },
    answered: { atMs, answer: code === '' ? done : { ...done, status: 409, code, reservation: null } },
  };
};
