/**
 * Some of the people in a line, in a process of their own (one may open 20,000 files). Told what to do by `line-crowd.ts`, over the
 * channel between parent and child.
 */
import { readFileSync } from 'node:fs';
import { systemClock } from '../kernel/clock.ts';
import type { FromPeople, People, ToPeople } from './line-crowd.ts';
import { type Frame, openWaiter, type Waiter } from './waiter.ts';

const say = (message: FromPeople): void => {
  process.send?.(message);
};
const atOnce = 50;
const retryMs = 1_000;

const seen = { open: 0, lost: 0, admitted: 0, bought: 0, lapsed: 0, emptyHanded: 0, told: 0, positions: 0 };
const waiters: Waiter[] = [];
/** The stock that a change is expected to leave, and how many have heard of it. */
let expected = { available: -1, heard: 0 };

function hear(text: string): void {
  if (expected.available < 0 || !text.includes(`"available":${expected.available},`)) return;
  expected.heard++;
  sayIfAllHeard();
}
/** Who is lost hears nothing any more. */
function sayIfAllHeard(): void {
  if (expected.available < 0 || expected.heard < seen.open - seen.lost) return;
  say({ type: 'heard', heard: expected.heard, atMs: Date.now() });
  expected = { available: -1, heard: 0 };
}

/** What a person does who was let in: reserves one, and buys it or lets it lapse; tries again while there may come something back. */
function buyer({ sku, thinkMs, lapseRate }: People, waiter: Waiter) {
  let admission = { token: '', expiresMs: 0 };
  let over = false;
  const lapses = Math.random() < lapseRate;
  const finish = (how: 'bought' | 'lapsed' | 'emptyHanded'): void => {
    if (!over) seen[how]++;
    over = true;
  };
  const reserve = (): void => {
    if (over) return;
    if (Date.now() >= admission.expiresMs) finish('emptyHanded');
    else
      waiter.send({
        ...{ type: 'reserve', requestId: 'reserve', idempotencyKey: 'one', admissionToken: admission.token },
        lines: [{ sku, quantity: 1 }],
      });
  };
  return {
    admitted(frame: Frame): void {
      admission = { token: String(frame.admissionToken), expiresMs: Date.parse(String(frame.admissionExpiresAt)) };
      seen.admitted++;
      reserve();
    },
    result(frame: Frame): void {
      if (frame.requestId === 'commit') finish('bought');
      else if (frame.status !== 201) systemClock.later(retryMs, reserve);
      else if (lapses) finish('lapsed');
      else {
        const { id } = frame.body as { id: string };
        systemClock.later(thinkMs, () => waiter.send({ type: 'commit', requestId: 'commit', reservationId: id }));
      }
    },
    ended: (): void => {
      if (admission.token !== '' && !over) finish('emptyHanded');
    },
  };
}

async function gather(people: People): Promise<void> {
  const { urls, saleId, first, count, buys } = people;
  const tokens = readFileSync(people.tokens, 'utf8')
    .trim()
    .split('\n')
    .slice(first, first + count);
  let next = 0;
  const open = async (at: number): Promise<void> => {
    const url = new URL(urls[at % urls.length] ?? '');
    let person: ReturnType<typeof buyer> | null = null;
    const waiter = await openWaiter({
      ...{ url, saleId, token: tokens[at] ?? '' },
      // A sixth of the ports of a pair of addresses each.
      localAddress: `127.0.${1 + people.process}.${2 + (at % 8)}`,
      take(text, who) {
        if (text.startsWith('{"type":"stock"')) {
          seen.told++;
          hear(text);
        } else if (text.startsWith('{"type":"position"')) seen.positions++;
        else if (
          text.startsWith('{"type":"admitted"') ||
          text.startsWith('{"type":"result"') ||
          text.startsWith('{"type":"ended"')
        ) {
          const frame = JSON.parse(text) as Frame;
          if (!buys) {
            if (frame.type === 'admitted') seen.admitted++;
            return;
          }
          person ??= buyer(people, who);
          if (frame.type === 'admitted') person.admitted(frame);
          else if (frame.type === 'result') person.result(frame);
          else if (frame.reason !== 'used') person.ended();
        }
      },
      ended: () => {
        seen.lost++;
        sayIfAllHeard();
      },
    });
    waiters.push(waiter);
    seen.open++;
  };
  const lane = async (): Promise<void> => {
    while (next < count) await open(next++);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

process.on('message', (message: ToPeople) => {
  if (message.type === 'gather')
    gather(message.people).then(
      () => say({ type: 'gathered' }),
      (error: unknown) => say({ type: 'failed', message: String(error) }),
    );
  else if (message.type === 'expect') expected = { available: message.available, heard: 0 };
  else say({ type: 'counts', counts: { ...seen } });
});
process.once('disconnect', () => process.exit(0));
