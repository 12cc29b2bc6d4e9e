/**
 * The draw of a shuffle: pure, so that anybody can do it again from what is public. Before it the seed's SHA-256 is published, after it the
 * seed; a ticket's place is that of SHA-256(seed:ticketId) among all.
 */
import { hash, randomBytes } from 'node:crypto';

export const drawAlgorithm = 'sha256(seed:ticketId), ascending';

export const newSeed = (): string => randomBytes(32).toString('hex');

export const commitmentOf = (seed: string): string => hash('sha256', seed, 'hex');

/** Ticket ids in the order of their places, the first place first. */
export function drawPlaces(seed: string, ticketIds: readonly string[]): string[] {
  return ticketIds
    .map((id) => ({ id, lot: hash('sha256', `${seed}:${id}`, 'hex') }))
    .sort((a, b) => (a.lot < b.lot ? -1 : a.lot > b.lot ? 1 : 0))
    .map(({ id }) => id);
}

export type PublishedDraw = {
  commitment: string;
  seed: string;
  algorithm: string;
  tickets: { ticketId: string; place: number }[];
};

/** What is wrong with a draw as it was published; nothing where it is as it should be. */
export function drawFaults(draw: PublishedDraw, commitment = draw.commitment): string[] {
  const faults: string[] = [];
  if (draw.algorithm !== drawAlgorithm) faults.push(`the algorithm is not one that is known here: ${draw.algorithm}`);
  if (draw.commitment !== commitment) faults.push('the commitment is not the one that was published before');
  if (commitmentOf(draw.seed) !== commitment) faults.push('the seed is not the one that was committed to');
  const ids = draw.tickets.map(({ ticketId }) => ticketId);
  if (new Set(ids).size !== ids.length) faults.push('a ticket has two places');
  const places = drawPlaces(draw.seed, ids);
  for (const [i, { ticketId, place }] of draw.tickets.entries()) {
    if (faults.length >= 20) break;
    if (place !== i + 1) faults.push(`place ${i + 1} of the list is said to be ${place}`);
    else if (places[i] !== ticketId) faults.push(`${ticketId} stands at ${place}, where ${places[i]} belongs`);
  }
  return faults;
}
