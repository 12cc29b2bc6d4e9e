import type { RunningService } from './records.ts';

/** One service of a set: what it is, and how to act on it. */
export type Runner = {
  service: RunningService;
  /** Starts it again after `stop` or `kill`: same ports, same data. */
  start(): Promise<void>;
  /** Ends it in order, by force when it takes too long. Data stay. */
  stop(): Promise<void>;
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Lets it outlive this process. */
  release(): void;
};
