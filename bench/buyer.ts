/**
 * One buyer of the crowd: presses the button when the sale opens, sometimes twice, sometimes hanging up in the middle;
 * buys what is held, or lets the hold expire; and tries again until the sale is gone. Checks all that it is told.
 */
import type { Answer, Connection } from './connection.ts';
import type { SaleSight } from './sale-sight.ts';
import { type Ending, nowMs, type Purchase, type Tally } from './tally.ts';

export type Buyer = {
  index: number;
  id: string;
  token: string;
  connection: Connection;
  /** A connection of this buyer's own besides the first one. */
  another(): Connection;
  random(): number;
};

export type Visit = {
  saleId: string;
  sku: string;
  holdSeconds: number;
  /** How many of the holds are bought, 0 to 1. */
  commitRate: number;
  opensAtMs: number;
  /** Who has nothing by then goes home. */
  endsAtMs: number;
  sight: SaleSight;
  tally: Tally;
};

/** How many do something special: of the buyers, of the presses of the button, or of the holds. */
const shares = { early: 0.2, doubleClick: 0.06, hangUp: 0.04, greedy: 0.05, leaveAfterAbandoning: 0.5 };
/** Buyers look at the sale that long before it opens at most; some press the button there and then. */
const earlyMs = 2_000;
const hangUpWithinMs = 20;
const backOff = { firstMs: 200, mostMs: 3_000 };
/** A hold that has ended counts for the buyer's limit until it is swept: that long at the most. */
const sweptWithinMs = 5_000;

type Hold = { id: string; expiresAtMs: number };
type Problem = { code?: string; reservationState?: string };

const codeOf = (answer: Answer): string => (answer.body as Problem | null)?.code ?? `status ${answer.status}`;
const mayRetry = (status: number): boolean => status === 429 || status === 503;
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));

class TooLate extends Error {}

/** A whole visit, to its end. Never rejects, and ends soon after `endsAtMs`. */
export async function visitSale(buyer: Buyer, visit: Visit): Promise<void> {
  const { tally } = visit;
  try {
    const { ending, purchase } = await shop(buyer, visit);
    tally.ended(ending, purchase);
  } catch (error) {
    if (!(error instanceof TooLate)) tally.complain(`buyer ${buyer.index}: ${String(error)}`);
    tally.ended(error instanceof TooLate ? 'late' : 'fault');
  } finally {
    buyer.connection.close();
  }
}

async function shop(buyer: Buyer, visit: Visit): Promise<{ ending: Ending; purchase?: Purchase }> {
  const { sight, tally, commitRate } = visit;
  const { random } = buyer;
  await wait(visit.opensAtMs - nowMs() - random() * earlyMs);
  if (random() >= shares.early) {
    // A connection that was cut while the crowd gathered is opened again before the sale.
    await buyer.connection.send({ method: 'GET', path: `/v1/sales/${visit.saleId}` }).catch(() => undefined);
    await wait(visit.opensAtMs - nowMs());
  }

  let holds = 0;
  let lastHoldEndMs = 0;
  let refusals = 0;
  for (;;) {
    const pressedAtMs = nowMs();
    const answer = await press(buyer, visit, `${buyer.index}-${holds}`);
    if (answer.status === 201) {
      let hold = readHold(buyer, visit, answer);
      if (hold && random() < shares.greedy) hold = await askForAnother(buyer, visit, hold);
      if (!hold) return { ending: 'fault' };
      holds++;
      refusals = 0;
      lastHoldEndMs = hold.expiresAtMs;
      if (random() < commitRate) {
        if (await buy(buyer, visit, hold))
          return { ending: 'bought', purchase: { reservationId: hold.id, buyerId: buyer.id } };
      } else {
        tally.count('abandoned');
        if (random() < shares.leaveAfterAbandoning) return { ending: 'gave-up' };
        await sight.pause(hold.expiresAtMs - nowMs() + random() * 200);
        if (sight.gone) return { ending: 'sold-out' };
      }
      continue;
    }
    const code = codeOf(answer);
    if (code === 'sale-not-open') {
      if (sight.gone) return { ending: 'sold-out' };
      await wait(Math.max(0, visit.opensAtMs - nowMs()) + random() * 20);
    } else if (code === 'sold-out' || (code === 'purchase-limit' && pressedAtMs < lastHoldEndMs + sweptWithinMs)) {
      await sight.pause(backOffMs(refusals++, random));
      if (sight.gone) return { ending: 'sold-out' };
    } else {
      tally.complain(`buyer ${buyer.index} has nothing and pressed the button: ${code}`);
      return { ending: 'fault' };
    }
  }
}

/** Half the step, and up to as much again by chance: a crowd that was refused together does not come back together. */
function backOffMs(refusals: number, random: () => number): number {
  return Math.min(backOff.mostMs, backOff.firstMs * 2 ** Math.min(refusals, 10)) * (0.5 + random() / 2);
}

/**
 * Who holds a unit of a sale that gives each buyer one must not be given a second, unless the first hold has ended
 * meanwhile: then the second is the one that counts. Answers what is held.
 */
async function askForAnother(buyer: Buyer, visit: Visit, hold: Hold): Promise<Hold | null> {
  visit.tally.count('greedy');
  const answer = await press(buyer, visit, `${hold.id}-another`);
  if (answer.status !== 201) return hold;
  if (nowMs() < hold.expiresAtMs)
    visit.tally.complain(`buyer ${buyer.index} holds ${hold.id} and was given a second unit`);
  return readHold(buyer, visit, answer);
}

/** The first answer that says something, however often the request must be sent. */
async function until(
  buyer: Buyer,
  visit: Visit,
  call: 'reserve' | 'commit',
  send: (attempt: number) => Promise<Answer | null>,
): Promise<Answer> {
  for (let attempt = 0; ; attempt++) {
    if (nowMs() > visit.endsAtMs) throw new TooLate();
    const answer = await send(attempt).catch(() => null);
    if (answer) {
      visit.tally.answered(call, answer.ms);
      if (!mayRetry(answer.status)) return answer;
    }
    visit.tally.count('resent');
    await wait((answer?.retryAfterMs ?? 0) * (0.5 + buyer.random()) + backOffMs(attempt, buyer.random));
  }
}

/** Presses the button once, in one manner or another, until it is known what came of it. */
async function press(buyer: Buyer, visit: Visit, idempotencyKey: string): Promise<Answer> {
  const { tally } = visit;
  const { connection, token, random } = buyer;
  const body = JSON.stringify({ saleId: visit.saleId, lines: [{ sku: visit.sku, quantity: 1 }] });
  const request = { method: 'POST', path: '/v1/reservations', token, idempotencyKey, body } as const;
  const manner = random();
  const doubleClick = manner < shares.doubleClick;
  let hungUp = !doubleClick && manner < shares.doubleClick + shares.hangUp;
  const hangUpAfterMs = random() * hangUpWithinMs;
  let cut = false;

  const answer = await until(buyer, visit, 'reserve', async (attempt) => {
    if (attempt === 0 && doubleClick) {
      tally.count('doubleClicks');
      const second = buyer.another();
      try {
        return sameAnswer(buyer, visit, await Promise.allSettled([connection.send(request), second.send(request)]));
      } finally {
        second.close();
      }
    }
    if (hungUp) {
      hungUp = false;
      const answered = await connection.send(request, hangUpAfterMs).catch(() => null);
      if (answered) return answered;
      cut = true;
      tally.count('hangUps');
      await wait(random() * 100);
    }
    return connection.send(request);
  });
  if (cut && answer.replayed) tally.count('replays');
  return answer;
}

/** Both clicks have one key: where both are granted, it must be the same reservation. */
function sameAnswer(buyer: Buyer, visit: Visit, clicks: PromiseSettledResult<Answer>[]): Answer | null {
  const answers = clicks.flatMap((click) => (click.status === 'fulfilled' ? [click.value] : []));
  const granted = answers.filter(({ status }) => status === 201);
  const [first, second] = granted.map(({ body }) => (body as { id: string }).id);
  if (first !== undefined && second !== undefined && first !== second)
    visit.tally.complain(`buyer ${buyer.index} clicked twice with one key and was given ${first} and ${second}`);
  // The other click's answer counts as well; the one that is returned is counted by whoever asked.
  const told = granted[0] ?? answers.find(({ status }) => !mayRetry(status)) ?? answers[0] ?? null;
  for (const other of answers) if (other !== told) visit.tally.answered('reserve', other.ms);
  return told;
}

/** The hold in an answer, or null, with a complaint, when it is not what was asked for. */
function readHold(buyer: Buyer, visit: Visit, answer: Answer): Hold | null {
  const body = answer.body as {
    id?: unknown;
    saleId?: unknown;
    buyerId?: unknown;
    state?: unknown;
    lines?: { sku?: unknown; quantity?: unknown }[];
    expiresAt?: unknown;
  };
  const units = body.lines?.reduce((sum, { quantity }) => sum + Number(quantity), 0);
  const expiresAtMs = Date.parse(String(body.expiresAt));
  const right =
    typeof body.id === 'string' &&
    body.saleId === visit.saleId &&
    body.buyerId === buyer.id &&
    body.state === 'held' &&
    units === 1 &&
    body.lines?.[0]?.sku === visit.sku &&
    // A replay repeats the first answer, which may be some time ago.
    expiresAtMs <= nowMs() + visit.holdSeconds * 1_000 + 1_000;
  if (right) return { id: String(body.id), expiresAtMs };
  visit.tally.complain(`buyer ${buyer.index} asked for one unit and was told ${JSON.stringify(body).slice(0, 300)}`);
  return null;
}

/** Buys what is held; false when the hold had ended before. */
async function buy(buyer: Buyer, visit: Visit, hold: Hold): Promise<boolean> {
  const { tally } = visit;
  // Buyers fill in a form: some at once, others take up to a third of the time they have.
  await wait(buyer.random() * Math.min((visit.holdSeconds * 1_000) / 3, 2_000));
  const request = { method: 'POST', path: `/v1/reservations/${hold.id}/commit`, token: buyer.token } as const;
  const answer = await until(buyer, visit, 'commit', () => buyer.connection.send(request));
  const body = answer.body as Problem & { id?: string; state?: string };
  if (answer.status === 200 && body.id === hold.id && body.state === 'committed') return true;
  if (body.code !== 'reservation-ended')
    tally.complain(`buyer ${buyer.index} committed ${hold.id} and was told ${codeOf(answer)}`);
  else if (nowMs() < hold.expiresAtMs)
    tally.complain(`buyer ${buyer.index}'s hold ${hold.id} was ${body.reservationState} before its time`);
  return false;
}
