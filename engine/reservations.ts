/** Reserve, commit, release, extend and read reservations: batched per shard and command. */
import { type Clock, timestamp } from '../kernel/clock.ts';
import { type Refusal, RefusalError, refusal } from '../kernel/errors.ts';
import { decodeReservationId, isId, keyDigests, type ReservationRef } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import {
  commitCommand,
  extendCommand,
  type ReserveAnswer,
  type ReserveArgs,
  readReservationsCommand,
  releaseCommand,
  reservationCodes,
  reserveCommand,
  type ShardCommand,
  statusCodes,
} from '../lua/bindings.ts';
import { decodeLines, type Line } from '../lua/outbox.ts';
import { type ReserveResult, reserveResults } from '../lua/results.ts';
import { type Batcher, createBatcher } from './batcher.ts';
import { durabilityOf } from './durability.ts';
import { fillHeld, type HeldForm, printHeld } from './held.ts';
import type { Lent } from './replies.ts';
import type { SaleDirectory } from './sales.ts';
import type { Shards } from './shards.ts';

export type ReservationState = keyof typeof reservationCodes;

export type Reservation = {
  id: string;
  saleId: string;
  buyerId: string;
  state: ReservationState;
  lines: Line[];
  expiresAt: string;
  durability: string;
};

/** Reservations that ended long ago, from the ledger. */
export type ReservationArchive = {
  find(ref: ReservationRef): Promise<Omit<Reservation, 'id' | 'buyerId'> | null>;
};

/** A line of a request. */
export type Wanted = { readonly sku: string; readonly quantity: number };

export type ReserveRequest = {
  saleId: string;
  buyer: string;
  idempotencyKey: string;
  /** The number of the ticket that lets the buyer in to a sale with a waiting room; 0 for none. */
  ticket: number;
  lines: readonly Wanted[];
};

/** A reserve's outcome: the answer's body as JSON in UTF-8, lent until `done` returns, or the refusal. */
export type ReserveOutcome = { body: Lent; replayed: boolean; refused?: never } | { refused: Refusal };

export type Reservations = {
  /** Holds units. `done` is called once. */
  reserve(request: ReserveRequest, done: (outcome: ReserveOutcome) => void): void;
  commit(id: string, buyer: string): Promise<Reservation>;
  release(id: string, buyer: string): Promise<Reservation>;
  extend(id: string, buyer: string, seconds: number): Promise<Reservation>;
  /** `buyer` null: the operator, who may see all. */
  read(id: string, buyer: string | null): Promise<Reservation>;
  /** Requests waiting and calls under way, for metrics. */
  depth(): { pending: number; inFlight: number };
  idle(): Promise<void>;
};

/** `key`: the digest, once it is packed. */
type ReserveItem = ReserveRequest & { no: number; key: string };
/** What several reserves of one sale were granted together. `secured`: what to wait for first. */
type Grant = { end: string; form: HeldForm | null; secured: Promise<void> | null };
type Decision = ReserveResult<Grant>;
type Reference = { sale: number; buyer: string; key: string; seq: number; seconds: number };
type Settled = { status: number; state: number; expiresAt: number; durability: number; lines: Buffer };

const stateNames = new Map(
  Object.entries(reservationCodes).map(([name, code]) => [code as number, name as ReservationState]),
);

function stateOf(code: number): ReservationState {
  const state = stateNames.get(code);
  if (!state) throw new Error(`no reservation state has the code ${code}`);
  return state;
}

const gone = new RefusalError(refusal('not-found', 'There is no such reservation.'));

function refusalOf(error: unknown): Refusal {
  return error instanceof RefusalError ? error.refusal : refusal('unavailable', 'What happened is not known.');
}

/** Lines of one SKU are added up; the first naming of a SKU gives its place. */
function mergeLines(lines: readonly Wanted[]): readonly Wanted[] {
  const merged = new Map<string, number>();
  if (lines.length > 1) for (const { sku, quantity } of lines) merged.set(sku, (merged.get(sku) ?? 0) + quantity);
  // The same list where nothing is to be done: what came as one list goes to the shard as one basket.
  return merged.size < lines.length && lines.length > 1
    ? [...merged].map(([sku, quantity]) => ({ sku, quantity }))
    : lines;
}

/** One call's argument. Requests of one sale that share their list of lines share a basket. Keys are digested together. */
function packRequests(requests: ReserveItem[]): ReserveArgs {
  const baskets: ReserveArgs['baskets'][number][] = [];
  const places = new Map<readonly Wanted[], number>();
  const place = ({ no, lines }: ReserveItem): number => {
    const known = places.get(lines);
    if (known !== undefined && baskets[known]?.sale === no) return known;
    places.set(lines, baskets.length);
    return baskets.push({ sale: no, lines }) - 1;
  };
  const [wanted, buyers, keys]: [number[], string[], string[]] = [[], [], []];
  for (const request of requests) {
    wanted.push(place(request));
    buyers.push(request.buyer);
    keys.push(request.idempotencyKey);
  }
  const digests = keyDigests(keys);
  for (const [i, digest] of digests.entries()) (requests[i] as ReserveItem).key = digest;
  const tickets = requests.some(({ ticket }) => ticket > 0) ? requests.map(({ ticket }) => ticket) : [];
  return { baskets, wanted, buyers, keys: digests, tickets };
}

export function createReservations(
  shards: Shards,
  sales: SaleDirectory,
  archive: ReservationArchive,
  clock: Clock,
  logger: Logger,
): Reservations {
  const batching = {
    maxWeight: limits.batchLines,
    maxInFlight: limits.batchesInFlight,
    minBatch: limits.batchMin,
    maxPending: limits.pendingRequests,
    maxWaitMs: limits.callMs,
    onFault: (error: unknown) => logger.error({ error: String(error) }, 'an answer could not be given'),
    clock,
  };

  const reserveBatchers = Array.from({ length: shards.count }, (_, shard) =>
    createBatcher<ReserveItem, Decision>({
      ...batching,
      weight: (request) => Math.max(limits.batchLines / limits.batchRequests, request.lines.length),
      send: async (requests) => decisionsOf(shard, await shards.call(shard, reserveCommand, packRequests(requests))),
    }),
  );

  const settler = (
    command: ShardCommand<{ references: Reference[] }, { results: Settled[] }>,
  ): Batcher<Reference, Settled>[] =>
    Array.from({ length: shards.count }, (_, shard) =>
      createBatcher<Reference, Settled>({
        ...batching,
        weight: () => limits.batchLines / limits.batchRequests,
        send: async (references) => (await shards.call(shard, command, { references })).results,
      }),
    );
  const commits = settler(commitCommand);
  const releases = settler(releaseCommand);
  const extensions = settler(extendCommand);
  const readings = settler(readReservationsCommand);
  /** Answers that wait for more than the call. */
  const securing = new Set<Promise<void>>();
  const whenSecured = (secured: Promise<void>, then: () => void, otherwise: (error: unknown) => void): void => {
    securing.add(secured);
    secured
      .then(then, otherwise)
      .catch(batching.onFault)
      .finally(() => securing.delete(secured));
  };
  const all = [reserveBatchers, commits, releases, extensions, readings].flat();

  const settle = (batchers: Batcher<Reference, Settled>[], ref: ReservationRef, seconds: number): Promise<Settled> =>
    new Promise((resolve, reject) => {
      const batcher = batchers[ref.shard];
      if (!batcher) {
        reject(gone);
        return;
      }
      batcher.submit({ ...ref, seconds }, (result, refused) => {
        if (!result) {
          reject(new RefusalError(refused ?? refusal('unavailable', 'What happened is not known.')));
          return;
        }
        // A read too: what a buyer is told must not be lost, whoever wrote it.
        const secured = result.durability === 0 ? null : shards.secure(ref.shard, durabilityOf(result.durability));
        if (secured) whenSecured(secured, () => resolve(result), reject);
        else resolve(result);
      });
    });

  const owned = (id: string, buyer: string | null): ReservationRef => {
    const ref = decodeReservationId(id);
    if (!ref) throw gone;
    if (buyer !== null && ref.buyer !== buyer)
      throw new RefusalError(refusal('forbidden', 'This reservation is somebody else’s.'));
    return ref;
  };

  const view = async (id: string, ref: ReservationRef, settled: Settled): Promise<Reservation> => {
    const saleId = await sales.nameOf(ref.shard, ref.sale);
    if (saleId === null) throw gone;
    return {
      id,
      saleId,
      buyerId: ref.buyer,
      state: stateOf(settled.state),
      lines: decodeLines(settled.lines),
      expiresAt: timestamp(settled.expiresAt),
      durability: durabilityOf(settled.durability),
    };
  };

  /** What the ledger knows of a reservation that the shard has forgotten. */
  const archived = async (id: string, ref: ReservationRef): Promise<Reservation> => {
    const found = await archive.find(ref);
    if (!found) throw gone;
    return { id, buyerId: ref.buyer, ...found };
  };

  const ended = (state: string): RefusalError =>
    new RefusalError(
      refusal('reservation-ended', `The reservation is ${state}: it can't be changed any more.`, {
        reservationState: state,
      }),
    );

  const finish = async (
    batchers: Batcher<Reference, Settled>[],
    id: string,
    buyer: string,
    wanted: ReservationState,
    seconds = 0,
  ): Promise<Reservation> => {
    const ref = owned(id, buyer);
    const settled = await settle(batchers, ref, seconds);
    switch (settled.status) {
      case statusCodes.ok:
      case statusCodes.replay:
        return view(id, ref, settled);
      case statusCodes.ended:
        throw ended(stateOf(settled.state));
      case statusCodes.notAllowed:
        throw new RefusalError(
          refusal('conflict', 'The sale allows no more, or no such long, extensions of this reservation.'),
        );
      case statusCodes.overloaded:
        throw new RefusalError(refusal('overloaded', 'The ledger is too far behind. Nothing was changed.'));
      default: {
        const found = await archived(id, ref);
        if (found.state === wanted && wanted !== 'held') return found;
        throw ended(found.state);
      }
    }
  };

  const linesText = new Map<string, string>();
  /** The JSON of packed lines. In a hot sale nearly all are the same: a small memory of texts saves making them. */
  const linesJson = (packed: Buffer): string => {
    const bytes = packed.toString('latin1');
    let text = linesText.get(bytes);
    if (text === undefined) {
      text = JSON.stringify(decodeLines(packed));
      if (linesText.size >= limits.linesTexts) linesText.clear();
      linesText.set(bytes, text);
    }
    return text;
  };
  const decisionsOf = (shard: number, answer: ReserveAnswer): Decision[] => {
    const grants = answer.grants.map(({ lines, expiresAt, durability: code }): Grant => {
      const durability = durabilityOf(code);
      const expires = timestamp(expiresAt);
      const end = `,"state":"held","lines":${linesJson(lines)},"expiresAt":"${expires}","durability":"${durability}"}`;
      return { end, form: null, secured: shards.secure(shard, durability) };
    });
    return reserveResults(answer, grants);
  };

  const refusals = new Map<string, Refusal>();
  /** The same refusal is the same object: what is written of it is written once. */
  const refusedReserve = (request: ReserveItem, result: Decision): Refusal => {
    const name = `${result.status} ${request.saleId} ${request.lines[result.line]?.sku}`;
    let refused = refusals.get(name);
    if (!refused) {
      refused = refusalOfStatus(request, result);
      if (refusals.size >= limits.linesTexts) refusals.clear();
      refusals.set(name, refused);
    }
    return refused;
  };
  const refusalOfStatus = (request: ReserveItem, result: Decision): Refusal => {
    const what = request.lines[result.line]?.sku ?? 'a line of it';
    switch (result.status) {
      case statusCodes.mismatch:
        return refusal('idempotency-mismatch', 'This key was used with another body. Take a new key.');
      case statusCodes.unknownSale:
        return refusal('not-found', `There is no sale ${request.saleId}.`);
      case statusCodes.unknownSku:
        return refusal('not-found', `The sale ${request.saleId} does not sell ${what}.`);
      case statusCodes.notAdmitted:
        return refusal(
          'not-admitted',
          `The sale ${request.saleId} has a waiting room: join at POST /v1/sales/${request.saleId}/tickets, and send the Admission-Token once you are let in.`,
        );
      case statusCodes.saleNotOpen:
        return refusal('sale-not-open', `The sale ${request.saleId} is not open now.`);
      case statusCodes.purchaseLimit:
        return refusal('purchase-limit', 'With this you would have more than the sale allows a buyer.');
      case statusCodes.soldOut:
        return refusal('sold-out', `Nothing is left of ${what}. Units come back when holds lapse.`);
      case statusCodes.insufficientStock:
        return refusal('insufficient-stock', `Less than that is left of ${what}. Nothing was taken.`);
      default:
        return refusal('overloaded', 'The ledger is too far behind. Nothing was taken; try again shortly.');
    }
  };

  const submit = (shard: number, item: ReserveItem, done: (outcome: ReserveOutcome) => void): void => {
    const batcher = reserveBatchers[shard];
    if (!batcher) throw new Error(`no shard ${shard}`);
    batcher.submit(item, (result, refused) => {
      if (!result) {
        done({ refused: refused ?? refusal('unavailable', 'What happened is not known.') });
        return;
      }
      const { grant } = result;
      if (grant === null) {
        done({ refused: refusedReserve(item, result) });
        return;
      }
      if (!grant.secured) done(held(shard, item, grant, result));
      else
        whenSecured(
          grant.secured,
          () => done(held(shard, item, grant, result)),
          (error) => done({ refused: refusalOf(error) }),
        );
    });
  };
  const held = (shard: number, item: ReserveItem, grant: Grant, { seq, status }: Decision): ReserveOutcome => {
    if (grant.form?.sale !== item.no) grant.form = printHeld({ shard, ...item }, grant.end);
    const body = fillHeld(grant.form, seq, item.buyer, item.key);
    // The body of the first answer and of every replay: the same text.
    return { body, replayed: status === statusCodes.replay };
  };

  return {
    reserve(request, done) {
      const { saleId, buyer, idempotencyKey, ticket } = request;
      const lines = mergeLines(request.lines);
      const item = (no: number): ReserveItem => ({ saleId, no, buyer, idempotencyKey, ticket, key: '', lines });
      const place = sales.locate(saleId);
      if (place) {
        submit(place.shard, item(place.no), done);
        return;
      }
      sales.read(saleId).then(
        (reading) => {
          if (reading) submit(shards.shardOf(saleId), item(reading.no), done);
          else done({ refused: refusal('not-found', `There is no sale ${saleId}.`) });
        },
        (error: unknown) => done({ refused: refusalOf(error) }),
      );
    },
    commit: (id, buyer) => finish(commits, id, buyer, 'committed'),
    release: (id, buyer) => finish(releases, id, buyer, 'released'),
    extend: (id, buyer, seconds) => finish(extensions, id, buyer, 'held', seconds),
    async read(id, buyer) {
      if (!isId(id)) throw gone;
      const ref = owned(id, buyer);
      const settled = await settle(readings, ref, 0);
      return settled.status === statusCodes.ok ? view(id, ref, settled) : archived(id, ref);
    },
    depth: () => ({
      pending: all.reduce((sum, batcher) => sum + batcher.depth, 0),
      inFlight: all.reduce((sum, batcher) => sum + batcher.inFlight, 0),
    }),
    idle: async () => {
      await Promise.all(all.map((batcher) => batcher.idle()));
      await Promise.allSettled(securing);
    },
  };
}
