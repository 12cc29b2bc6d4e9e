/** What a fault is, and what all of them need. */
import { systemClock } from '../../kernel/clock.ts';
import type { Bed, BedOptions, Member } from '../bed.ts';
import type { Crowd } from '../crowd.ts';
import type { SaleRules } from '../history.ts';
import type { Random } from '../random.ts';
import type { Requirement } from '../requirements.ts';

/** What a fault has to strike with. */
export type Scene = {
  bed: Bed;
  crowd: Crowd;
  random: Random;
  /** Whether it is the first strike of the run. */
  first: boolean;
  /** Says that the fault strikes now, and what it is exactly: the calls in flight are counted. */
  struck(what: string): void;
  /** From now on Valkey has less than it had: nothing may be sold from it. */
  wentBack(): void;
};

export type Fault = {
  about: string;
  needs?: readonly Requirement[];
  /** Where it takes more than any durability covers: what is lost must be reported then. */
  mayLose?: true;
  /** Called once a run, with the run's folder, before anything is started. */
  prepare(folder: string): Promise<Prepared>;
};
/** `bed`, `durability`: what there must be; the seed chooses the rest. */
export type Prepared = {
  bed: Partial<BedOptions>;
  durability?: SaleRules['durability'];
  /** It strikes but once in a run. */
  once?: true;
  /** What nobody was told of may be reported as lost. */
  mayReport?: true;
  strike(scene: Scene): Promise<void>;
};

/** So many calls succeed while something is away or behind, within so long: then it matters. */
export const enough = 300;
export const enoughMs = 20_000;

export const wait = (ms: number): Promise<void> => systemClock.wait(ms);
export const rest = (random: Random, fromMs: number, toMs: number): Promise<void> => wait(random.int(fromMs, toMs));

/** Stores before roles: a role does not start without them. */
export async function startAll(bed: Bed, members: readonly Member[]): Promise<void> {
  const stores = members.filter((one) => ['valkey', 'postgres', 'kafka'].includes(one));
  await Promise.all(stores.map((one) => bed.start(one)));
  if (members.includes('replica')) await bed.start('replica');
  await Promise.all(members.filter((one) => !stores.includes(one) && one !== 'replica').map((one) => bed.start(one)));
}
