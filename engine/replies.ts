/** Answers over HTTP, refusals among them. */
import { errorCodes, problemOf, type Refusal } from '../kernel/errors.ts';

export type Reply = { status: number; body: string; contentType?: string; headers?: Record<string, string> };

const statusLines = new Map<number, string>(
  Object.entries({
    200: 'OK',
    201: 'Created',
    204: 'No Content',
    400: 'Bad Request',
    401: 'Unauthorized',
    403: 'Forbidden',
    404: 'Not Found',
    405: 'Method Not Allowed',
    409: 'Conflict',
    413: 'Content Too Large',
    415: 'Unsupported Media Type',
    422: 'Unprocessable Content',
    429: 'Too Many Requests',
    503: 'Service Unavailable',
  }).map(([status, text]) => [Number(status), `${status} ${text}`]),
);

export function statusLineOf(status: number): string {
  return statusLines.get(status) ?? String(status);
}

type Written = { before: string; after: string; reply: Omit<Reply, 'body'> };
/**
 * What is the same in every answer of a refusal. When all is sold out nearly every answer is the same refusal: the same object, written
 * once.
 */
const written = new WeakMap<Refusal, Written>();
function writeRefusal(refused: Refusal): Written {
  const code = errorCodes[refused.code];
  const seconds = refused.retryAfterSeconds ?? ('retryAfterSeconds' in code ? code.retryAfterSeconds : undefined);
  const { retryAfterSeconds: _, ...shown } = refused;
  const headers: Record<string, string> = {};
  if (seconds !== undefined) headers['Retry-After'] = String(seconds);
  if (refused.code === 'unauthorized') headers['WWW-Authenticate'] = 'Bearer';
  const text = JSON.stringify(problemOf(shown, ''));
  // What stands before it is of the code alone, so this is where the request's id belongs.
  const at = text.indexOf('"requestId":"') + '"requestId":"'.length;
  const reply = { status: code.status, contentType: 'application/problem+json', headers };
  const made = { before: text.slice(0, at), after: text.slice(at), reply };
  written.set(refused, made);
  return made;
}

/** A refusal as an HTTP reply. `requestId` is of harmless characters. */
export function replyOf(refused: Refusal, requestId: string): Reply {
  const { before, after, reply } = written.get(refused) ?? writeRefusal(refused);
  return { ...reply, body: `${before}${requestId}${after}` };
}

export function json(status: number, value: unknown, headers?: Record<string, string>): Reply {
  return headers ? { status, body: JSON.stringify(value), headers } : { status, body: JSON.stringify(value) };
}
