/** The calls of the contract's chapter "Waiting room". */
import { RefusalError, refusal } from '../kernel/errors.ts';
import { isId } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import { invalidRequest } from './bodies.ts';
import { answerWith, type Call, type Route } from './http.ts';
import type { Lines } from './lines.ts';
import { json, type Reply } from './replies.ts';
import type { AuditLog } from './routes.ts';
import type { SaleDirectory } from './sales.ts';
import { DrawView, LineView, RoomActionBody, SaleView, TicketActionBody, TicketBody, TicketView } from './schemas.ts';

const roomErrors = ['not-found', 'unavailable'] as const;

/** The page that a query names, from 0 on. */
function pageOf(query: string): number {
  const text = new URLSearchParams(query).get('page') ?? '0';
  const page = /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
  if (page * limits.drawPage < limits.ticketsPerSale) return page;
  throw new RefusalError(invalidRequest([{ path: 'query:page', message: 'must be the number of a page, from 0 on' }]));
}

/** Throws where a member that goes with one action is missing with it, or comes with another. */
function checkGoesWith(member: string, value: unknown, wanted: string, action: string): void {
  if ((action === wanted) === (value !== undefined)) return;
  const message =
    value === undefined ? `is required with the action ${wanted}` : `goes with the action ${wanted} alone`;
  throw new RefusalError(invalidRequest([{ path: `/${member}`, message }]));
}

export function roomRoutes(parts: { sales: SaleDirectory; lines: Lines; logger: Logger; audit: AuditLog }): Route[] {
  const { sales, lines, logger, audit } = parts;

  /** With the sale's id, and the ticket's where the path has one. */
  const handling =
    (handle: (saleId: string, call: Call, ticketId: string) => Promise<Reply>): Route['handle'] =>
    (call) => {
      const [saleId = '', ticketId = ''] = call.params;
      if (!isId(saleId)) call.answer(refusal('not-found', 'There is no such sale.'));
      else answerWith(call, logger, handle(saleId, call, ticketId));
    };

  return [
    {
      method: 'post',
      path: '/v1/sales/:saleId/tickets',
      summary: 'Join the line, or see the ticket that one has',
      who: 'buyer',
      body: TicketBody,
      answers: { 200: TicketView, 201: TicketView },
      errors: [...roomErrors, 'challenge-required', 'sale-not-open', 'sold-out', 'overloaded'],
      limitedAs: 'joins',
      handle: handling(async (saleId, call) => {
        const { lane = '', challenge = '' } = call.body as TicketBody;
        const { ticket, made } = await lines.join(saleId, call.buyerId, lane, challenge);
        return json(made ? 201 : 200, ticket);
      }),
    },
    {
      method: 'get',
      path: '/v1/sales/:saleId/tickets/:ticketId',
      summary: 'How one’s ticket stands; who asks keeps the place',
      who: 'buyer',
      answers: { 200: TicketView },
      errors: [...roomErrors, 'forbidden'],
      handle: handling(async (saleId, call, ticketId) => json(200, await lines.see(saleId, call.buyerId, ticketId))),
    },
    {
      method: 'del',
      path: '/v1/sales/:saleId/tickets/:ticketId',
      summary: 'Leave the line',
      who: 'buyer',
      answers: { 200: TicketView },
      errors: [...roomErrors, 'forbidden', 'conflict'],
      handle: handling(async (saleId, call, ticketId) => json(200, await lines.leave(saleId, call.buyerId, ticketId))),
    },
    {
      method: 'get',
      path: '/v1/sales/:saleId/draw',
      summary: 'The commitment to a draw before it, the draw after it: ?page=, from 0 on',
      who: 'anyone',
      answers: { 200: DrawView },
      errors: [...roomErrors, 'invalid-request'],
      handle: handling(async (saleId, call) => json(200, await lines.draw(saleId, pageOf(call.query)))),
    },
    {
      method: 'post',
      path: '/v1/admin/sales/:saleId/waiting-room',
      summary: 'Pause, resume or close the line, or set its inlet',
      who: 'operator',
      body: RoomActionBody,
      answers: { 200: SaleView },
      errors: [...roomErrors, 'conflict', 'overloaded'],
      handle: handling(async (saleId, call) => {
        const { action, inlet } = call.body as RoomActionBody;
        checkGoesWith('inlet', inlet, 'set', action);
        const sale = await sales.changeRoom(saleId, action, inlet);
        const detail = inlet ? { detail: { inlet } } : {};
        audit({ action: `line ${action}`, saleId, requestId: call.requestId, address: call.address, ...detail });
        return json(200, sale);
      }),
    },
    {
      method: 'get',
      path: '/v1/admin/sales/:saleId/waiting-room',
      summary: 'How the line stands',
      who: 'operator',
      answers: { 200: LineView },
      errors: [...roomErrors],
      handle: handling(async (saleId) => {
        const { waiting, inside, ended, recentAdmitted, recentMs } = await lines.read(saleId, Number.MAX_SAFE_INTEGER);
        const perMinute = recentAdmitted === 0 ? 0 : (recentAdmitted * 60_000) / Math.max(1_000, recentMs);
        return json(200, { saleId, waiting, inside, ended, admittedPerMinute: Math.round(perMinute * 10) / 10 });
      }),
    },
    {
      method: 'get',
      path: '/v1/admin/sales/:saleId/tickets/:ticketId',
      summary: 'How somebody’s ticket stands',
      who: 'operator',
      answers: { 200: TicketView },
      errors: [...roomErrors],
      handle: handling(async (saleId, _call, ticketId) => {
        const ticket = await lines.change(saleId, ticketId, 'look', 0);
        return json(200, { ...ticket, admissionToken: null });
      }),
    },
    {
      method: 'post',
      path: '/v1/admin/sales/:saleId/tickets/:ticketId',
      summary: 'Move, expel or admit somebody, with a reason',
      who: 'operator',
      body: TicketActionBody,
      answers: { 200: TicketView },
      errors: [...roomErrors, 'conflict'],
      handle: handling(async (saleId, call, ticketId) => {
        const { action, position, reason } = call.body as TicketActionBody;
        checkGoesWith('position', position, 'move', action);
        const ticket = await lines.change(saleId, ticketId, action, position ?? 0);
        const detail = { ticketId, ...(position === undefined ? {} : { position }), reason };
        audit({ action: `ticket ${action}`, saleId, requestId: call.requestId, address: call.address, detail });
        return json(200, { ...ticket, admissionToken: null });
      }),
    },
  ];
}
