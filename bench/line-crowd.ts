/** People in a line, in as many processes as it takes: `line-process.ts`. */
import { type ChildProcess, fork } from 'node:child_process';
import { within } from '../kernel/clock.ts';

/** What some people do: they join and watch, and where `buys` is set buy once they are let in. */
export type People = {
  process: number;
  /** Engine processes, over which they spread. */
  urls: string[];
  saleId: string;
  sku: string;
  /** A file with a token a line, of which theirs are `count` from `first` on. */
  tokens: string;
  first: number;
  count: number;
  buys: boolean;
  /** How long a buyer takes from the hold to the purchase. */
  thinkMs: number;
  /** How many let the hold lapse, 0 to 1. */
  lapseRate: number;
};

export type LineCounts = {
  /** Sockets opened, and those that ended before they were told to. */
  open: number;
  lost: number;
  admitted: number;
  bought: number;
  lapsed: number;
  /** Let in, and gone without anything. */
  emptyHanded: number;
  /** Frames of stock, and of places. */
  told: number;
  positions: number;
};

export type ToPeople = { type: 'gather'; people: People } | { type: 'expect'; available: number } | { type: 'count' };
export type FromPeople =
  | { type: 'gathered' }
  | { type: 'heard'; heard: number; atMs: number }
  | { type: 'counts'; counts: LineCounts }
  | { type: 'failed'; message: string };

/** Files that a process may open here, less some for itself. */
const perProcess = 18_000;
const gatherMs = 1_200_000;
const answerMs = 60_000;

/** Resolves once all have joined and watch. Rejects when one of them can't. */
export async function gatherLine(options: Omit<People, 'process' | 'first'>) {
  const processes = Math.ceil(options.count / perProcess);
  const each = Math.ceil(options.count / processes);
  const children: ChildProcess[] = [];
  const stop = (): void => {
    for (const child of children) child.kill('SIGKILL');
  };
  /** The next message of a type from each. Rejects with what one says is wrong. */
  const hear = <Type extends FromPeople['type']>(type: Type): Promise<Extract<FromPeople, { type: Type }>[]> =>
    Promise.all(
      children.map(
        (child) =>
          new Promise<Extract<FromPeople, { type: Type }>>((resolve, reject) => {
            const end = (): void => reject(new Error('a process of people ended'));
            const take = (message: FromPeople): void => {
              if (message.type === 'failed') reject(new Error(message.message));
              else if (message.type !== type) return;
              else resolve(message as Extract<FromPeople, { type: Type }>);
              child.off('message', take).off('exit', end);
            };
            child.on('message', take).once('exit', end);
          }),
      ),
    );
  const tell = (message: ToPeople): void => {
    for (const child of children) child.send(message);
  };
  try {
    for (let process = 0; process < processes; process++) {
      const child = fork(new URL('./line-process.ts', import.meta.url), { execArgv: [] });
      children.push(child);
      const first = process * each;
      const people = { ...options, process, first, count: Math.min(each, options.count - first) };
      child.send({ type: 'gather', people } satisfies ToPeople);
    }
    await within(hear('gathered'), gatherMs, 'people could not all join');
  } catch (error) {
    stop();
    throw error;
  }
  return {
    /** Has everybody listen for that many units being available; what it answers resolves with when the last one heard. */
    expect(available: number): { heard: Promise<number> } {
      tell({ type: 'expect', available });
      const heard = within(hear('heard'), answerMs, 'a change of stock did not reach everybody');
      return { heard: heard.then((all) => Math.max(...all.map(({ atMs }) => atMs))) };
    },
    async counts(): Promise<LineCounts> {
      const all = hear('counts');
      tell({ type: 'count' });
      const found = (await within(all, answerMs, 'people did not say how they are')).map(({ counts }) => counts);
      const sum = (name: keyof LineCounts): number => found.reduce((total, one) => total + one[name], 0);
      return {
        ...{ open: sum('open'), lost: sum('lost'), admitted: sum('admitted'), bought: sum('bought') },
        ...{ lapsed: sum('lapsed'), emptyHanded: sum('emptyHanded'), told: sum('told'), positions: sum('positions') },
      };
    },
    stop,
  };
}
