/** What an operator, a reserve and a draw make of a line, and what is told of it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  drawCodes,
  placeTicketsCommand,
  readDrawCommand,
  readPoolCommand,
  tendLinesCommand,
  ticketCodes,
} from './bindings.ts';
import { openRoom, short, startTestValkey, type TestShard, type TestValkey } from './testing.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(() => server?.stop());

describe('an operator', () => {
  it.each([
    [1, ['e', 'a', 'b', 'c', 'd']],
    [2, ['a', 'e', 'b', 'c', 'd']],
    [4, ['a', 'b', 'c', 'e', 'd']],
    [5, ['a', 'b', 'c', 'd', 'e']],
    [99, ['a', 'b', 'c', 'd', 'e']],
  ])('moves the last to position %i', async (position, order) => {
    const line = await openRoom(server, { state: 'paused' });
    const all = ['a', 'b', 'c', 'd', 'e'];
    await line.join(all);
    expect(await line.change('e', 'move', position)).toMatchObject({ status: 'ok', ahead: order.indexOf('e') });
    expect(await line.ahead(all)).toEqual(all.map((one) => order.indexOf(one)));
  });

  it('moves the first backwards, again and again', async () => {
    const line = await openRoom(server, { state: 'paused' });
    const order = ['a', 'b', 'c', 'd', 'e'];
    await line.join(order);
    for (const [who, position] of [
      ['a', 3],
      ['b', 5],
      ['e', 1],
      ['a', 4],
      ['c', 2],
      ['d', 3],
    ] as const) {
      await line.change(who, 'move', position);
      order.splice(order.indexOf(who), 1);
      order.splice(position - 1, 0, who);
      expect(await line.ahead(order)).toEqual([0, 1, 2, 3, 4]);
    }
  });

  it('lets somebody in past the inlet, and can’t change what is over', async () => {
    const line = await openRoom(server, { maxInside: 1 });
    await line.join(['ann', 'bob', 'cid']);
    await line.tend();
    expect((await line.change('cid', 'admit')).state).toBe(ticketCodes.admitted);
    expect((await line.change('ann', 'move', 1)).status).toBe('notAllowed');
    await line.reserve(['cid']);
    for (const action of ['admit', 'expel', 'move', 'leave'] as const)
      expect((await line.change('cid', action)).status).toBe('ended');
  });

  it('can’t take lanes away from those who wait in them, nor the draw', async () => {
    const line = await openRoom(server, { lanes: [1, 2] });
    await line.join(['ann'], 2);
    expect(await line.put({ lanes: [1] })).toBe('notAllowed');
    expect(await line.put({ lanes: [1, 2], order: 'shuffle' })).toBe('notAllowed');
    expect(await line.put({ lanes: [5, 2], maxInside: 3 })).toBe('ok');
  });

  it('can’t take the room away from those who have tickets, but from nobody', async () => {
    const line = await openRoom(server, { lanes: [1, 2] });
    expect(await line.put(null)).toBe('ok');
    expect(await line.put({ lanes: [1] })).toBe('ok');
    await line.join(['ann']);
    expect(await line.put(null)).toBe('notAllowed');
    await line.change('ann', 'leave');
    expect(await line.put(null)).toBe('notAllowed');
    await line.tend();
  });

  it('moves somebody to the end, before those who come after', async () => {
    const line = await openRoom(server, { state: 'paused' });
    await line.join(['a', 'b', 'c']);
    await line.change('a', 'move', 3);
    await line.change('b', 'move', 3);
    await line.join(['d', 'e']);
    expect(await line.ahead(['c', 'a', 'b', 'd', 'e'])).toEqual([0, 1, 2, 3, 4]);
  });
});

describe('a reserve', () => {
  it('needs the buyer’s own admission, once, in its time', async () => {
    const line = await openRoom(server, { maxInside: 2, admissionSeconds: 5 });
    await line.join(['ann', 'bob', 'cid']);
    await line.tend();
    expect(await line.reserve(['cid'])).toEqual(['notAdmitted']);
    expect(await line.reserve(['ann'], { number: 0 })).toEqual(['notAdmitted']);
    expect(await line.reserve(['ann'], { number: 2 })).toEqual(['notAdmitted']);
    expect(await line.reserve(['ann', 'ann'])).toEqual(['ok', 'replay']);
    expect(await line.reserve(['ann'], { key: 'other' })).toEqual(['notAdmitted']);
    expect(await line.reserve(['ann'])).toEqual(['replay']);
    await line.pass(6_000);
    expect(await line.reserve(['bob'])).toEqual(['notAdmitted']);
  });

  it('that is refused does not use it up', async () => {
    const line = await openRoom(server, {}, { stock: { shoe: { east: 1 } } });
    await line.join(['ann', 'bob']);
    await line.tend();
    expect(await line.reserve(['ann', 'bob'])).toEqual(['ok', 'soldOut']);
    expect(await line.states(['ann', 'bob'])).toEqual(['used', 'admitted']);
  });

  it('of a line that was closed on purpose is not let through, however long ago', async () => {
    const line = await openRoom(server, { whenDown: 'open' });
    expect(await line.put({ whenDown: 'open', state: 'closed' })).toBe('ok');
    for (let i = 0; i < 3; i++) {
      await line.pass(20_000);
      await line.shard.call(tendLinesCommand, { max: 10 });
    }
    expect(await line.reserve(['bob'])).toEqual(['notAdmitted']);
  });

  it('of a line that nobody tends is let through only where the sale says so', async () => {
    for (const whenDown of ['closed', 'open'] as const) {
      const line = await openRoom(server, { whenDown });
      expect(await line.reserve(['bob'])).toEqual(['notAdmitted']);
      await line.join(['ann']);
      await line.tend();
      expect(await line.reserve(['bob'])).toEqual(['notAdmitted']);
      await line.pass(11_000);
      expect(await line.reserve(['bob'])).toEqual([whenDown === 'open' ? 'ok' : 'notAdmitted']);
    }
  });
});

describe('a shuffle', () => {
  const opensAt = (line: { nowMs: number }) => ({ opensAt: line.nowMs + 10_000 });
  const draw = async (line: { shard: TestShard; no: number }, order: (pool: string[]) => string[], done = 1) => {
    const { tickets } = await line.shard.call(readPoolCommand, { sale: line.no, from: 0, max: 1_000 });
    const byBuyer = new Map(tickets.map((one) => [one.buyer, one]));
    const placed = order([...byBuyer.keys()]).flatMap((buyer) => byBuyer.get(buyer) ?? []);
    return line.shard.call(placeTicketsCommand, { sale: line.no, from: 0, done, tickets: placed });
  };

  it('draws who came before it opened, once; who comes later is behind them', async () => {
    const line = await openRoom(server, { order: 'shuffle', perMinute: 1 });
    const early = ['a', 'b', 'c', 'd'];
    expect(await line.put({ order: 'shuffle', perMinute: 1 }, opensAt(line))).toBe('ok');
    expect((await line.join(early)).map(({ ahead }) => ahead)).toEqual([-1, -1, -1, -1]);
    expect(await line.tend()).toMatchObject({ draw: drawCodes.none, waiting: 4 });
    await line.change('c', 'leave');
    await line.pass(10_000);
    expect(await line.tend()).toMatchObject({ draw: drawCodes.drawing, waiting: 3 });
    // What happens while places are drawn: somebody comes, and somebody goes.
    expect((await line.join(['late']))[0]?.ahead).toBe(-1);
    await line.change('b', 'leave');
    const reversed = (pool: string[]): string[] => pool.toReversed();
    expect(await draw(line, reversed, 0)).toMatchObject({ draw: drawCodes.drawing });
    expect(await draw(line, reversed)).toMatchObject({ draw: drawCodes.done });
    expect(await draw(line, (pool) => pool)).toMatchObject({ draw: drawCodes.done });
    expect(await line.ahead(['d', 'a', 'late'])).toEqual([0, 1, 2]);
    const { tickets, total, seed } = await line.shard.call(readDrawCommand, { sale: line.no, from: 0, max: 10 });
    expect({ drawn: tickets.map(({ buyer }) => buyer), total, seed }).toEqual({
      drawn: ['d', 'b', 'a'].map(short),
      total: 3,
      seed: 'ab'.repeat(32),
    });
  });

  it('with nobody there opens as a line', async () => {
    const line = await openRoom(server, { order: 'shuffle' });
    expect(await line.tend()).toMatchObject({ draw: drawCodes.done });
    await line.join(['ann']);
    await line.tend();
    expect(await line.states(['ann'])).toEqual(['admitted']);
  });
});

describe('news of a line', () => {
  it('names those whose tickets others have changed, from where a reader was', async () => {
    const line = await openRoom(server, { maxInside: 1 });
    await line.join(['ann', 'bob']);
    const { news } = await line.news(Number.MAX_SAFE_INTEGER);
    await line.tend();
    const first = await line.news(news);
    expect({ missed: first.missed, buyers: first.changed.map(({ buyer }) => buyer) }).toEqual({
      missed: 0,
      buyers: [short('ann')],
    });
    await line.change('bob', 'expel');
    expect((await line.news(first.news)).changed.map(({ buyer }) => buyer)).toEqual([short('bob')]);
    expect((await line.news((await line.news(0)).news)).changed).toEqual([]);
  });
});
