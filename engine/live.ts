/**
 * The WebSocket of a sale, `/v1/sales/{saleId}/live`: stock and state to whoever watches, and buying over the same
 * socket. Changes are coalesced: a sale that is watched is read ten times a second, and one publish serves all.
 */

import { Compile } from 'typebox/compile';
import type { Clock } from '../kernel/clock.ts';
import { errorCodes, problemOf, type Refusal, RefusalError, refusal } from '../kernel/errors.ts';
import { isId } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import type { Admissions } from './admissions.ts';
import { fieldErrors, invalidRequest } from './bodies.ts';
import { addressOf } from './http.ts';
import type { RateLimiter } from './rate-limit.ts';
import { write } from './replies.ts';
import type { Reservation, Reservations } from './reservations.ts';
import type { SaleDirectory, SaleReading } from './sales.ts';
import { ClientFrame, ReserveBody } from './schemas.ts';
import type { Sessions } from './sessions.ts';
import { newTicketWatcher, type TicketWatch, type TicketWatcher } from './ticket-watch.ts';
import type { HttpRequest, HttpResponse, TemplatedApp, UpgradeContext, WebSocket } from './uws-types.ts';

type Watcher = {
  saleId: string;
  buyerId: string;
  requestId: string;
  open: boolean;
  /** Frames of the running second, and when it began. */
  frames: number;
  sinceMs: number;
  inFlight: number;
  /** The ticket that is watched; null without. */
  ticket: TicketWatcher | null;
};
type Socket = WebSocket<Watcher>;

const closeCodes = { badFrame: 4400, badToken: 4401, slow: 4408, flood: 4429, tooLarge: 1009, goingAway: 1001 };
const readEveryMs = 100;
const saleEveryMs = 1_000;
/** What is sent to all of a sale's sockets costs so much for each: with many they hear less often, so that buying goes on. */
const pauseMsPerWatcher = 0.1;
const cutOffMs = 2_000;

const unknown = refusal('unavailable', 'What happened is not known. Ask again: it is safe, and tells.');

const frameValidator = Compile(ClientFrame);
const reserveValidator = Compile(ReserveBody);
const topicOf = (saleId: string): string => `sale/${saleId}`;

/** Units of a SKU over all its warehouses. */
type SkuStock = { sku: string; onHand: number; reserved: number; available: number; sold: number };

function bySku(reading: SaleReading): Map<string, SkuStock> {
  const skus = new Map<string, SkuStock>();
  for (const { sku, onHand, reserved, available, sold } of reading.sale.stock) {
    const sum = skus.get(sku) ?? { sku, onHand: 0, reserved: 0, available: 0, sold: 0 };
    sum.onHand += onHand;
    sum.reserved += reserved;
    sum.available += available;
    sum.sold += sold;
    skus.set(sku, sum);
  }
  return skus;
}

const same = (a: SkuStock | undefined, b: SkuStock): boolean =>
  a !== undefined && a.onHand === b.onHand && a.reserved === b.reserved && a.sold === b.sold;

export type Live = { readonly sockets: number; close(): void };

export function serveLive(
  app: TemplatedApp,
  parts: {
    sales: SaleDirectory;
    reservations: Reservations;
    sessions: Sessions;
    admissions: Admissions;
    ticketWatch: TicketWatch;
    addressLimit: RateLimiter | null;
    buyerLimit: RateLimiter | null;
    clock: Clock;
    logger: Logger;
    /** Answers to purchases a second, over all processes of this engine. */
    answersPerSecond(): number;
  },
): Live {
  const { sales, reservations, sessions, admissions, ticketWatch, clock, logger } = parts;
  const sockets = new Set<Socket>();
  const watched = new Map<
    string,
    { watchers: number; skus: Map<string, SkuStock>; state: string; saleSentMs: number; nextMs: number }
  >();
  const stopped = new AbortController();
  let upgrades = 0;

  const waitSeconds = (limiter: RateLimiter | null, name: string): number =>
    limiter?.take(name, clock.monotonicMs()) ?? 0;

  const stockFrame = (stock: SkuStock, at: string): string => JSON.stringify({ type: 'stock', ...stock, at });
  const saleFrame = ({ sale, lag }: SaleReading): string => {
    const { stock: _, ...shown } = sale;
    return JSON.stringify({
      type: 'sale',
      ...shown,
      answersPerSecond: parts.answersPerSecond(),
      ledgerLagMs: lag.lagMs,
      ledgerLagEvents: lag.events,
    });
  };

  const publishChanges = async (saleId: string): Promise<void> => {
    if ((watched.get(saleId)?.nextMs ?? 0) > clock.monotonicMs()) return;
    const reading = await sales.read(saleId);
    const entry = watched.get(saleId);
    if (!reading || !entry) return;
    const topic = topicOf(saleId);
    for (const stock of bySku(reading).values()) {
      if (same(entry.skus.get(stock.sku), stock)) continue;
      entry.skus.set(stock.sku, stock);
      app.publish(topic, stockFrame(stock, reading.sale.at));
      entry.nextMs = clock.monotonicMs() + entry.watchers * pauseMsPerWatcher;
    }
    const nowMs = clock.monotonicMs();
    const everyMs = Math.max(saleEveryMs, entry.watchers * pauseMsPerWatcher * 10);
    if (reading.sale.state !== entry.state || nowMs - entry.saleSentMs >= everyMs) {
      entry.state = reading.sale.state;
      entry.saleSentMs = nowMs;
      app.publish(topic, saleFrame(reading));
    }
  };

  const watch = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      await clock.wait(readEveryMs, stopped.signal);
      for (const saleId of [...watched.keys()])
        await publishChanges(saleId).catch((error: unknown) =>
          logger.debug({ saleId, error: String(error) }, 'a watched sale could not be read'),
        );
    }
  };
  void watch();

  const send = (ws: Socket, text: string): void => {
    if (ws.getUserData().open) ws.send(text);
  };

  const close = (ws: Socket, code: number, reason: string): void => {
    const watcher = ws.getUserData();
    if (!watcher.open) return;
    watcher.open = false;
    ws.send(JSON.stringify({ type: 'error', code: String(code), detail: reason }));
    ws.end(code, reason);
  };

  /** A reader who is too slow for the little that is sent gets no more of it, and a while to hear why. */
  const cutOff = (ws: Socket): void => {
    const watcher = ws.getUserData();
    if (!watcher.open) return;
    watcher.open = false;
    // The server is in the middle of sending to this socket: it can be closed once it has returned.
    setImmediate(() => {
      if (!sockets.has(ws)) return;
      ws.end(closeCodes.slow, 'too slow a reader');
      const late = setTimeout(() => {
        if (sockets.has(ws)) ws.close();
      }, cutOffMs);
      late.unref();
    });
  };

  const result = (ws: Socket, requestId: string, status: number, body: string): void =>
    send(ws, `{"type":"result","requestId":${JSON.stringify(requestId)},"status":${status},"body":${body}}`);
  const refuse = (ws: Socket, requestId: string, refused: Refusal): void =>
    result(ws, requestId, errorCodes[refused.code].status, JSON.stringify(problemOf(refused, requestId)));

  const reserve = (ws: Socket, frame: Extract<ClientFrame, { type: 'reserve' }>): void => {
    const watcher = ws.getUserData();
    const body = { saleId: watcher.saleId, lines: frame.lines };
    const errors = fieldErrors(reserveValidator, body);
    if (frame.idempotencyKey === undefined) errors.push({ path: '/idempotencyKey', message: 'is required' });
    if (errors.length > 0 || frame.idempotencyKey === undefined) {
      refuse(ws, frame.requestId, invalidRequest(errors));
      return;
    }
    watcher.inFlight++;
    const { lines } = body as ReserveBody;
    const { saleId, buyerId: buyer } = watcher;
    const ticket = frame.admissionToken ? admissions.ticketOf(frame.admissionToken, buyer, saleId) : 0;
    reservations.reserve({ saleId, buyer, idempotencyKey: frame.idempotencyKey, ticket, lines }, (outcome) => {
      watcher.inFlight--;
      if (outcome.refused) refuse(ws, frame.requestId, outcome.refused);
      else result(ws, frame.requestId, 201, outcome.body.toString());
    });
  };

  const finish = (ws: Socket, frame: Extract<ClientFrame, { reservationId?: string }>): void => {
    const watcher = ws.getUserData();
    if (frame.reservationId === undefined) {
      refuse(ws, frame.requestId, invalidRequest([{ path: '/reservationId', message: 'is required' }]));
      return;
    }
    const act = frame.type === 'commit' ? reservations.commit : reservations.release;
    watcher.inFlight++;
    act(frame.reservationId, watcher.buyerId).then(
      (found: Reservation) => {
        watcher.inFlight--;
        result(ws, frame.requestId, 200, JSON.stringify(found));
      },
      (error: unknown) => {
        watcher.inFlight--;
        if (!(error instanceof RefusalError)) logger.error({ error: String(error) }, 'a frame’s handler failed');
        refuse(ws, frame.requestId, error instanceof RefusalError ? error.refusal : unknown);
      },
    );
  };

  /** A ticket that isn't there, or somebody else's, is an error to hear of; stock is watched all the same. */
  const watchTicket = (ws: Socket, ticketId: string | undefined): void => {
    const watcher = ws.getUserData();
    if (watcher.ticket) ticketWatch.remove(watcher.ticket);
    watcher.ticket = null;
    if (ticketId === undefined) return;
    const { saleId, buyerId } = watcher;
    const ticket = newTicketWatcher({ saleId, buyerId, ticketId, tell: (text) => send(ws, text) });
    watcher.ticket = ticket;
    ticketWatch.add(ticket).then(
      () => {
        if (!watcher.open || watcher.ticket !== ticket) ticketWatch.remove(ticket);
      },
      (error: unknown) => {
        const { code, detail } = error instanceof RefusalError ? error.refusal : unknown;
        send(ws, JSON.stringify({ type: 'error', code, detail }));
      },
    );
  };

  /** The frame in a message, or the close code that it deserves. */
  const frameOf = (watcher: Watcher, message: ArrayBuffer, isBinary: boolean): ClientFrame | [number, string] => {
    if (message.byteLength > limits.frameBytes) return [closeCodes.tooLarge, 'frame too large'];
    const nowMs = clock.monotonicMs();
    if (nowMs - watcher.sinceMs >= 1_000) {
      watcher.sinceMs = nowMs;
      watcher.frames = 0;
    }
    watcher.frames++;
    if (watcher.frames > limits.framesPerSecond || watcher.inFlight >= limits.framesInFlight)
      return [closeCodes.flood, 'too many frames'];
    if (isBinary) return [closeCodes.badFrame, 'frames are JSON text'];
    try {
      const frame: unknown = JSON.parse(Buffer.from(message).toString('utf8'));
      return frameValidator.Check(frame) ? frame : [closeCodes.badFrame, 'no such frame'];
    } catch {
      return [closeCodes.badFrame, 'frames are JSON text'];
    }
  };

  const receive = (ws: Socket, message: ArrayBuffer, isBinary: boolean): void => {
    const watcher = ws.getUserData();
    if (!watcher.open) return;
    const frame = frameOf(watcher, message, isBinary);
    if (Array.isArray(frame)) {
      close(ws, ...frame);
    } else if (frame.type === 'auth') {
      const caller = sessions.identify(frame.token);
      if (caller.kind !== 'buyer') {
        close(ws, closeCodes.badToken, 'no valid session token');
        return;
      }
      watcher.buyerId = caller.buyerId;
      watchTicket(ws, frame.ticketId);
    } else if (watcher.buyerId === '') {
      close(ws, closeCodes.badToken, 'send an auth frame first');
    } else if (waitSeconds(parts.buyerLimit, watcher.buyerId) > 0) {
      refuse(ws, frame.requestId, refusal('rate-limited', 'Too many purchases a second: slow down.'));
    } else if (frame.type === 'reserve') {
      reserve(ws, frame);
    } else {
      finish(ws, frame);
    }
  };

  const upgrade = (res: HttpResponse, req: HttpRequest, context: UpgradeContext): void => {
    const saleId = req.getParameter(0) ?? '';
    const key = req.getHeader('sec-websocket-key');
    const protocol = req.getHeader('sec-websocket-protocol');
    const extensions = req.getHeader('sec-websocket-extensions');
    const requestId = `ws-${(++upgrades).toString(36)}`;
    let open = true;
    res.onAborted(() => {
      open = false;
    });
    const answer = (refused: Refusal): void => {
      if (!open) return;
      const { head, body } = write(refused, { given: requestId, no: 0 });
      res.cork(() => {
        res.writeStatus(head).end(body);
      });
    };
    const seconds = parts.addressLimit ? waitSeconds(parts.addressLimit, addressOf(res)) : 0;
    if (seconds > 0) {
      answer(refusal('rate-limited', `Wait ${seconds} s.`, { retryAfterSeconds: seconds }));
      return;
    }
    if (!isId(saleId)) {
      answer(refusal('not-found', 'There is no such sale.'));
      return;
    }
    sales.read(saleId).then(
      (reading) => {
        if (!reading) {
          answer(refusal('not-found', `There is no sale ${saleId}.`));
          return;
        }
        if (!open) return;
        const watcher: Watcher = {
          saleId,
          buyerId: '',
          requestId,
          open: true,
          frames: 0,
          sinceMs: clock.monotonicMs(),
          inFlight: 0,
          ticket: null,
        };
        res.cork(() => res.upgrade(watcher, key, protocol, extensions, context));
      },
      (error: unknown) =>
        answer(error instanceof RefusalError ? error.refusal : refusal('unavailable', 'The sale can’t be read.')),
    );
  };

  app.ws<Watcher>('/v1/sales/:saleId/live', {
    // A little more than a frame may have, so that the close code can be said; what is larger is cut off.
    maxPayloadLength: limits.frameBytes * 4,
    maxBackpressure: limits.socketBufferBytes,
    idleTimeout: limits.socketIdleSeconds,
    sendPingsAutomatically: true,
    upgrade,
    open(ws) {
      const { saleId } = ws.getUserData();
      sockets.add(ws);
      ws.subscribe(topicOf(saleId));
      const entry = watched.get(saleId) ?? { watchers: 0, skus: new Map(), state: '', saleSentMs: 0, nextMs: 0 };
      entry.watchers++;
      watched.set(saleId, entry);
      sales.read(saleId).then(
        (reading) => {
          if (!reading) return;
          send(ws, saleFrame(reading));
          for (const stock of bySku(reading).values()) {
            if (!entry.skus.has(stock.sku)) entry.skus.set(stock.sku, stock);
            send(ws, stockFrame(stock, reading.sale.at));
          }
        },
        (error: unknown) => logger.debug({ saleId, error: String(error) }, 'a watched sale could not be read'),
      );
    },
    message: receive,
    dropped(ws) {
      cutOff(ws);
    },
    close(ws) {
      const watcher = ws.getUserData();
      watcher.open = false;
      if (watcher.ticket) ticketWatch.remove(watcher.ticket);
      sockets.delete(ws);
      const entry = watched.get(watcher.saleId);
      if (entry && --entry.watchers === 0) watched.delete(watcher.saleId);
    },
  });

  return {
    get sockets() {
      return sockets.size;
    },
    close() {
      stopped.abort();
      for (const ws of [...sockets]) ws.end(closeCodes.goingAway, 'the server is stopping');
    },
  };
}
