/**
 * The HTTP frame around every call of the contract: reads, limits, authenticates, validates, answers. The order of the
 * checks is the contract's: 413, 405, 415, 401 (and 403), 400, 429, then the handler's own.
 */
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { type ErrorCode, type FieldError, type Refusal, RefusalError, refusal } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import { createBodyReader, invalidRequest, notJson, textOf } from './bodies.ts';
import type { RateLimiter } from './rate-limit.ts';
import { type Reply, replyOf, statusLineOf } from './replies.ts';
import type { Caller, Sessions } from './sessions.ts';
import type { HttpRequest, HttpResponse, TemplatedApp } from './uws-types.ts';

/** What a handler gets to know of a request. */
export type Call = {
  requestId: string;
  /** The path's parameters, in order. */
  params: string[];
  caller: Caller;
  /** The buyer's id; '' when the caller isn't one. */
  buyerId: string;
  /** The validated body; undefined where the route takes none. */
  body: unknown;
  idempotencyKey: string;
  address: string;
};

/** Answers a call, once. */
export type Answer = (reply: Reply | Refusal) => void;

export type Route = {
  method: 'get' | 'post' | 'put' | 'del';
  /** As uWebSockets.js writes it: `/v1/reservations/:id`. */
  path: string;
  summary: string;
  /** Who may call: anyone, a buyer, an operator, or either of them. */
  who: 'anyone' | 'buyer' | 'operator' | 'known';
  body?: TSchema;
  /** Whether an `Idempotency-Key` is needed. */
  keyed?: boolean;
  /** Schemas of the answers by status, for /openapi.json. */
  answers: Record<number, TSchema | null>;
  errors: ErrorCode[];
  limitedAs?: 'sessions';
  /** Not counted against the address: what operators and probes read. */
  unlimited?: boolean;
  handle(call: Call, answer: Answer): void;
};

export type HttpStats = {
  /** Answers a counter of one route's answers. */
  route(name: string): (status: number, seconds: number) => void;
};

const keyPattern = new RegExp(`^[\\x21-\\x7e]{1,${limits.idempotencyKeyChars}}$`);
const requestIdPattern = /^[A-Za-z0-9_.-]{1,64}$/;
const processTag = Math.floor(Math.random() * 36 ** 6).toString(36);
let requests = 0;

export function addressOf(res: HttpResponse): string {
  return Buffer.from(res.getRemoteAddressAsText()).toString('latin1');
}

/** Answers with what a promise brings, or with the refusal that it was rejected with. */
export function answerWith(answer: Answer, logger: Logger, promise: Promise<Reply>): void {
  promise.then(answer, (error: unknown) => {
    if (error instanceof RefusalError) {
      answer(error.refusal);
      return;
    }
    logger.error(
      { error: error instanceof Error ? (error.stack ?? error.message) : String(error) },
      'a handler failed',
    );
    answer(refusal('unavailable', 'Something went wrong here. Try again with the same key: it is safe, and tells.'));
  });
}

export type HttpOptions = {
  sessions: Sessions;
  logger: Logger;
  stats: HttpStats;
  addressLimit: RateLimiter | null;
  sessionLimit: RateLimiter | null;
  buyerLimit: RateLimiter | null;
};

/** Requests under way, so that a stop can wait for their answers. */
export type Http = { register(routes: Route[]): void; readonly underWay: number; stopping: boolean };

export function createHttp(app: TemplatedApp, options: HttpOptions): Http {
  const { sessions, logger, stats } = options;
  const http: Http & { underWay: number } = { register, underWay: 0, stopping: false };

  function write(res: HttpResponse, requestId: string, reply: Reply, close: boolean, head: boolean): void {
    res.cork(() => {
      // Status and two headers in one call: each call into the server costs half a microsecond. What a client gave of it, the
      // request's id, is of harmless characters.
      const contentType = reply.contentType ?? 'application/json';
      res.writeStatus(`${statusLineOf(reply.status)}\r\nContent-Type: ${contentType}\r\nX-Request-Id: ${requestId}`);
      if (reply.headers) for (const name in reply.headers) res.writeHeader(name, reply.headers[name] ?? '');
      if (head) res.endWithoutBody(Buffer.byteLength(reply.body), close || http.stopping);
      else res.end(reply.body, close || http.stopping);
    });
  }

  const countedAs = (name: string): Counted => ({ name, answered: stats.route(name) });

  /** Begins a call: from here on `answer` is called once, by somebody. */
  function begin(res: HttpResponse, req: HttpRequest, route: Counted, head = false): Begun {
    const startedMs = performance.now();
    const given = req.getHeader('x-request-id');
    const requestId = given !== '' && requestIdPattern.test(given) ? given : `${processTag}-${++requests}`;
    let open = true;
    let answered = false;
    let handed = false;
    http.underWay++;
    res.onAborted(() => {
      open = false;
      // Who hangs up in the middle of a body has asked for nothing: nobody will answer, and no stop waits for it.
      if (!handed && !answered) {
        answered = true;
        http.underWay--;
      }
    });
    const answer: AnswerAndClose = (result, close = false) => {
      if (answered) return;
      answered = true;
      http.underWay--;
      const reply = 'code' in result ? replyOf(result, requestId) : result;
      route.answered(reply.status, (performance.now() - startedMs) / 1000);
      if (reply.status >= 500) logger.warn({ requestId, route: route.name, status: reply.status }, 'refused');
      if (open) write(res, requestId, reply, close, head);
    };
    const hand = (): void => {
      handed = true;
    };
    return { requestId, answer, hand };
  }

  function handler(route: Route): (res: HttpResponse, req: HttpRequest) => void {
    const bodies = route.body ? createBodyReader(Compile(route.body)) : null;
    const paramCount = route.path.split('/:').length - 1;
    const counted = countedAs(`${route.method.toUpperCase()} ${route.path}`);
    const limited = options.addressLimit !== null && !route.unlimited;

    const admit = (caller: Caller): Refusal | null => {
      if (route.who === 'anyone') return null;
      if (caller.kind === 'nobody')
        return refusal('unauthorized', 'Send Authorization: Bearer with a token that is valid and not expired.');
      if (route.who === 'operator' && caller.kind !== 'operator') return refusal('forbidden', 'Operators only.');
      if (route.who === 'buyer' && caller.kind !== 'buyer')
        return refusal('forbidden', 'This call is a buyer’s: open a session with POST /v1/sessions.');
      return null;
    };

    return (res, req) => {
      const { requestId, answer, hand } = begin(res, req, counted);
      const authorization = req.getHeader('authorization');
      const contentType = bodies ? req.getHeader('content-type') : '';
      const idempotencyKey = route.keyed ? req.getHeader('idempotency-key') : '';
      const params: string[] = [];
      for (let i = 0; i < paramCount; i++) params.push(req.getParameter(i) ?? '');

      const proceed = (text: string | null): void => {
        hand();
        if (bodies && contentType !== 'application/json' && !/^application\/json\s*(;|$)/i.test(contentType)) {
          answer(refusal('unsupported-media-type', 'Send the body as application/json.'));
          return;
        }
        // Asked for now: of a request that is broken off meanwhile the server tells no address.
        const address = limited || route.who === 'operator' ? addressOf(res) : '';
        sessions.identifyTogether(authorization, (caller) => permit(text, address, caller));
      };
      const permit = (text: string | null, address: string, caller: Caller): void => {
        const barred = admit(caller);
        if (barred) {
          answer(barred);
          return;
        }
        const errors: FieldError[] = [];
        if (route.keyed && !keyPattern.test(idempotencyKey))
          errors.push({
            path: 'header:Idempotency-Key',
            message: `is required: 1 to ${limits.idempotencyKeyChars} visible ASCII characters`,
          });
        const body = bodies && text !== null ? bodies(text, errors) : undefined;
        if (bodies && text === null) errors.push(notJson);
        if (errors.length > 0) {
          answer(invalidRequest(errors));
          return;
        }
        const buyerId = caller.kind === 'buyer' ? caller.buyerId : '';
        if (limited) {
          const nowMs = performance.now();
          const seconds =
            (options.addressLimit?.take(address, nowMs) ?? 0) ||
            (route.limitedAs === 'sessions' ? (options.sessionLimit?.take(address, nowMs) ?? 0) : 0) ||
            (buyerId === '' ? 0 : (options.buyerLimit?.take(buyerId, nowMs) ?? 0));
          if (seconds > 0) {
            answer(refusal('rate-limited', `Wait ${seconds} s.`, { retryAfterSeconds: seconds }));
            return;
          }
        }
        route.handle({ requestId, params, caller, buyerId, body, idempotencyKey, address }, answer);
      };

      if (!bodies) {
        if (Number(req.getHeader('content-length') || 0) > limits.bodyBytes) answer(tooLarge, true);
        else proceed(null);
        return;
      }
      // The library tells of no end of a body of no bytes, when the head came in pieces.
      const length = req.getHeader('content-length');
      if (Number(length) === 0 && req.getHeader('transfer-encoding') === '') {
        proceed('');
        return;
      }
      res.collectBody(limits.bodyBytes, (bytes) => {
        if (!bytes) answer(tooLarge, true);
        else proceed(textOf(bytes));
      });
    };
  }

  function register(routes: Route[]): void {
    const methods = new Map<string, string[]>();
    for (const route of routes) {
      app[route.method](route.path, handler(route));
      methods.set(route.path, [
        ...(methods.get(route.path) ?? []),
        route.method === 'del' ? 'DELETE' : route.method.toUpperCase(),
      ]);
    }
    for (const [path, allowed] of methods) {
      const counted = countedAs(`ANY ${path}`);
      app.any(path, (res, req) => {
        const { requestId, answer } = begin(res, req, counted, req.getMethod() === 'head');
        if (Number(req.getHeader('content-length') || 0) > limits.bodyBytes) answer(tooLarge, true);
        else {
          const list = allowed.join(', ');
          answer({
            ...replyOf(refusal('method-not-allowed', `Use ${list}.`), requestId),
            headers: { Allow: list },
          });
        }
      });
    }
    const elsewhere = countedAs('ANY /*');
    app.any('/*', (res, req) => {
      const { answer } = begin(res, req, elsewhere, req.getMethod() === 'head');
      if (Number(req.getHeader('content-length') || 0) > limits.bodyBytes) answer(tooLarge, true);
      else answer(refusal('not-found', `There is nothing at ${req.getUrl().slice(0, 200)}.`));
    });
  }
  return http;
}

type Counted = { name: string; answered: ReturnType<HttpStats['route']> };
type Begun = { requestId: string; answer: AnswerAndClose; hand(): void };
type AnswerAndClose = (result: Reply | Refusal, close?: boolean) => void;

const tooLarge = refusal('payload-too-large', `A body has at most ${limits.bodyBytes} bytes.`);
