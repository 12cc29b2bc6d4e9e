/** Servers of Valkey and connections to them, simulated around the real functions: `server.ts`. */
import type { Valkey } from '../../engine/valkey.ts';
import type { Random } from '../random.ts';
import type { Process, Scheduler } from './scheduler.ts';
import type { Call, RealServer } from './server.ts';

/** A server from its start to its end, with what it has in memory. */
export type Run = {
  runId: string;
  place: number;
  up: boolean;
  calls: Call[];
  /** How often it went back in time in place. */
  backs: number;
};

type Connection = {
  link: number;
  run: Run;
  process: Process;
  /** The client takes it for whole. */
  open: boolean;
  /** Nothing passes any more, and nobody was told. */
  cut: boolean;
  toServerMs: number;
  toClientMs: number;
  reject: Set<(error: Error) => void>;
};

/** Of a call's answer, as it reaches a process: at which epoch the shard was, on which run. */
export type Answered = { epoch: number; run: Run };

export type SimValkey = ReturnType<typeof createSimValkey>;

const retryMs = [20, 40, 80, 160, 320, 640, 1_000];
const pingMs = 6_000;

export function createSimValkey(options: {
  scheduler: Scheduler;
  random: Random;
  real: RealServer;
  /** How long a packet takes, now. */
  delayMs(): number;
  executed(name: string, argument: Buffer, run: Run, outcome: Buffer | Error): void;
}) {
  const { scheduler, random, real } = options;
  let runs = 0;
  let links = 0;
  const connections = new Set<Connection>();
  /** Where clients find the primary; null while there is none. */
  let primary: Run | null = null;
  /** What it had each time before data of it were lost: files that somebody may have kept. */
  const copies: Call[][] = [];
  /** Processes that can't reach any server. */
  const away = new Set<Process>();

  const startRun = async (calls: readonly Call[], keep: Run | null): Promise<Run> => {
    runs++;
    const place = keep?.place ?? real.place();
    const run: Run = { runId: `run-${runs}`, place, up: true, calls: [...calls], backs: 0 };
    if (!keep) await real.replay(run.place, calls);
    return run;
  };

  const end = (connection: Connection, why: string): void => {
    if (!connection.open) return;
    connection.open = false;
    connections.delete(connection);
    for (const reject of connection.reject) reject(new Error(why));
    connection.reject.clear();
  };

  /** Does a call on a run. */
  const execute = async (run: Run, name: string, readOnly: boolean, argument: Buffer): Promise<Buffer> => {
    const atMs = scheduler.nowMs;
    try {
      const answer = await real.call(run.place, name, readOnly, argument, atMs);
      if (!readOnly) run.calls.push({ name, argument, atMs });
      options.executed(name, argument, run, answer);
      return answer;
    } catch (error) {
      const fault = error instanceof Error ? error : new Error(String(error));
      options.executed(name, argument, run, fault);
      throw fault;
    }
  };

  const connectProcess = (process: Process, answered: (what: Answered) => void): Valkey => {
    let connection: Connection | null = null;
    let complaint = 'not connected yet';
    let closed = false;
    const listeners: (() => void)[] = [];

    const connect = (failures: number): void => {
      if (closed) return;
      scheduler.after(2 * options.delayMs(), process, '', () => {
        const run = primary;
        if (!run?.up || away.has(process)) {
          complaint = 'ECONNREFUSED';
          const waitMs = retryMs[Math.min(failures, retryMs.length - 1)] ?? 1_000;
          scheduler.after(waitMs, process, '', () => connect(failures + 1));
          return;
        }
        complaint = '';
        connection = {
          ...{ link: ++links, run, process, open: true, cut: false, reject: new Set() },
          ...{ toServerMs: scheduler.nowMs, toClientMs: scheduler.nowMs },
        };
        connections.add(connection);
        scheduler.note(`${process.name} is connected to ${run.runId}`);
        for (const listener of listeners) listener();
        beat(connection);
      });
    };
    const again = (ended: Connection): void => {
      if (connection !== ended) return;
      connection = null;
      connect(0);
    };
    // What ends it at this end: a reset, a ping without an answer.
    const beat = (one: Connection): void => {
      scheduler.after(1_000, process, '', () => {
        if (!one.open) return again(one);
        if (!one.cut) return beat(one);
        scheduler.after(pingMs, process, '', () => {
          end(one, 'no answer');
          again(one);
        });
      });
    };
    ends.set(process, () => connection && again(connection));

    const request = <Answer>(what: string, work: (run: Run) => Promise<Answer>, epoch: number): Promise<Answer> => {
      const on = connection;
      if (!on?.open) return Promise.reject(new Error(`the connection to Valkey is broken: ${complaint}`));
      return new Promise<Answer>((resolve, reject) => {
        on.reject.add(reject);
        // A connection keeps its order.
        on.toServerMs = Math.max(on.toServerMs + 1e-6, scheduler.nowMs + options.delayMs());
        scheduler.after(on.toServerMs - scheduler.nowMs, null, '', async () => {
          // What is on its way when the client's end breaks still comes, unless the way is cut.
          if (on.cut || !on.run.up) return;
          const { backs } = on.run;
          const outcome = await work(on.run).then(
            (answer) => () => {
              answered({ epoch, run: on.run });
              resolve(answer);
            },
            (error: Error) => () => reject(error),
          );
          scheduler.note(`${process.name} ${what} done on ${on.run.runId}`);
          if (on.cut || !on.open) return;
          on.toClientMs = Math.max(on.toClientMs + 1e-6, scheduler.nowMs + options.delayMs());
          scheduler.after(on.toClientMs - scheduler.nowMs, process, `${process.name} ${what} answered`, () => {
            // What has been undone before its answer came nobody can notice: it is never answered.
            if (!on.open || on.cut || backs < on.run.backs) return;
            on.reject.delete(reject);
            outcome();
          });
        });
      });
    };

    connect(0);
    return {
      linkOf: () => (connection?.open ? connection.link : 0),
      runId() {
        if (!connection?.open) throw new Error(`the connection to Valkey is broken: ${complaint}`);
        return connection.run.runId;
      },
      call(name, readOnly, _key, argument) {
        const epoch = argument.length >= 4 ? argument.readUInt32LE(0) : 0;
        return request(name, (run) => execute(run, name, readOnly, argument), epoch);
      },
      sync(name, _key, argument, replicas) {
        const work = async (run: Run): Promise<void> => {
          await execute(run, name, false, argument);
          if (replicas > 0) throw new Error('NOREPLICA there is none');
        };
        return request(name, work, 0);
      },
      settings: () => request('settings', async () => [new Map(serverSettings)], 0),
      onChange(listener) {
        listeners.push(listener);
        if (connection?.open) listener();
      },
      get complaint() {
        return complaint;
      },
      async close() {
        closed = true;
        if (connection) end(connection, 'closed');
      },
    };
  };
  /** Has a process look for a server again. */
  const ends = new Map<Process, () => void>();

  const breakOne = (connection: Connection, { silently }: { silently: boolean }): void => {
    if (silently) {
      connection.cut = true;
      return;
    }
    // Half of the time what is on its way to the server is lost with it.
    if (random.chance(0.5)) connection.cut = true;
    scheduler.after(options.delayMs(), connection.process, `${connection.process.name} has lost its connection`, () => {
      end(connection, 'Connection is closed.');
      ends.get(connection.process)?.();
    });
  };

  return {
    connectProcess,
    get primary() {
      return primary;
    },
    copies: copies as readonly (readonly Call[])[],
    async begin(): Promise<void> {
      primary = await startRun([], null);
    },
    /** The server's end. What was executed and not answered stays unknown. */
    crash(): void {
      const run = primary;
      if (!run) return;
      primary = null;
      run.up = false;
      for (const connection of [...connections]) if (connection.run === run) breakOne(connection, { silently: false });
    },
    /** Starts it again on its files, less the last `lost` calls. */
    async restart(run: Run, lost: number): Promise<Run> {
      if (lost > 0) copies.push(run.calls);
      primary = await startRun(run.calls.slice(0, run.calls.length - lost), lost === 0 ? run : null);
      return primary;
    },
    /** Starts it on files of another time. */
    async restartOn(calls: readonly Call[]): Promise<Run> {
      primary = await startRun(calls, null);
      return primary;
    },
    flushAll(): boolean {
      if (!primary) return false;
      copies.push(primary.calls);
      primary.calls = [];
      primary.place = real.place();
      return true;
    },
    /** Its keys are as they were `lost` calls ago; nothing else is new. */
    async goBack(lost: number): Promise<boolean> {
      const run = primary;
      if (!run) return false;
      copies.push(run.calls);
      run.calls = run.calls.slice(0, Math.max(0, run.calls.length - lost));
      const place = real.place();
      await real.replay(place, run.calls);
      run.place = place;
      run.backs++;
      return true;
    },
    breakConnection(process: Process, silently: boolean): boolean {
      const mine = [...connections].filter((one) => one.process === process && one.open && !one.cut);
      for (const connection of mine) breakOne(connection, { silently });
      return mine.length > 0;
    },
    /** A process has ended: its end of the connection is closed; what it sent is on its way. */
    gone(process: Process): void {
      ends.delete(process);
      for (const connection of [...connections]) if (connection.process === process) end(connection, 'closed');
    },
    cutOff(process: Process, isAway: boolean): void {
      if (isAway) away.add(process);
      else away.delete(process);
    },
  };
}

const serverSettings: [string, string][] = [
  ['appendonly', 'yes'],
  ['appendfsync', 'always'],
  ['no-appendfsync-on-rewrite', 'no'],
  ['maxmemory-policy', 'noeviction'],
  ['replicas', '0'],
];
