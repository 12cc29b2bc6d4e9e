/**
 * Tickets that somebody watches over a WebSocket. Who watches is there, and so keeps the place: each ticket is looked at now and then, more
 * often the nearer it is to the front, and at once when others have changed it. What is told is only what has changed.
 */
import type { Clock } from '../kernel/clock.ts';
import { errorCodes, RefusalError } from '../kernel/errors.ts';
import type { Logger } from '../kernel/logger.ts';
import type { Lines, Ticket } from './lines.ts';

/** One socket's view of a ticket. */
export type TicketWatcher = {
  readonly saleId: string;
  readonly buyerId: string;
  readonly ticketId: string;
  tell(frame: string): void;
  /** What was told last, so that it is told but once. */
  told: string;
  /** When it is to be looked at again. */
  nextMs: number;
};

export type TicketWatch = {
  /** Begins to watch, and tells at once how the ticket stands. Rejects as `Lines.see` does. */
  add(watcher: TicketWatcher): Promise<void>;
  remove(watcher: TicketWatcher): void;
  readonly size: number;
  stop(): void;
};

const lookEveryMs = 100;
/** How long a place may be old: of those with fewer than so many ahead. */
const refreshes: [number, number][] = [
  [100, 1_000],
  [1_000, 3_000],
  [10_000, 6_000],
  [Number.POSITIVE_INFINITY, 15_000],
];
const retryMs = 1_000;
/** Until the grace is known. */
const leastMs = 300;

export const newTicketWatcher = (
  about: Pick<TicketWatcher, 'saleId' | 'buyerId' | 'ticketId' | 'tell'>,
): TicketWatcher => ({ ...about, told: '', nextMs: 0 });

/** What there is to tell of a ticket; of one that waits for its draw, that it has no place yet. */
function frameOf(ticket: Ticket): string {
  const { ticketId, state, position, ahead, etaSeconds, admissionToken, admissionExpiresAt } = ticket;
  if (state === 'admitted') return JSON.stringify({ type: 'admitted', ticketId, admissionToken, admissionExpiresAt });
  if (state === 'waiting') return JSON.stringify({ type: 'position', ticketId, position, ahead, etaSeconds });
  return JSON.stringify({ type: 'ended', ticketId, reason: ticket.reason ?? state });
}
/** What makes a frame worth sending: an estimate alone does not. */
const newsOf = ({ state, position, admissionExpiresAt }: Ticket): string =>
  `${state}/${position}/${admissionExpiresAt}`;

const isUnavailable = (error: unknown): boolean =>
  !(error instanceof RefusalError) || errorCodes[error.refusal.code].status >= 500;

export function createTicketWatch(parts: { lines: Lines; clock: Clock; logger: Logger }): TicketWatch {
  const { lines, clock, logger } = parts;
  /** Sale -> what was read of its news (from the first look on), and buyer -> whose sockets watch. */
  const sales = new Map<string, { news: number | null; graceMs: number; buyers: Map<string, Set<TicketWatcher>> }>();
  const stopped = new AbortController();
  let size = 0;

  const take = (watcher: TicketWatcher, ticket: Ticket): void => {
    // Of what has no place others' changes are news; but who waits has to be seen, thrice within the grace.
    const ahead = ticket.ahead ?? Number.MAX_SAFE_INTEGER;
    const graceMs = sales.get(watcher.saleId)?.graceMs ?? 0;
    const everyMs = Math.min(refreshes.find(([fewer]) => ahead < fewer)?.[1] ?? 0, Math.max(leastMs, graceMs / 3));
    watcher.nextMs = clock.monotonicMs() + everyMs * (0.75 + Math.random() / 2);
    const news = newsOf(ticket);
    if (news === watcher.told) return;
    watcher.told = news;
    watcher.tell(frameOf(ticket));
  };

  const look = (watcher: TicketWatcher): void => {
    // Not again before this look has come back.
    watcher.nextMs = Number.POSITIVE_INFINITY;
    lines.see(watcher.saleId, watcher.buyerId, watcher.ticketId).then(
      (ticket) => take(watcher, ticket),
      (error: unknown) => {
        watcher.nextMs = clock.monotonicMs() + retryMs;
        if (error instanceof RefusalError && error.refusal.code === 'not-found') {
          if (watcher.told !== 'gone')
            watcher.tell(JSON.stringify({ type: 'ended', ticketId: watcher.ticketId, reason: 'unknown' }));
          watcher.told = 'gone';
        } else logger.debug({ saleId: watcher.saleId, error: String(error) }, 'a watched ticket could not be read');
      },
    );
  };

  const follow = async (saleId: string): Promise<void> => {
    const entry = sales.get(saleId);
    const line = await lines.read(saleId, entry?.news ?? Number.MAX_SAFE_INTEGER);
    if (!entry) return;
    const nowMs = clock.monotonicMs();
    // What changed between a ticket's reading and the first look is no news any more; nor in a line that was lost and begun anew.
    const all = entry.news === null || line.missed || line.news < entry.news;
    entry.news = line.news;
    entry.graceMs = line.graceMs;
    for (const buyer of line.buyers) for (const watcher of entry.buyers.get(buyer) ?? []) look(watcher);
    for (const watchers of entry.buyers.values())
      for (const watcher of watchers) if (all || watcher.nextMs <= nowMs) look(watcher);
  };

  const run = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      await clock.wait(lookEveryMs, stopped.signal);
      for (const saleId of [...sales.keys()])
        await follow(saleId).catch((error: unknown) =>
          logger.debug({ saleId, error: String(error) }, 'a watched line could not be read'),
        );
    }
  };
  void run();

  return {
    async add(watcher) {
      const { saleId, buyerId, ticketId } = watcher;
      // Watched from before it is read: what changes in between is news.
      const entry = sales.get(saleId) ?? { news: null, graceMs: 0, buyers: new Map<string, Set<TicketWatcher>>() };
      sales.set(saleId, entry);
      const watchers = entry.buyers.get(buyerId) ?? new Set();
      entry.buyers.set(buyerId, watchers);
      watcher.nextMs = Number.POSITIVE_INFINITY;
      watchers.add(watcher);
      size++;
      try {
        take(watcher, await lines.see(saleId, buyerId, ticketId));
      } catch (error) {
        // What could not be read just now is read again; what is not there, or not theirs, is not watched.
        watcher.nextMs = clock.monotonicMs() + retryMs;
        if (!isUnavailable(error)) this.remove(watcher);
        throw error;
      }
    },
    remove(watcher) {
      const entry = sales.get(watcher.saleId);
      const watchers = entry?.buyers.get(watcher.buyerId);
      if (!entry || !watchers?.delete(watcher)) return;
      size--;
      if (watchers.size === 0) entry.buyers.delete(watcher.buyerId);
      if (entry.buyers.size === 0) sales.delete(watcher.saleId);
    },
    get size() {
      return size;
    },
    stop: () => stopped.abort(),
  };
}
