/** What a scenario is, and what it answers. */
import type { Spread } from './rounds.ts';

/** How long, and how often: the long form measures, the quick one only shows that all works. */
export type Pace = { rounds: number; seconds: number; quick: boolean };

/** What a figure must not fall below, or not exceed, and what we are after. */
export type Goal = { atLeast?: number; atMost?: number; beyond?: number };

export type Unit =
  | 'ratio'
  | 'per second'
  | 'ms'
  | 'bytes'
  | 's'
  | 'units'
  | 'MB'
  | 'share'
  | 'per minute'
  | 'people'
  | 'KB';

export type Figure = Goal & { what: string; value: Spread; unit: Unit };

/** Lines over time, for a picture. */
export type Plot = { title: string; x: string; y: string; lines: { name: string; points: [number, number][] }[] };

export type Report = {
  figures: Figure[];
  /** What ran beside, and how it was set: a figure says nothing without. */
  beside: string;
  /** What is wrong with the run itself: counts that don't agree, an open loop that was none. */
  faults: string[];
  /** What to know of figures that stand nevertheless: a contender that the load generator could not load fully. */
  notes?: string[];
  /** What was left out, with why. */
  skipped: string[];
  plots?: Plot[];
};

export type Scenario = {
  about: string;
  run(pace: Pace, say: (line: string) => void): Promise<Report>;
};
