/** A WebSocket of a sale, and bytes that are nearly one. */
import { createHash } from 'node:crypto';
import type { Claim } from './books.ts';
import { exchange, type Outcome } from './connection.ts';
import { type Messages, readFrames, readMessages } from './frames.ts';
import { wrongsOfAnswer, wrongsOfProblem } from './http-judge.ts';
import { type Deed, type Lines, linesOf, type Who } from './http-rules.ts';
import { readAnswers } from './http-text.ts';
import { escaped } from './mutate.ts';
import type { Fuzzer } from './rounds.ts';
import { saleId } from './target.ts';
import { type WebSocketCase, webSocketCase } from './websocket-cases.ts';

type Judged = { wrongs: string[]; claims: Claim[]; statuses: string[]; busy: boolean; lenient: string };
type Members = Record<string, unknown>;

const members = new Map([
  ['auth', ['type', 'token', 'ticketId']],
  ['reserve', ['type', 'requestId', 'idempotencyKey', 'lines', 'admissionToken']],
  ['commit', ['type', 'requestId', 'reservationId']],
  ['release', ['type', 'requestId', 'reservationId']],
]);

/** What a client's texts ask for, by request id: the deeds that may be done, and null for what may not. */
function deedsOf(texts: string[], who: Who): { asked: Map<string, (Deed | null)[]>; ends: boolean } {
  const asked = new Map<string, (Deed | null)[]>();
  let token = '';
  for (const text of texts) {
    let message: Members;
    try {
      message = JSON.parse(text) as Members;
    } catch {
      return { asked, ends: true };
    }
    const known = members.get(String(message?.type));
    if (!known || Object.keys(message).some((name) => !known.includes(name))) return { asked, ends: true };
    const { type, requestId } = message;
    if (type === 'auth') {
      token = who.tokens.find((each) => each === message.token) ?? '';
      if (token === '') return { asked, ends: true };
      continue;
    }
    if (typeof requestId !== 'string' || token === '') return { asked, ends: true };
    const { idempotencyKey: key, reservationId: id } = message;
    const lines = linesOf(message.lines);
    const isKey = typeof key === 'string' && /^[\x21-\x7e]{1,128}$/.test(key);
    let deed: Deed | null = null;
    if (type === 'reserve' && lines && isKey) deed = { does: 'reserve', saleId, token, keys: [key], lines };
    if ((type === 'commit' || type === 'release') && typeof id === 'string') deed = { does: type, id, token };
    asked.set(requestId, [...(asked.get(requestId) ?? []), deed]);
  }
  return { asked, ends: false };
}

/** What the engine closes with; 1005 stands for a close frame without a code. */
const closeCodes = [1000, 1001, 1002, 1003, 1005, 1007, 1009, 4400, 4401, 4408, 4429];

/** The part of what was received that follows the handshake's answer; null when it was none that agrees. */
function afterHandshake(received: Buffer): { head: string; rest: Buffer } | null {
  const end = received.indexOf('\r\n\r\n');
  if (end < 0 || !received.toString('latin1', 0, 13).startsWith('HTTP/1.1 101 ')) return null;
  return { head: received.toString('latin1', 0, end), rest: received.subarray(end + 4) };
}

function judgeFrames(one: WebSocketCase, told: Messages, outcome: Outcome, who: Who, judged: Judged): void {
  const { wrongs, claims, statuses } = judged;
  const sent = readFrames(one.frames).frames;
  const strict = readMessages(sent, { fromClient: true, strict: true });
  const loose = readMessages(sent, { fromClient: true, strict: false });
  const { asked } = deedsOf(loose.texts, who);
  const answered = new Map<string, number>();
  for (const text of told.texts) {
    let message: Members;
    try {
      message = JSON.parse(text) as Members;
    } catch {
      wrongs.push(`a frame that is not JSON: ${text.slice(0, 200)}`);
      continue;
    }
    if (!['sale', 'stock', 'result', 'error'].includes(String(message.type)))
      wrongs.push(`a frame of type ${message.type}`);
    if (message.type !== 'result') continue;
    const { requestId, status, body } = message as { requestId: string; status: number; body: Members };
    statuses.push(`result ${status}`);
    const turn = answered.get(requestId) ?? 0;
    answered.set(requestId, turn + 1);
    const deeds = asked.get(requestId) ?? [];
    if (deeds.length <= turn) wrongs.push(`a result for ${requestId}, which wasn’t asked so often`);
    if (status >= 400) {
      wrongs.push(...wrongsOfProblem(body, status));
      if (status === 503) judged.busy = true;
      continue;
    }
    const deed = deeds[turn] ?? deeds.find((each) => each !== null);
    if (!deed) wrongs.push(`${status} for what may not be taken: ${requestId}`);
    else {
      const { id, state, lines } = body as { id: string; state: string; lines: Lines };
      // The result of a key that was used before looks as the first did.
      claims.push({ sure: true, deed, caseNumber: one.number, id, state, lines });
      if (strict.why !== '' && !deedsOf(strict.texts, who).asked.has(requestId)) judged.lenient = strict.why;
    }
  }
  for (const [requestId, deeds] of asked)
    for (const deed of deeds.slice(answered.get(requestId) ?? 0))
      if (deed) claims.push({ sure: false, deed, caseNumber: one.number });
  const { closed } = told;
  if (closed) statuses.push(`close ${closed.code}`);
  if (closed && ![...closeCodes, loose.closed?.code].includes(closed.code)) wrongs.push(`closed with ${closed.code}`);
  if (outcome.late && strict.why !== '') wrongs.push(`${strict.why}, and the socket stays open`);
  else if (outcome.late) wrongs.push('a frame got no result');
  const isRight = (one.kind === 'right' || one.kind === 'in pieces') && !one.hasty;
  if (isRight && outcome.closed)
    wrongs.push(`right frames, and the socket was closed: ${closed?.code} ${closed?.reason}`);
}

function judge(one: WebSocketCase, outcome: Outcome, who: Who): Judged {
  const judged: Judged = { wrongs: [], claims: [], statuses: [], busy: false, lenient: '' };
  const { wrongs, statuses } = judged;
  const opened = afterHandshake(outcome.received);
  if (!opened) {
    const { answers, rest } = readAnswers(outcome.received, [one.handshake.toString('latin1').split(' ')[0] ?? '']);
    for (const answer of answers) {
      statuses.push(answer.byLibrary ? `library ${answer.status}` : String(answer.status));
      if (!answer.byLibrary && answer.status >= 400 && answer.status !== 503)
        wrongs.push(...wrongsOfAnswer(answer, !one.handshake.toString('latin1').startsWith('HEAD')));
    }
    if (rest === 'broken') wrongs.push('an answer that is not HTTP');
    if (answers.length === 0) statuses.push(outcome.closed ? 'closed' : 'nothing');
    // Its answer may be lost, and it be open all the same.
    if (answers.length === 0) {
      const sent = readMessages(readFrames(one.frames).frames, { fromClient: true, strict: false });
      for (const deed of [...deedsOf(sent.texts, who).asked.values()].flat())
        if (deed) judged.claims.push({ sure: false, deed, caseNumber: one.number });
    }
    // The upgrade is looked up first: what comes before its answer closes the connection.
    if (one.key !== '' && !one.hangsUp && !one.hasty) wrongs.push(`a right handshake was answered ${statuses}`);
    return judged;
  }
  statuses.push('101');
  const accept = createHash('sha1').update(`${one.key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
  if (one.key !== '' && !opened.head.includes(`Sec-WebSocket-Accept: ${accept}`))
    wrongs.push('another accept than the key’s');
  const { frames, read } = readFrames(opened.rest);
  if (read < opened.rest.length && !outcome.closed && !one.hangsUp) wrongs.push('a frame that was cut off');
  const told = readMessages(frames, { fromClient: false, strict: true });
  if (told.why !== '') wrongs.push(`a frame of the server is wrong: ${told.why}`);
  judgeFrames(one, told, outcome, who, judged);
  return judged;
}

/** Whether all that is to be waited for has come. */
function completeOf(one: WebSocketCase, who: Who): (received: Buffer) => 'no' | 'soon' | 'yes' {
  const { frames, read } = readFrames(one.frames);
  const strict = readMessages(frames, { fromClient: true, strict: true });
  const { asked, ends } = deedsOf(strict.texts, who);
  const results = [...asked.values()].reduce((sum, deeds) => sum + deeds.length, 0);
  const mustClose = strict.why !== '' || strict.closed !== null || ends;
  const isRight = one.kind === 'right' || one.kind === 'in pieces';
  return (received) => {
    const opened = afterHandshake(received);
    if (!opened) {
      const { answers } = readAnswers(received, [one.handshake.toString('latin1').split(' ')[0] ?? '']);
      return answers.length > 0 || one.key === '' || one.hasty ? 'soon' : 'no';
    }
    if (mustClose) return 'no';
    const { texts } = readMessages(readFrames(opened.rest).frames, { fromClient: false, strict: false });
    if (texts.filter((text) => text.startsWith('{"type":"result"')).length < results) return 'no';
    return isRight && read === one.frames.length ? 'yes' : 'soon';
  };
}

export const webSocketFuzzer: Fuzzer = {
  name: 'websocket',
  async run(target, world, seed, number) {
    const one = webSocketCase(world, seed, number);
    const { pauseMs, hangsUp, halfCloses } = one;
    const pieces = [one.handshake, ...one.pieces];
    const sending = { port: target.port, pieces, pauseMs, hangsUp, halfCloses, afterAnswer: !one.hasty };
    const outcome = await exchange({ ...sending, complete: completeOf(one, world) });
    const { wrongs, claims, statuses, busy, lenient } = judge(one, outcome, world);
    const replay = `npm run fuzz -- --only websocket --seed ${seed} --from ${number} --cases 1`;
    const shown = `${escaped(one.handshake, 600)} + ${escaped(one.frames)}\n  answered: ${escaped(outcome.received.subarray(-400))}`;
    return {
      kind: one.kind.replace(/: .*/, ''),
      ...{ statuses, claims, busy, lenient },
      findings: wrongs.map((what) => ({ kind: one.kind, what, replay, bytes: shown })),
    };
  },
};
