/** `stampede verify-draw`: does a sale's draw again from what is public, as anybody could. */
import { readFileSync } from 'node:fs';
import { Compile } from 'typebox/compile';
import { drawFaults, type PublishedDraw } from '../engine/draw.ts';
import { DrawView } from '../engine/schemas.ts';
import { SetupError } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';

export type VerifyDrawOptions = {
  /** A running engine and a sale, or a file with what it published (`-` for standard input). */
  url: string | null;
  sale: string | null;
  file: string | null;
  /** What was published before the draw, as somebody noted it then. */
  commitment: string | null;
  /** A ticket whose place is wanted. */
  ticket: string | null;
  json: boolean;
};

const askMs = 10_000;
const mostPages = Math.ceil(limits.ticketsPerSale / limits.drawPage);

type Page = Partial<PublishedDraw> & { commitment: string; algorithm: string; pages?: number; total?: number };

const drawView = Compile(DrawView);

/** What was answered or stands in a file, if it is a draw. */
function pageOf(text: string, from: string): Page {
  let page: unknown;
  try {
    page = JSON.parse(text);
  } catch {
    throw new SetupError('no-draw', `${from} has no JSON: is it the right place?`);
  }
  if (!drawView.Check(page))
    throw new SetupError('no-draw', `${from} has no draw, as GET /v1/sales/ID/draw answers one`);
  return page;
}

async function fetchDraw(url: string, sale: string): Promise<Page> {
  const all: PublishedDraw['tickets'] = [];
  for (let page = 0, pages = 1, last: Page | null = null; ; page++) {
    const answer = await fetch(`${url.replace(/\/$/, '')}/v1/sales/${sale}/draw?page=${page}`, {
      signal: AbortSignal.timeout(askMs),
    }).catch((error: unknown) => {
      throw new SetupError('unreachable', `${url} gives no answer: ${String((error as Error).cause ?? error)}`);
    });
    const text = await answer.text();
    if (!answer.ok) throw new SetupError('no-draw', `${sale} has no draw: ${text}`);
    last = pageOf(text, url);
    if (!last.tickets) return last;
    all.push(...last.tickets);
    pages = Math.min(last.pages ?? 1, mostPages);
    if (page + 1 >= pages) return { ...last, tickets: all };
  }
}

function readDraw(file: string): Page {
  let text: string;
  try {
    text = readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw new SetupError('no-draw', `${file} can't be read: ${(error as Error).message}`);
  }
  return pageOf(text, file);
}

/** Answers the exit code: 0 the draw is as it should be, 1 it is not, 2 there is none yet. */
export async function verifyDraw(options: VerifyDrawOptions, print: (line: string) => void): Promise<number> {
  const { url, sale, file, ticket, json } = options;
  if (file === null && (url === null || sale === null))
    throw new SetupError('bad-arguments', 'name a running engine and its sale (--url, --sale), or a file (--file)');
  if (file !== null && (url !== null || sale !== null))
    throw new SetupError('bad-arguments', 'name a running engine and its sale, or a file: not both');
  const noted = options.commitment?.toLowerCase() ?? null;
  if (noted !== null && !/^[0-9a-f]{64}$/.test(noted))
    throw new SetupError('bad-arguments', '--commitment takes the 64 hexadecimal digits that were published');
  const draw = file === null ? await fetchDraw(url ?? '', sale ?? '') : readDraw(file);
  if (draw.seed === undefined || draw.tickets === undefined) {
    if (noted !== null && noted !== draw.commitment) {
      print(`WRONG nothing is drawn yet, and the commitment is another one by now: ${draw.commitment}`);
      if (json) print(JSON.stringify({ drawn: false, ok: false, commitment: draw.commitment }));
      return 1;
    }
    print(
      `Nothing is drawn yet. The commitment is ${draw.commitment}: note it, and verify with --commitment afterwards.`,
    );
    if (json) print(JSON.stringify({ drawn: false, commitment: draw.commitment }));
    return 2;
  }
  const whole = { ...draw, seed: draw.seed, tickets: draw.tickets };
  const faults = drawFaults(whole, noted ?? draw.commitment);
  if (draw.total !== undefined && draw.total !== whole.tickets.length)
    faults.push(
      `${whole.tickets.length} of ${draw.total} tickets are there: put the tickets of all pages into one list`,
    );
  const place = whole.tickets.find(({ ticketId }) => ticketId === ticket)?.place ?? null;
  if (ticket !== null && place === null)
    faults.push(
      `${ticket} has no place in the draw: it joined after it, was let in or had left before it, or was left out`,
    );
  for (const fault of faults) print(`WRONG ${fault}`);
  const seedSays = noted === null ? 'its seed is the one committed to' : 'its seed is the one that you noted';
  if (faults.length === 0) print(`${whole.tickets.length} tickets stand where the seed puts them, and ${seedSays}.`);
  if (place !== null) print(`${ticket} was drawn at place ${place}.`);
  if (json)
    print(JSON.stringify({ drawn: true, ok: faults.length === 0, tickets: whole.tickets.length, place, faults }));
  return faults.length === 0 ? 0 : 1;
}
