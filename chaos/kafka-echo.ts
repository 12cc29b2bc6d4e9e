/** Somebody who sends all that the ledger's topic has once more, shuffled: Kafka that delivers twice and out of order. */
import { Kafka, type KafkaMessage, logLevel } from 'kafkajs';
import { within } from '../kernel/clock.ts';
import type { Random } from './random.ts';

const heldMessages = 400;

/** Begins with what is there; goes on with what comes. `stop` resolves when nothing more is sent. */
export async function startEcho(brokers: string, random: Random): Promise<{ sent(): number; stop(): Promise<void> }> {
  const kafka = new Kafka({ clientId: 'stampede-chaos', brokers: [brokers], logLevel: logLevel.NOTHING });
  const admin = kafka.admin();
  const producer = kafka.producer();
  const consumer = kafka.consumer({ groupId: `chaos.${random.int(0, 1e9)}`, maxWaitTimeInMs: 100 });
  await Promise.all([admin.connect(), producer.connect(), consumer.connect()]);
  const topic = (await admin.listTopics()).find((name) => /^stampede\..*\.events$/.test(name));
  if (topic === undefined) throw new Error('the ledger has no topic yet');
  const own = 'echo';
  const held: { partition: number; message: KafkaMessage }[] = [];
  let sent = 0;
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    eachBatch: async ({ batch }) => {
      for (const message of batch.messages) {
        if (message.headers?.[own] !== undefined) continue;
        held.push({ partition: batch.partition, message });
        if (held.length < heldMessages && !random.chance(0.05)) continue;
        const again = held.splice(0).toSorted(() => random.next() - 0.5);
        const topicMessages = [
          {
            topic,
            messages: again.map(({ partition, message: { key, value } }) => ({
              key,
              value,
              partition,
              headers: { [own]: '1' },
            })),
          },
        ];
        await producer.sendBatch({ acks: -1, topicMessages });
        sent += again.length;
      }
    },
  });
  return {
    sent: () => sent,
    async stop() {
      for (const one of [consumer, producer, admin])
        await within(one.disconnect(), 5_000, 'Kafka did not let go in time').catch(() => undefined);
    },
  };
}
