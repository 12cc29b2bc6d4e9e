/**
 * A crowd of buyers in processes of its own. It knows the published HTTP interface, and nothing else of the engine:
 * each buyer has a connection, a session and keys.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { addCounts, addReports, type Counts, type CrowdReport, type CrowdResult } from './tally.ts';

export type { Counts, CrowdResult } from './tally.ts';

export type CrowdOptions = {
  url: string;
  saleId: string;
  /** What everybody wants: one unit of it. */
  sku: string;
  buyers: number;
  holdSeconds: number;
  /** How many of the holds are bought, 0 to 1; the others are left to expire. */
  commitRate: number;
  seed: number;
  /** Default 2. */
  processes?: number;
  /** Silence of the engine for longer than this counts as no answer. Default 10,000. */
  requestLimitMs?: number;
};

/** What is told to a crowd process, and what it tells. */
export type Gather = {
  type: 'gather';
  url: string;
  saleId: string;
  sku: string;
  holdSeconds: number;
  commitRate: number;
  seed: number;
  first: number;
  count: number;
  /** Whether each buyer comes from a loopback address of its own. */
  ownAddresses: boolean;
  requestLimitMs: number;
};
export type Rush = { type: 'rush'; opensAtMs: number; endsAtMs: number };
export type FromProcess =
  | { type: 'gathering'; arrived: number }
  | { type: 'gathered' }
  | { type: 'counts'; counts: Counts }
  | { type: 'finished'; report: CrowdReport }
  | { type: 'failed'; message: string };

export type Crowd = {
  /** Buyers with a connection and a session so far. */
  arrived(): number;
  counts(): Counts;
  /** Resolves when all have a connection and a session. Rejects when somebody can't get one. */
  gathered: Promise<void>;
  /** Lets them loose: the sale opens at `opensAtMs`, and who has nothing at `endsAtMs` goes home (both `nowMs`). */
  rush(opensAtMs: number, endsAtMs: number): Promise<CrowdResult>;
  /** Ends the processes; whatever is waited for rejects. Resolves when they are gone. */
  stop(): Promise<void>;
};

const killAfterMs = 2_000;

type Member = {
  child: ChildProcess;
  arrived: number;
  counts: Counts;
  gathered: Promise<void>;
  finished: Promise<CrowdReport>;
  gone: Promise<void>;
};

function startMember(order: Gather): Member {
  // In a session of its own: Ctrl-C in a terminal is for the process that started it.
  const child = fork(new URL('./crowd-process.ts', import.meta.url), { detached: true, execArgv: [] });
  const ready = Promise.withResolvers<void>();
  const end = Promise.withResolvers<CrowdReport>();
  const member: Member = {
    child,
    arrived: 0,
    counts: addCounts([]),
    gathered: ready.promise,
    finished: end.promise,
    gone: new Promise((resolve) => {
      child.once('exit', () => resolve());
      child.once('error', () => resolve());
    }),
  };
  const fail = (error: Error): void => {
    ready.reject(error);
    end.reject(error);
  };
  // Who doesn't wait for them must not be ended by their failure.
  ready.promise.catch(() => undefined);
  end.promise.catch(() => undefined);
  child.on('error', fail);
  child.on('exit', (code, signal) => fail(new Error(`a process of the crowd ended (${signal ?? `code ${code}`})`)));
  child.on('message', (message: FromProcess) => {
    switch (message.type) {
      case 'gathering':
        member.arrived = message.arrived;
        break;
      case 'gathered':
        ready.resolve();
        break;
      case 'counts':
        member.counts = message.counts;
        break;
      case 'finished':
        end.resolve(message.report);
        break;
      case 'failed':
        fail(new Error(message.message));
    }
  });
  child.send(order, (error) => {
    if (error) fail(error);
  });
  return member;
}

/** Starts the crowd's processes, and gathers the buyers before the sale. */
export function gatherCrowd(options: CrowdOptions): Crowd {
  const { buyers, processes = 2, requestLimitMs = 10_000, url, saleId, sku, holdSeconds, commitRate, seed } = options;
  // Only Linux answers on all of 127.0.0.0/8 without being told to.
  const ownAddresses = process.platform === 'linux' && /^(127\.|localhost$)/.test(new URL(url).hostname);
  const share = Math.ceil(buyers / processes);
  const members: Member[] = [];
  for (let first = 0; first < buyers; first += share) {
    const count = Math.min(share, buyers - first);
    members.push(
      startMember({
        type: 'gather',
        url,
        saleId,
        sku,
        holdSeconds,
        commitRate,
        seed,
        first,
        count,
        ownAddresses,
        requestLimitMs,
      }),
    );
  }
  const gathered = Promise.all(members.map((member) => member.gathered)).then(() => undefined);
  gathered.catch(() => undefined);
  return {
    arrived: () => members.reduce((sum, { arrived }) => sum + arrived, 0),
    counts: () => addCounts(members.map(({ counts }) => counts)),
    gathered,
    async rush(opensAtMs, endsAtMs) {
      const order: Rush = { type: 'rush', opensAtMs, endsAtMs };
      for (const { child } of members) if (child.connected) child.send(order);
      return addReports(await Promise.all(members.map(({ finished }) => finished)));
    },
    async stop() {
      await Promise.all(
        members.map(async ({ child, gone }) => {
          if (child.connected) child.disconnect();
          const late = setTimeout(() => child.kill('SIGKILL'), killAfterMs);
          await gone;
          clearTimeout(late);
        }),
      );
    },
  };
}
