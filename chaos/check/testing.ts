import fc from 'fast-check';
import { encodeReservationId, keyDigest } from '../../kernel/ids.ts';
import { rememberMs, ShardModel, startMs, sum } from '../../lua/shard-model.ts';
import type { Stock } from '../../lua/testing.ts';
import type { Answer, Call, Fact, History, Operation, SaleRules, Wanted } from '../history.ts';
import type { Reserved } from './findings.ts';

/** Nobody knows of an answer: it was done in time, is done later, or never. */
type Fate = 'answered' | 'refused' | 'lost' | 'late' | 'never' | 'stale';
type Kind = 'reserve' | 'again' | 'clash' | 'commit' | 'release' | 'read' | 'extend' | 'adjust' | 'return' | 'jump';
/** What a client does next. `pick` chooses sale, lines, reservation, whatever there is to be chosen. */
export type Plan = {
  client: number;
  kind: Kind;
  pick: number;
  fate: Fate;
  thinkMs: number;
  beforeMs: number;
  afterMs: number;
};

export type Setting = { sales: { rules: SaleRules; stock: Stock; extendMs: number }[]; buyers: number };

const beganMs = 1_790_000_000_000;
export const buyerName = (i: number): string => `buyer${i}`.padEnd(12, '_');

type Ref = { sale: number; wish: { sale: number; buyer: string; key: string }; seq: number; seconds: number };

/** A shard that also writes its facts, and forgets no key. */
class Shard extends ShardModel {
  shard: number;
  facts: Fact[] = [];
  reserved = new Map<number, Reserved>();
  jumpMs = 0;
  /** Until when each SKU was sold out last. */
  goneMs = new Map<string, number>();

  constructor(shard: number) {
    super();
    this.shard = shard;
  }
  at(clientMs: number): void {
    this.now = Math.max(this.now, startMs + Math.floor(clientMs - beganMs) + this.jumpMs);
    for (const [no, { stock }] of this.sales)
      for (const [sku, warehouses] of stock)
        if (sum(warehouses.map((w) => w.onHand - w.reserved)) === 0) this.goneMs.set(`${no}/${sku}`, clientMs);
  }
  override hasRoom(): boolean {
    return true;
  }
  about(no: number): { shard: number; no: number; seq: number; atMs: number } {
    return { shard: this.shard, no, seq: this.seq, atMs: this.now };
  }
  override end(...[sale, field, r, state]: Parameters<ShardModel['end']>): void {
    super.end(sale, field, r, state);
    r.deadline += 24 * 3_600_000 - rememberMs;
    const no = [...this.sales].find(([, one]) => one === sale)?.[0] ?? 0;
    if (state !== 'held') this.facts.push({ ...this.about(no), kind: state, reservation: r.seq, lines: r.lines });
  }
}

type Client = { plans: Plan[]; buyer: string };
type Used = { saleId: string; key: string; lines: Wanted[] };

export function simulate(plans: readonly Plan[], { sales, buyers }: Setting): History {
  const shards = new Map<number, Shard>();
  for (const { rules, stock, extendMs } of sales) {
    const shard = shards.get(rules.shard) ?? new Shard(rules.shard);
    shards.set(rules.shard, shard);
    const before = shard.seq;
    const { perBuyer, extensions } = rules;
    shard.putSale({ id: rules.saleId, perBuyer, extensions, extendMs, holdMs: rules.holdSeconds * 1_000, stock });
    let seq = before + 1; // the first is that the sale was set
    for (const [sku, warehouses] of Object.entries(stock))
      for (const [warehouse, units] of Object.entries(warehouses)) {
        const about = { shard: rules.shard, no: rules.no, seq: ++seq, atMs: startMs };
        shard.facts.push({ ...about, kind: 'restocked', id: 'opening', sku, warehouse, units });
      }
  }
  const operations: Operation[] = [];
  const known = new Map<string, { id: string; saleId: string; ref: Ref }[]>();
  const used = new Map<string, Used[]>();
  const changes: Extract<Call, { kind: 'adjust' }>[] = [];

  const queue: { atMs: number; run(): void }[] = [];
  const at = (atMs: number, run: () => void): void => {
    let i = queue.length;
    while (i > 0 && (queue[i - 1]?.atMs ?? 0) <= atMs) i--;
    queue.splice(i, 0, { atMs, run });
  };

  const answer = (status: number, code = '', reservation: Answer['reservation'] = null, replayed = false): Answer => ({
    ...{ status, code, reservation, replayed },
  });
  const codes: Record<string, [number, string]> = {
    mismatch: [422, 'idempotency-mismatch'],
    unknownSku: [404, 'not-found'],
    purchaseLimit: [409, 'purchase-limit'],
    soldOut: [409, 'sold-out'],
    insufficientStock: [409, 'insufficient-stock'],
    ended: [409, 'reservation-ended'],
    notAllowed: [409, 'conflict'],
    unknownReservation: [404, 'not-found'],
  };

  /** Decides a call, now. */
  const decide = (call: Call, buyer: string, rules: SaleRules, shard: Shard): Answer => {
    const { no } = rules;
    if (call.kind === 'adjust') return adjust(call, rules, shard);
    if (call.kind === 'reserve') {
      const lines: Record<string, number> = {};
      for (const { sku, quantity } of call.lines) lines[sku] = (lines[sku] ?? 0) + quantity;
      const wish = { sale: no, buyer, key: call.key, lines };
      const { status, reservation: r } = shard.reserve(wish);
      if (!r) return answer(...(codes[status] ?? [500, status]));
      const id = encodeReservationId({ shard: shard.shard, sale: no, seq: r.seq, buyer, key: keyDigest(call.key) });
      const { expiresAt: expiresAtMs } = r;
      if (status === 'ok') {
        const fact: Reserved = {
          ...{ ...shard.about(no), kind: 'reserved', id, buyer, lines: r.lines },
          ...{ expiresAtMs, extensions: 0, lastExpiresAtMs: expiresAtMs },
        };
        shard.facts.push(fact);
        shard.reserved.set(r.seq, fact);
      }
      refs.set(id, { sale: no, wish, seq: r.seq, seconds: 0 });
      return answer(201, '', { id, state: 'held', expiresAtMs, lines: r.lines }, status === 'replay');
    }
    const ref = refs.get(call.reservation);
    const found = ref && shard.find(ref);
    const fact = ref && shard.reserved.get(ref.seq);
    if (!ref || !found || !fact) return answer(404, 'not-found');
    if (call.kind !== 'read') {
      const seconds = call.kind === 'extend' ? call.seconds : 0;
      const status = shard.settle(call.kind, { ...ref, seconds }).split(' ')[0] ?? '';
      if (status !== 'ok' && status !== 'replay') return answer(...(codes[status] ?? [500, status]));
      if (call.kind === 'extend') {
        fact.extensions = found.r.extensions;
        fact.lastExpiresAtMs = found.r.deadline;
      }
    }
    const state = shard.stateOf(found.r);
    return answer(200, '', { id: fact.id, state, expiresAtMs: fact.lastExpiresAtMs, lines: fact.lines });
  };
  const refs = new Map<string, Ref>();
  const adjust = (call: Extract<Call, { kind: 'adjust' }>, { no }: SaleRules, shard: Shard): Answer => {
    const { id, sku, warehouse, delta } = call;
    const status = shard.change(no, id, `${sku}/${warehouse}/${delta}`, (sale) => {
      const w = sale.stock.get(sku)?.find(({ name }) => name === warehouse);
      if (!w) return 'unknownSku';
      if (w.onHand - w.reserved + delta < 0) return 'insufficientStock';
      w.onHand += delta;
      return 'ok';
    });
    if (status === 'ok') {
      const kind = delta > 0 ? 'restocked' : 'adjusted';
      shard.facts.push({ ...shard.about(no), kind, id, sku, warehouse, units: delta });
    }
    return status === 'ok' || status === 'replay' ? answer(200) : answer(...(codes[status] ?? [500, status]));
  };
  /** An operator gives back what was bought. */
  const giveBack = (shard: Shard, pick: number): void => {
    const sold = shard.facts.filter((fact) => fact.kind === 'committed');
    const fact = sold[pick % Math.max(1, sold.length)];
    if (fact?.kind !== 'committed') return;
    const sale = shard.sales.get(fact.no);
    const before = shard.facts.filter((one) => one.kind === 'returned' && one.reservation === fact.reservation);
    const line = fact.lines[before.length];
    const buyer = shard.reserved.get(fact.reservation)?.buyer ?? '';
    const w = sale?.stock.get(line?.sku ?? '')?.find(({ name }) => name === line?.warehouse);
    if (!sale || !line || !w) return;
    w.sold -= line.quantity;
    w.onHand += line.quantity;
    sale.units.set(buyer, (sale.units.get(buyer) ?? 0) - line.quantity);
    shard.seq++;
    shard.facts.push({ ...shard.about(fact.no), kind: 'returned', reservation: fact.reservation, lines: [line] });
  };

  const planned = (plan: Plan, buyer: string): { call: Call; saleId: string } => {
    const { pick } = plan;
    const { rules, stock } = sales[pick % sales.length] as Setting['sales'][number];
    const skus = Object.keys(stock);
    const lines = (seed: number): Wanted[] =>
      Array.from({ length: 1 + (seed % 7 === 0 ? 1 : 0) + (seed % 11 === 0 ? 1 : 0) }, (_, i) => ({
        sku: skus[((seed >> 2) + i * (1 + (seed % 2))) % skus.length] ?? '',
        quantity: 1 + ((seed >> (3 + i)) % 3),
      }));
    const mine = known.get(buyer) ?? [];
    const keys = used.get(buyer) ?? [];
    const chosen = mine[mine.length - 1 - (pick % Math.max(1, Math.min(mine.length, 4)))];
    const key = keys[keys.length - 1 - (pick % Math.max(1, Math.min(keys.length, 4)))];
    if (plan.kind === 'adjust') {
      const again = pick % 3 === 0 ? changes[pick % Math.max(1, changes.length)] : undefined;
      const sku = skus[(pick >> 3) % skus.length] ?? '';
      const warehouses = Object.keys(stock[sku] ?? {});
      const warehouse = warehouses[(pick >> 5) % warehouses.length] ?? '';
      const delta = ((pick >> 2) % 7) - 4 || 3;
      const call = again ?? { kind: 'adjust' as const, id: `c${changes.length}`, sku, warehouse, delta };
      const changed = again && pick % 2 === 0 ? { ...call, delta: call.delta + 1 } : call;
      if (!again) changes.push(call);
      return { call: changed, saleId: rules.saleId };
    }
    if (chosen && (plan.kind === 'commit' || plan.kind === 'release' || plan.kind === 'read'))
      return { call: { kind: plan.kind, reservation: chosen.id }, saleId: chosen.saleId };
    if (chosen && plan.kind === 'extend')
      return { call: { kind: 'extend', reservation: chosen.id, seconds: 1 + (pick % 2) }, saleId: chosen.saleId };
    if (key && plan.kind === 'again')
      return { call: { kind: 'reserve', key: key.key, lines: key.lines.toReversed() }, saleId: key.saleId };
    if (key && plan.kind === 'clash')
      return {
        call: { kind: 'reserve', key: key.key, lines: [...key.lines, ...key.lines.slice(0, 1)] },
        saleId: key.saleId,
      };
    const fresh: Used = { saleId: rules.saleId, key: `k${keys.length}`, lines: lines(pick) };
    used.set(buyer, [...keys, fresh]);
    return { call: { kind: 'reserve', key: fresh.key, lines: fresh.lines }, saleId: fresh.saleId };
  };

  const act = (client: number, me: Client, nowMs: number): void => {
    const plan = me.plans.shift();
    if (!plan) return;
    const rulesOf = (saleId: string): SaleRules =>
      sales.find(({ rules }) => rules.saleId === saleId)?.rules as SaleRules;
    if (plan.kind === 'jump' || plan.kind === 'return') {
      const shard = [...shards.values()][plan.pick % shards.size] as Shard;
      if (plan.kind === 'return') {
        shard.at(nowMs);
        giveBack(shard, plan.pick);
        shard.at(nowMs);
      } else shard.jumpMs += plan.pick % 3 === 0 ? -1_000 : 1_500;
      at(nowMs + plan.thinkMs, () => act(client, me, nowMs + plan.thinkMs));
      return;
    }
    const { call, saleId } = planned(plan, me.buyer);
    const rules = rulesOf(saleId);
    const shard = shards.get(rules.shard) as Shard;
    const operation: Operation = { client, saleId, buyer: me.buyer, call, callMs: nowMs, answered: null };
    operations.push(operation);
    const pointMs = nowMs + plan.beforeMs;
    const endMs = pointMs + plan.afterMs;
    let outcome: Answer | null = null;
    const run = (): Answer => {
      const ms = Math.max(nowMs, queueMs);
      shard.at(ms);
      const found = decide(call, me.buyer, rules, shard);
      shard.at(ms);
      return found;
    };
    shard.at(nowMs);
    const gone =
      plan.fate === 'stale' &&
      call.kind === 'reserve' &&
      !shard.sales.get(rules.no)?.book.has(`${me.buyer}/${call.key}`) &&
      call.lines.some(({ sku }) => (shard.goneMs.get(`${rules.no}/${sku}`) ?? 0) >= nowMs - 100);
    if (gone) outcome = answer(409, 'sold-out');
    else if (plan.fate === 'refused') outcome = answer(503, plan.pick % 2 ? 'overloaded' : 'shard-fenced');
    else if (plan.fate === 'late') at(endMs + plan.pick / 20, run);
    else if (plan.fate !== 'never')
      at(pointMs, () => {
        outcome = run();
      });
    at(endMs, () => {
      if (outcome && (plan.fate === 'answered' || plan.fate === 'refused' || plan.fate === 'stale')) {
        operation.answered = { atMs: endMs, answer: structuredClone(outcome) };
        const id = outcome.reservation?.id ?? '';
        const ref = refs.get(id);
        const mine = known.get(me.buyer) ?? [];
        if (ref && !mine.some((one) => one.id === id)) known.set(me.buyer, [...mine, { id, saleId, ref }]);
      }
      at(endMs + plan.thinkMs, () => act(client, me, endMs + plan.thinkMs));
    });
  };

  let queueMs = beganMs;
  const clients = Map.groupBy(plans, ({ client }) => client);
  for (const [client, own] of clients)
    at(beganMs + client / 8, () => act(client, { plans: [...own], buyer: buyerName(client % buyers) }, queueMs));
  let sweptMs = beganMs;
  for (let next = queue.pop(); next; next = queue.pop()) {
    queueMs = Math.max(queueMs, next.atMs);
    if (queueMs >= sweptMs + 20) {
      sweptMs = queueMs;
      for (const shard of shards.values()) sweep(shard, queueMs);
    }
    next.run();
  }
  // The sweeper ends what is due before the facts are read.
  for (const shard of shards.values()) {
    shard.now += 100; // it looks at whole tenths of a second
    sweep(shard, queueMs);
  }
  return {
    sales: sales.map(({ rules }) => rules),
    operations: operations.toSorted((a, b) => a.callMs - b.callMs),
    facts: [...shards.values()].flatMap(({ facts }) => facts.map((fact) => structuredClone(fact))),
  };
}

function sweep(shard: Shard, atMs: number): void {
  shard.at(atMs);
  shard.sweep();
  shard.at(atMs);
}

const rules = (saleId: string, shard: number, no: number, more: Partial<SaleRules>): SaleRules => ({
  ...{ saleId, shard, no, perBuyer: 0, holdSeconds: 1, extensions: 1, durability: 'fsync', ...more },
});

/** Two sales of one shard, one of another; little stock, split over warehouses; one with a purchase limit. */
export const busy: Setting = {
  buyers: 5,
  sales: [
    {
      rules: rules('one', 0, 1, { perBuyer: 5 }),
      stock: { shoe: { east: 3, west: 4 }, hat: { west: 2, east: 2, north: 1 } },
      extendMs: 2_000,
    },
    {
      rules: rules('two', 0, 2, { extensions: 2 }),
      stock: { shoe: { east: 6 }, scarf: { north: 0, west: 1, east: 4 } },
      extendMs: 2_000,
    },
    { rules: rules('three', 1, 1, { perBuyer: 4 }), stock: { hat: { east: 5, west: 5 } }, extendMs: 1_000 },
  ],
};

/** One sale whose holds don't run out. */
export const short: Setting = {
  buyers: 6,
  sales: [
    {
      rules: rules('short', 0, 1, { perBuyer: 6, holdSeconds: 1_800 }),
      stock: { shoe: { east: 4, west: 3 }, hat: { west: 2, east: 3 } },
      extendMs: 2_000,
    },
  ],
};

const weighted = <Value>(weights: [number, Value][]): fc.Arbitrary<Value> =>
  fc.oneof(...weights.map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })));

const calls: [number, Kind][] = [
  [8, 'reserve'],
  [4, 'again'],
  [1, 'clash'],
  [4, 'commit'],
  [4, 'release'],
  [4, 'read'],
  [2, 'adjust'],
];
/** `time`: holds run out, are extended, what was bought comes back. */
export const plansOf = (time: boolean, clients: number, maxLength: number): fc.Arbitrary<Plan[]> =>
  fc.array(
    fc.record({
      client: fc.nat(clients - 1),
      kind: weighted<Kind>(time ? [...calls, [2, 'extend'], [1, 'return'], [1, 'jump']] : calls),
      pick: fc.nat(1_000),
      fate: weighted<Fate>([
        [20, 'answered'],
        [1, 'refused'],
        [2, 'lost'],
        [1, 'late'],
        [1, 'never'],
        [3, 'stale'],
      ]),
      thinkMs: fc.nat(40).map((n) => n / 4),
      beforeMs: fc.nat(40).map((n) => n / 8),
      afterMs: fc.nat(40).map((n) => n / 8),
    }),
    { maxLength, size: 'max' },
  );
