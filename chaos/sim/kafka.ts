/** A partition of Kafka and its consumer group, simulated: a log with offsets, of which the group has committed one. */
import { type Applied, ShardStopped } from '../../ledger/apply.ts';
import type { Batch } from '../../ledger/events.ts';
import type { Carrier } from '../../ledger/relay.ts';
import type { Random } from '../random.ts';
import type { Process, Scheduler } from './scheduler.ts';

export type KafkaFaults = {
  away: boolean;
  /** How many of the next sends are taken and not acknowledged, of which some are sent once more, late. */
  unacknowledged: number;
  /** Until when nobody reads. */
  unreadUntilMs: number;
};

export type SimKafka = ReturnType<typeof createSimKafka>;

const fetchMax = 40;
const pollMs = 60;

export function createSimKafka(options: {
  scheduler: Scheduler;
  random: Random;
  faults: KafkaFaults;
  delayMs(): number;
  struck(kind: 'answer of Kafka lost' | 'Kafka got it late'): void;
  /** Told when its data are gone. */
  lost(): void;
}) {
  const { scheduler, random, faults, delayMs, struck } = options;
  let log: Batch[] = [];
  let low = 0;
  let committed = 0;
  let generation = 0;
  const high = (): number => low + log.length;
  const append = (batches: Batch[]): void => {
    log.push(...batches);
  };
  const answer = <Answer>(process: Process, work: () => Answer): Promise<Answer> =>
    new Promise((resolve, reject) => {
      scheduler.after(delayMs(), null, '', () => {
        if (faults.away) {
          scheduler.after(200, process, '', () => reject(new Error('Kafka cannot be reached')));
          return;
        }
        const done = work();
        scheduler.after(delayMs(), process, '', () => resolve(done));
      });
    });

  const carrierFor = (process: Process): Carrier => ({
    deliver: (_shard, batches) =>
      new Promise((resolve, reject) => {
        scheduler.after(delayMs(), null, '', () => {
          if (faults.away) {
            scheduler.after(300, process, '', () => reject(new Error('Kafka did not take the events')));
            return;
          }
          // A copy, as what is sent is text.
          const copy = JSON.parse(JSON.stringify(batches)) as Batch[];
          scheduler.note(`${process.name} sends to ${copy.at(-1)?.seqLast}`);
          if (faults.unacknowledged > 0) {
            faults.unacknowledged--;
            struck('answer of Kafka lost');
            scheduler.after(random.between(20, 800), process, '', () => reject(new Error('no acknowledgement')));
            // It came at once, or late, or both: then it is a retry that the producer gave up.
            const late = random.chance(0.5);
            if (!late || random.chance(0.5)) append(copy);
            if (late) {
              struck('Kafka got it late');
              scheduler.after(random.between(100, 4_000), null, `what ${process.name} sent comes late`, () =>
                append(copy),
              );
            }
            return;
          }
          append(copy);
          scheduler.after(delayMs(), process, '', resolve);
        });
      }),
    close: async () => undefined,
  });

  /** One member of the group. One that is no longer its newest reads on for a while, but commits nothing. */
  const startConsumer = (process: Process, apply: (shard: number, batches: Batch[]) => Promise<Applied>): void => {
    let member = ++generation;
    const loop = async (): Promise<void> => {
      let position = -1;
      for (;;) {
        try {
          while (faults.unreadUntilMs > scheduler.nowMs) await process.clock.wait(pollMs);
          const read = await answer(process, () => {
            if (position < 0 || position > high()) position = committed;
            const from = Math.max(position, low);
            return { from, batches: log.slice(from - low, from - low + 1 + random.below(fetchMax)) };
          });
          if (read.batches.length === 0) {
            await process.clock.wait(pollMs);
          } else {
            for (const [shard, batches] of Map.groupBy(read.batches, (batch) => batch.shard)) {
              try {
                await apply(shard, batches);
              } catch (error) {
                if (!(error instanceof ShardStopped)) throw error;
                scheduler.note(`${process.name} passes over events of a stopped shard`);
              }
            }
            position = read.from + read.batches.length;
          }
          const mine = await answer(process, () => {
            if (member !== generation) return false;
            committed = Math.min(high(), position < 0 ? committed : position);
            return true;
          });
          if (!mine) {
            // It learns that the partition was taken from it, and asks to have it back: the other one loses it then.
            scheduler.note(`${process.name} lost the partition`);
            await process.clock.wait(random.between(200, 2_000));
            member = await answer(process, () => ++generation);
            position = -1;
          }
        } catch {
          position = -1;
          await process.clock.wait(500);
        }
      }
    };
    void loop();
  };

  return {
    carrierFor,
    startConsumer,
    drained: (process: Process): Promise<boolean> => answer(process, () => log.length === 0 || committed >= high()),
    /** What the topic still has of a range, by a group of its own. */
    async replay(process: Process, from: number, to: number, take: (batches: Batch[]) => Promise<void>): Promise<void> {
      const wanted = await answer(process, () =>
        log.filter(({ seqLast, seqFirst }) => seqLast >= from && seqFirst <= to),
      );
      for (let i = 0; i < wanted.length; i += fetchMax) await take(wanted.slice(i, i + fetchMax));
    },
    /** The group's newest member reads again what it had read. */
    redeliver(): boolean {
      const back = Math.min(committed - low, 1 + random.below(10));
      committed -= back;
      generation++;
      return back > 0;
    },
    /** Its data are gone; the topic is made anew. */
    lose(): void {
      options.lost();
      log = [];
      low = 0;
      committed = 0;
      generation++;
    },
    /** How far its batches of epochs after `epoch` go on from `seq` without a hole. */
    reachesFrom(seq: number, epoch: number): number {
      let reached = seq;
      for (let before = -1; before !== reached; ) {
        before = reached;
        for (const batch of log)
          if (batch.epoch > epoch && batch.seqFirst <= reached + 1 && batch.seqLast > reached) reached = batch.seqLast;
      }
      return reached;
    },
  };
}
