/** What an engine answered to one connection's bytes: what is wrong with it, and what it says was done. */
import { errorCodes } from '../../kernel/errors.ts';
import { limits } from '../../kernel/limits.ts';
import type { Claim } from './books.ts';
import type { Outcome } from './connection.ts';
import type { HttpCase } from './http-cases.ts';
import { deedOf, type Lines, type Who } from './http-rules.ts';
import { type HttpAnswer, type HttpRequest, readAnswers, readRequests, type Stream, valuesOf } from './http-text.ts';

export type Judged = {
  wrongs: string[];
  claims: Claim[];
  /** Answers by status; 'library 400' and the like are the HTTP library's own. */
  statuses: string[];
  /** Whether it was a 503 of the contract. */
  busy: boolean;
  /** What RFC 9112 has against a request that was taken; '' when it has nothing. */
  lenient: string;
};

const headBytesOf = ({ method, target, headers }: HttpRequest): number =>
  method.length + target.length + headers.reduce((sum, [name, value]) => sum + name.length + value.length + 4, 20);

/** What is wrong with an answer by itself. */
export function wrongsOfAnswer(answer: HttpAnswer, hasBody = true): string[] {
  const { status, headers, body } = answer;
  const type = valuesOf(headers, 'content-type')[0] ?? '';
  const id = valuesOf(headers, 'x-request-id');
  if (id.length !== 1) return [`${status} without one X-Request-Id`];
  if (status < 400) return [];
  if (!type.startsWith('application/problem+json')) return [`${status} of type ${type}`];
  if (!hasBody) return [];
  let problem: Record<string, unknown>;
  try {
    problem = JSON.parse(body) as Record<string, unknown>;
  } catch {
    return [`${status} whose body is not JSON: ${body.slice(0, 200)}`];
  }
  const wrongs = wrongsOfProblem(problem, status);
  if (problem.requestId !== id[0]) wrongs.push('another request id in the header than in the body');
  const retry = valuesOf(headers, 'retry-after')[0] ?? '';
  if (retryCodes.includes(String(problem.code)) !== /^[1-9]\d*$/.test(retry))
    wrongs.push(`${problem.code} with Retry-After ${JSON.stringify(retry)}`);
  return wrongs;
}

const retryCodes = ['rate-limited', 'overloaded', 'shard-fenced', 'unavailable'];

/** What is wrong with the body of a refusal. */
export function wrongsOfProblem(problem: Record<string, unknown>, status: number): string[] {
  const wrongs: string[] = [];
  const known = Object.hasOwn(errorCodes, String(problem.code)) && errorCodes[problem.code as keyof typeof errorCodes];
  if (!known || known.status !== status || problem.status !== status)
    wrongs.push(`${status} with the code ${problem.code} and the status ${problem.status}`);
  for (const name of ['type', 'title', 'detail', 'requestId'])
    if (typeof problem[name] !== 'string' || problem[name] === '') wrongs.push(`${status} without ${name}`);
  if (problem.code === 'invalid-request' && !Array.isArray(problem.errors))
    wrongs.push('invalid-request without errors');
  if (status >= 500 && status !== 503) wrongs.push(`${status} from a healthy engine`);
  return wrongs;
}

/** What an answer with success says was done. */
function claimOf(request: HttpRequest, answer: HttpAnswer, who: Who, caseNumber: number): Claim | string | null {
  const deed = deedOf(request, who);
  if (!deed) return `${answer.status} for what may not be taken: ${request.method} ${request.target.slice(0, 200)}`;
  if (deed.does === 'nothing') return null;
  try {
    const body = JSON.parse(answer.body) as { id?: string; state?: string; lines?: Lines };
    const replayed = valuesOf(answer.headers, 'idempotency-replayed').length > 0;
    return { sure: true, deed, caseNumber, ...body, replayed, created: answer.status === 201 };
  } catch {
    return `${answer.status} whose body is not JSON`;
  }
}

const isVeryLong = (request: HttpRequest): boolean =>
  headBytesOf(request) > limits.headerBytes - 200 || request.headers.length > 90;

/** What the library closes the connection for, and its answer may be lost by that. */
const isForeign = (request: HttpRequest): boolean => isVeryLong(request) || !request.target.startsWith('/');

/** What the library refuses though RFC 9112 allows it. */
function refusedByLibrary(status: number, request: HttpRequest, bytes: Buffer): boolean {
  if (status === 431) return isVeryLong(request);
  if (!request.target.startsWith('/')) return true;
  return status === 505 && isHttp10(bytes);
}
const isHttp10 = (bytes: Buffer): boolean => /^\S+ \S+ HTTP\/1\.0\r/.test(bytes.toString('latin1', 0, 2_000));

const sameRequests = (one: Stream, other: Stream): boolean =>
  one.end === other.end &&
  one.requests.length === other.requests.length &&
  one.requests.every(({ body }, i) => other.requests[i]?.body.equals(body));

export function judgeHttp(one: HttpCase, outcome: Outcome, who: Who): Judged {
  const bytes = Buffer.concat(one.pieces);
  const stream = readRequests(bytes, 'library');
  const byRfc = readRequests(bytes, 'rfc');
  const isPlain = sameRequests(stream, byRfc);
  const { requests } = stream;
  const { answers, rest } = readAnswers(
    outcome.received,
    requests.map(({ method }) => method),
  );
  const judged: Judged = { wrongs: [], claims: [], statuses: [], busy: false, lenient: '' };
  const { wrongs } = judged;
  if (rest === 'broken') wrongs.push('an answer that is not HTTP');
  if (rest === 'incomplete' && !one.hangsUp) wrongs.push('an answer that was cut off');
  const alone = requests.length === 1 && stream.end === 'clean';
  for (const [i, answer] of answers.entries()) {
    const request = requests[i];
    judged.statuses.push(answer.byLibrary ? `library ${answer.status}` : String(answer.status));
    if (answer.byLibrary) {
      // It may be the next request that can't be read, while this one was not answered yet.
      if (request && alone && isPlain && !refusedByLibrary(answer.status, request, bytes))
        wrongs.push(`the library answers ${answer.status} to a right request`);
      continue;
    }
    if (answer.status === 503) judged.busy = true;
    wrongs.push(...wrongsOfAnswer(answer, request?.method !== 'HEAD'));
    // Too much is refused before it has all come.
    if (!request && answer.status !== 413)
      wrongs.push(`${answer.status}, though no request was sent: ${stream.end} ${stream.why}`);
    if (!request) continue;
    if (answer.status < 300) {
      if (!isPlain && !byRfc.requests[i]) judged.lenient = byRfc.why || 'incomplete';
      const claim = claimOf(request, answer, who, one.number);
      if (typeof claim === 'string') wrongs.push(claim);
      else if (claim) judged.claims.push(claim);
    } else if (one.kind === 'right' && [400, 401, 403, 405, 413, 415].includes(answer.status))
      wrongs.push(`${answer.status} to a right request`);
  }
  const answered = answers.filter(({ byLibrary }) => !byLibrary).length;
  for (const request of requests.slice(answered)) {
    const deed = deedOf(request, who);
    if (deed && deed.does !== 'nothing') judged.claims.push({ sure: false, deed, caseNumber: one.number });
  }
  if (answers.length < requests.length && !one.hangsUp) {
    if (!outcome.closed) wrongs.push('a whole request got no answer');
    else if (alone && isPlain && !isHttp10(bytes) && !requests.some(isForeign))
      wrongs.push('a right request was hung up on');
  }
  return judged;
}

/** Whether what has come is all that is to be waited for. */
export function httpComplete(bytes: Buffer): (received: Buffer) => 'no' | 'soon' | 'yes' {
  const { requests, end } = readRequests(bytes, 'library');
  const methods = requests.map(({ method }) => method);
  return (received) => {
    const { answers } = readAnswers(received, methods);
    if (answers.at(-1)?.byLibrary) return 'no';
    if (answers.length < requests.length) return 'no';
    return end === 'clean' ? 'yes' : 'soon';
  };
}
