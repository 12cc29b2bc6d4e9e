/** The bodies of the HTTP contract: these schemas validate, type the handlers, and make up /openapi.json. */
import { type Static, type TSchema, Type } from 'typebox';
import { idPattern } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import { durabilities } from './durability.ts';

const closed = { additionalProperties: false } as const;
const Id = Type.String({ pattern: idPattern, description: 'Letters, digits, _ and -, 1 to 64 of them' });
/**
 * Text for people: no control characters, no half of a surrogate pair (Postgres takes neither). The pattern is one that the
 * regular expressions of other languages know too: clients' tools read it in /openapi.json.
 */
const text = (maxLength: number) =>
  Type.Refine(
    Type.String({ minLength: 1, maxLength, pattern: '^[^\\x00-\\x1f\\x7f-\\x9f]*$' }),
    (given) => given.isWellFormed(),
    () => 'must not have half of a surrogate pair',
  );
const Quantity = Type.Integer({ minimum: 1, maximum: limits.quantityPerLine });
const Time = Type.Union([Type.Null(), Type.String({ format: 'date-time' })], { description: 'RFC 3339, or null' });
const Lines = Type.Array(Type.Object({ sku: Id, quantity: Quantity }, closed), {
  minItems: 1,
  maxItems: limits.linesPerRequest,
});
const DurabilityName = Type.Enum([...durabilities]);

export const EmptyBody = Type.Object({}, closed);

export const ReserveBody = Type.Object({ saleId: Type.Optional(Id), lines: Lines }, closed);
export type ReserveBody = Static<typeof ReserveBody>;

export const ExtendBody = Type.Object(
  { seconds: Type.Integer({ minimum: 1, maximum: limits.extendSecondsMax }) },
  closed,
);
export type ExtendBody = Static<typeof ExtendBody>;

const nullable = <const Schema extends TSchema>(schema: Schema) => Type.Union([Type.Null(), schema]);
const InletBody = Type.Object(
  {
    maxInside: Type.Optional(nullable(Type.Integer({ minimum: 1, maximum: limits.ticketsPerSale }))),
    perMinute: Type.Optional(nullable(Type.Integer({ minimum: 1, maximum: limits.admissionsPerMinute }))),
    stock: Type.Optional(nullable(Type.Boolean())),
  },
  closed,
);
const Difficulty = Type.Object({ difficulty: Type.Integer({ minimum: 1, maximum: limits.challengeBits }) }, closed);
const Lane = Type.Object({ name: Id, weight: Type.Integer({ minimum: 1, maximum: limits.laneWeight }) }, closed);
const RoomOrderName = Type.Enum(['fifo', 'shuffle', 'pass', 'closed']);
const WhenDown = Type.Enum(['closed', 'open']);
export const WaitingRoomBody = Type.Object(
  {
    order: RoomOrderName,
    inlet: Type.Optional(nullable(InletBody)),
    admissionSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.admissionSecondsMax })),
    graceSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.graceSecondsMax })),
    whenDown: Type.Optional(WhenDown),
    challenge: Type.Optional(nullable(Difficulty)),
    lanes: Type.Optional(Type.Array(Lane, { maxItems: limits.lanes })),
    state: Type.Optional(Type.Enum(['open', 'paused', 'closed'])),
  },
  closed,
);
export type WaitingRoomBody = Static<typeof WaitingRoomBody>;
const WaitingRoomView = Type.Object({
  order: RoomOrderName,
  inlet: Type.Object({
    maxInside: nullable(Type.Integer()),
    perMinute: nullable(Type.Integer()),
    stock: Type.Boolean(),
  }),
  admissionSeconds: Type.Integer(),
  graceSeconds: Type.Integer(),
  whenDown: WhenDown,
  challenge: nullable(Difficulty),
  lanes: Type.Array(Lane),
  state: Type.Enum(['open', 'paused', 'closed']),
});

export const SaleBody = Type.Object(
  {
    title: text(limits.titleChars),
    opensAt: Type.Optional(Time),
    closesAt: Type.Optional(Time),
    perBuyer: Type.Optional(Type.Union([Type.Null(), Type.Integer({ minimum: 1, maximum: limits.perBuyerMax })])),
    holdSeconds: Type.Optional(Type.Integer({ minimum: limits.holdSecondsMin, maximum: limits.holdSecondsMax })),
    extendSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.extendSecondsMax })),
    extensions: Type.Optional(Type.Integer({ minimum: 0, maximum: 100 })),
    durability: Type.Optional(DurabilityName),
    waitingRoom: Type.Optional(nullable(WaitingRoomBody)),
    stock: Type.Optional(
      Type.Array(
        Type.Object(
          { sku: Id, warehouse: Id, quantity: Type.Integer({ minimum: 0, maximum: limits.unitsPerAllotment }) },
          closed,
        ),
        { maxItems: limits.allotmentsPerSale },
      ),
    ),
  },
  closed,
);
export type SaleBody = Static<typeof SaleBody>;

export const StockChangeBody = Type.Object(
  {
    id: Id,
    sku: Id,
    warehouse: Id,
    delta: Type.Integer({ minimum: -limits.unitsPerAllotment, maximum: limits.unitsPerAllotment }),
    reason: text(limits.reasonChars),
  },
  closed,
);
export type StockChangeBody = Static<typeof StockChangeBody>;

const StockRow = Type.Object({
  sku: Id,
  warehouse: Id,
  onHand: Type.Integer(),
  reserved: Type.Integer(),
  available: Type.Integer(),
  sold: Type.Integer(),
});

export const SaleView = Type.Object({
  id: Id,
  title: Type.String(),
  state: Type.Enum(['scheduled', 'open', 'paused', 'closed']),
  opensAt: Time,
  closesAt: Time,
  perBuyer: Type.Union([Type.Null(), Type.Integer()]),
  holdSeconds: Type.Integer(),
  extendSeconds: Type.Integer(),
  extensions: Type.Integer(),
  durability: DurabilityName,
  waitingRoom: nullable(WaitingRoomView),
  stock: Type.Array(StockRow),
  at: Type.String({ format: 'date-time' }),
});
export const SaleList = Type.Object({ items: Type.Array(SaleView) });
export const StockChangeView = Type.Object({
  id: Id,
  delta: Type.Integer(),
  reason: Type.String(),
  stock: StockRow,
});

export const ReservationView = Type.Object({
  id: Id,
  saleId: Id,
  buyerId: Id,
  state: Type.Enum(['held', 'committed', 'released', 'expired']),
  lines: Type.Array(Type.Object({ sku: Id, warehouse: Id, quantity: Type.Integer() })),
  expiresAt: Type.String({ format: 'date-time' }),
  durability: DurabilityName,
});

export const TicketBody = Type.Object(
  { lane: Type.Optional(Id), challenge: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })) },
  closed,
);
export type TicketBody = Static<typeof TicketBody>;

export const TicketView = Type.Object({
  ticketId: Id,
  saleId: Id,
  lane: Id,
  state: Type.Enum(['waiting', 'admitted', 'used', 'lapsed', 'left', 'expelled', 'ended']),
  reason: nullable(Type.Enum(['sold-out', 'closed'])),
  position: nullable(Type.Integer({ minimum: 1 })),
  ahead: nullable(Type.Integer({ minimum: 0 })),
  etaSeconds: Type.Object({ low: nullable(Type.Integer()), high: nullable(Type.Integer()) }),
  joinedAt: Type.String({ format: 'date-time' }),
  admissionToken: nullable(Type.String()),
  admissionExpiresAt: nullable(Type.String({ format: 'date-time' })),
});

export const DrawView = Type.Object({
  commitment: Type.String(),
  seed: Type.Optional(Type.String()),
  algorithm: Type.String(),
  total: Type.Optional(Type.Integer()),
  page: Type.Optional(Type.Integer()),
  pages: Type.Optional(Type.Integer()),
  tickets: Type.Optional(Type.Array(Type.Object({ ticketId: Id, place: Type.Integer({ minimum: 1 }) }))),
});

export const LineView = Type.Object({
  saleId: Id,
  waiting: Type.Integer({ minimum: 0 }),
  inside: Type.Integer({ minimum: 0 }),
  ended: nullable(Type.Enum(['sold-out', 'closed'])),
  admittedPerMinute: Type.Number({ minimum: 0, description: 'as measured over the last minute or two' }),
});

/** `member` is needed with the action `action`, and goes with no other. Published so; the validator passes over it, and `room-routes.ts` looks. */
const goesWith = (member: string, action: string) => ({
  if: { properties: { action: { const: action } } },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { required: [member] },
  else: { properties: { [member]: false } },
});

export const RoomActionBody = Type.Object(
  { action: Type.Enum(['pause', 'resume', 'close', 'set']), inlet: Type.Optional(InletBody) },
  { ...closed, ...goesWith('inlet', 'set') },
);
export type RoomActionBody = Static<typeof RoomActionBody>;

export const TicketActionBody = Type.Object(
  {
    action: Type.Enum(['move', 'expel', 'admit']),
    position: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.ticketsPerSale })),
    reason: text(limits.reasonChars),
  },
  { ...closed, ...goesWith('position', 'move') },
);
export type TicketActionBody = Static<typeof TicketActionBody>;

export const SessionView = Type.Object({
  buyerId: Id,
  token: Type.String(),
  expiresAt: Type.String({ format: 'date-time' }),
});

export const ProblemView = Type.Object({
  type: Type.String(),
  title: Type.String(),
  status: Type.Integer(),
  detail: Type.String(),
  code: Type.String(),
  requestId: Type.String(),
  errors: Type.Optional(Type.Array(Type.Object({ path: Type.String(), message: Type.String() }))),
  reservationState: Type.Optional(Type.String()),
  challenge: Type.Optional(Type.Record(Type.String(), Type.Union([Type.String(), Type.Number()]))),
});

// Frames of a client on /v1/sales/{saleId}/live
const RequestId = Type.String({ minLength: 1, maxLength: 64 });
const Key = Type.String({ pattern: `^[\\x21-\\x7e]{1,${limits.idempotencyKeyChars}}$` });
export const ClientFrame = Type.Union([
  Type.Object(
    { type: Type.Literal('auth'), token: Type.String({ maxLength: 4096 }), ticketId: Type.Optional(Id) },
    closed,
  ),
  Type.Object(
    {
      type: Type.Literal('reserve'),
      requestId: RequestId,
      idempotencyKey: Type.Optional(Key),
      lines: Type.Optional(Type.Unknown()),
      admissionToken: Type.Optional(Type.String({ maxLength: 4096 })),
    },
    closed,
  ),
  Type.Object(
    {
      type: Type.Union([Type.Literal('commit'), Type.Literal('release')]),
      requestId: RequestId,
      reservationId: Type.Optional(Type.String({ maxLength: 64 })),
    },
    closed,
  ),
]);
export type ClientFrame = Static<typeof ClientFrame>;
