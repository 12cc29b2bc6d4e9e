/**
 * The error codes of the HTTP contract: the one place where a code, its status and its title are declared.
 * `retryAfterSeconds` becomes the `Retry-After` header.
 */
export const errorCodes = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  unauthorized: { status: 401, title: 'A valid token is needed' },
  forbidden: { status: 403, title: 'This is not yours' },
  'not-admitted': { status: 403, title: 'The sale has a waiting room' },
  'challenge-required': { status: 403, title: 'Something has to be solved first' },
  'not-found': { status: 404, title: 'There is no such thing' },
  'method-not-allowed': { status: 405, title: 'This path has no such method' },
  conflict: { status: 409, title: 'It exists otherwise' },
  'sale-not-open': { status: 409, title: 'The sale is not open' },
  'purchase-limit': { status: 409, title: 'The purchase limit is reached' },
  'sold-out': { status: 409, title: 'Sold out' },
  'insufficient-stock': { status: 409, title: 'There is less than asked for' },
  'reservation-ended': { status: 409, title: 'The reservation has ended' },
  'payload-too-large': { status: 413, title: 'The body is too large' },
  'unsupported-media-type': { status: 415, title: 'The body must be application/json' },
  'idempotency-mismatch': { status: 422, title: 'The key was used with another body' },
  'rate-limited': { status: 429, title: 'Too many requests', retryAfterSeconds: 1 },
  overloaded: { status: 503, title: 'Too much work is waiting', retryAfterSeconds: 1 },
  'shard-fenced': { status: 503, title: 'This part of the stock is fenced', retryAfterSeconds: 5 },
  unavailable: { status: 503, title: 'What happened is not known', retryAfterSeconds: 1 },
} as const satisfies Record<string, { status: number; title: string; retryAfterSeconds?: number }>;

export type ErrorCode = keyof typeof errorCodes;

/** One member of a bad request: a JSON pointer (or `header:name`) and what it should have been. */
export type FieldError = { path: string; message: string };

/** A refusal as a value: its code, a sentence that tells the person what to do, and members that the code adds. */
export type Refusal = {
  code: ErrorCode;
  detail: string;
  errors?: FieldError[];
  reservationState?: string;
  /** What has to be solved. */
  challenge?: Record<string, string | number>;
  /** For the header `Retry-After`. */
  retryAfterSeconds?: number;
  /** For the header `Allow`. */
  allow?: string;
};

export function refusal(code: ErrorCode, detail: string, more: Omit<Refusal, 'code' | 'detail'> = {}): Refusal {
  return { code, detail, ...more };
}

export type Problem = Refusal & { type: string; title: string; status: number; requestId: string };

/** The RFC 9457 body of a refusal. */
export function problemOf(refused: Refusal, requestId: string): Problem {
  const { status, title } = errorCodes[refused.code];
  return { type: `urn:stampede:error:${refused.code}`, title, status, requestId, ...refused };
}

/** Carries a refusal through code that can only throw. */
export class RefusalError extends Error {
  readonly refusal: Refusal;
  constructor(refused: Refusal) {
    super(`${refused.code}: ${refused.detail}`);
    this.name = 'RefusalError';
    this.refusal = refused;
  }
}

/** What a command line prints as one line, without a stack: something that a person has to put right. */
export class SetupError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = 'SetupError';
    this.code = code;
  }
}

/** The condition must hold; if not, the program is wrong and must not go on with this piece of work. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}
