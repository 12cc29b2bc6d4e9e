/** A sale's waiting room as its operator sets it, and as the shard keeps it. */
import { orderCodes, roomCodes } from '../lua/bindings.ts';
import { Writer } from '../lua/packing.ts';
import type { WaitingRoomBody } from './schemas.ts';

type RoomOrder = keyof typeof orderCodes;
type RoomState = keyof typeof roomCodes;

/** At most so many inside, so many a minute; `null`: no bound. `stock`: only for as many as there are units to be had. */
type Inlet = { maxInside: number | null; perMinute: number | null; stock: boolean };

export type WaitingRoom = {
  order: RoomOrder;
  inlet: Inlet;
  admissionSeconds: number;
  graceSeconds: number;
  /** Whether people may buy without an admission while nobody tends the line. */
  whenDown: 'closed' | 'open';
  challenge: { difficulty: number } | null;
  lanes: { name: string; weight: number }[];
  state: RoomState;
};

/** A sale whose operator named no lanes has this one. */
export const onlyLane = 'all';

/** What the operator gave, with what was left out as it is by default; `before`: what the room was. */
export function roomOf(body: WaitingRoomBody | null | undefined, before: WaitingRoom | null): WaitingRoom | null {
  if (!body) return null;
  const { order, inlet, admissionSeconds = 600, graceSeconds = 120, whenDown = 'closed' } = body;
  return {
    order,
    inlet: inletOf(inlet),
    ...{ admissionSeconds, graceSeconds, whenDown },
    challenge: body.challenge ?? null,
    lanes: body.lanes && body.lanes.length > 0 ? body.lanes : [{ name: onlyLane, weight: 1 }],
    state: body.state ?? before?.state ?? 'open',
  };
}

export const inletOf = (inlet: WaitingRoomBody['inlet']): Inlet => ({
  maxInside: inlet?.maxInside ?? null,
  perMinute: inlet?.perMinute ?? null,
  stock: inlet?.stock ?? false,
});

/** As `lua/includes/25-room.lua` reads it; empty where there is none. */
export function packRoom(room: WaitingRoom | null): Buffer {
  if (!room) return Buffer.alloc(0);
  const w = new Writer(64);
  w.u8(orderCodes[room.order]);
  w.u8(roomCodes[room.state]);
  w.u32(room.inlet.maxInside ?? 0);
  w.u32(room.inlet.perMinute ?? 0);
  w.u8(room.inlet.stock ? 1 : 0);
  w.f64(room.admissionSeconds * 1_000);
  w.f64(room.graceSeconds * 1_000);
  w.u8(room.whenDown === 'open' ? 1 : 0);
  w.u8(room.lanes.length);
  for (const { weight, name } of room.lanes) {
    w.u16(weight);
    w.str8(name);
  }
  return w.done();
}
