/** One process of the crowd: `crowd.ts` starts it and says what to do. It ends with the one that started it. */
import { type Buyer, visitSale } from './buyer.ts';
import { openConnection } from './connection.ts';
import type { FromProcess, Gather, Rush } from './crowd.ts';
import { createRandom } from './random.ts';
import { watchSale } from './sale-sight.ts';
import { createTally } from './tally.ts';

const tellEveryMs = 200;
const arrivingAtOnce = 128;
const arrivalTries = 5;

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function tell(message: FromProcess): void {
  // Without anybody to hear it there is nobody to tell of an error: the process ends by itself.
  if (process.connected) process.send?.(message, undefined, {}, () => undefined);
}

/** Calls `say` now and then until the answer is called. */
function nowAndThen(say: () => void): () => void {
  const telling = setInterval(say, tellEveryMs);
  return () => {
    clearInterval(telling);
    say();
  };
}

/**
 * A loopback address for each buyer. A pair of addresses has some 28,000 ports, and those of closed connections stay
 * taken for a minute; where few are free, the kernel searches for milliseconds at each connection.
 */
function loopbackAddress(index: number): string {
  const place = index + 2;
  return `127.${1 + (place >> 16)}.${(place >> 8) & 255}.${place & 255}`;
}

/** A buyer with a connection and a session. Throws when the engine doesn't give one, tried a few times. */
async function arrive(order: Gather, index: number): Promise<Buyer> {
  const another = () =>
    openConnection({
      url: order.url,
      limitMs: order.requestLimitMs,
      ...(order.ownAddresses ? { localAddress: loopbackAddress(index) } : {}),
    });
  const connection = another();
  const random = createRandom(order.seed, index);
  let reason = '';
  for (let tries = 0; tries < arrivalTries; tries++) {
    try {
      const { status, body } = await connection.send({ method: 'POST', path: '/v1/sessions', body: '{}' });
      if (status === 201) {
        const { buyerId, token } = body as { buyerId: string; token: string };
        return { index, id: buyerId, token, connection, another, random };
      }
      reason = `status ${status}`;
    } catch (error) {
      reason = error instanceof Error ? error.message : String(error);
    }
    await wait(200 * 2 ** tries);
  }
  connection.close();
  throw new Error(`buyer ${index} got no session: ${reason}`);
}

async function gather(order: Gather): Promise<Buyer[]> {
  const buyers: Buyer[] = [];
  const done = nowAndThen(() => tell({ type: 'gathering', arrived: buyers.length }));
  let next = order.first;
  const end = order.first + order.count;
  try {
    await Promise.all(
      Array.from({ length: arrivingAtOnce }, async () => {
        while (next < end) buyers.push(await arrive(order, next++));
      }),
    );
  } finally {
    done();
  }
  return buyers;
}

async function rush(buyers: Buyer[], order: Gather, { opensAtMs, endsAtMs }: Rush): Promise<void> {
  const tally = createTally(opensAtMs);
  const sight = watchSale(order.url, order.saleId);
  const { saleId, sku, holdSeconds, commitRate } = order;
  const visit = { saleId, sku, holdSeconds, commitRate, opensAtMs, endsAtMs, sight, tally };
  const done = nowAndThen(() => tell({ type: 'counts', counts: tally.counts }));
  await Promise.all(buyers.map((buyer) => visitSale(buyer, visit)));
  sight.stop();
  done();
  tell({ type: 'finished', report: tally.report() });
}

// Thousands of connections are cut on purpose: nobody reads where.
Error.stackTraceLimit = 0;

let ordered: Gather | null = null;
let gathered: Buyer[] = [];

// Ctrl-C in a terminal reaches all processes there: this one ends when it is told to, or when it is left alone.
process.on('SIGINT', () => undefined);
process.on('disconnect', () => process.exit(0));
process.on('message', (order: Gather | Rush) => {
  const work =
    order.type === 'gather'
      ? gather(order).then((buyers) => {
          ordered = order;
          gathered = buyers;
          tell({ type: 'gathered' });
        })
      : ordered
        ? rush(gathered, ordered, order)
        : Promise.reject(new Error('nobody was gathered'));
  work.catch((error: unknown) =>
    tell({ type: 'failed', message: error instanceof Error ? error.message : String(error) }),
  );
});
