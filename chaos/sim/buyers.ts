/** Buyers: they reserve, commit, release and come again with the same key where they were told nothing, on any engine. */
import { isRefused } from '../../engine/refusals.ts';
import { RefusalError } from '../../kernel/errors.ts';
import {
  commitCommand,
  extendCommand,
  releaseCommand,
  reserveCommand,
  type ShardCommand,
  statusCodes,
} from '../../lua/bindings.ts';
import { reserveResults } from '../../lua/results.ts';
import { reference, reserveArgs, short } from '../../lua/testing.ts';
import type { Random } from '../random.ts';
import type { Node } from './node.ts';
import type { Scheduler } from './scheduler.ts';

/** What a buyer was told. */
export type Acknowledged = {
  kind: 'reserved' | 'committed' | 'released' | 'extended';
  buyer: string;
  key: string;
  /** The reservation's. */
  seq: number;
  /** The shard's last sequence as the answer said, and its epoch. */
  shardSeq: number;
  /** Until when it is held, as a reservation's or extension's answer said; else 0. */
  expiresAtMs: number;
  epoch: number;
  /** Whether it was the answer to the first of its kind, so that its event has that very sequence. */
  first: boolean;
  node: Node;
  atMs: number;
  /** Its engine ended, or was not to be heard, before it could report so much. */
  orphan: boolean;
};

export type Buyers = { readonly finished: boolean; acknowledged: Acknowledged[]; refused: number; unknown: number };

const patienceMs = 6_000;
const tries = 8;

type Outcome<Answer> = { answer: Answer; epoch: number; node: Node } | 'refused' | 'unknown';

export function startBuyers(options: {
  scheduler: Scheduler;
  random: Random;
  count: number;
  operations: number;
  /** Between two operations of a buyer, at the most. */
  pauseMs: number;
  nodes(): Node[];
}): Buyers {
  const { scheduler, random } = options;
  const { clock } = scheduler.start('buyers');
  const acknowledged: Acknowledged[] = [];
  const buyers = { finished: false, acknowledged, refused: 0, unknown: 0 };

  const ask = async <Args, Answer>(command: ShardCommand<Args, Answer>, args: Args): Promise<Outcome<Answer>> => {
    const serving = options.nodes().filter(({ roles, shards }) => roles.includes('http') && shards);
    const node = serving[random.below(serving.length)];
    const shards = node?.shards;
    if (!node || !shards) return 'refused';
    let cancel = (): void => undefined;
    const late = new Promise<'unknown'>((resolve) => {
      cancel = clock.later(patienceMs, () => resolve('unknown'));
    });
    const asking = (async (): Promise<Outcome<Answer>> => {
      try {
        const answer = await shards.call(0, command, args);
        const epoch = node.answered?.epoch ?? 0;
        await shards.secure(0, 'fsync');
        return { answer, epoch, node };
      } catch (error) {
        if (!(error instanceof RefusalError) && !isRefused(error)) throw error;
        const code = error instanceof RefusalError ? error.refusal.code : 'overloaded';
        return code === 'unavailable' ? 'unknown' : 'refused';
      }
    })();
    try {
      return await Promise.race([asking, late]);
    } finally {
      cancel();
    }
  };

  /** Asks again until there is an answer, or patience ends. */
  const insist = async <Args, Answer>(
    command: ShardCommand<Args, Answer>,
    args: Args,
  ): Promise<Exclude<Outcome<Answer>, string> | null> => {
    for (let i = 0; i < tries; i++) {
      const outcome = await ask(command, args);
      if (typeof outcome !== 'string') return outcome;
      if (outcome === 'refused') buyers.refused++;
      else buyers.unknown++;
      await clock.wait(random.between(20, 1_200));
    }
    return null;
  };

  const shop = async (name: string, operations: number): Promise<void> => {
    const held: { seq: number; buyer: string; key: string }[] = [];
    const note = (
      kind: Acknowledged['kind'],
      one: { seq: number; buyer: string; key: string },
      told: { answer: { seq: number }; epoch: number; node: Node },
      first: boolean,
      expiresAtMs = 0,
    ): void => {
      scheduler.note(`${one.buyer}${one.key} is told ${kind} ${one.seq} of epoch ${told.epoch} by ${told.node.name}`);
      acknowledged.push({
        ...{ kind, buyer: short(one.buyer), key: short(one.key), seq: one.seq, shardSeq: told.answer.seq },
        ...{ epoch: told.epoch, first, expiresAtMs, node: told.node, atMs: scheduler.nowMs },
        // What lay in its socket as it woke may be of a history that is no more.
        orphan: scheduler.nowMs - told.node.process.wokeMs < 1,
      });
    };
    const reserve = async (buyer: string, key: string, lines: Record<string, number>): Promise<void> => {
      const told = await insist(reserveCommand, reserveArgs([{ buyer, key, lines }]));
      const [result] = told ? reserveResults(told.answer, told.answer.grants) : [];
      if (!told || !result?.grant) return;
      const one = { seq: result.seq, buyer, key };
      note('reserved', one, told, result.status === statusCodes.ok, result.grant.expiresAt);
      held.push(one);
    };
    for (let i = 0; i < operations; i++) {
      await clock.wait(random.between(1, options.pauseMs));
      const one = held[random.below(held.length)];
      const dice = random.next();
      if (!one || dice < 0.45) {
        const lines = random.chance(0.5) ? { shoe: 1 + random.below(2) } : { hat: 1, shoe: 1 };
        await reserve(`${name}-${random.below(3)}`, `k${i}`, lines);
        const last = held.at(-1);
        // The same key once more, though it was answered.
        if (last && random.chance(0.1)) await reserve(last.buyer, last.key, lines);
        continue;
      }
      const [command, kind] =
        dice < 0.75
          ? ([commitCommand, 'committed'] as const)
          : dice < 0.92
            ? ([releaseCommand, 'released'] as const)
            : ([extendCommand, 'extended'] as const);
      const told = await insist(command, { references: [reference(one.seq, one, kind === 'extended' ? 1 : 0)] });
      const result = told?.answer.results[0];
      if (told && result && (result.status === statusCodes.ok || result.status === statusCodes.replay))
        note(kind, one, told, result.status === statusCodes.ok, kind === 'extended' ? result.expiresAt : 0);
      if (kind !== 'extended') held.splice(held.indexOf(one), 1);
    }
  };

  const share = Math.ceil(options.operations / options.count);
  void Promise.all(Array.from({ length: options.count }, (_, i) => shop(`b${i}`, share))).then(() => {
    buyers.finished = true;
  });
  return buyers;
}
