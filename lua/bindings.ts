// Generated from the headers in lua/ by `npm run generate`. Do not edit.
import { Reader, Writer } from './packing.ts';

/** What every call carries: the shard's epoch, the highest sequence its caller has seen, its deadline (ms, shard time). */
export type CallHeader = { epoch: number; seen: number; deadlineMs: number };

export type ShardCommand<Args, Answer> = {
  name: string;
  readOnly: boolean;
  encode(header: CallHeader, args: Args): Buffer;
  decode(buffer: Buffer): Answer;
};

function writeHeader(w: Writer, header: CallHeader): void {
  w.u32(header.epoch);
  w.f64(header.seen);
  w.f64(header.deadlineMs);
}

export const statusCodes = {
  ok: 0,
  replay: 1,
  mismatch: 2,
  unknownSale: 3,
  unknownSku: 4,
  saleNotOpen: 5,
  purchaseLimit: 6,
  soldOut: 7,
  insufficientStock: 8,
  overloaded: 9,
  unknownReservation: 10,
  ended: 11,
  notAllowed: 12,
  conflict: 13,
  tooMany: 14,
  notAdmitted: 15,
  unknownTicket: 16,
  changed: 17,
} as const;

export const reservationCodes = {
  held: 1,
  committed: 2,
  released: 3,
  expired: 4,
} as const;

export const saleCodes = {
  open: 1,
  paused: 2,
  closed: 3,
} as const;

export const orderCodes = {
  fifo: 1,
  shuffle: 2,
  pass: 3,
  closed: 4,
} as const;

export const roomCodes = {
  open: 1,
  paused: 2,
  closed: 3,
} as const;

export const ticketCodes = {
  waiting: 1,
  admitted: 2,
  used: 3,
  lapsed: 4,
  left: 5,
  expelled: 6,
} as const;

export const endedCodes = {
  soldOut: 1,
  closed: 2,
} as const;

export const drawCodes = {
  none: 0,
  drawing: 1,
  done: 2,
} as const;

export const actionCodes = {
  leave: 1,
  expel: 2,
  admit: 3,
  move: 4,
  look: 5,
} as const;

export const factCodes = {
  reserved: 1,
  extended: 2,
  committed: 3,
  released: 4,
  expired: 5,
  returned: 6,
  restocked: 7,
  adjusted: 8,
  saleSet: 9,
  saleState: 10,
} as const;

export type AdjustArgs = {
  sale: number;
  id: string;
  sku: string;
  warehouse: string;
  delta: number;
  reason: string;
  open: number;
};
export type AdjustAnswer = { status: number; onHand: number; reserved: number; sold: number };
/** changes the units on hand of an allotment by `delta`, once per `id`: stock that came in, was lost, was counted. */
export const adjustCommand: ShardCommand<AdjustArgs, AdjustAnswer> = {
  name: 'adjust',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.str8(args.id);
    w.str8(args.sku);
    w.str8(args.warehouse);
    w.f64(args.delta);
    w.str16(args.reason);
    w.u8(args.open);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8(), onHand: r.u32(), reserved: r.u32(), sold: r.u32() };
  },
};

export type ChangeTicketArgs = { sale: number; buyer: string; number: number; action: number; position: number };
export type ChangeTicketAnswer = {
  now: number;
  seq: number;
  waiting: number;
  inside: number;
  recentAdmitted: number;
  recentMs: number;
  ended: number;
  draw: number;
  status: number;
  state: number;
  lane: number;
  number: number;
  ahead: number;
  joined: number;
  expires: number;
};
/** a buyer leaves the line, or an operator looks at a ticket, expels somebody, lets somebody in, or moves somebody to a position. */
export const changeTicketCommand: ShardCommand<ChangeTicketArgs, ChangeTicketAnswer> = {
  name: 'change_ticket',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.chars(args.buyer, 12);
    w.f64(args.number);
    w.u8(args.action);
    w.u32(args.position);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      waiting: r.u32(),
      inside: r.u32(),
      recentAdmitted: r.u32(),
      recentMs: r.f64(),
      ended: r.u8(),
      draw: r.u8(),
      status: r.u8(),
      state: r.u8(),
      lane: r.u8(),
      number: r.f64(),
      ahead: r.f64(),
      joined: r.f64(),
      expires: r.f64(),
    };
  },
};

export type CommitArgs = {
  references: readonly { sale: number; buyer: string; key: string; seq: number; seconds: number }[];
};
export type CommitAnswer = {
  now: number;
  seq: number;
  results: { status: number; state: number; expiresAt: number; durability: number; lines: Buffer }[];
};
/** sells what reservations hold. Again: the same answer. After release or expiry: `ended`, with the state. */
export const commitCommand: ShardCommand<CommitArgs, CommitAnswer> = {
  name: 'commit',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.references.length);
    for (const e0 of args.references) {
      w.u32(e0.sale);
      w.chars(e0.buyer, 12);
      w.chars(e0.key, 12);
      w.f64(e0.seq);
      w.f64(e0.seconds);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      results: r.list(r.u16(), () => ({
        status: r.u8(),
        state: r.u8(),
        expiresAt: r.f64(),
        durability: r.u8(),
        lines: r.raw32(),
      })),
    };
  },
};

export type CorrectArgs = {
  sale: number;
  id: string;
  sku: string;
  warehouse: string;
  onHand: number;
  reserved: number;
  sold: number;
};
export type CorrectAnswer = { status: number; onHand: number; reserved: number; sold: number };
/** adds to the counters of an allotment, once per `id`, without a fact: for counters that differ from the ledger's. */
export const correctCommand: ShardCommand<CorrectArgs, CorrectAnswer> = {
  name: 'correct',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.str8(args.id);
    w.str8(args.sku);
    w.str8(args.warehouse);
    w.f64(args.onHand);
    w.f64(args.reserved);
    w.f64(args.sold);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8(), onHand: r.u32(), reserved: r.u32(), sold: r.u32() };
  },
};

export type ExpireArgs = { max: number };
export type ExpireAnswer = { now: number; seq: number; expired: number; forgotten: number; more: number };
/** the sweep. Ends holds whose time has come, and forgets reservations (and their keys) that ended long enough ago. */
export const expireCommand: ShardCommand<ExpireArgs, ExpireAnswer> = {
  name: 'expire',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.max);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { now: r.f64(), seq: r.f64(), expired: r.u32(), forgotten: r.u32(), more: r.u8() };
  },
};

export type ExtendArgs = {
  references: readonly { sale: number; buyer: string; key: string; seq: number; seconds: number }[];
};
export type ExtendAnswer = {
  now: number;
  seq: number;
  results: { status: number; state: number; expiresAt: number; durability: number; lines: Buffer }[];
};
/** lengthens holds by `seconds`, as often and by as much at a time as the sale allows. */
export const extendCommand: ShardCommand<ExtendArgs, ExtendAnswer> = {
  name: 'extend',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.references.length);
    for (const e0 of args.references) {
      w.u32(e0.sale);
      w.chars(e0.buyer, 12);
      w.chars(e0.key, 12);
      w.f64(e0.seq);
      w.f64(e0.seconds);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      results: r.list(r.u16(), () => ({
        status: r.u8(),
        state: r.u8(),
        expiresAt: r.f64(),
        durability: r.u8(),
        lines: r.raw32(),
      })),
    };
  },
};

export type JoinLineArgs = { sale: number; buyers: string[]; lanes: number[] };
export type JoinLineAnswer = {
  now: number;
  seq: number;
  waiting: number;
  inside: number;
  recentAdmitted: number;
  recentMs: number;
  ended: number;
  draw: number;
  tickets: {
    status: number;
    state: number;
    lane: number;
    number: number;
    ahead: number;
    joined: number;
    expires: number;
  }[];
};
/** gives buyers tickets of a sale's waiting room; who has one that is not over gets the same again (`replay`). */
export const joinLineCommand: ShardCommand<JoinLineArgs, JoinLineAnswer> = {
  name: 'join_line',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.charsColumn(args.buyers, 12);
    w.u16(args.lanes.length);
    for (const value of args.lanes) w.u8(value);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      waiting: r.u32(),
      inside: r.u32(),
      recentAdmitted: r.u32(),
      recentMs: r.f64(),
      ended: r.u8(),
      draw: r.u8(),
      tickets: r.list(r.u16(), () => ({
        status: r.u8(),
        state: r.u8(),
        lane: r.u8(),
        number: r.f64(),
        ahead: r.f64(),
        joined: r.f64(),
        expires: r.f64(),
      })),
    };
  },
};

export type ListSalesArgs = Record<string, never>;
export type ListSalesAnswer = { now: number; sales: { no: number; id: string }[] };
/** the ids of the shard's sales. */
export const listSalesCommand: ShardCommand<ListSalesArgs, ListSalesAnswer> = {
  name: 'list_sales',
  readOnly: true,
  encode: (header, _args) => {
    const w = new Writer();
    writeHeader(w, header);

    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { now: r.f64(), sales: r.list(r.u32(), () => ({ no: r.u32(), id: r.str8() })) };
  },
};

export type OpenShardArgs = { epoch: number; expected: number; outboxEvents: number; rememberMs: number };
export type OpenShardAnswer = { state: number; found: number; seq: number };
/** makes an empty shard under its first epoch (`expected` 0), or moves it from epoch `expected` to `epoch`. */
export const openShardCommand: ShardCommand<OpenShardArgs, OpenShardAnswer> = {
  name: 'open_shard',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.u32(args.epoch);
    w.u32(args.expected);
    w.f64(args.outboxEvents);
    w.f64(args.rememberMs);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { state: r.u8(), found: r.u32(), seq: r.f64() };
  },
};

export type OutboxReadArgs = { after: number; max: number };
export type OutboxReadAnswer = {
  now: number;
  epoch: number;
  seq: number;
  acked: number;
  entries: { id: number; body: Buffer }[];
};
/** the outbox's entries after sequence `after`, oldest first. An entry's id is the last sequence in it. */
export const outboxReadCommand: ShardCommand<OutboxReadArgs, OutboxReadAnswer> = {
  name: 'outbox_read',
  readOnly: true,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.f64(args.after);
    w.u16(args.max);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      epoch: r.u32(),
      seq: r.f64(),
      acked: r.f64(),
      entries: r.list(r.u16(), () => ({ id: r.f64(), body: r.raw32() })),
    };
  },
};

export type OutboxTrimArgs = { acked: number; keep: number };
export type OutboxTrimAnswer = { seq: number; acked: number };
/** notes that the ledger has everything up to `acked`, and drops what it has, less the last `keep` events, kept for the day when Postgres comes back a little older. */
export const outboxTrimCommand: ShardCommand<OutboxTrimArgs, OutboxTrimAnswer> = {
  name: 'outbox_trim',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.f64(args.acked);
    w.u32(args.keep);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { seq: r.f64(), acked: r.f64() };
  },
};

export type PlaceTicketsArgs = {
  sale: number;
  from: number;
  done: number;
  tickets: readonly { number: number; buyer: string }[];
};
export type PlaceTicketsAnswer = { now: number; seq: number; draw: number };
/** puts some of a draw's tickets in their places: the first of them is at place `from` + 1. `done` 1: these are the last. */
export const placeTicketsCommand: ShardCommand<PlaceTicketsArgs, PlaceTicketsAnswer> = {
  name: 'place_tickets',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.u32(args.from);
    w.u8(args.done);
    w.u16(args.tickets.length);
    for (const e0 of args.tickets) {
      w.f64(e0.number);
      w.chars(e0.buyer, 12);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { now: r.f64(), seq: r.f64(), draw: r.u8() };
  },
};

export type PutSaleArgs = {
  id: string;
  settings: string;
  digest: string;
  opensAt: number;
  closesAt: number;
  perBuyer: number;
  holdMs: number;
  durability: number;
  extensions: number;
  extendMs: number;
  room: Buffer;
  expected: string;
  seed: string;
  stock: readonly { sku: string; warehouse: string; quantity: number }[];
};
export type PutSaleAnswer = { status: number; no: number; created: number };
/** makes a sale with its opening stock, or changes its rules. */
export const putSaleCommand: ShardCommand<PutSaleArgs, PutSaleAnswer> = {
  name: 'put_sale',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.str8(args.id);
    w.str16(args.settings);
    w.str8(args.digest);
    w.f64(args.opensAt);
    w.f64(args.closesAt);
    w.u32(args.perBuyer);
    w.f64(args.holdMs);
    w.u8(args.durability);
    w.u16(args.extensions);
    w.f64(args.extendMs);
    w.raw32(args.room);
    w.str16(args.expected);
    w.str8(args.seed);
    w.u32(args.stock.length);
    for (const e0 of args.stock) {
      w.str8(e0.sku);
      w.str8(e0.warehouse);
      w.u32(e0.quantity);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8(), no: r.u32(), created: r.u8() };
  },
};

export type ReadDrawArgs = { sale: number; from: number; max: number };
export type ReadDrawAnswer = {
  now: number;
  seq: number;
  draw: number;
  seed: string;
  total: number;
  tickets: { number: number; buyer: string }[];
};
/** the draw of a sale's waiting room: its seed, and once it is done some of its tickets in the order of their places. */
export const readDrawCommand: ShardCommand<ReadDrawArgs, ReadDrawAnswer> = {
  name: 'read_draw',
  readOnly: true,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.u32(args.from);
    w.u16(args.max);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      draw: r.u8(),
      seed: r.str8(),
      total: r.u32(),
      tickets: r.list(r.u16(), () => ({ number: r.f64(), buyer: r.chars(12) })),
    };
  },
};

export type ReadLineArgs = { sale: number; cursor: number };
export type ReadLineAnswer = {
  now: number;
  seq: number;
  waiting: number;
  inside: number;
  recentAdmitted: number;
  recentMs: number;
  ended: number;
  draw: number;
  news: number;
  missed: number;
  changed: { buyer: string }[];
};
/** how a sale's line stands, and whose tickets others have changed since `cursor`, the latest `news` that the reader has. */
export const readLineCommand: ShardCommand<ReadLineArgs, ReadLineAnswer> = {
  name: 'read_line',
  readOnly: true,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.f64(args.cursor);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      waiting: r.u32(),
      inside: r.u32(),
      recentAdmitted: r.u32(),
      recentMs: r.f64(),
      ended: r.u8(),
      draw: r.u8(),
      news: r.f64(),
      missed: r.u8(),
      changed: r.list(r.u32(), () => ({ buyer: r.chars(12) })),
    };
  },
};

export type ReadPoolArgs = { sale: number; from: number; max: number };
export type ReadPoolAnswer = {
  now: number;
  seq: number;
  draw: number;
  seed: string;
  tickets: { number: number; buyer: string }[];
};
/** some of those among whom places are drawn, by the numbers of their tickets, and the seed. Once the draw has begun nobody comes or goes, so that whoever draws draws the same. `draw` says whether it has. */
export const readPoolCommand: ShardCommand<ReadPoolArgs, ReadPoolAnswer> = {
  name: 'read_pool',
  readOnly: true,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.u32(args.from);
    w.u16(args.max);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      draw: r.u8(),
      seed: r.str8(),
      tickets: r.list(r.u16(), () => ({ number: r.f64(), buyer: r.chars(12) })),
    };
  },
};

export type ReadReservationsArgs = {
  references: readonly { sale: number; buyer: string; key: string; seq: number; seconds: number }[];
};
export type ReadReservationsAnswer = {
  now: number;
  seq: number;
  results: { status: number; state: number; expiresAt: number; durability: number; lines: Buffer }[];
};
/** reservations as they stand now; a hold past its time reads as expired, swept or not. */
export const readReservationsCommand: ShardCommand<ReadReservationsArgs, ReadReservationsAnswer> = {
  name: 'read_reservations',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.references.length);
    for (const e0 of args.references) {
      w.u32(e0.sale);
      w.chars(e0.buyer, 12);
      w.chars(e0.key, 12);
      w.f64(e0.seq);
      w.f64(e0.seconds);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      results: r.list(r.u16(), () => ({
        status: r.u8(),
        state: r.u8(),
        expiresAt: r.f64(),
        durability: r.u8(),
        lines: r.raw32(),
      })),
    };
  },
};

export type ReadSaleArgs = { id: string };
export type ReadSaleAnswer = {
  now: number;
  seq: number;
  acked: number;
  waitingSince: number;
  no: number;
  state: number;
  settings: string;
  stock: { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
};
/** a sale's settings, state and stock at one moment, and how far the ledger is. `state` 0: there is none. */
export const readSaleCommand: ShardCommand<ReadSaleArgs, ReadSaleAnswer> = {
  name: 'read_sale',
  readOnly: true,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.str8(args.id);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      acked: r.f64(),
      waitingSince: r.f64(),
      no: r.u32(),
      state: r.u8(),
      settings: r.str16(),
      stock: r.list(r.u32(), () => ({
        sku: r.str8(),
        warehouse: r.str8(),
        onHand: r.u32(),
        reserved: r.u32(),
        sold: r.u32(),
      })),
    };
  },
};

export type RebuildBeginArgs = { token: string };
export type RebuildBeginAnswer = { epoch: number; seq: number };
/** fences the shard for the rebuild `token`: from now on nothing but this rebuild's calls may touch it. */
export const rebuildBeginCommand: ShardCommand<RebuildBeginArgs, RebuildBeginAnswer> = {
  name: 'rebuild_begin',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { epoch: r.u32(), seq: r.f64() };
  },
};

export type RebuildBookArgs = {
  token: string;
  no: number;
  owners: readonly { buyer: string; units: number }[];
  reservations: readonly {
    buyer: string;
    key: string;
    state: number;
    seq: number;
    expiresAt: number;
    extended: number;
    durability: number;
    extensions: number;
    forgetAt: number;
    units: number;
    lines: Buffer;
  }[];
};
export type RebuildBookAnswer = { status: number };
/** remembers reservations of a sale, and units that buyers own, as the ledger has them. */
export const rebuildBookCommand: ShardCommand<RebuildBookArgs, RebuildBookAnswer> = {
  name: 'rebuild_book',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    w.u32(args.no);
    w.u16(args.owners.length);
    for (const e0 of args.owners) {
      w.chars(e0.buyer, 12);
      w.u32(e0.units);
    }
    w.u16(args.reservations.length);
    for (const e0 of args.reservations) {
      w.chars(e0.buyer, 12);
      w.chars(e0.key, 12);
      w.u8(e0.state);
      w.f64(e0.seq);
      w.f64(e0.expiresAt);
      w.u32(e0.extended);
      w.u8(e0.durability);
      w.u8(e0.extensions);
      w.f64(e0.forgetAt);
      w.u32(e0.units);
      w.raw32(e0.lines);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8() };
  },
};

export type RebuildChangesArgs = {
  token: string;
  no: number;
  adjustments: readonly {
    id: string;
    sku: string;
    warehouse: string;
    delta: number;
    onHand: number;
    reserved: number;
    sold: number;
  }[];
  returns: readonly { id: string; buyer: string; key: string; seq: number; lines: Buffer }[];
};
export type RebuildChangesAnswer = { status: number };
/** remembers ids of a sale's stock adjustments and returns, so that none is done twice. */
export const rebuildChangesCommand: ShardCommand<RebuildChangesArgs, RebuildChangesAnswer> = {
  name: 'rebuild_changes',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    w.u32(args.no);
    w.u16(args.adjustments.length);
    for (const e0 of args.adjustments) {
      w.str8(e0.id);
      w.str8(e0.sku);
      w.str8(e0.warehouse);
      w.f64(e0.delta);
      w.u32(e0.onHand);
      w.u32(e0.reserved);
      w.u32(e0.sold);
    }
    w.u16(args.returns.length);
    for (const e0 of args.returns) {
      w.str8(e0.id);
      w.chars(e0.buyer, 12);
      w.chars(e0.key, 12);
      w.f64(e0.seq);
      w.raw32(e0.lines);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8() };
  },
};

export type RebuildClearArgs = { token: string };
export type RebuildClearAnswer = { more: number };
/** drops what the shard has, a bounded part a call; `more` is 1 while something is left. */
export const rebuildClearCommand: ShardCommand<RebuildClearArgs, RebuildClearAnswer> = {
  name: 'rebuild_clear',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { more: r.u8() };
  },
};

export type RebuildFinishArgs = {
  token: string;
  epoch: number;
  seq: number;
  at: number;
  live: number;
  outboxEvents: number;
  rememberMs: number;
};
export type RebuildFinishAnswer = { status: number };
/** opens the rebuilt shard at `epoch`, after sequence `seq`, which the ledger has. */
export const rebuildFinishCommand: ShardCommand<RebuildFinishArgs, RebuildFinishAnswer> = {
  name: 'rebuild_finish',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    w.u32(args.epoch);
    w.f64(args.seq);
    w.f64(args.at);
    w.f64(args.live);
    w.f64(args.outboxEvents);
    w.f64(args.rememberMs);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8() };
  },
};

export type RebuildReadArgs = { token: string; after: number; max: number };
export type RebuildReadAnswer = { entries: { id: number; body: Buffer }[] };
/** the entries that the fenced shard's outbox has after sequence `after`, oldest first. */
export const rebuildReadCommand: ShardCommand<RebuildReadArgs, RebuildReadAnswer> = {
  name: 'rebuild_read',
  readOnly: true,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    w.f64(args.after);
    w.u16(args.max);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { entries: r.list(r.u16(), () => ({ id: r.f64(), body: r.raw32() })) };
  },
};

export type RebuildSaleArgs = {
  token: string;
  no: number;
  id: string;
  settings: string;
  digest: string;
  state: number;
  opensAt: number;
  closesAt: number;
  perBuyer: number;
  holdMs: number;
  durability: number;
  extensions: number;
  extendMs: number;
  room: Buffer;
  seed: string;
  stock: readonly { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
};
export type RebuildSaleAnswer = { status: number };
/** makes a sale as the ledger has it: its rules, and a part of its stock (a large one takes several calls). Of its waiting room the ledger has the rules alone: the line begins anew. */
export const rebuildSaleCommand: ShardCommand<RebuildSaleArgs, RebuildSaleAnswer> = {
  name: 'rebuild_sale',
  readOnly: false,
  encode: (_header, args) => {
    const w = new Writer();
    w.chars(args.token, 12);
    w.u32(args.no);
    w.str8(args.id);
    w.str16(args.settings);
    w.str8(args.digest);
    w.u8(args.state);
    w.f64(args.opensAt);
    w.f64(args.closesAt);
    w.u32(args.perBuyer);
    w.f64(args.holdMs);
    w.u8(args.durability);
    w.u16(args.extensions);
    w.f64(args.extendMs);
    w.raw32(args.room);
    w.str8(args.seed);
    w.u32(args.stock.length);
    for (const e0 of args.stock) {
      w.str8(e0.sku);
      w.str8(e0.warehouse);
      w.u32(e0.onHand);
      w.u32(e0.reserved);
      w.u32(e0.sold);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8() };
  },
};

export type ReleaseArgs = {
  references: readonly { sale: number; buyer: string; key: string; seq: number; seconds: number }[];
};
export type ReleaseAnswer = {
  now: number;
  seq: number;
  results: { status: number; state: number; expiresAt: number; durability: number; lines: Buffer }[];
};
/** gives back what reservations hold. Again: the same answer. After commit or expiry: `ended`, with the state. */
export const releaseCommand: ShardCommand<ReleaseArgs, ReleaseAnswer> = {
  name: 'release',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.references.length);
    for (const e0 of args.references) {
      w.u32(e0.sale);
      w.chars(e0.buyer, 12);
      w.chars(e0.key, 12);
      w.f64(e0.seq);
      w.f64(e0.seconds);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      results: r.list(r.u16(), () => ({
        status: r.u8(),
        state: r.u8(),
        expiresAt: r.f64(),
        durability: r.u8(),
        lines: r.raw32(),
      })),
    };
  },
};

export type ReplicateArgs = Record<string, never>;
export type ReplicateAnswer = { now: number; seq: number };
/** writes that the shard is where its caller has seen it, so that WAITAOF on the same connection waits for all of it. (On a connection that has written nothing it answers at once. See docs/decisions/0007.) */
export const replicateCommand: ShardCommand<ReplicateArgs, ReplicateAnswer> = {
  name: 'replicate',
  readOnly: false,
  encode: (header, _args) => {
    const w = new Writer();
    writeHeader(w, header);

    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { now: r.f64(), seq: r.f64() };
  },
};

export type ReserveArgs = {
  baskets: readonly { sale: number; lines: readonly { sku: string; quantity: number }[] }[];
  wanted: number[];
  buyers: string[];
  keys: string[];
  tickets: number[];
};
export type ReserveAnswer = {
  now: number;
  seq: number;
  grants: { seq: number; expiresAt: number; durability: number; lines: Buffer }[];
  results: { status: number; ref: number }[];
};
/** holds units for buyers; many requests a call, several lines a request, all lines of a request or none. */
export const reserveCommand: ShardCommand<ReserveArgs, ReserveAnswer> = {
  name: 'reserve',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.baskets.length);
    for (const e0 of args.baskets) {
      w.u32(e0.sale);
      w.u16(e0.lines.length);
      for (const e1 of e0.lines) {
        w.str8(e1.sku);
        w.u16(e1.quantity);
      }
    }
    w.u16(args.wanted.length);
    for (const value of args.wanted) w.u16(value);
    w.charsColumn(args.buyers, 12);
    w.charsColumn(args.keys, 12);
    w.u16(args.tickets.length);
    for (const value of args.tickets) w.f64(value);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      grants: r.list(r.u16(), () => ({ seq: r.f64(), expiresAt: r.f64(), durability: r.u8(), lines: r.raw32() })),
      results: r.list(r.u16(), () => ({ status: r.u8(), ref: r.u16() })),
    };
  },
};

export type ReturnUnitsArgs = {
  sale: number;
  buyer: string;
  key: string;
  seq: number;
  id: string;
  lines: readonly { sku: string; warehouse: string; quantity: number }[];
};
export type ReturnUnitsAnswer = { status: number };
/** puts sold units back on sale, once per `id`, and lowers the buyer's count. */
export const returnUnitsCommand: ShardCommand<ReturnUnitsArgs, ReturnUnitsAnswer> = {
  name: 'return_units',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.chars(args.buyer, 12);
    w.chars(args.key, 12);
    w.f64(args.seq);
    w.str8(args.id);
    w.u16(args.lines.length);
    for (const e0 of args.lines) {
      w.str8(e0.sku);
      w.str8(e0.warehouse);
      w.u16(e0.quantity);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8() };
  },
};

export type SeeTicketsArgs = { sale: number; tickets: readonly { buyer: string; number: number }[] };
export type SeeTicketsAnswer = {
  now: number;
  seq: number;
  waiting: number;
  inside: number;
  recentAdmitted: number;
  recentMs: number;
  ended: number;
  draw: number;
  tickets: {
    status: number;
    state: number;
    lane: number;
    number: number;
    ahead: number;
    joined: number;
    expires: number;
  }[];
};
/** how tickets stand; whoever asks is still there, and keeps the place. */
export const seeTicketsCommand: ShardCommand<SeeTicketsArgs, SeeTicketsAnswer> = {
  name: 'see_tickets',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.u16(args.tickets.length);
    for (const e0 of args.tickets) {
      w.chars(e0.buyer, 12);
      w.f64(e0.number);
    }
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      waiting: r.u32(),
      inside: r.u32(),
      recentAdmitted: r.u32(),
      recentMs: r.f64(),
      ended: r.u8(),
      draw: r.u8(),
      tickets: r.list(r.u16(), () => ({
        status: r.u8(),
        state: r.u8(),
        lane: r.u8(),
        number: r.f64(),
        ahead: r.f64(),
        joined: r.f64(),
        expires: r.f64(),
      })),
    };
  },
};

export type SetSaleStateArgs = { sale: number; state: number };
export type SetSaleStateAnswer = { status: number };
/** pauses, resumes or closes a sale. State: 1 open, 2 paused, 3 closed. Setting it again changes nothing. */
export const setSaleStateCommand: ShardCommand<SetSaleStateArgs, SetSaleStateAnswer> = {
  name: 'set_sale_state',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u32(args.sale);
    w.u8(args.state);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { status: r.u8() };
  },
};

export type ShardStatusArgs = Record<string, never>;
export type ShardStatusAnswer = {
  now: number;
  seq: number;
  acked: number;
  waitingSince: number;
  live: number;
  outboxEvents: number;
};
/** the shard's time, sequence and how much is waiting. */
export const shardStatusCommand: ShardCommand<ShardStatusArgs, ShardStatusAnswer> = {
  name: 'shard_status',
  readOnly: true,
  encode: (header, _args) => {
    const w = new Writer();
    writeHeader(w, header);

    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return { now: r.f64(), seq: r.f64(), acked: r.f64(), waitingSince: r.f64(), live: r.f64(), outboxEvents: r.f64() };
  },
};

export type SnapshotArgs = Record<string, never>;
export type SnapshotAnswer = {
  now: number;
  epoch: number;
  seq: number;
  live: number;
  sales: {
    no: number;
    id: string;
    stock: { sku: string; warehouse: string; onHand: number; reserved: number; sold: number }[];
  }[];
};
/** the shard's sequence and all its counters at one moment, for reconcile. */
export const snapshotCommand: ShardCommand<SnapshotArgs, SnapshotAnswer> = {
  name: 'snapshot',
  readOnly: true,
  encode: (header, _args) => {
    const w = new Writer();
    writeHeader(w, header);

    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      epoch: r.u32(),
      seq: r.f64(),
      live: r.f64(),
      sales: r.list(r.u32(), () => ({
        no: r.u32(),
        id: r.str8(),
        stock: r.list(r.u32(), () => ({
          sku: r.str8(),
          warehouse: r.str8(),
          onHand: r.u32(),
          reserved: r.u32(),
          sold: r.u32(),
        })),
      })),
    };
  },
};

export type TendLinesArgs = { max: number };
export type TendLinesAnswer = {
  now: number;
  seq: number;
  more: number;
  rooms: {
    sale: number;
    waiting: number;
    inside: number;
    recentAdmitted: number;
    recentMs: number;
    ended: number;
    draw: number;
    abandoned: number;
    waited: { ms: number }[];
  }[];
};
/** looks after the lines of a shard: lets people in as their inlets allow, ends the tickets of those who have gone away or whose admission has run out, and notices when nothing is left to wait for. */
export const tendLinesCommand: ShardCommand<TendLinesArgs, TendLinesAnswer> = {
  name: 'tend_lines',
  readOnly: false,
  encode: (header, args) => {
    const w = new Writer();
    writeHeader(w, header);
    w.u16(args.max);
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return {
      now: r.f64(),
      seq: r.f64(),
      more: r.u8(),
      rooms: r.list(r.u16(), () => ({
        sale: r.u32(),
        waiting: r.u32(),
        inside: r.u32(),
        recentAdmitted: r.u32(),
        recentMs: r.f64(),
        ended: r.u8(),
        draw: r.u8(),
        abandoned: r.u16(),
        waited: r.list(r.u16(), () => ({ ms: r.f64() })),
      })),
    };
  },
};
