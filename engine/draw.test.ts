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

  it('is fair: over many draws each ticket is at each place about equally often (chi-square)', () => {
    const [tickets, draws] = [20, 20_000];
    const ids = idsOf(tickets);
    const counts = ids.map(() => Array<number>(tickets).fill(0));
    for (let i = 0; i < draws; i++)
      for (const [place, id] of drawPlaces(commitmentOf(`draw ${i}`), ids).entries()) {
        const row = counts[ids.indexOf(id)] ?? [];
        row[place] = (row[place] ?? 0) + 1;
      }
    const expected = draws / tickets;
    const chiSquare = counts.flat().reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    // 19 × 19 degrees of freedom; for so many it is nearly normal: four standard deviations to either side.
    const freedom = (tickets - 1) ** 2;
    expect(Math.abs(chiSquare - freedom)).toBeLessThan(4 * Math.sqrt(2 * freedom));
  });

  it('a draw that prefers who came first does not pass the same test', () => {
    const ids = idsOf(20);
    const first = Array.from({ length: 2_000 }, (_, i) => {
      const places = drawPlaces(commitmentOf(`draw ${i}`), ids);
      // One draw in ten moves the first who came to the front.
      return i % 10 === 0 ? 0 : places.indexOf('ticket-0');
    });
    const counts = ids.map((_, place) => first.filter((one) => one === place).length);
    const chiSquare = counts.reduce((sum, count) => sum + (count - 100) ** 2 / 100, 0);
    expect(chiSquare).toBeGreaterThan(19 + 4 * Math.sqrt(2 * 19));
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
