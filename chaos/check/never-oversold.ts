/** `never-oversold`: supply = available + reserved + sold of every allotment at every sequence, no term below zero. */
import type { Fact, Finding, History } from '../history.ts';
import { createFindings, factText, type Reserved } from './findings.ts';

type Account = 'available' | 'reserved' | 'sold';
type Allotment = Record<Account, number> & { name: string; supply: number; held: number; reported: boolean };

/** From which account into which each kind of fact moves its lines. */
const moves: Record<string, [Account, Account]> = {
  reserved: ['available', 'reserved'],
  committed: ['reserved', 'sold'],
  released: ['reserved', 'available'],
  expired: ['reserved', 'available'],
  returned: ['sold', 'available'],
};

export function neverOversold({ sales, facts }: History): Finding[] {
  const findings = createFindings();
  const saleIds = new Map(sales.map(({ shard, no, saleId }) => [`${shard}/${no}`, saleId]));
  const allotments = new Map<string, Allotment>();
  const live = new Map<string, Reserved>();

  const find = ({ shard, no }: Fact, sku: string, warehouse: string): Allotment => {
    const name = `${sku} in ${warehouse} of sale ${saleIds.get(`${shard}/${no}`) ?? `${no} of shard ${shard}`}`;
    let allotment = allotments.get(name);
    if (!allotment) {
      allotment = { name, supply: 0, available: 0, reserved: 0, sold: 0, held: 0, reported: false };
      allotments.set(name, allotment);
    }
    return allotment;
  };
  const check = (fact: Fact, allotment: Allotment): void => {
    const { name, supply, available, reserved, sold, reported } = allotment;
    const accounts = `supply ${supply}, available ${available}, reserved ${reserved}, sold ${sold}`;
    // One that went wrong goes on being wrong: its first time tells most.
    if (reported) return;
    if (available < 0 || reserved < 0 || sold < 0) {
      allotment.reported = true;
      findings.add(`${name} is below zero after ${factText(fact)}: ${accounts}.`);
    } else if (supply !== available + reserved + sold) {
      allotment.reported = true;
      findings.add(`${name} does not add up after ${factText(fact)}: ${accounts}.`);
    }
  };

  for (const fact of facts.toSorted((a, b) => a.shard - b.shard || a.seq - b.seq)) {
    if ('units' in fact) {
      const allotment = find(fact, fact.sku, fact.warehouse);
      allotment.supply += fact.units;
      allotment.available += fact.units;
      check(fact, allotment);
      continue;
    }
    const [from, to] = moves[fact.kind] ?? ['available', 'available'];
    for (const { sku, warehouse, quantity } of fact.lines) {
      const allotment = find(fact, sku, warehouse);
      if (!Number.isInteger(quantity) || quantity < 1)
        findings.add(`${factText(fact)} moves ${quantity} units of ${allotment.name}.`);
      allotment[from] -= quantity;
      allotment[to] += quantity;
      check(fact, allotment);
    }
    if (fact.kind === 'reserved') live.set(`${fact.shard}/${fact.seq}`, fact);
    else if (fact.kind !== 'returned') live.delete(`${fact.shard}/${fact.reservation}`);
  }

  // What is reserved in the end is what the living holds hold: an ending that moved less would strand the rest.
  for (const fact of live.values())
    for (const { sku, warehouse, quantity } of fact.lines) find(fact, sku, warehouse).held += quantity;
  for (const { name, reserved, held, reported } of allotments.values())
    if (!reported && reserved !== held)
      findings.add(`${name} has ${reserved} units reserved in the end, and its living holds are of ${held}.`);
  return findings.list();
}
