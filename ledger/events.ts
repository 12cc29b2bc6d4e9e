/**
 * The public events: what the relay sends to the topic, what the ledger reads, and what a shop may consume. The schema is
 * documented in docs/reference/events.md and only grows.
 */
import { type Static, Type } from 'typebox';

const Id = Type.String();
const Seq = Type.Integer({ minimum: 1 });
const Count = Type.Integer({ minimum: 0 });
const Line = Type.Object({ sku: Id, warehouse: Id, quantity: Type.Integer({ minimum: 1 }) });

const about = { seq: Seq, saleId: Id, sale: Type.Integer({ description: 'number of the sale on its shard' }) };
const reservation = { reservationId: Id, buyerId: Id, lines: Type.Array(Line) };
const change = {
  id: Id,
  sku: Id,
  warehouse: Id,
  units: Type.Integer({ description: 'signed: what is added to the units on hand' }),
  reason: Type.String(),
  after: Type.Object(
    { onHand: Count, reserved: Count, sold: Count },
    { description: 'the allotment’s counters once it was done' },
  ),
};
const event = <const Name extends string, Members extends Record<string, import('typebox').TSchema>>(
  type: Name,
  members: Members,
) => Type.Object({ type: Type.Literal(type), ...about, ...members });

export const EventSchema = Type.Union([
  event('reserved', { ...reservation, expiresAt: Type.String({ format: 'date-time' }), durability: Type.String() }),
  event('extended', { ...reservation, expiresAt: Type.String({ format: 'date-time' }) }),
  event('committed', reservation),
  event('released', reservation),
  event('expired', reservation),
  event('returned', { ...reservation, id: Id }),
  event('restocked', change),
  event('adjusted', change),
  event('sale-set', {
    settings: Type.Object({}, { additionalProperties: true }),
    stockDigest: Type.String({ description: 'of the opening stock, as the engine compares it' }),
  }),
  event('sale-state', { state: Type.Enum(['open', 'paused', 'closed']) }),
]);
export type LedgerEvent = Static<typeof EventSchema>;

/** The events of one call: one message of the topic, one entry of the outbox. Their sequences follow one another. */
export const BatchSchema = Type.Object({
  format: Type.Literal(1),
  shard: Type.Integer({ minimum: 0 }),
  epoch: Type.Integer({ minimum: 1 }),
  seqFirst: Seq,
  seqLast: Seq,
  at: Type.String({ format: 'date-time', description: 'the shard’s time' }),
  digest: Type.String({ description: 'SHA-256 of the entry as the shard wrote it, base64url' }),
  events: Type.Array(EventSchema, { minItems: 1 }),
});
export type Batch = Static<typeof BatchSchema>;
