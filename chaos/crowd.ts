/**
 * Clients who buy while a fault strikes, and whose every call is recorded. Two kinds of sales: `drop`s that all want at once,
 * and duels, of which each is short enough to be searched for linearizability.
 */

import type { Static } from 'typebox';
import { Agent } from 'undici';
import { adminToken, type Answer as HttpAnswer, type RequestOptions, request, sessionSecret } from '../cli/testbed.ts';
import type { ReservationView, SaleView } from '../engine/schemas.ts';
import { createSessions } from '../engine/sessions.ts';
import { systemClock } from '../kernel/clock.ts';
import { waitUntil } from '../services/waiting.ts';
import type { Answer, Call, Operation, SaleRules, State, Wanted } from './history.ts';
import type { Random } from './random.ts';

type SalePlan = {
  saleId: string;
  perBuyer: number;
  holdSeconds: number;
  skus: string[];
  stock: { sku: string; warehouse: string; quantity: number }[];
};
type Buyer = { id: string; token: string };

/** The clock of all clients: Unix ms with fractions. */
export const nowMs = (): number => performance.timeOrigin + performance.now();

export type Crowd = {
  operations: Operation[];
  /** Every sale that was made for certain, as it was set. */
  sales: Omit<SaleRules, 'shard' | 'no'>[];
  inFlight(): number;
  /** Calls answered with success, so far. */
  acknowledged(): number;
  /** What was refused or not answered, by code. */
  outcomes(): Record<string, number>;
  /** Resolves once as many calls more have been answered with success; rejects after `limitMs`. */
  more(count: number, limitMs: number): Promise<void>;
  /** No new calls; resolves when all are answered or given up. */
  stop(): Promise<void>;
};

/** More than the hundred that a fault has to strike at once. */
const clients = 160;
const duellists = 6;
const duelCalls = 9;
const answerMs = 8_000;
const recentBuyers = 48;
export const duelPrefix = 'duel-';
/** Long enough to act in, short enough to end by itself within a run. */
const holdSeconds = 2;
const duelHoldSeconds = 3_600;
const extensions = 1;

const plans: SalePlan[] = [
  {
    saleId: 'drop',
    ...{ perBuyer: 6, holdSeconds, skus: ['shoe', 'hat', 'scarf'] },
    stock: ['shoe', 'hat', 'scarf'].flatMap((sku) =>
      ['east', 'west', 'north'].map((warehouse) => ({
        sku,
        warehouse,
        quantity: warehouse === 'east' ? 3_000 : 20_000,
      })),
    ),
  },
  {
    saleId: 'last',
    ...{ perBuyer: 0, holdSeconds, skus: ['lamp', 'vase'] },
    stock: [
      { sku: 'lamp', warehouse: 'east', quantity: 40 },
      { sku: 'lamp', warehouse: 'west', quantity: 25 },
      { sku: 'vase', warehouse: 'west', quantity: 60 },
    ],
  },
];

/** Makes the sales and lets the clients in. `engines`: where to call, asked anew for every call. */
export async function startCrowd(options: {
  engines(): string[];
  durability: SaleRules['durability'];
  random: Random;
}): Promise<Crowd> {
  const { durability } = options;
  const agent = new Agent({ connections: 256, headersTimeout: answerMs, bodyTimeout: answerMs, connectTimeout: 2_000 });
  const sessions = createSessions({ secret: sessionSecret, adminToken });
  const operations: Operation[] = [];
  const sales: Crowd['sales'] = [];
  const outcomes = new Map<string, number>();
  let open = 0;
  let acknowledged = 0;
  let over = false;

  const send = async <Body>(
    method: string,
    path: string,
    asked: RequestOptions,
    random: Random,
  ): Promise<HttpAnswer<Body> | null> => {
    const engines = options.engines();
    if (engines.length === 0) return null;
    try {
      return await request<Body>(agent, random.pick(engines), method, path, asked);
    } catch {
      // Broken off, or not in time: nobody knows.
      return null;
    }
  };
  const newBuyer = (): Buyer => {
    const { buyerId, token } = sessions.open();
    return { id: buyerId, token };
  };

  const record = async (
    client: number,
    saleId: string,
    buyer: Buyer,
    call: Call,
    random: Random,
  ): Promise<Answer | null> => {
    const operation: Operation = { client, saleId, buyer: buyer.id, call, callMs: nowMs(), answered: null };
    operations.push(operation);
    open++;
    const found = await send<Static<typeof ReservationView>>(...httpOf(saleId, buyer, call), random);
    open--;
    const answer = found && answerOf(found, call);
    if (answer) operation.answered = { atMs: nowMs(), answer };
    const outcome = answer === null ? (found?.body.code ?? 'no answer') : answer.code || String(answer.status);
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    if (answer && answer.status < 300) acknowledged++;
    // Refused without a pause, a client would do nothing but ask.
    if (answer === null || answer.status >= 500) await systemClock.wait(random.int(10, 60));
    return answer;
  };
  /** The same call again until it is known what came of it, a few times. */
  const insist = async (...asked: Parameters<typeof record>): Promise<Answer | null> => {
    for (let tries = 0; tries < 6 && !over; tries++) {
      const answer = await record(...asked);
      if (answer && answer.status < 500) return answer;
      // Who was told that nothing was taken may go home: then nothing may have been.
      if (answer && asked[4].chance(0.3)) return null;
    }
    return null;
  };

  const putSale = async (plan: SalePlan, random: Random): Promise<boolean> => {
    const body = {
      title: plan.saleId,
      ...{ holdSeconds: plan.holdSeconds, perBuyer: plan.perBuyer || null, durability, extensions, stock: plan.stock },
    };
    const answer = await send<Static<typeof SaleView>>(
      'PUT',
      `/v1/admin/sales/${plan.saleId}`,
      { token: adminToken, body },
      random,
    );
    if (answer?.status !== 201 && answer?.status !== 200) return false;
    const { saleId, perBuyer } = plan;
    sales.push({ saleId, perBuyer, holdSeconds: plan.holdSeconds, extensions, durability, stock: plan.stock });
    return true;
  };

  const recent: Buyer[] = [];
  /** One buyer's visit: a hold, and what becomes of it. */
  const visit = async (client: number, random: Random): Promise<void> => {
    const plan = random.chance(0.75) ? plans[0] : plans[1];
    if (!plan) return;
    // The same buyer from several connections at once: that is who the purchase limit is for.
    const buyer = random.chance(0.5) || recent.length === 0 ? newBuyer() : random.pick(recent);
    recent[random.int(0, recentBuyers - 1) % (recent.length + 1)] = buyer;
    const at = [client, plan.saleId, buyer] as const;
    const key = `k${random.int(0, 1e9)}`;
    const lines = linesOf(plan.skus, random);
    const held = await insist(...at, { kind: 'reserve', key, lines }, random);
    const reservation = held?.reservation?.id;
    if (reservation === undefined) return;
    if (random.chance(0.1)) await record(...at, { kind: 'reserve', key, lines }, random);
    if (random.chance(0.03))
      await record(...at, { kind: 'reserve', key, lines: [{ sku: plan.skus[0] ?? '', quantity: 7 }] }, random);
    if (random.chance(0.1)) await insist(...at, { kind: 'extend', reservation, seconds: 1 }, random);
    if (random.chance(0.05)) await record(...at, { kind: 'read', reservation }, random);
    // A few let it lapse, or come when it just has.
    if (random.chance(0.2)) return;
    if (random.chance(0.05))
      await systemClock.wait(Math.max(0, (held?.reservation?.expiresAtMs ?? 0) - Date.now() + random.int(-30, 90)));
    const kind = random.chance(plan.saleId === 'last' ? 0.3 : 0.7) ? 'commit' : 'release';
    await insist(...at, { kind, reservation }, random);
    if (random.chance(0.1))
      await record(...at, { kind: kind === 'commit' ? 'release' : 'commit', reservation }, random);
    if (random.chance(0.1)) await record(...at, { kind: 'read', reservation }, random);
  };
  /** The operator now and then adds what is scarce, or takes some away. */
  const restock = async (random: Random): Promise<void> => {
    const operator = { id: '', token: adminToken };
    for (let n = 0; !over; n++) {
      const { sku, warehouse } = random.pick(plans[1]?.stock ?? []);
      const delta = random.pick([5, 10, 15, -2]);
      await insist(clients, 'last', operator, { kind: 'adjust', id: `a${n}`, sku, warehouse, delta }, random);
      await systemClock.wait(100);
    }
  };

  const duel = async (number: number, random: Random): Promise<void> => {
    const saleId = `${duelPrefix}${number}`;
    const stock = [
      { sku: 'cup', warehouse: 'east', quantity: 2 },
      { sku: 'cup', warehouse: 'west', quantity: 3 },
      { sku: 'mug', warehouse: 'west', quantity: 3 },
    ];
    const plan: SalePlan = { saleId, perBuyer: 3, holdSeconds: duelHoldSeconds, skus: ['cup', 'mug'], stock };
    while (!(await putSale(plan, random))) {
      if (over) return;
      await systemClock.wait(50);
    }
    const buyers = [newBuyer(), newBuyer(), newBuyer()];
    const made: { reservation: string; buyer: Buyer }[] = [];
    const fight = async (client: number, own: Random): Promise<void> => {
      for (let n = 0; n < duelCalls && !over; n++) {
        const one = made.length > 0 && own.chance(0.5) ? own.pick(made) : null;
        if (one) {
          const kind = own.pick(['commit', 'release', 'read'] as const);
          await record(client, saleId, one.buyer, { kind, reservation: one.reservation }, own);
        } else if (own.chance(0.1)) {
          const adjust = {
            kind: 'adjust',
            id: `a${client}-${n}`,
            sku: 'mug',
            warehouse: 'west',
            delta: own.pick([1, -1]),
          } as const;
          await record(client, saleId, { id: '', token: adminToken }, adjust, own);
        } else {
          const buyer = own.pick(buyers);
          const key = `k${own.int(0, 7)}`;
          // A key always stands for the same lines.
          const lines = [{ sku: Number(key[1]) % 2 === 0 ? 'cup' : 'mug', quantity: 1 + (Number(key[1]) % 3) }];
          const answer = await record(client, saleId, buyer, { kind: 'reserve', key, lines }, own);
          if (answer?.reservation) made.push({ reservation: answer.reservation.id, buyer });
        }
      }
    };
    await Promise.all(Array.from({ length: duellists }, (_, i) => fight(1_000 + i, random.fork())));
  };
  const duels = async (random: Random): Promise<void> => {
    for (let number = 0; !over; number++) await duel(number, random);
  };

  const setUp = options.random.fork();
  for (const plan of plans) if (!(await putSale(plan, setUp))) throw new Error(`${plan.saleId} could not be made`);
  const shop = async (client: number, random: Random): Promise<void> => {
    while (!over) await visit(client, random);
  };
  const all = [
    restock(options.random.fork()),
    duels(options.random.fork()),
    ...Array.from({ length: clients }, (_, client) => shop(client, options.random.fork())),
  ];
  return {
    operations,
    sales,
    inFlight: () => open,
    acknowledged: () => acknowledged,
    outcomes: () => Object.fromEntries([...outcomes].toSorted(([, a], [, b]) => b - a)),
    async more(count, limitMs) {
      const from = acknowledged;
      if (!(await waitUntil(async () => acknowledged >= from + count, limitMs, 10)))
        throw new Error(
          `only ${acknowledged - from} of ${count} calls succeeded within ${limitMs} ms: ${JSON.stringify(Object.fromEntries(outcomes))}`,
        );
    },
    async stop() {
      over = true;
      await Promise.all(all);
      await agent.destroy();
    },
  };
}

function linesOf(skus: string[], random: Random): Wanted[] {
  const first = random.int(0, skus.length - 1);
  const count = random.pick([1, 1, 1, 2, 3]);
  return Array.from({ length: Math.min(count, skus.length) }, (_, i) => ({
    sku: skus[(first + i) % skus.length] ?? '',
    quantity: random.pick([1, 1, 1, 2, 3]),
  }));
}

function httpOf(saleId: string, buyer: Buyer, call: Call): [method: string, path: string, asked: RequestOptions] {
  const { token } = buyer;
  switch (call.kind) {
    case 'reserve':
      return ['POST', '/v1/reservations', { token, key: call.key, body: { saleId, lines: call.lines } }];
    case 'commit':
      return ['POST', `/v1/reservations/${call.reservation}/commit`, { token }];
    case 'extend':
      return ['POST', `/v1/reservations/${call.reservation}/extend`, { token, body: { seconds: call.seconds } }];
    case 'release':
      return ['DELETE', `/v1/reservations/${call.reservation}`, { token }];
    case 'read':
      return ['GET', `/v1/reservations/${call.reservation}`, { token }];
    case 'adjust': {
      const { kind: _kind, ...change } = call;
      return ['POST', `/v1/admin/sales/${saleId}/stock`, { token, body: { ...change, reason: 'chaos' } }];
    }
  }
}

/** null: what came of it isn't known. */
function answerOf(found: HttpAnswer<Static<typeof ReservationView>>, call: Call): Answer | null {
  const { status, body } = found;
  const code = status < 300 ? '' : String(body.code);
  if (code === 'unavailable' || status === 500) return null;
  const told = status < 300 && call.kind !== 'adjust';
  return {
    status,
    code,
    reservation: told
      ? { id: body.id, state: body.state as State, expiresAtMs: Date.parse(body.expiresAt), lines: body.lines }
      : null,
    replayed: found.headers['idempotency-replayed'] === 'true',
  };
}
