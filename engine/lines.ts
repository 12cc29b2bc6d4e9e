/** The lines of waiting rooms: tickets as the HTTP interface shows them, and every change of one. State and decisions are the shard's. */
import { type Clock, timestamp } from '../kernel/clock.ts';
import { type Refusal, RefusalError, refusal } from '../kernel/errors.ts';
import { decodeTicketId, encodeTicketId, type TicketRef } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import {
  actionCodes,
  changeTicketCommand,
  drawCodes,
  endedCodes,
  joinLineCommand,
  type ReadLineAnswer,
  readDrawCommand,
  readLineCommand,
  type SeeTicketsAnswer,
  seeTicketsCommand,
  statusCodes,
  ticketCodes,
} from '../lua/bindings.ts';
import type { Admissions } from './admissions.ts';
import { type Batcher, createBatcher } from './batcher.ts';
import { type Challenge, proofOfWork } from './challenge.ts';
import { commitmentOf, drawAlgorithm } from './draw.ts';
import { type Eta, etaOf, type Measured } from './eta.ts';
import type { WaitingRoom } from './room.ts';
import type { Sale, SaleDirectory } from './sales.ts';
import type { Shards } from './shards.ts';

type TicketState = keyof typeof ticketCodes | 'ended';

export type Ticket = {
  ticketId: string;
  saleId: string;
  lane: string;
  state: TicketState;
  /** Why the line has ended; null while there is something to wait for. */
  reason: Line['ended'];
  position: number | null;
  ahead: number | null;
  etaSeconds: Eta;
  joinedAt: string;
  admissionToken: string | null;
  admissionExpiresAt: string | null;
};

/** How a line stands. `ended`: why those who wait have nothing to wait for; null while they have. */
export type Line = { waiting: number; inside: number; ended: 'sold-out' | 'closed' | null } & Measured;

/** `graceMs`: who is not seen for so long loses the place. */
export type LineNews = Line & { news: number; missed: boolean; buyers: string[]; graceMs: number };

export type Lines = {
  /** A ticket, or the one that the buyer has already. `lane` and `answer` are what the buyer gave, '' for nothing. */
  join(saleId: string, buyer: string, lane: string, answer: string): Promise<{ ticket: Ticket; made: boolean }>;
  /** How a ticket stands; its owner has been seen. Rejects with `not-found` and `forbidden`. */
  see(saleId: string, buyer: string, ticketId: string): Promise<Ticket>;
  leave(saleId: string, buyer: string, ticketId: string): Promise<Ticket>;
  /** What an operator does to somebody's ticket; to look at it is not to have seen its owner. */
  change(
    saleId: string,
    ticketId: string,
    action: 'look' | 'expel' | 'admit' | 'move',
    position: number,
  ): Promise<Ticket>;
  /** How the line stands, and whose tickets were changed by others since `cursor`. */
  read(saleId: string, cursor: number): Promise<LineNews>;
  /** The draw, a page of `limits.drawPage` places, from 0 on. */
  draw(saleId: string, page: number): Promise<Draw>;
  idle(): Promise<void>;
};

export type Draw = {
  commitment: string;
  algorithm: string;
  seed?: string;
  total?: number;
  page?: number;
  pages?: number;
  tickets?: { ticketId: string; place: number }[];
};

type Viewed = SeeTicketsAnswer['tickets'][number];
type LineAnswer = Omit<SeeTicketsAnswer, 'tickets'>;
type Seen = { viewed: Viewed; line: LineAnswer };
type Joining = { sale: number; buyer: string; lane: number };
type Asking = { sale: number; buyer: string; number: number };
/** A sale as a line needs it, remembered for a while: operators change it rarely, and the shard decides anyway. */
type Known = { sale: Sale; room: WaitingRoom; shard: number; no: number; untilMs: number };

const knownMs = 500;
const stateNames = new Map(Object.entries(ticketCodes).map(([name, code]) => [code as number, name as TicketState]));
const notFound = new RefusalError(refusal('not-found', 'There is no such ticket.'));

const endedOf = (code: number): Line['ended'] =>
  code === endedCodes.soldOut ? 'sold-out' : code === endedCodes.closed ? 'closed' : null;

export function createLines(parts: {
  shards: Shards;
  sales: SaleDirectory;
  admissions: Admissions;
  challenge?: Challenge;
  clock: Clock;
  logger: Logger;
}): Lines {
  const { shards, sales, admissions, clock, logger } = parts;
  const challenge = parts.challenge ?? proofOfWork;
  const known = new Map<string, Known>();

  const find = (saleId: string): Known | Promise<Known> => {
    const found = known.get(saleId);
    return found && found.untilMs > clock.monotonicMs() ? found : read(saleId);
  };
  const read = async (saleId: string): Promise<Known> => {
    const reading = await sales.read(saleId);
    if (!reading) throw new RefusalError(refusal('not-found', `There is no sale ${saleId}.`));
    const { sale, no } = reading;
    if (!sale.waitingRoom) throw new RefusalError(refusal('not-found', `The sale ${saleId} has no waiting room.`));
    const shard = shards.shardOf(saleId);
    const fresh = { sale, room: sale.waitingRoom, shard, no, untilMs: clock.monotonicMs() + knownMs };
    if (known.size >= limits.linesWatched) known.clear();
    known.set(saleId, fresh);
    return fresh;
  };

  const batching = {
    weight: () => 1,
    maxWeight: limits.ticketsPerCall,
    maxInFlight: limits.batchesInFlight,
    minBatch: limits.batchMin,
    maxPending: limits.pendingRequests,
    maxWaitMs: limits.callMs,
    onFault: (error: unknown) => logger.error({ error: String(error) }, 'an answer could not be given'),
    clock,
  };
  const perSale = <Request extends { sale: number }>(
    send: (shard: number, sale: number, requests: Request[]) => Promise<Seen[]>,
  ): Batcher<Request, Seen>[] =>
    Array.from({ length: shards.count }, (_, shard) =>
      createBatcher<Request, Seen>({
        ...batching,
        async send(requests) {
          const [first] = requests;
          const groups = [...Map.groupBy(requests, ({ sale }) => sale)];
          // As good as always: lines are few, and each is busy.
          if (first && groups.length === 1) return send(shard, first.sale, requests);
          const answers = new Map<Request, Seen>();
          await Promise.all(
            groups.map(async ([sale, some]) => {
              const seen = await send(shard, sale, some);
              for (const [i, request] of some.entries()) answers.set(request, seen[i] as Seen);
            }),
          );
          return requests.map((request) => answers.get(request) as Seen);
        },
      }),
    );
  const joins = perSale<Joining>(async (shard, sale, requests) => {
    const [buyers, lanes] = [requests.map(({ buyer }) => buyer), requests.map(({ lane }) => lane)];
    const { tickets, ...line } = await shards.call(shard, joinLineCommand, { sale, buyers, lanes });
    return tickets.map((viewed) => ({ viewed, line }));
  });
  const looks = perSale<Asking>(async (shard, sale, requests) => {
    const { tickets, ...line } = await shards.call(shard, seeTicketsCommand, { sale, tickets: requests });
    return tickets.map((viewed) => ({ viewed, line }));
  });

  const ask = <Request>(batchers: Batcher<Request, Seen>[], shard: number, request: Request): Promise<Seen> =>
    new Promise((resolve, reject) => {
      batchers[shard]?.submit(request, (seen, refused) => {
        if (seen) resolve(seen);
        else reject(new RefusalError(refused ?? refusal('unavailable', 'What happened is not known.')));
      });
    });
  /** What a buyer is told must be as durable as the sale says; null where it is already. */
  const secured = ({ sale, shard }: Known): Promise<void> | null => shards.secure(shard, sale.durability);

  const ticketOf = ({ sale, room, shard, no }: Known, buyer: string, { viewed, line }: Seen): Ticket => {
    const { number, expires } = viewed;
    const named = stateNames.get(viewed.state) ?? 'waiting';
    const state = named === 'waiting' && line.ended !== 0 ? 'ended' : named;
    const waits = state === 'waiting' && viewed.ahead >= 0;
    const admitted = state === 'admitted';
    const opensInMs = sale.opensAt === null ? 0 : Date.parse(sale.opensAt) - line.now;
    return {
      ticketId: encodeTicketId({ shard, sale: no, number, buyer }),
      saleId: sale.id,
      lane: room.lanes[viewed.lane - 1]?.name ?? '',
      state,
      reason: state === 'ended' ? endedOf(line.ended) : null,
      position: waits ? viewed.ahead + 1 : null,
      ahead: waits ? viewed.ahead : null,
      etaSeconds: waits ? etaOf(viewed.ahead, line, room.inlet.perMinute, opensInMs) : { low: null, high: null },
      joinedAt: timestamp(viewed.joined),
      admissionToken: admitted ? admissions.sign(buyer, sale.id, number, expires) : null,
      admissionExpiresAt: admitted ? timestamp(expires) : null,
    };
  };

  const refusedJoin = (saleId: string, lane: string, status: number): Refusal => {
    switch (status) {
      case statusCodes.saleNotOpen:
        return refusal('sale-not-open', `Nobody can join the line of ${saleId} any more.`);
      case statusCodes.soldOut:
        return refusal('sold-out', `Nothing is left of ${saleId}, and nothing can come back.`);
      case statusCodes.notAllowed:
        return refusal('invalid-request', `The line of ${saleId} has no lane ${lane}.`, {
          errors: [{ path: '/lane', message: 'is not a lane of this sale' }],
        });
      case statusCodes.unknownSale:
        return refusal('not-found', `The sale ${saleId} has no waiting room.`);
      default:
        return refusal('overloaded', `The line of ${saleId} is as long as a line may be.`);
    }
  };

  const lineOf = ({ waiting, inside, recentAdmitted, recentMs, ended }: ReadLineAnswer): Line => ({
    ...{ waiting, inside, recentAdmitted, recentMs },
    ended: endedOf(ended),
  });

  /** The ticket that an id means, if it is of this sale. */
  const refer = (place: Known, ticketId: string): TicketRef => {
    const ref = decodeTicketId(ticketId);
    if (!ref || ref.shard !== place.shard || ref.sale !== place.no) throw notFound;
    return ref;
  };
  const own = (ref: TicketRef, buyer: string): void => {
    if (ref.buyer !== buyer) throw new RefusalError(refusal('forbidden', 'This ticket is somebody else’s.'));
  };
  const act = async (place: Known, ref: TicketRef, action: number, position = 0): Promise<Ticket> => {
    const { number, buyer } = ref;
    const args = { sale: place.no, buyer, number, action, position };
    const answer = await shards.call(place.shard, changeTicketCommand, args);
    if (answer.status === statusCodes.unknownTicket) throw notFound;
    const ticket = ticketOf(place, buyer, { viewed: answer, line: answer });
    if (answer.status === statusCodes.ended)
      throw new RefusalError(refusal('conflict', `The ticket is ${ticket.state}: it can’t be changed any more.`));
    if (answer.status === statusCodes.notAllowed)
      throw new RefusalError(refusal('conflict', 'The ticket has no place in the line that could be changed.'));
    await secured(place);
    return ticket;
  };

  return {
    async join(saleId, buyer, lane, answer) {
      const place = await find(saleId);
      const { room } = place;
      if (room.challenge && !challenge.solved(answer, saleId, buyer, room.challenge.difficulty))
        throw new RefusalError(
          refusal('challenge-required', 'Solve the challenge, and join again with the answer as `challenge`.', {
            challenge: challenge.ask(saleId, buyer, room.challenge.difficulty),
          }),
        );
      const at = lane === '' ? 1 : room.lanes.findIndex(({ name }) => name === lane) + 1;
      const seen = await ask(joins, place.shard, { sale: place.no, buyer, lane: at });
      const { status } = seen.viewed;
      if (status !== statusCodes.ok && status !== statusCodes.replay)
        throw new RefusalError(refusedJoin(saleId, lane, status));
      await secured(place);
      return { ticket: ticketOf(place, buyer, seen), made: status === statusCodes.ok };
    },
    async see(saleId, buyer, ticketId) {
      const place = await find(saleId);
      const ref = refer(place, ticketId);
      own(ref, buyer);
      const seen = await ask(looks, place.shard, { sale: place.no, buyer, number: ref.number });
      if (seen.viewed.status !== statusCodes.ok) throw notFound;
      await secured(place);
      return ticketOf(place, buyer, seen);
    },
    async leave(saleId, buyer, ticketId) {
      const place = await find(saleId);
      const ref = refer(place, ticketId);
      own(ref, buyer);
      return act(place, ref, actionCodes.leave);
    },
    async change(saleId, ticketId, action, position) {
      const place = await find(saleId);
      return act(place, refer(place, ticketId), actionCodes[action], position);
    },
    async read(saleId, cursor) {
      const place = await find(saleId);
      const answer = await shards.call(place.shard, readLineCommand, { sale: place.no, cursor });
      const { news, missed, changed } = answer;
      const graceMs = place.room.graceSeconds * 1_000;
      return { ...lineOf(answer), news, missed: missed === 1, buyers: changed.map(({ buyer }) => buyer), graceMs };
    },
    async draw(saleId, page) {
      const { shard, no } = await find(saleId);
      const from = page * limits.drawPage;
      const answer = await shards.call(shard, readDrawCommand, { sale: no, from, max: limits.drawPage });
      const shown = { commitment: commitmentOf(answer.seed), algorithm: drawAlgorithm };
      if (answer.draw !== drawCodes.done) return shown;
      const tickets = answer.tickets.map(({ number, buyer }, i) => ({
        ticketId: encodeTicketId({ shard, sale: no, number, buyer }),
        place: from + i + 1,
      }));
      const pages = Math.max(1, Math.ceil(answer.total / limits.drawPage));
      return { ...shown, seed: answer.seed, total: answer.total, page, pages, tickets };
    },
    idle: async () => {
      await Promise.all([...joins, ...looks].map((batcher) => batcher.idle()));
    },
  };
}
