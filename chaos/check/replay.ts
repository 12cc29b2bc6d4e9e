/** A shard's facts in sequence on a plain model of stock, holds and purchase limits: what it was like after each of them. */
import type { Fact, Line, SaleRules } from '../history.ts';
import { type Effect, firstAtLeast } from './effects.ts';
import {
  type Ending,
  type Findings,
  factText,
  linesText,
  type Reserved,
  sameLines,
  sameUnits,
  unitsBySku,
  unitsOf,
} from './findings.ts';

/** A number over sequences: what it was set to, and at which. */
export type Steps = { seqs: number[]; values: number[] };

export function valueAt(steps: Steps | undefined, seq: number): number {
  if (!steps) return 0;
  return steps.values[firstAtLeast(steps.seqs, seq + 1) - 1] ?? 0;
}

/**
 * What a sale was like after each fact: units available of each SKU and allotment, units held and owned of each buyer.
 * `opened`: the sequence from which on it had its opening stock, which is before the first of its calls.
 */
export type SaleStory = { rules: SaleRules; opened: number; available: Map<string, Steps>; owned: Map<string, Steps> };

type Warehouse = { name: string; available: number; reserved: number; sold: number };
type Hold = { fact: Reserved; state: 'held' | 'committed' | 'released' | 'expired'; returned: number };
type Sale = SaleStory & { stock: Map<string, Warehouse[]>; holds: Map<number, Hold> };

/** Of a SKU in all warehouses, and in one. */
export const skuName = (sku: string): string => sku;
export const allotmentName = (sku: string, warehouse: string): string => `${sku} in ${warehouse}`;

/** The first listed warehouse that has a SKU's units whole, else split in listed order; what is missing has none. */
function choose(warehouses: readonly Warehouse[], sku: string, quantity: number): Line[] {
  const whole = warehouses.find(({ available }) => available >= quantity);
  if (whole) return [{ sku, warehouse: whole.name, quantity }];
  let left = quantity;
  return warehouses.flatMap(({ name, available }) => {
    const part = Math.max(0, Math.min(left, available));
    left -= part;
    return part > 0 ? [{ sku, warehouse: name, quantity: part }] : [];
  });
}

function note(steps: Map<string, Steps>, name: string, seq: number, by: number): void {
  let known = steps.get(name);
  if (!known) {
    known = { seqs: [], values: [] };
    steps.set(name, known);
  }
  const value = (known.values.at(-1) ?? 0) + by;
  if (known.seqs.at(-1) === seq) known.values[known.values.length - 1] = value;
  else {
    known.seqs.push(seq);
    known.values.push(value);
  }
}

/** Replays a shard's facts; tells of each that the model would not have had. Answers the sales by id. */
export function replay(
  effects: readonly Effect[],
  saleOf: (fact: Fact) => SaleRules | undefined,
  findings: Findings,
): Map<string, SaleStory> {
  const sales = new Map<string, Sale>();
  const saleFor = (rules: SaleRules): Sale => {
    let sale = sales.get(rules.saleId);
    if (!sale) {
      sale = { rules, opened: 0, available: new Map(), owned: new Map(), stock: new Map(), holds: new Map() };
      sales.set(rules.saleId, sale);
    }
    return sale;
  };
  for (const { fact } of effects) {
    const rules = saleOf(fact);
    if (!rules) continue;
    const sale = saleFor(rules);
    if ('units' in fact) {
      const warehouse = warehouseOf(sale, fact.sku, fact.warehouse);
      warehouse.available += fact.units;
      if (fact.id === 'opening') sale.opened = fact.seq;
      if (warehouse.available < 0)
        findings.add(`${factText(fact)} leaves ${warehouse.available} units of ${fact.sku} in ${fact.warehouse}.`);
      note(sale.available, skuName(fact.sku), fact.seq, fact.units);
      note(sale.available, allotmentName(fact.sku, fact.warehouse), fact.seq, fact.units);
    } else if (fact.kind === 'reserved') hold(sale, fact, findings);
    else end(sale, fact, findings);
  }
  return sales;
}

function warehouseOf(sale: Sale, sku: string, name: string): Warehouse {
  const known = sale.stock.get(sku) ?? [];
  const found = known.find((one) => one.name === name);
  if (found) return found;
  const made = { name, available: 0, reserved: 0, sold: 0 };
  sale.stock.set(sku, [...known, made]);
  return made;
}

function hold(sale: Sale, fact: Reserved, findings: Findings): void {
  const { rules } = sale;
  if (sale.holds.has(fact.seq)) {
    findings.add(`${factText(fact)} is in the ledger twice.`);
    return;
  }
  const wanted = unitsBySku(fact.lines);
  const expected = [...wanted].flatMap(([sku, quantity]) => choose(sale.stock.get(sku) ?? [], sku, quantity));
  if (unitsOf(expected) < unitsOf(fact.lines))
    findings.add(
      `${factText(fact)} holds ${linesText(fact.lines)}; the facts before it leave only ${linesText(expected) || 'nothing'}.`,
    );
  else if (!sameLines(fact.lines, expected))
    findings.add(
      `${factText(fact)} holds ${linesText(fact.lines)}; by the facts before it, it should be ${linesText(expected)}.`,
    );
  const owned = (sale.owned.get(fact.buyer)?.values.at(-1) ?? 0) + unitsOf(fact.lines);
  if (rules.perBuyer > 0 && owned > rules.perBuyer)
    findings.add(
      `${factText(fact)} should have been refused: buyer ${fact.buyer} has ${owned} units of sale ${rules.saleId} with it, of ${rules.perBuyer}.`,
    );
  sale.holds.set(fact.seq, { fact, state: 'held', returned: 0 });
  move(sale, fact, fact.lines, 'available', 'reserved');
  note(sale.owned, fact.buyer, fact.seq, unitsOf(fact.lines));
}

function end(sale: Sale, fact: Ending, findings: Findings): void {
  const known = sale.holds.get(fact.reservation);
  if (!known) {
    findings.add(`${factText(fact)}: no such reservation was held before it.`);
    return;
  }
  const { buyer } = known.fact;
  if (fact.kind === 'returned') {
    known.returned += unitsOf(fact.lines);
    if (known.state !== 'committed' || known.returned > unitsOf(known.fact.lines))
      findings.add(`${factText(fact)}: ${known.fact.id} has not sold so much (it is ${known.state}).`);
    move(sale, fact, fact.lines, 'sold', 'available');
    note(sale.owned, buyer, fact.seq, -unitsOf(fact.lines));
    return;
  }
  if (known.state !== 'held') {
    findings.add(`${factText(fact)}: ${known.fact.id} was ${known.state} before.`);
    return;
  }
  if (!sameUnits(fact.lines, known.fact.lines))
    findings.add(
      `${factText(fact)} moved ${linesText(fact.lines)}; ${known.fact.id} has ${linesText(known.fact.lines)}.`,
    );
  known.state = fact.kind;
  move(sale, fact, fact.lines, 'reserved', fact.kind === 'committed' ? 'sold' : 'available');
  if (fact.kind !== 'committed') note(sale.owned, buyer, fact.seq, -unitsOf(known.fact.lines));
}

type Account = 'available' | 'reserved' | 'sold';

function move(sale: Sale, fact: Fact, lines: readonly Line[], from: Account, to: Account): void {
  for (const { sku, warehouse: name, quantity } of lines) {
    const warehouse = warehouseOf(sale, sku, name);
    warehouse[from] -= quantity;
    warehouse[to] += quantity;
    const more = to === 'available' ? quantity : from === 'available' ? -quantity : 0;
    if (more === 0) continue;
    note(sale.available, skuName(sku), fact.seq, more);
    note(sale.available, allotmentName(sku, name), fact.seq, more);
  }
}
