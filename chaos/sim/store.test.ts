/** The store in memory and the one on real Postgres, side by side: the same batches, the same answers, the same state. */
import type { Pool } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { applyBatches } from '../../ledger/apply.ts';
import { type Authority, createAuthority } from '../../ledger/authority.ts';
import type { Batch } from '../../ledger/events.ts';
import { createLedgerStore } from '../../ledger/postgres.ts';
import type { RebuildReport } from '../../ledger/rebuild.ts';
import type { LedgerStore } from '../../ledger/store.ts';
import {
  batchOf,
  createLedger,
  emptyLedger,
  type Happening,
  happenings,
  startTestServices,
  stopTestServices,
} from '../../ledger/testing.ts';
import type { ServiceSet } from '../../services/services.ts';
import { createRandom, type Random } from '../random.ts';
import { createDatabase, type Wire } from './store.ts';

let services: ServiceSet;
let pool: Pool;
beforeAll(async () => {
  services = await startTestServices(['postgres']);
  pool = await createLedger(services, []);
});
afterAll(() => stopTestServices(services, pool));

/** Statements that nothing delays. */
const plainWire: Wire = { statement: async (_name, work) => work(Date.now()), onEnd: () => () => undefined };

type Side = { store: LedgerStore; authority: Authority };
type Step = (side: Side) => Promise<unknown>;

/** What a step answers, or how it fails: constraints name themselves otherwise on each side. */
async function outcomeOf(step: Step, side: Side): Promise<unknown> {
  try {
    return await step(side);
  } catch (error) {
    return `${(error as Error).name}${/two histories|overlaps|no epoch|goes on after|events$/.exec((error as Error).message)?.[0] ?? ''}`;
  }
}

/** All that can be read. */
async function stateOf({ store, authority }: Side, shard: number): Promise<unknown> {
  const content = await store.content(shard, async (on) => {
    const sales = await on.sales();
    const owners = [];
    for await (const page of on.owners(Date.parse('2100-01-01T00:00:00Z'), 3)) owners.push(...page);
    const book = [...(await on.book(0, 0, 2)), ...(await on.book(2, 0, 1_000))];
    return {
      sales: sales.map(({ settings, ...rest }) => ({ ...rest, settings: JSON.parse(settings) })),
      stock: await Promise.all(sales.map(({ sale }) => on.stock(sale))),
      book: book.map(({ sale, seq, buyer, key, state, lines, durability, units, extensions, returned, ...times }) => ({
        ...{ sale, seq, buyer, key, state, lines, durability, units, extensions, returned },
        ...{ first: times.firstExpiresAtMs, expires: times.expiresAtMs, ended: times.endedAtMs },
      })),
      owners: owners.sort((a, b) => a.buyer.localeCompare(b.buyer)),
      changes: (await on.changes(0, 1_000)).map(({ sale, seq, kind, id, content }) => ({
        sale,
        seq,
        kind,
        id,
        content,
      })),
    };
  });
  const { stock } = content;
  const counts = stock.map((rows) =>
    rows.map(({ sku, warehouse, available, reserved, sold }) => ({ sku, warehouse, available, reserved, sold })),
  );
  const { watermark, stopped } = await store.watermark(shard);
  return {
    ...content,
    stock: counts,
    watermark,
    stopped: stopped !== null,
    grant: await authority.current(shard),
    losses: await store.unfinishedLosses(shard),
    sightings: await store.sightings(shard, 60_000),
    shared: await Promise.all([0, 1, 2, 3].map((epoch) => store.sharedUntil(shard, epoch))),
    seen: await authority.sightings(shard, 0, 'run-2', 60_000),
    ends: await Promise.all([1, 2, 3].map((epoch) => authority.noteEnd('an engine', shard, epoch, 30))),
  };
}

/** A run of steps that might happen to a shard: batches right and wrong, epochs, rebuilds. */
function stepsOf(random: Random): Step[] {
  const { set, restocked, reserved, ended, extended, returned } = happenings;
  const opening = batchOf(1, [set(), restocked(6 + random.below(10)), restocked(0, 'hat')]);
  const sent: Batch[] = [opening];
  const held: { seq: number; quantity: number }[] = [];
  const sold: { seq: number; quantity: number }[] = [];
  let next = 4;
  let epoch = 1;
  const happening = (): Happening => {
    const seq = next;
    const one = held[random.below(held.length)];
    const bought = sold[random.below(sold.length)];
    const dice = random.next();
    if (one && dice < 0.3) {
      held.splice(held.indexOf(one), 1);
      const type = random.pick(['committed', 'released', 'expired'] as const);
      if (type === 'committed') sold.push(one);
      return ended(type, one.seq, one.quantity);
    }
    if (one && dice < 0.4) return extended(one.seq);
    if (bought && dice < 0.5) return returned(bought.seq, 1);
    if (dice < 0.54) return restocked(random.below(4), random.pick(['shoe', 'boot']));
    if (dice < 0.57) return ended('committed', 1 + random.below(next));
    const quantity = 1 + random.below(3);
    held.push({ seq, quantity });
    return reserved(seq, quantity);
  };
  const fresh = (): Batch => {
    const events: Happening[] = [];
    const seqFirst = next;
    for (let i = 0; i <= random.below(3); i++) {
      events.push(happening());
      next++;
    }
    const batch = batchOf(seqFirst, events, { epoch, digest: `${epoch}-${seqFirst}-${random.next()}` });
    sent.push(batch);
    return batch;
  };
  const known = (): Batch => sent[random.below(sent.length)] ?? opening;
  const wrong = (): Batch => {
    const batch = known();
    return random.pick([
      { ...batch, digest: 'another' },
      { ...batch, seqLast: batch.seqLast + 1 },
      { ...batch, epoch: batch.epoch + 3 },
      { ...batch, seqFirst: batch.seqFirst + 40, seqLast: batch.seqLast + 40 },
      batchOf(next, [{ ...set(), stockDigest: 'a\0b' } as Happening], { epoch }),
      batchOf(next, [reserved(next, 1_000)], { epoch }),
      batchOf(next, [reserved(next - 1)], { epoch }),
      batchOf(next, [reserved(next)], { epoch: Math.max(1, epoch - 1) }),
    ]);
  };
  const report = (engine: string): Step => {
    const sighting = { shard: 0, epoch, seq: random.below(next), open: random.chance(0.7) };
    const number = random.below(100);
    return ({ authority }) => authority.report(engine, `run-${1 + random.below(1)}`, [sighting], number);
  };
  const rebuild = (): Step => {
    const [token, most, broken] = [`token-${random.next()}`, next + random.below(5), random.chance(0.3)];
    const discard = random.chance(0.5);
    epoch++;
    return async ({ store }) => {
      const begun = await store.transaction(0, async (on) => {
        if (on.row) await on.beginRebuild(token);
        return on.row?.closedEpoch;
      });
      const closed = await store.closeEpoch(0, { token, runId: 'run-2', discard, most, silentEngines: 0 });
      if (!closed || broken) return { begun, closed: closed && { ...closed, atMs: 0 } };
      const losses = await store.unfinishedLosses(0);
      const about = { shard: 0, epoch: closed.epoch } as RebuildReport;
      return {
        begun,
        losses,
        other: await store.finishRebuild('not-this-one', about),
        done: await store.finishRebuild(token, about),
      };
    };
  };
  const deliver =
    (batches: Batch[]): Step =>
    ({ store }) =>
      applyBatches(store, 0, batches);
  const steps: Step[] = [({ authority }) => authority.grant(0, 0, 'run-1', 0), deliver([opening])];
  for (let i = 0; i < 14; i++) {
    const dice = random.next();
    if (dice < 0.5) steps.push(deliver(Array.from({ length: 1 + random.below(3) }, fresh)));
    else if (dice < 0.6) steps.push(deliver([known(), fresh(), known()]));
    else if (dice < 0.7) steps.push(deliver([fresh(), fresh()].reverse()));
    else if (dice < 0.78) steps.push(deliver([fresh(), wrong()]));
    else if (dice < 0.86) steps.push(report(random.pick(['ann', 'bob'])));
    else if (dice < 0.9) {
      const from = random.chance(0.7) ? epoch++ : 7;
      steps.push(({ authority }) => authority.grant(0, from, 'run-2', 10 * from));
    } else if (dice < 0.93) steps.push(({ authority }) => authority.markOpened(0));
    else if (dice < 0.96) steps.push(({ store }) => store.stop(0, 'a test says so'));
    else steps.push(rebuild());
  }
  return steps;
}

test('what happens to a shard, right and wrong, has the same answers and leaves the same state in both', {
  timeout: 300_000,
}, async () => {
  const seen = { stopped: 0, quarantined: 0, events: 0 };
  for (let seed = 1; seed <= Number(process.env.STAMPEDE_SEEDS ?? 30); seed++) {
    const steps = stepsOf(createRandom(seed));
    await emptyLedger(pool, []);
    const database = createDatabase();
    const sides: [Side, Side] = [
      { store: createLedgerStore(pool), authority: createAuthority(pool) },
      { store: database.store(plainWire), authority: database.authority(plainWire) },
    ];
    for (const [i, step] of steps.entries()) {
      const [real, simulated] = [await outcomeOf(step, sides[0]), await outcomeOf(step, sides[1])];
      expect(simulated, `seed ${seed}, step ${i}`).toEqual(real);
      if (i % 3 > 0 && i < steps.length - 1) continue;
      const state = (await stateOf(sides[0], 0)) as { stopped: boolean; watermark: number };
      expect(await stateOf(sides[1], 0), `seed ${seed}, after step ${i}`).toEqual(state);
      if (state.stopped) seen.stopped++;
      seen.events = Math.max(seen.events, state.watermark);
    }
    const { rows } = await pool.query<{ key: string }>(
      "select shard || ',' || epoch || ',' || seq_last || ',' || digest as key from ledger.quarantine",
    );
    expect([...database.tables.quarantine.keys()].sort(), `seed ${seed}`).toEqual(rows.map(({ key }) => key).sort());
    seen.quarantined += rows.length;
  }
  expect(seen.stopped).toBeGreaterThan(10);
  expect(seen.quarantined).toBeGreaterThan(10);
  expect(seen.events).toBeGreaterThan(20);
});
