/** `stampede verify-draw`: does a sale's draw again from what is public, as anybody could. */
import { readFileSync } from 'node:fs';
import { drawFaults, type PublishedDraw } from '../engine/draw.ts';
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

async function fetchDraw(url: string, sale: string): Promise<Page> {
  const all: PublishedDraw['tickets'] = [];
  for (let page = 0, pages = 1, last: Page | null = null; ; page++) {
    const answer = await fetch(`${url.replace(/\/$/, '')}/v1/sales/${sale}/draw?page=${page}`, {
      signal: AbortSignal.timeout(askMs),
    }).catch((error: unknown) => {
      throw new SetupError('unreachable', `${url} gives no answer: ${String((error as Error).cause ?? error)}`);
    });
    if (!answer.ok) throw new SetupError('no-draw', `${sale} has no draw: ${await answer.text()}`);
    last = (await answer.json()) as Page;
    if (!last.tickets) return last;
    all.push(...last.tickets);
    pages = Math.min(last.pages ?? 1, mostPages);
    if (page + 1 >= pages) return { ...last, tickets: all };
  }
}

function readDraw(file: string): Page {
  try {
    return JSON.parse(readFileSync(file === '-' ? 0 : file, 'utf8')) as Page;
  } catch (error) {
    throw new SetupError('no-draw', `${file} can't be read as a draw: ${(error as Error).message}`);
  }
}

/** Answers the exit code: 0 the draw is as it should be, 1 it is not, 2 there is none yet. */
export async function verifyDraw(options: VerifyDrawOptions, print: (line: string) => void): Promise<number> {
  const { url, sale, file, commitment, ticket, json } = options;
  if (file === null && (url === null || sale === null))
    throw new SetupError('bad-arguments', 'name a running engine and its sale (--url, --sale), or a file (--file)');
  const draw = file === null ? await fetchDraw(url ?? '', sale ?? '') : readDraw(file);
  if (draw.seed === undefined || draw.tickets === undefined) {
    print(
      `Nothing is drawn yet. The commitment is ${draw.commitment}: note it, and verify with --commitment afterwards.`,
    );
    if (json) print(JSON.stringify({ drawn: false, commitment: draw.commitment }));
    return 2;
  }
  const whole = { ...draw, seed: draw.seed, tickets: draw.tickets };
  const faults = drawFaults(whole, commitment ?? draw.commitment);
  if (draw.total !== undefined && draw.total !== whole.tickets.length)
    faults.push(
      `${whole.tickets.length} of ${draw.total} tickets are there: put the tickets of all pages into one list`,
    );
  const place = whole.tickets.find(({ ticketId }) => ticketId === ticket)?.place ?? null;
  if (ticket !== null && place === null) faults.push(`${ticket} has no place in the draw`);
  for (const fault of faults) print(`WRONG ${fault}`);
  const seedSays = commitment === null ? 'its seed is the one committed to' : 'its seed is the one that you noted';
  if (faults.length === 0) print(`${whole.tickets.length} tickets stand where the seed puts them, and ${seedSays}.`);
  if (place !== null) print(`${ticket} was drawn at place ${place}.`);
  if (json)
    print(JSON.stringify({ drawn: true, ok: faults.length === 0, tickets: whole.tickets.length, place, faults }));
  return faults.length === 0 ? 0 : 1;
}
