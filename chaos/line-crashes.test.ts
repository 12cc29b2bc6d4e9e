/**
 * Crashes in mid-line: Valkey's machine loses power (what was not synced is cut out of its files, power-loss.ts says how), engines and
 * Valkey are killed. Nobody who was told of a place has lost it, nobody has two, and the order is kept. STAMPEDE_CRASHES makes it longer.
 */

import { Redis } from 'iovalkey';
import { afterEach, describe, expect, it } from 'vitest';
import { startTestbed, type Testbed } from '../cli/testbed.ts';
import { runCommand } from '../cli/testbed-command.ts';
import { type Guest, roomsOn, until } from '../cli/testbed-room.ts';
import { packRoom } from '../engine/room.ts';
import { decodeTicketId } from '../kernel/ids.ts';
import {
  actionCodes,
  changeTicketCommand,
  joinLineCommand,
  type SeeTicketsAnswer,
  seeTicketsCommand,
  statusCodes,
  tendLinesCommand,
  ticketCodes,
} from '../lua/bindings.ts';
import {
  connectReady,
  makeSale,
  openTestShard,
  shardOn,
  short,
  type TestShard,
  type TestValkey,
} from '../lua/testing.ts';
import { waitUntil } from '../services/waiting.ts';
import { canCompile, type FragileValkey, type PowerLoss, startFragileValkey } from './power-loss.ts';
import { createRandom, type Random } from './random.ts';

const crashes = Number(process.env.STAMPEDE_CRASHES ?? 4);
const powerLosses: PowerLoss[] = [
  { names: 'synced', tail: 'gone' },
  { names: 'found', tail: 'half' },
];

/** How all of them stand; null where the shard itself is gone. */
async function seeAll(shard: TestShard, sale: number, buyers: string[]): Promise<SeeTicketsAnswer['tickets'] | null> {
  const seen: SeeTicketsAnswer['tickets'] = [];
  for (let at = 0; at < buyers.length; at += 500) {
    const tickets = buyers.slice(at, at + 500).map((buyer) => ({ buyer, number: 0 }));
    const answer = await shard.call(seeTicketsCommand, { sale, tickets }).catch(() => null);
    if (!answer) return null;
    seen.push(...answer.tickets);
  }
  return seen;
}

/** People who join, leave and are let in, each call of theirs waited for; what they were told. */
function startPeople(shard: TestShard, sale: number, random: Random, prefix: string) {
  const told = new Map<string, { number: number; left: boolean }>();
  let [made, calls, over] = [0, 0, false];
  const joiner = async (): Promise<void> => {
    while (!over) {
      const buyers = Array.from({ length: random.int(1, 6) }, () => short(`${prefix}${(made++).toString(36)}`));
      calls++;
      try {
        const { tickets } = await shard.call(joinLineCommand, { sale, buyers, lanes: buyers.map(() => 1) });
        for (const [i, buyer] of buyers.entries()) told.set(buyer, { number: tickets[i]?.number ?? 0, left: false });
        const [buyer = ''] = buyers;
        const one = told.get(buyer);
        if (one && random.chance(0.1)) {
          const leaving = { sale, buyer, number: one.number, action: actionCodes.leave, position: 0 };
          await shard.call(changeTicketCommand, leaving);
          one.left = true;
        }
      } catch {
        return;
      } finally {
        calls--;
      }
    }
  };
  const usher = async (): Promise<void> => {
    while (!over)
      await shard.call(tendLinesCommand, { max: 3 }).catch(() => {
        over = true;
      });
  };
  const running = Promise.all([...Array.from({ length: 8 }, joiner), usher()]);
  return {
    told,
    inFlight: () => calls,
    async stop(): Promise<void> {
      over = true;
      await running;
    },
  };
}

describe.skipIf(!canCompile())('power is lost in mid-line (needs a C compiler: gcc and libc6-dev)', () => {
  let power: FragileValkey | undefined;
  let server: TestValkey['valkey'] | undefined;
  afterEach(async () => {
    await server?.close();
    await power?.stop();
  });

  /** Answers how many places were lost that somebody had been told of, over some crashes. */
  async function crash(appendfsync: 'always' | 'no', times: number): Promise<number> {
    const random = createRandom(times);
    power = await startFragileValkey({ appendfsync });
    const url = String(power.services.services.valkey?.url);
    const on = async (): Promise<TestValkey> => {
      await server?.close();
      server = await connectReady(url);
      return { valkey: server } as TestValkey;
    };
    let shard = await openTestShard(await on(), {}, 0);
    const room = packRoom({
      ...{
        order: 'fifo',
        state: 'open',
        admissionSeconds: 600,
        graceSeconds: 600,
        whenDown: 'closed',
        challenge: null,
      },
      inlet: { maxInside: 1_000_000, perMinute: null, stock: false },
      lanes: [{ name: 'all', weight: 1 }],
    });
    const sale = await makeSale(shard, { room, seed: 'seed', stock: { shoe: { east: 1_000_000 } } });
    const all = new Map<string, { number: number; left: boolean }>();
    let lost = 0;
    for (let i = 0; i < times; i++) {
      const people = startPeople(shard, sale, random, `p${i}-`);
      expect(await waitUntil(async () => people.told.size > 300, 30_000)).toBe(true);
      const inFlight = people.inFlight();
      await power.losePower(powerLosses[i % powerLosses.length] as PowerLoss);
      await people.stop();
      expect(inFlight).toBeGreaterThan(0);
      await power.powerOn();
      shard = shardOn(await on(), 0);
      for (const [buyer, one] of people.told) all.set(buyer, one);

      const buyers = [...all.keys()];
      const seen = await seeAll(shard, sale, buyers);
      if (!seen) return buyers.length;
      const places = buyers.map((buyer, at) => ({
        ...(seen[at] as SeeTicketsAnswer['tickets'][0]),
        told: all.get(buyer),
      }));
      lost += places.filter(
        ({ status, number, state, told }) =>
          status !== statusCodes.ok || number !== told?.number || (told.left && state !== ticketCodes.left),
      ).length;
      if (appendfsync === 'no') return lost;
      expect(new Set(places.map(({ number }) => number)).size).toBe(buyers.length);
      const waiting = places.filter(({ state }) => state === ticketCodes.waiting).sort((a, b) => a.number - b.number);
      expect(waiting.map(({ ahead }) => ahead)).toEqual(waiting.map(({ ahead }) => ahead).toSorted((a, b) => a - b));
      const admitted = places.filter(({ state }) => state === ticketCodes.admitted).map(({ number }) => number);
      expect(Math.max(0, ...admitted)).toBeLessThan(waiting[0]?.number ?? Number.POSITIVE_INFINITY);
    }
    return lost;
  }

  it(`nobody who was told of a place has lost it, ${crashes} times`, async () => {
    expect(await crash('always', crashes)).toBe(0);
  }, 300_000);

  it('with a Valkey that syncs when it likes, places are lost: the test can fail', async () => {
    expect(await crash('no', 1)).toBeGreaterThan(0);
  }, 120_000);
});

describe('engines and Valkey are killed in mid-line', () => {
  let bed: Testbed | undefined;
  afterEach(async () => {
    await bed?.stop();
    bed = undefined;
  });

  it('nobody is lost, nobody is there twice, and the order is kept', async () => {
    bed = await startTestbed({ valkey: 'single' });
    const on = bed;
    const rooms = roomsOn(on);
    const other = await on.serve();
    const saleId = await rooms.openSale(
      { order: 'fifo', inlet: { perMinute: 1_200 } },
      { stock: [{ sku: 'a', warehouse: 'w', quantity: 1_000 }] },
    );
    const guests: Guest[] = await Promise.all(Array.from({ length: 150 }, () => on.session()));
    const tickets = new Map<Guest, Set<string>>(guests.map((guest) => [guest, new Set()]));
    /** Joins until it is answered, on whichever process answers. */
    const join = async (guest: Guest, at: number): Promise<void> => {
      const tried = async (): Promise<boolean> => {
        const answer = await rooms.join(saleId, guest, {}, at++ % 2 === 0 ? on.url : other.url).catch(() => null);
        if (answer === null || answer.status >= 500) return false;
        expect([200, 201]).toContain(answer.status);
        tickets.get(guest)?.add(answer.body.ticketId);
        return true;
      };
      await until(tried, 60_000, 50);
    };
    const third = guests.length / 3;
    await Promise.all(guests.slice(0, third).map(join));
    const joining = guests.slice(third, 2 * third).map(join);
    await on.restartServe('SIGKILL');
    await Promise.all(joining);
    const more = guests.slice(2 * third).map(join);
    await on.services.kill('valkey', 'SIGKILL');
    await on.services.startOne('valkey');
    await other.stop('SIGKILL');
    await Promise.all(more);
    // Everybody asks again: the same ticket as ever.
    await Promise.all(guests.map(join));
    expect([...tickets.values()].map(({ size }) => size)).toEqual(guests.map(() => 1));
    const look = async (guest: Guest) => {
      const [ticketId = ''] = tickets.get(guest) ?? [];
      const { body } = await rooms.see(saleId, guest, ticketId, on.url);
      return { number: decodeTicketId(ticketId)?.number ?? 0, state: body.state, ahead: body.ahead ?? -1 };
    };
    const seen = (await Promise.all(guests.map(look))).sort((a, b) => a.number - b.number);
    expect(new Set(seen.map(({ number }) => number)).size).toBe(guests.length);
    const states = seen.map(({ state }) => state);
    expect(new Set(states)).toEqual(new Set(['admitted', 'waiting']));
    expect(states.lastIndexOf('admitted')).toBeLessThan(states.indexOf('waiting') + 10);
    // All are let in at last, and every admission buys.
    await until(
      async () => (await Promise.all(guests.map(look))).every(({ state }) => state === 'admitted'),
      60_000,
      200,
    );
    const bought = await Promise.all(
      guests.map(async (guest) => {
        const [ticketId = ''] = tickets.get(guest) ?? [];
        const { body } = await rooms.see(saleId, guest, ticketId, on.url);
        return (await rooms.reserve(saleId, guest, body.admissionToken)).status;
      }),
    );
    expect(new Set(bought)).toEqual(new Set([201]));
  }, 240_000);

  it('of a line that Valkey has lost the rules come back from the ledger: people join again, old admissions are void', async () => {
    bed = await startTestbed({ valkey: 'single' });
    const on = bed;
    const rooms = roomsOn(on);
    const saleId = await rooms.openSale({ order: 'fifo', inlet: { maxInside: 1 } });
    const [ann, bob] = [await on.session(), await on.session()];
    const own = await rooms.admitted(saleId, ann, (await rooms.join(saleId, ann)).body.ticketId);
    const { ticketId } = (await rooms.join(saleId, bob)).body;
    await expect.poll(async () => runCommand(['reconcile', '--json', '--wait', '5000'], on.env).ended).toBe(0);
    const redis = new Redis(on.services.services.valkey?.url ?? '');
    await redis.flushall();
    redis.disconnect();
    await until(async () => (await on.request('GET', '/readyz')).status === 503, 20_000);
    const rebuilding = runCommand(['rebuild', '--all', '--json'], on.env);
    expect([0, 1]).toContain(await rebuilding.ended);
    // Ready is who has one shard open; the line's may be the last.
    const fenced = async () => (await on.request<{ fenced: unknown[] }>('GET', '/readyz')).body.fenced;
    await until(async () => (await fenced()).length === 0, 20_000);
    expect((await on.sale(saleId)).waitingRoom).toMatchObject({ order: 'fifo', inlet: { maxInside: 1 } });
    expect((await rooms.see(saleId, bob, ticketId)).status).toBe(404);
    expect((await rooms.reserve(saleId, ann, own.admissionToken)).body).toMatchObject({ code: 'not-admitted' });
    const again = await rooms.admitted(saleId, bob, (await rooms.join(saleId, bob)).body.ticketId);
    expect((await rooms.reserve(saleId, bob, again.admissionToken)).status).toBe(201);
  }, 120_000);
});
