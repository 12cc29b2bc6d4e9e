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
import { type Reply, type RequestName, requestIdOf, requestNumbers, statusOf, write } from './replies.ts';
import type { Caller, Sessions } from './sessions.ts';
import type { HttpRequest, HttpResponse, TemplatedApp } from './uws-types.ts';

/** What a handler gets to know of a request, and how it answers: once. */
export type Call = {
  readonly requestId: string;
  /** The path's parameters, in order. */
  params: string[];
  caller: Caller;
  /** The buyer's id; '' when the caller isn't one. */
  buyerId: string;
  /** The validated body; undefined where the route takes none. */
  body: unknown;
  idempotencyKey: string;
  /** The `Admission-Token`, where the route reads one; '' without. */
  admissionToken: string;
  /** What comes after the path's `?`. */
  query: string;
  address: string;
  answer(result: Reply | Refusal): void;
};

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
  /** Whether an `Admission-Token` may come along. */
  admitted?: boolean;
  /** Schemas of the answers by status, for /openapi.json. */
  answers: Record<number, TSchema | null>;
  errors: ErrorCode[];
  limitedAs?: 'sessions' | 'joins';
  /** Not counted against the address: what operators and probes read. */
  unlimited?: boolean;
  handle(call: Call): void;
};

export type HttpStats = {
  /** Answers a counter of one route's answers. */
  route(name: string): (status: number, seconds: number) => void;
};

/** Whether it is of 1 to so many visible characters of ASCII: a regular expression takes five times as long. */
function isIdempotencyKey(text: string): boolean {
  if (text.length < 1 || text.length > limits.idempotencyKeyChars) return false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x21 || code > 0x7e) return false;
  }
  return true;
}
/** Names of headers as the server takes them: it copies a text each time, and has bytes already. */
const headerName = (name: string): ArrayBuffer => new TextEncoder().encode(name).buffer;
const names = {
  requestId: headerName('x-request-id'),
  authorization: headerName('authorization'),
  contentType: headerName('content-type'),
  contentLength: headerName('content-length'),
  transferEncoding: headerName('transfer-encoding'),
  idempotencyKey: headerName('idempotency-key'),
  admissionToken: headerName('admission-token'),
} as const;
const requestIdPattern = /^[A-Za-z0-9_.-]{1,64}$/;
let requests = 0;

export function addressOf(res: HttpResponse): string {
  return Buffer.from(res.getRemoteAddressAsText()).toString('latin1');
}

/** Answers with what a promise brings, or with the refusal that it was rejected with. */
export function answerWith(call: Call, logger: Logger, promise: Promise<Reply>): void {
  promise.then(
    (reply) => call.answer(reply),
    (error: unknown) => call.answer(failed(logger, error)),
  );
}

/** The refusal that an error carries; any other error is logged, and nobody is told what it was. */
function failed(logger: Logger, error: unknown): Refusal {
  if (error instanceof RefusalError) return error.refusal;
  logger.error({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }, 'a handler failed');
  return somethingWentWrong;
}

export type HttpOptions = {
  sessions: Sessions;
  logger: Logger;
  stats: HttpStats;
  addressLimit: RateLimiter | null;
  sessionLimit: RateLimiter | null;
  /** Joining a line, by address. */
  joinLimit: RateLimiter | null;
  buyerLimit: RateLimiter | null;
};

/** Requests under way, so that a stop can wait for their answers. */
export type Http = { register(routes: Route[]): void; readonly underWay: number; stopping: boolean };

export function createHttp(app: TemplatedApp, options: HttpOptions): Http {
  const { sessions, logger, stats } = options;
  const http: Http & { underWay: number } = { register, underWay: 0, stopping: false };

  const countedAs = (name: string): Counted => ({ name, answered: stats.route(name) });

  /** A request from its head to its answer. One object with all of it: of closures each request would need half a dozen. */
  class Exchange implements Call, RequestName {
    readonly given: string;
    readonly no: number;
    params: string[] = [];
    caller: Caller = nobody;
    buyerId = '';
    body: unknown;
    idempotencyKey = '';
    admissionToken = '';
    query = '';
    address = '';
    readonly #res: HttpResponse;
    readonly #route: Counted;
    readonly #isHead: boolean;
    readonly #startedMs = performance.now();
    #open = true;
    #answered = false;
    #handed = false;

    constructor(res: HttpResponse, req: HttpRequest, route: Counted, isHead = false) {
      const given = req.getHeader(names.requestId);
      this.given = given !== '' && requestIdPattern.test(given) ? given : '';
      requests = (requests + 1) % requestNumbers;
      this.no = requests;
      this.#res = res;
      this.#route = route;
      this.#isHead = isHead;
      http.underWay++;
      res.onAborted(() => this.#abort());
    }

    get requestId(): string {
      return requestIdOf(this);
    }

    remoteAddress(): string {
      return addressOf(this.#res);
    }

    /** It is there whole: somebody is about to answer it. */
    hand(): void {
      this.#handed = true;
    }

    #abort(): void {
      this.#open = false;
      // Who hangs up in the middle of a body has asked for nothing: nobody will answer, and no stop waits for it.
      if (this.#handed || this.#answered) return;
      this.#answered = true;
      http.underWay--;
    }

    answer(result: Reply | Refusal, close = false): void {
      if (this.#answered) return;
      this.#answered = true;
      http.underWay--;
      const status = statusOf(result);
      this.#route.answered(status, (performance.now() - this.#startedMs) / 1000);
      if (status >= 500) logger.warn({ requestId: this.requestId, route: this.#route.name, status }, 'refused');
      if (!this.#open) return;
      const res = this.#res;
      res.cork(() => {
        const { head, body } = write(result, this);
        res.writeStatus(head);
        if (this.#isHead) res.endWithoutBody(Buffer.byteLength(body), close || http.stopping);
        else res.end(body, close || http.stopping);
      });
    }
  }

  function handler(route: Route): (res: HttpResponse, req: HttpRequest) => void {
    const bodies = route.body ? createBodyReader(Compile(route.body)) : null;
    const paramCount = route.path.split('/:').length - 1;
    const counted = countedAs(`${route.method.toUpperCase()} ${route.path}`);
    const limited = options.addressLimit !== null && !route.unlimited;
    const special = { sessions: options.sessionLimit, joins: options.joinLimit, none: null }[route.limitedAs ?? 'none'];

    const admit = (caller: Caller): Refusal | null => {
      if (route.who === 'anyone') return null;
      if (caller.kind === 'nobody') return unauthorized;
      if (route.who === 'operator' && caller.kind !== 'operator') return operatorsOnly;
      if (route.who === 'buyer' && caller.kind !== 'buyer') return buyersOnly;
      return null;
    };

    const proceed = (call: Exchange, authorization: string, contentType: string, text: string | null): void => {
      call.hand();
      if (bodies && contentType !== 'application/json' && !/^application\/json\s*(;|$)/i.test(contentType)) {
        call.answer(notAsJson);
        return;
      }
      // Asked for now: of a request that is broken off meanwhile the server tells no address.
      if (limited || route.who === 'operator') call.address = call.remoteAddress();
      sessions.identifyTogether(authorization, (caller) => {
        // Whoever waits for the same look at tokens must not lose an answer to this one's fault.
        try {
          permit(call, text, caller);
        } catch (error) {
          call.answer(failed(logger, error));
        }
      });
    };
    const permit = (call: Exchange, text: string | null, caller: Caller): void => {
      const barred = admit(caller);
      if (barred) {
        call.answer(barred);
        return;
      }
      const errors: FieldError[] = [];
      if (route.keyed && !isIdempotencyKey(call.idempotencyKey))
        errors.push({
          path: 'header:Idempotency-Key',
          message: `is required: 1 to ${limits.idempotencyKeyChars} visible ASCII characters`,
        });
      if (bodies && text !== null) call.body = bodies(text, errors);
      if (bodies && text === null) errors.push(notJson);
      if (errors.length > 0) {
        call.answer(invalidRequest(errors));
        return;
      }
      call.caller = caller;
      if (caller.kind === 'buyer') call.buyerId = caller.buyerId;
      if (limited) {
        const nowMs = performance.now();
        const seconds =
          (options.addressLimit?.take(call.address, nowMs) ?? 0) ||
          (special?.take(call.address, nowMs) ?? 0) ||
          (call.buyerId === '' ? 0 : (options.buyerLimit?.take(call.buyerId, nowMs) ?? 0));
        if (seconds > 0) {
          call.answer(rateLimited(seconds));
          return;
        }
      }
      route.handle(call);
    };

    return (res, req) => {
      const call = new Exchange(res, req, counted);
      const authorization = req.getHeader(names.authorization);
      const contentType = bodies ? req.getHeader(names.contentType) : '';
      if (route.keyed) call.idempotencyKey = req.getHeader(names.idempotencyKey);
      if (route.admitted) call.admissionToken = req.getHeader(names.admissionToken);
      if (route.method === 'get') call.query = req.getQuery() ?? '';
      for (let i = 0; i < paramCount; i++) call.params.push(req.getParameter(i) ?? '');

      if (!bodies) {
        if (Number(req.getHeader(names.contentLength) || 0) > limits.bodyBytes) call.answer(tooLarge, true);
        else proceed(call, authorization, contentType, null);
        return;
      }
      // The library tells of no end of a body of no bytes, when the head came in pieces.
      const length = req.getHeader(names.contentLength);
      if (Number(length) === 0 && req.getHeader(names.transferEncoding) === '') {
        proceed(call, authorization, contentType, '');
        return;
      }
      res.collectBody(limits.bodyBytes, (bytes) => {
        if (!bytes) call.answer(tooLarge, true);
        else proceed(call, authorization, contentType, textOf(bytes));
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
      const list = allowed.join(', ');
      const notAllowed = refusal('method-not-allowed', `Use ${list}.`, { allow: list });
      app.any(path, (res, req) => {
        const call = new Exchange(res, req, counted, req.getMethod() === 'head');
        if (Number(req.getHeader(names.contentLength) || 0) > limits.bodyBytes) call.answer(tooLarge, true);
        else call.answer(notAllowed);
      });
    }
    const elsewhere = countedAs('ANY /*');
    app.any('/*', (res, req) => {
      const call = new Exchange(res, req, elsewhere, req.getMethod() === 'head');
      if (Number(req.getHeader(names.contentLength) || 0) > limits.bodyBytes) call.answer(tooLarge, true);
      else call.answer(refusal('not-found', `There is nothing at ${req.getUrl().slice(0, 200)}.`));
    });
  }
  return http;
}

type Counted = { name: string; answered: ReturnType<HttpStats['route']> };

const nobody: Caller = { kind: 'nobody' };
// What is refused to many is one object: it is written once (`replies.ts`).
const unauthorized = refusal('unauthorized', 'Send Authorization: Bearer with a token that is valid and not expired.');
const operatorsOnly = refusal('forbidden', 'Operators only.');
const buyersOnly = refusal('forbidden', 'This call is a buyer’s: open a session with POST /v1/sessions.');
const notAsJson = refusal('unsupported-media-type', 'Send the body as application/json.');
const somethingWentWrong = refusal(
  'unavailable',
  'Something went wrong here. Try again with the same key: it is safe, and tells.',
);
const rateLimits = new Map<number, Refusal>();
/** `seconds`: whole ones, of which there are few. */
function rateLimited(seconds: number): Refusal {
  let refused = rateLimits.get(seconds);
  if (!refused) {
    refused = refusal('rate-limited', `Wait ${seconds} s.`, { retryAfterSeconds: seconds });
    if (rateLimits.size >= limits.linesTexts) rateLimits.clear();
    rateLimits.set(seconds, refused);
  }
  return refused;
}
const tooLarge = refusal('payload-too-large', `A body has at most ${limits.bodyBytes} bytes.`);
