/** Looks after the lines of waiting rooms: a loop a shard, which lets people in, and draws places when a shuffle opens. */
import type { Clock } from '../kernel/clock.ts';
import { RefusalError } from '../kernel/errors.ts';
import { encodeTicketId } from '../kernel/ids.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import {
  drawCodes,
  placeTicketsCommand,
  readPoolCommand,
  type TendLinesAnswer,
  tendLinesCommand,
} from '../lua/bindings.ts';
import { drawPlaces } from './draw.ts';
import type { Shards } from './shards.ts';

const tendEveryMs = 100;
const retryMs = 1_000;

/** Told what came of each look at a shard's lines. */
export type LineStats = { tended(shard: number, rooms: TendLinesAnswer['rooms']): void };

/**
 * Draws the places of a sale's tickets. Who draws a second time, or beside another, draws the same: among whom is settled once the draw
 * has begun, and so is the seed.
 */
async function draw(shards: Shards, shard: number, sale: number): Promise<void> {
  const numbers = new Map<string, { number: number; buyer: string }>();
  let seed = '';
  for (;;) {
    const page = await shards.call(shard, readPoolCommand, { sale, from: numbers.size, max: limits.drawPage });
    if (page.draw !== drawCodes.drawing) return;
    seed = page.seed;
    for (const { number, buyer } of page.tickets)
      numbers.set(encodeTicketId({ shard, sale, number, buyer }), { number, buyer });
    if (page.tickets.length < limits.drawPage) break;
  }
  const places = drawPlaces(seed, [...numbers.keys()]).flatMap((id) => numbers.get(id) ?? []);
  for (let from = 0; from < places.length; from += limits.drawPage) {
    const tickets = places.slice(from, from + limits.drawPage);
    const done = from + limits.drawPage >= places.length ? 1 : 0;
    await shards.call(shard, placeTicketsCommand, { sale, from, done, tickets });
  }
}

export function startUsher(options: { shards: Shards; clock: Clock; logger: Logger; stats: LineStats }): {
  stop(): Promise<void>;
} {
  const { shards, clock, logger, stats } = options;
  const stopped = new AbortController();

  /** Draws under way: other lines of the shard are tended meanwhile. */
  const drawing = new Map<string, Promise<void>>();
  const drawBeside = (shard: number, sale: number): void => {
    const name = `${shard}/${sale}`;
    if (drawing.has(name)) return;
    // Not all processes at the same moment: who comes second finds it done.
    const beginning = clock.wait(Math.random() * tendEveryMs * 5, stopped.signal);
    const under = beginning
      .then(() => draw(shards, shard, sale))
      .catch((error: unknown) =>
        logger.error({ shard, sale, error: String(error) }, 'places could not be drawn; they are again'),
      )
      .finally(() => drawing.delete(name));
    drawing.set(name, under);
  };

  const tend = async (shard: number): Promise<void> => {
    while (!stopped.signal.aborted) {
      try {
        const { more, rooms } = await shards.call(shard, tendLinesCommand, { max: limits.tendTickets });
        stats.tended(shard, rooms);
        for (const room of rooms) if (room.draw === drawCodes.drawing) drawBeside(shard, room.sale);
        if (more === 0) await clock.wait(tendEveryMs, stopped.signal);
      } catch (error) {
        if (!(error instanceof RefusalError))
          logger.error({ shard, error: String(error) }, 'a line could not be tended');
        await clock.wait(retryMs, stopped.signal);
      }
    }
  };
  const loops = Array.from({ length: shards.count }, (_, shard) => tend(shard));
  return {
    async stop() {
      stopped.abort();
      await Promise.all([...loops, ...drawing.values()]);
    },
  };
}
