/** Answers over HTTP, refusals among them. What many have in common is written once, as bytes with a blank for the request's id. */
import { errorCodes, problemOf, type Refusal } from '../kernel/errors.ts';
import { writeDigits } from '../kernel/ids.ts';

/**
 * Bytes that are lent: whoever lent them writes the next answer into them. They have to be handed to the server, which copies them,
 * before anything else happens: no `await` in between.
 */
export type Lent = Buffer;

export type Reply = { status: number; body: string | Lent; contentType?: string; headers?: Record<string, string> };

/** What a request is called in its answer and in logs: what its client gave, or, where that is '', one of ours by its number. */
export type RequestName = { readonly given: string; readonly no: number };

const ownTag = `${Math.floor(Math.random() * 36 ** 6)
  .toString(36)
  .padStart(6, '0')}-`;
const noDigits = 5;
/** Numbers begin again after so many. */
export const requestNumbers: number = 64 ** noDigits;

export function requestIdOf({ given, no }: RequestName): string {
  if (given !== '') return given;
  const digits = Buffer.alloc(noDigits);
  writeDigits(digits, 0, no, noDigits);
  return ownTag + digits.toString('latin1');
}

/** `bytes`: once one of our own names is to stand in them. */
type Form = { before: string; after: string; bytes: Lent | null; noAt: number };
const formOf = (before: string, after: string): Form => ({ before, after, bytes: null, noAt: 0 });

function fill(form: Form, name: RequestName): string | Lent {
  const { before, after } = form;
  if (name.given !== '') return `${before}${name.given}${after}`;
  if (form.bytes === null) {
    form.bytes = Buffer.from(`${before}${ownTag}${'0'.repeat(noDigits)}${after}`);
    form.noAt = Buffer.byteLength(before) + ownTag.length;
  }
  writeDigits(form.bytes, form.noAt, name.no, noDigits);
  return form.bytes;
}

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

function statusLineOf(status: number): string {
  return statusLines.get(status) ?? String(status);
}

/** From the status to the last header, in one piece: each call into the server costs half a microsecond. */
function headForm({ status, contentType = 'application/json', headers = {} }: Omit<Reply, 'body'>): Form {
  const more = Object.entries(headers).map(([name, value]) => `\r\n${name}: ${value}`);
  return formOf(`${statusLineOf(status)}\r\nContent-Type: ${contentType}\r\nX-Request-Id: `, more.join(''));
}

/** Heads of JSON by their headers, the same object for the same headers, and status. */
const heads = new WeakMap<object, Map<number, Form>>();
const noHeaders = {};
function headOf(reply: Reply): Form {
  if (reply.contentType !== undefined) return headForm(reply);
  const key = reply.headers ?? noHeaders;
  let forms = heads.get(key);
  if (!forms) {
    forms = new Map();
    heads.set(key, forms);
  }
  let form = forms.get(reply.status);
  if (!form) {
    form = headForm(reply);
    forms.set(reply.status, form);
  }
  return form;
}

type Printed = { status: number; head: Form; body: Form };
/** When all is sold out nearly every answer is the same refusal: the same object. */
const printed = new WeakMap<Refusal, Printed>();
function print(refused: Refusal): Printed {
  const code = errorCodes[refused.code];
  const seconds = refused.retryAfterSeconds ?? ('retryAfterSeconds' in code ? code.retryAfterSeconds : undefined);
  const { retryAfterSeconds: _, allow, ...shown } = refused;
  const headers: Record<string, string> = {};
  if (seconds !== undefined) headers['Retry-After'] = String(seconds);
  if (allow !== undefined) headers.Allow = allow;
  if (refused.code === 'unauthorized') headers['WWW-Authenticate'] = 'Bearer';
  const text = JSON.stringify(problemOf(shown, ''));
  // What stands before it is of the code alone, so this is where the request's id belongs.
  const at = text.indexOf('"requestId":"') + '"requestId":"'.length;
  const head = headForm({ status: code.status, contentType: 'application/problem+json', headers });
  const made = { status: code.status, head, body: formOf(text.slice(0, at), text.slice(at)) };
  printed.set(refused, made);
  return made;
}

/** What the server is given: `head` from the status on, as it takes a status. */
export type Written = { head: string | Lent; body: string | Lent };

/** The status of an answer. */
export const statusOf = (result: Reply | Refusal): number =>
  'code' in result ? errorCodes[result.code].status : result.status;

/** `name.given` is of harmless characters. */
export function write(result: Reply | Refusal, name: RequestName): Written {
  if (!('code' in result)) return { head: fill(headOf(result), name), body: result.body };
  const { head, body } = printed.get(result) ?? print(result);
  return { head: fill(head, name), body: fill(body, name) };
}

export function json(status: number, value: unknown, headers?: Record<string, string>): Reply {
  return headers ? { status, body: JSON.stringify(value), headers } : { status, body: JSON.stringify(value) };
}
