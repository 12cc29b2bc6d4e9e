/** The calls of the contract's chapter "Selling", sessions and the operator's. */
import { RefusalError, refusal } from '../kernel/errors.ts';
import { isId } from '../kernel/ids.ts';
import type { Logger } from '../kernel/logger.ts';
import type { Admissions } from './admissions.ts';
import { answerWith, type Call, type Route } from './http.ts';
import { json, type Reply } from './replies.ts';
import type { Reservation, Reservations, ReserveOutcome } from './reservations.ts';
import { type SaleDirectory, standingSale } from './sales.ts';
import {
  EmptyBody,
  ExtendBody,
  ReservationView,
  ReserveBody,
  SaleBody,
  SaleList,
  SaleView,
  SessionView,
  StockChangeBody,
  StockChangeView,
} from './schemas.ts';
import type { Sessions } from './sessions.ts';

type AuditEntry = {
  action: string;
  saleId: string;
  requestId: string;
  address: string;
  /** What else there is to know: whose ticket, and why. */
  detail?: Record<string, unknown>;
};
export type AuditLog = (entry: AuditEntry) => void;

const replayed = { 'Idempotency-Replayed': 'true' };

/** A reserve's outcome as HTTP answers it. */
function replyOfReserve(outcome: ReserveOutcome): Parameters<Call['answer']>[0] {
  if (outcome.refused) return outcome.refused;
  return outcome.replayed
    ? { status: 201, body: outcome.body, headers: replayed }
    : { status: 201, body: outcome.body };
}

export function sellingRoutes(parts: {
  sales: SaleDirectory;
  reservations: Reservations;
  sessions: Sessions;
  admissions: Admissions;
  logger: Logger;
  audit: AuditLog;
}): Route[] {
  const { sales, reservations, sessions, admissions, logger, audit } = parts;

  const replying =
    (handle: (call: Call) => Promise<Reply>) =>
    (call: Call): void =>
      answerWith(call, logger, handle(call));

  const reservation =
    (act: (id: string, call: Call) => Promise<Reservation>) =>
    (call: Call): void =>
      answerWith(
        call,
        logger,
        act(call.params[0] ?? '', call).then((found) => json(200, found)),
      );

  const saleIdOf = (call: Call): string => {
    const id = call.params[0] ?? '';
    if (!isId(id)) throw new RefusalError(refusal('not-found', 'There is no such sale.'));
    return id;
  };

  const operate = (action: string, handle: (saleId: string, call: Call) => Promise<Reply>): Route['handle'] =>
    replying(async (call) => {
      const saleId = saleIdOf(call);
      const reply = await handle(saleId, call);
      audit({ action, saleId, requestId: call.requestId, address: call.address });
      return reply;
    });

  const turn = (verb: 'pause' | 'resume' | 'close', state: 'paused' | 'open' | 'closed'): Route => ({
    method: 'post',
    path: `/v1/admin/sales/:saleId/${verb}`,
    summary: `${verb[0]?.toUpperCase()}${verb.slice(1)} a sale`,
    who: 'operator',
    answers: { 200: SaleView },
    errors: ['not-found', 'conflict'],
    handle: operate(verb, async (saleId) => json(200, await sales.setState(saleId, state))),
  });

  return [
    {
      method: 'post',
      path: '/v1/sessions',
      summary: 'Open a guest session',
      who: 'anyone',
      body: EmptyBody,
      answers: { 201: SessionView },
      errors: ['invalid-request', 'rate-limited'],
      limitedAs: 'sessions',
      handle: (call) => call.answer(json(201, sessions.open())),
    },
    {
      method: 'get',
      path: '/v1/sales',
      summary: 'All sales',
      who: 'anyone',
      answers: { 200: SaleList },
      errors: [],
      handle: replying(async () => json(200, { items: await sales.list() })),
    },
    {
      method: 'get',
      path: '/v1/sales/:saleId',
      summary: 'A sale and its stock',
      who: 'anyone',
      answers: { 200: SaleView },
      errors: ['not-found'],
      handle: replying(async (call) => {
        const saleId = saleIdOf(call);
        const reading = await sales.read(saleId);
        if (!reading) throw new RefusalError(refusal('not-found', `There is no sale ${saleId}.`));
        return json(200, reading.sale);
      }),
    },
    {
      method: 'post',
      path: '/v1/reservations',
      summary: 'Hold units: all lines or none',
      who: 'buyer',
      body: ReserveBody,
      keyed: true,
      admitted: true,
      answers: { 201: ReservationView },
      errors: [
        'not-admitted',
        'not-found',
        'idempotency-mismatch',
        'sale-not-open',
        'purchase-limit',
        'sold-out',
        'insufficient-stock',
        'overloaded',
        'shard-fenced',
        'unavailable',
      ],
      handle(call) {
        const body = call.body as ReserveBody;
        const saleId = body.saleId ?? standingSale;
        reservations.reserve(
          {
            saleId,
            ticket: call.admissionToken === '' ? 0 : admissions.ticketOf(call.admissionToken, call.buyerId, saleId),
            buyer: call.buyerId,
            idempotencyKey: call.idempotencyKey,
            lines: body.lines,
          },
          (outcome) => call.answer(replyOfReserve(outcome)),
        );
      },
    },
    {
      method: 'get',
      path: '/v1/reservations/:id',
      summary: 'A reservation as it stands',
      who: 'known',
      answers: { 200: ReservationView },
      errors: ['forbidden', 'not-found'],
      handle: reservation((id, call) => reservations.read(id, call.caller.kind === 'operator' ? null : call.buyerId)),
    },
    {
      method: 'post',
      path: '/v1/reservations/:id/commit',
      summary: 'Buy what is held',
      who: 'buyer',
      answers: { 200: ReservationView },
      errors: ['forbidden', 'not-found', 'reservation-ended', 'unavailable'],
      handle: reservation((id, call) => reservations.commit(id, call.buyerId)),
    },
    {
      method: 'post',
      path: '/v1/reservations/:id/extend',
      summary: 'Hold it longer, as the sale allows',
      who: 'buyer',
      body: ExtendBody,
      answers: { 200: ReservationView },
      errors: ['forbidden', 'not-found', 'reservation-ended', 'conflict', 'unavailable'],
      handle: reservation((id, call) => reservations.extend(id, call.buyerId, (call.body as ExtendBody).seconds)),
    },
    {
      method: 'del',
      path: '/v1/reservations/:id',
      summary: 'Give back what is held',
      who: 'buyer',
      answers: { 200: ReservationView },
      errors: ['forbidden', 'not-found', 'reservation-ended', 'unavailable'],
      handle: reservation((id, call) => reservations.release(id, call.buyerId)),
    },
    {
      method: 'put',
      path: '/v1/admin/sales/:saleId',
      summary: 'Make a sale, or change its rules',
      who: 'operator',
      body: SaleBody,
      answers: { 200: SaleView, 201: SaleView },
      errors: ['conflict', 'overloaded', 'unavailable'],
      handle: replying(async (call) => {
        const saleId = call.params[0] ?? '';
        if (!isId(saleId))
          throw new RefusalError(
            refusal('invalid-request', 'A sale’s id has 1 to 64 letters, digits, _ and -.', {
              errors: [{ path: 'path:saleId', message: 'has 1 to 64 letters, digits, _ and -' }],
            }),
          );
        const { sale, created } = await sales.put(saleId, call.body as SaleBody);
        audit({ action: created ? 'create' : 'change', saleId, requestId: call.requestId, address: call.address });
        return json(created ? 201 : 200, sale);
      }),
    },
    {
      method: 'post',
      path: '/v1/admin/sales/:saleId/stock',
      summary: 'Adjust stock, once per id',
      who: 'operator',
      body: StockChangeBody,
      answers: { 200: StockChangeView },
      errors: ['not-found', 'insufficient-stock', 'idempotency-mismatch', 'conflict', 'overloaded', 'unavailable'],
      handle: operate('stock', async (saleId, call) => {
        const body = call.body as StockChangeBody;
        const stock = await sales.adjust(saleId, body);
        return json(200, { id: body.id, delta: body.delta, reason: body.reason, stock });
      }),
    },
    turn('pause', 'paused'),
    turn('resume', 'open'),
    turn('close', 'closed'),
  ];
}
