/** The line of a waiting room, function by function: who comes, who is let in, and who goes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  commitCommand,
  endedCodes,
  expireCommand,
  joinLineCommand,
  releaseCommand,
  seeTicketsCommand,
  statusCodes,
  ticketCodes,
} from './bindings.ts';
import {
  makeSale,
  names,
  openRoom,
  openTestShard,
  type Room,
  reference,
  type SaleOptions,
  short,
  startTestValkey,
  statusName,
  type TestValkey,
} from './testing.ts';

let server: TestValkey;
beforeAll(async () => {
  server = await startTestValkey();
});
afterAll(() => server?.stop());

describe('joining', () => {
  it('gives each buyer one ticket, in the order in which they came', async () => {
    const line = await openRoom(server, { perMinute: 1 });
    const first = await line.join(['ann', 'bob', 'ann', 'cid']);
    expect(first.map(({ status, number, ahead }) => [status, number, ahead])).toEqual([
      ['ok', 1, 0],
      ['ok', 2, 1],
      ['replay', 1, 0],
      ['ok', 3, 2],
    ]);
    const again = await line.join(['cid', 'dan']);
    expect(again.map(({ status, number, ahead }) => [status, number, ahead])).toEqual([
      ['replay', 3, 2],
      ['ok', 4, 3],
    ]);
    expect(await line.ahead(['ann', 'bob', 'cid', 'dan'])).toEqual([0, 1, 2, 3]);
  });

  it.each<[string, Room, SaleOptions, number, string]>([
    ['a line of the order closed', { order: 'closed' }, {}, 1, 'saleNotOpen'],
    ['a line that was closed', { state: 'closed' }, {}, 1, 'saleNotOpen'],
    ['a lane that is not there', { lanes: [1, 2] }, {}, 3, 'notAllowed'],
    ['a sale that is over', {}, { closesAt: 1 }, 1, 'saleNotOpen'],
  ])('is refused at %s', async (_, room, options, lane, status) => {
    const line = await openRoom(server, room, options);
    expect((await line.join(['ann'], lane)).map((one) => one.status)).toEqual([status]);
    expect((await line.tend()).waiting).toBe(0);
  });

  it('of a sale without a waiting room is refused, and so is a ticket of it', async () => {
    const shard = await openTestShard(server);
    const sale = await makeSale(shard);
    const joined = await shard.call(joinLineCommand, { sale, buyers: [short('ann')], lanes: [1] });
    expect(joined.tickets[0]?.status).toBe(statusCodes.unknownSale);
    const seen = await shard.call(seeTicketsCommand, { sale, tickets: [{ buyer: short('ann'), number: 0 }] });
    expect(seen.tickets[0]?.status).toBe(statusCodes.unknownTicket);
  });

  it('lets in at once where the order is pass', async () => {
    const line = await openRoom(server, { order: 'pass', perMinute: 1, maxInside: 1 });
    await line.join(['ann', 'bob']);
    expect(await line.states(['ann', 'bob'])).toEqual(['admitted', 'admitted']);
    expect(await line.reserve(['ann', 'bob'])).toEqual(['ok', 'ok']);
  });
});

describe('letting in', () => {
  it('takes the first, as many a minute as the inlet says, whoever tends and how often', async () => {
    const line = await openRoom(server, { perMinute: 600 }, { stock: { shoe: { east: 100_000 } } });
    await line.join(names(1_000));
    await line.tend();
    let [least, most] = [Number.POSITIVE_INFINITY, 0];
    let before = (await line.tend()).inside;
    for (let minute = 0; minute < 1; minute++) {
      let passed = 0;
      for (let i = 0; passed < 60_000; i++) {
        const step = [7, 100, 333, 50][i % 4] ?? 1;
        passed += step;
        await line.pass(step);
        await line.tend();
        if (i % 3 === 0) await line.tend();
      }
      const { inside } = await line.tend();
      [least, most] = [Math.min(least, inside - before), Math.max(most, inside - before)];
      before = inside;
    }
    expect(least).toBeGreaterThanOrEqual(594);
    expect(most).toBeLessThanOrEqual(606);
    const states = await line.states(names(1_000));
    expect(states.indexOf('waiting')).toBe(states.lastIndexOf('admitted') + 1);
  });

  it('keeps at most so many inside: who has bought or let it lapse makes room', async () => {
    const line = await openRoom(server, { maxInside: 2, admissionSeconds: 10 });
    await line.join(['ann', 'bob', 'cid', 'dan']);
    await line.tend();
    expect(await line.states(['ann', 'bob', 'cid'])).toEqual(['admitted', 'admitted', 'waiting']);
    expect(await line.reserve(['ann'])).toEqual(['ok']);
    await line.tend();
    expect(await line.states(['ann', 'bob', 'cid', 'dan'])).toEqual(['used', 'admitted', 'admitted', 'waiting']);
    await line.pass(11_000);
    await line.tend();
    expect(await line.states(['bob', 'cid', 'dan'])).toEqual(['lapsed', 'lapsed', 'admitted']);
  });

  it('by stock lets in no more than there are units, tells the line when all is sold, and the next when a hold lapses', async () => {
    const line = await openRoom(server, { stock: true }, { stock: { shoe: { east: 2 } }, holdMs: 5_000 });
    await line.join(['ann', 'bob', 'cid', 'dan']);
    await line.tend();
    expect(await line.states(['ann', 'bob', 'cid', 'dan'])).toEqual(['admitted', 'admitted', 'waiting', 'waiting']);
    expect(await line.reserve(['ann', 'bob'])).toEqual(['ok', 'ok']);
    expect(await line.tend()).toMatchObject({ waiting: 2, inside: 0, ended: 0 });
    await line.pass(6_000);
    await line.shard.call(expireCommand, { max: 100 });
    await line.tend();
    expect(await line.states(['cid', 'dan'])).toEqual(['admitted', 'admitted']);
    expect(await line.reserve(['cid', 'dan'])).toEqual(['ok', 'ok']);
    await line.join(['eve']);
    const { seq } = await line.news(0);
    const refs = ['cid', 'dan'].map((buyer, i) => reference(seq - 1 + i, { sale: line.no, buyer }));
    const settled = await line.shard.call(commitCommand, { references: refs });
    expect(settled.results.map(({ status }) => statusName(status))).toEqual(['ok', 'ok']);
    expect(await line.tend()).toMatchObject({ waiting: 1, ended: endedCodes.soldOut });
    expect((await line.join(['fay']))[0]?.status).toBe('soldOut');
    expect((await line.news(0)).missed).toBe(1);
  });

  it('counts on what is likely to come back, once enough holds have ended', async () => {
    const line = await openRoom(server, { stock: true }, { stock: { shoe: { east: 200 } } });
    await line.join(names(400));
    await line.tend();
    const buyers = names(200);
    expect(new Set(await line.reserve(buyers))).toEqual(new Set(['ok']));
    const { seq } = await line.news(0);
    const first = seq - 199;
    const refs = buyers.slice(0, 100).map((buyer, i) => reference(first + i, { sale: line.no, buyer }));
    // Of a hundred that end, half come back: of the other hundred the inlet counts on half, less what chance may have added.
    await line.shard.call(releaseCommand, { references: refs.slice(0, 50) });
    await line.shard.call(commitCommand, { references: refs.slice(50) });
    const { inside } = await line.tend();
    expect(inside).toBe(50 + 45);
  });

  it('takes lanes in turn by their weights, and says so beforehand', async () => {
    const line = await openRoom(server, { perMinute: 60, lanes: [3, 1] });
    await line.join(names(8, 'member'), 1);
    await line.join(names(8, 'guest'), 2);
    const all = [...names(8, 'member'), ...names(8, 'guest')];
    const ahead = await line.ahead(all);
    expect([...ahead].sort((a, b) => a - b)).toEqual(Array.from({ length: 16 }, (_, i) => i));
    const order: string[] = [];
    for (let i = 0; i < 16; i++) {
      await line.tend();
      await line.pass(1_000);
      const states = await line.states(all);
      order.push(all.find((name, at) => states[at] === 'admitted' && !order.includes(name)) ?? 'nobody');
    }
    expect(all.map((name) => order.indexOf(name))).toEqual(ahead);
    expect(order.slice(0, 4).filter((name) => name.startsWith('member'))).toHaveLength(3);
  });

  it('waits while the sale has not opened, is paused, or the line is paused', async () => {
    const line = await openRoom(server, { state: 'paused' });
    await line.join(['ann']);
    await line.tend();
    expect(await line.states(['ann'])).toEqual(['waiting']);
    expect(await line.put({})).toBe('ok');
    await line.tend();
    expect(await line.states(['ann'])).toEqual(['admitted']);
  });
});

describe('who goes away', () => {
  it('keeps the place for the grace, and then frees it; who is seen keeps it', async () => {
    const line = await openRoom(server, { maxInside: 1, graceSeconds: 10 });
    await line.join(['ann', 'bob', 'cid', 'dan']);
    await line.tend();
    for (let i = 0; i < 3; i++) {
      await line.pass(4_000);
      await line.see(['bob', 'dan']);
      await line.tend();
    }
    expect(await line.states(['bob', 'cid', 'dan'])).toEqual(['waiting', 'lapsed', 'waiting']);
    expect(await line.ahead(['bob', 'dan'])).toEqual([0, 1]);
    const back = await line.join(['cid']);
    expect(back[0]).toMatchObject({ status: 'ok', number: 5, ahead: 2 });
  });

  it('keeps the place through an outage that is longer than the grace: nobody could be seen', async () => {
    const line = await openRoom(server, { maxInside: 1, graceSeconds: 10 });
    await line.join(['ann', 'bob', 'cid']);
    await line.tend();
    await line.pass(300_000);
    await line.tend();
    expect(await line.states(['bob', 'cid'])).toEqual(['admitted', 'waiting']);
    await line.pass(6_000);
    await line.tend();
    await line.see(['cid']);
    for (let i = 0; i < 3; i++) {
      await line.pass(2_000);
      await line.tend();
    }
    expect(await line.states(['cid'])).toEqual(['waiting']);
    for (let i = 0; i < 6; i++) {
      await line.pass(2_000);
      await line.tend();
    }
    expect(await line.states(['cid'])).toEqual(['lapsed']);
  });

  it('who leaves and comes back again and again is still looked at but once', async () => {
    const line = await openRoom(server, { state: 'paused', graceSeconds: 10 });
    for (let i = 0; i < 50; i++) {
      await line.join(['ann']);
      await line.change('ann', 'leave');
    }
    await line.join(['ann']);
    const looks = async (): Promise<number> => {
      const keys = await line.shard.redis.keys(`${line.shard.prefix}looks:*`);
      const lists = await Promise.all(keys.map((key) => line.shard.redis.lrangeBuffer(key, 0, -1)));
      return lists.flat().reduce((sum, element) => sum + (element.length - 4) / 12, 0);
    };
    for (let i = 0; i < 800; i++) {
      await line.pass(5_000);
      await line.see(['ann']);
      await line.tend();
    }
    expect(await line.states(['ann'])).toEqual(['waiting']);
    expect(await looks()).toBeLessThanOrEqual(2);
  });

  it('an admission whose time has passed is over, tended or not, and its owner can come again', async () => {
    const line = await openRoom(server, { admissionSeconds: 5 });
    await line.join(['ann']);
    await line.tend();
    await line.pass(6_000);
    expect(await line.states(['ann'])).toEqual(['lapsed']);
    expect((await line.join(['ann']))[0]).toMatchObject({ status: 'ok', number: 2 });
    expect((await line.tend()).inside).toBe(1);
  });

  it('is forgotten an hour after, and can come again', async () => {
    const line = await openRoom(server, { maxInside: 1 });
    await line.join(['ann']);
    expect((await line.change('ann', 'leave')).state).toBe(ticketCodes.left);
    expect((await line.change('ann', 'leave')).status).toBe('replay');
    await line.pass(3_602_000);
    await line.tend();
    expect(await line.shard.redis.hlen(`${line.shard.prefix}tickets:${line.no}`)).toBe(0);
    expect((await line.join(['ann']))[0]?.status).toBe('ok');
  });

  it('does not come back who was expelled', async () => {
    const line = await openRoom(server, { maxInside: 1 });
    await line.join(['ann', 'bob']);
    await line.tend();
    await line.change('ann', 'expel');
    expect(await line.reserve(['ann'])).toEqual(['notAdmitted']);
    expect((await line.join(['ann']))[0]).toMatchObject({ status: 'replay', state: ticketCodes.expelled });
    await line.tend();
    expect(await line.states(['bob'])).toEqual(['admitted']);
  });
});
