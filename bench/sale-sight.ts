/** What the buyers of one process see of the sale: one poller looks for all of them. */
import { openConnection } from './connection.ts';

export type SaleSight = {
  /** Nothing is left and nothing is held, or the sale is closed: who has nothing now gets nothing any more. */
  readonly gone: boolean;
  /** Waits, but not beyond the moment when the sale is gone. */
  pause(ms: number): Promise<void>;
  stop(): void;
};

const lookEveryMs = 100;
const lookLimitMs = 5_000;

type SaleBody = { state: string; stock: { available: number; reserved: number }[] };

function isGone(body: unknown): boolean {
  const { state, stock } = body as SaleBody;
  return state === 'closed' || stock.every(({ available, reserved }) => available === 0 && reserved === 0);
}

export function watchSale(url: string, saleId: string): SaleSight {
  const connection = openConnection({ url, limitMs: lookLimitMs });
  const sleepers = new Set<() => void>();
  let gone = false;
  let looking: NodeJS.Timeout | undefined;

  const look = async (): Promise<void> => {
    try {
      const { status, body } = await connection.send({ method: 'GET', path: `/v1/sales/${saleId}` });
      gone = status === 200 && isGone(body);
    } catch {
      // The next look tells.
    }
    if (gone) {
      for (const wake of [...sleepers]) wake();
      connection.close();
    } else {
      looking = setTimeout(look, lookEveryMs);
    }
  };
  looking = setTimeout(look, lookEveryMs);

  return {
    get gone() {
      return gone;
    },
    pause: (ms) =>
      new Promise((resolve) => {
        if (gone) {
          resolve();
          return;
        }
        const wake = (): void => {
          clearTimeout(timer);
          sleepers.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, Math.max(0, ms));
        sleepers.add(wake);
      }),
    stop() {
      clearTimeout(looking);
      connection.close();
    },
  };
}
