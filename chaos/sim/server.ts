/**
 * The real Valkey of a worker, as the simulation's disk and memory: each simulated run of a server has keys of it for itself.
 * What a run has on disk is the list of calls that it executed; a run on older files is that list's beginning, executed
 * anew. (The functions depend on nothing but their arguments, the data and the time, and that is given.)
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { shardKey } from '../../kernel/ids.ts';
import { readLibrary } from '../../lua/library.ts';
import { environmentWithoutServices } from '../../lua/testing.ts';
import { startServices } from '../../services/services.ts';
import { connectPlain, type Reply } from './resp.ts';
import { startOfTimeMs } from './scheduler.ts';

/** A call that changed something, when the shard's clock showed `atMs`. */
export type Call = { name: string; argument: Buffer; atMs: number };

export type RealServer = {
  /** The number of a place where no key is yet. */
  place(): number;
  /** Empties all places: no seed may be under way. */
  clear(): Promise<void>;
  call(place: number, name: string, readOnly: boolean, argument: Buffer, atMs: number): Promise<Buffer>;
  /** Makes an empty place what it is after those calls. */
  replay(place: number, calls: readonly Call[]): Promise<void>;
  /** Where the shard is; null where there is none. */
  shardAt(place: number): Promise<{ epoch: number; seq: number; live: number; acked: number } | null>;
  stop(): Promise<void>;
};

export async function startRealServer(): Promise<RealServer> {
  const library = readLibrary();
  const services = await startServices({
    names: ['valkey'],
    dataDir: mkdtempSync(join(tmpdir(), 'stampede-sim-')),
    removeDataDir: true,
    env: environmentWithoutServices(),
  });
  const path = services.services.valkey?.socketPath;
  if (!path) throw new Error('Valkey has no Unix socket: is the temporary folder’s name too long?');
  const client = await connectPlain(path);
  const ask = async (...words: string[]): Promise<Reply> => {
    const [answer = null] = await client.send([words]);
    if (answer instanceof Error) throw answer;
    return answer;
  };
  // Nothing of it need survive this process: disks are simulated.
  await ask('CONFIG', 'SET', 'appendonly', 'no');
  // What may be trimmed is: each entry of a stream is a node of its own.
  await ask('CONFIG', 'SET', 'stream-node-max-entries', '1');
  await ask('FUNCTION', 'LOAD', library.source);

  // Where there is no shard the time leaves a key without an epoch: for the functions, none.
  const commandsOf = (place: number, { name, argument, atMs }: Call, readOnly: boolean): (string | Buffer)[][] => [
    ['HSET', shardKey(place), 'at', String(Math.floor(startOfTimeMs + atMs))],
    [readOnly ? 'FCALL_RO' : 'FCALL', `${name}_${library.hash}`, '1', shardKey(place), argument],
  ];
  let places = 0;

  return {
    place: () => places++,
    async clear() {
      await client.send([['FLUSHALL', 'SYNC']]);
    },
    async call(place, name, readOnly, argument, atMs) {
      const [, answer] = await client.send(commandsOf(place, { name, argument, atMs }, readOnly));
      if (!Buffer.isBuffer(answer)) throw answer instanceof Error ? answer : new Error(`${name} answered ${answer}`);
      return answer;
    },
    async replay(place, calls) {
      if (calls.length > 0) await client.send(calls.flatMap((call) => commandsOf(place, call, false)));
    },
    async shardAt(place) {
      const [answer] = await client.send([['HMGET', shardKey(place), 'epoch', 'seq', 'live', 'acked']]);
      const [epoch, seq, live, acked] = (answer as Reply[]).map((value) => (value === null ? 0 : Number(value)));
      return epoch ? { epoch, seq: seq ?? 0, live: live ?? 0, acked: acked ?? 0 } : null;
    },
    async stop() {
      client.close();
      await services.stop();
    },
  };
}
