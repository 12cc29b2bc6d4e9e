/** `limits-hold`: at no sequence does a buyer hold and own more units of a sale than it allows. */
import type { Finding, History } from '../history.ts';
import { createFindings, factText, unitsOf } from './findings.ts';

export function limitsHold({ sales, facts }: History): Finding[] {
  const findings = createFindings();
  const limited = new Map(sales.filter((sale) => sale.perBuyer > 0).map((sale) => [`${sale.shard}/${sale.no}`, sale]));
  const owned = new Map<string, number>();
  const buyers = new Map<string, string>();
  const over = new Set<string>();

  for (const fact of facts.toSorted((a, b) => a.shard - b.shard || a.seq - b.seq)) {
    const place = `${fact.shard}/${fact.no}`;
    const sale = limited.get(place);
    if (!sale || 'units' in fact || fact.kind === 'committed') continue;
    if (fact.kind === 'reserved') buyers.set(`${fact.shard}/${fact.seq}`, fact.buyer);
    const buyer = fact.kind === 'reserved' ? fact.buyer : buyers.get(`${fact.shard}/${fact.reservation}`);
    if (buyer === undefined) continue; // of a reservation that nobody reserved: the witness speaks of it
    const account = `${place}/${buyer}`;
    const units = (owned.get(account) ?? 0) + unitsOf(fact.lines) * (fact.kind === 'reserved' ? 1 : -1);
    owned.set(account, units);
    if (units <= sale.perBuyer || over.has(account)) continue;
    over.add(account);
    findings.add(
      `Buyer ${buyer} holds and owns ${units} units of sale ${sale.saleId}, which allows ${sale.perBuyer}, after ${factText(fact)}.`,
    );
  }
  return findings.list();
}
