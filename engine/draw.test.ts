import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { commitmentOf, drawAlgorithm, drawFaults, drawPlaces, newSeed, type PublishedDraw } from './draw.ts';

const idsOf = (count: number): string[] => Array.from({ length: count }, (_, i) => `ticket-${i}`);
const seeds = fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: 64, maxLength: 64 });

function drawOf(seed: string, ids: string[]): PublishedDraw {
  const tickets = drawPlaces(seed, ids).map((ticketId, i) => ({ ticketId, place: i + 1 }));
  return { commitment: commitmentOf(seed), seed, algorithm: drawAlgorithm, tickets };
}

describe('a draw', () => {
  it('gives everybody one place, whatever order they came in', () => {
    fc.assert(
      fc.property(seeds, fc.uniqueArray(fc.string({ minLength: 1 }), { maxLength: 50 }), (seed, ids) => {
        const places = drawPlaces(seed, ids);
        expect(places.toSorted()).toEqual(ids.toSorted());
        expect(drawPlaces(seed, ids.toReversed())).toEqual(places);
      }),
    );
  });

  /**
   * How far the places of ten thousand, over some draws, are from what chance gives: twenty groups by the order in which they came, in twenty
   * parts of the places; chi-square, in standard deviations of its distribution (19 × 19 degrees of freedom: nearly normal).
   */
  function unfairness(draws: number, draw: (seed: string, ids: string[]) => string[]): number {
    const [tickets, parts] = [10_000, 20];
    const ids = idsOf(tickets);
    const groupOf = new Map(ids.map((id, i) => [id, Math.floor((i * parts) / tickets)]));
    const counts = Array<number>(parts * parts).fill(0);
    for (let i = 0; i < draws; i++)
      for (const [place, id] of draw(commitmentOf(`draw ${i}`), ids).entries()) {
        const cell = (groupOf.get(id) ?? 0) * parts + Math.floor((place * parts) / tickets);
        counts[cell] = (counts[cell] ?? 0) + 1;
      }
    const expected = (draws * tickets) / (parts * parts);
    const chiSquare = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    const freedom = (parts - 1) ** 2;
    return (chiSquare - freedom) / Math.sqrt(2 * freedom);
  }

  it('of ten thousand is fair: over a hundred draws nobody’s place depends on when they came (chi-square)', () => {
    expect(Math.abs(unfairness(100, drawPlaces))).toBeLessThan(4);
  });

  it('that moves one in a hundred of those who came first forward does not pass the same test', () => {
    const bent = (seed: string, ids: string[]): string[] => {
      const places = drawPlaces(seed, ids);
      const favoured = new Set(ids.slice(0, 100));
      return [...places.filter((id) => favoured.has(id)), ...places.filter((id) => !favoured.has(id))];
    };
    expect(unfairness(100, bent)).toBeGreaterThan(4);
  });
});

describe('who checks a draw', () => {
  const seed = newSeed();
  const draw = drawOf(seed, idsOf(10_000));
  const swapped = (a: number, b: number): PublishedDraw['tickets'] =>
    draw.tickets.map(({ place }, i) => ({
      place,
      ticketId: draw.tickets[i === a ? b : i === b ? a : i]?.ticketId ?? '',
    }));

  it('accepts the true order of ten thousand', () => {
    expect(drawFaults(draw)).toEqual([]);
    expect(drawFaults(draw, commitmentOf(seed))).toEqual([]);
  });

  it.each<[string, Partial<PublishedDraw>, RegExp]>([
    ['two places swapped', { tickets: swapped(17, 5_000) }, /stands at 18/],
    ['two neighbours swapped', { tickets: swapped(9_998, 9_999) }, /stands at 9999/],
    [
      'a ticket twice',
      { tickets: [...draw.tickets.slice(0, -1), draw.tickets[0] as PublishedDraw['tickets'][0]] },
      /two places/,
    ],
    ['another seed', { seed: newSeed() }, /not the one that was committed to/],
    ['another commitment', { commitment: commitmentOf('x') }, /not the one/],
    ['places that do not follow one another', { tickets: draw.tickets.slice(1) }, /is said to be/],
    ['another algorithm', { algorithm: 'trust me' }, /algorithm/],
  ])('finds %s', (_, lie, found) => {
    expect(drawFaults({ ...draw, ...lie }).join('\n')).toMatch(found);
  });

  it('finds a seed that was exchanged together with its commitment, by the commitment noted before', () => {
    const other = drawOf(newSeed(), idsOf(10));
    expect(drawFaults(other)).toEqual([]);
    expect(drawFaults(other, commitmentOf(seed)).join('\n')).toMatch(/published before/);
  });
});
