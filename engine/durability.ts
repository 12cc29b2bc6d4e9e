/** What an answer promises to survive: docs/reference/guarantees.md. */
export const durabilities = ['memory', 'fsync', 'replicated'] as const;
export type Durability = (typeof durabilities)[number];

export function durabilityCode(durability: Durability): number {
  return durabilities.indexOf(durability) + 1;
}

export function durabilityOf(code: number): Durability {
  const durability = durabilities[code - 1];
  if (!durability) throw new Error(`no durability has the code ${code}`);
  return durability;
}

export function durabilityOfName(name: string): Durability {
  const durability = durabilities.find((known) => known === name);
  if (!durability) throw new Error(`no durability is called ${name}`);
  return durability;
}

/**
 * Why a server of Valkey, set as it is, can't give a durability; null when it can. `settings`: as CONFIG GET answers, and
 * `replicas`, how many are connected. With `appendfsync always` Valkey syncs its log before it answers, so a call's answer
 * is on disk.
 */
export function whyNot(durability: Durability, settings: ReadonlyMap<string, string>): string | null {
  if (durability === 'memory') return null;
  const wanted: [string, string][] = [
    ['appendonly', 'yes'],
    ['appendfsync', 'always'],
    ['no-appendfsync-on-rewrite', 'no'],
  ];
  const off = wanted.filter(([name, value]) => settings.get(name) !== value);
  if (off.length > 0)
    return `Valkey isn't set for it: needs ${off.map(([name, value]) => `${name} ${value}`).join(', ')}.`;
  if (durability === 'replicated' && !(Number(settings.get('replicas')) > 0))
    return 'No replica is connected to this Valkey: choose fsync or memory, or start a replica with appendonly yes.';
  return null;
}
