/** What a `stampede sale` reads of the ledger: when it is level with the shards, and whether all counts agree. */
import { systemClock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { encodeReservationId } from '../kernel/ids.ts';
import { createLogger } from '../kernel/logger.ts';
import { readWatermark } from '../ledger/postgres.ts';
import { type Reconciliation, reconcile } from '../ledger/reconcile.ts';
import { openStores } from './compose.ts';

export type SaleLedger = {
  /** Resolves when the ledger has all that the shards have done until now; false when it takes longer than `waitMs`. */
  level(waitMs: number): Promise<boolean>;
  reconcile(waitMs: number): Promise<Reconciliation>;
  /** The ids of the sale's reservations that the ledger has as committed. */
  committed(saleId: string): Promise<Set<string>>;
  close(): Promise<void>;
};

const lookEveryMs = 10;

/** Looks at the stores without changing them. */
export async function openSaleLedger(config: Config): Promise<SaleLedger> {
  const logger = createLogger({ level: 'silent', name: 'stampede' });
  const { pool, outbox, close } = await openStores(config, logger, { observe: true });
  const shards = Array.from({ length: config.shards }, (_, shard) => shard);
  return {
    async level(waitMs) {
      const untilMs = systemClock.monotonicMs() + waitMs;
      const levels = shards.map(async (shard) => {
        const { seq } = await outbox.snapshot(shard);
        for (;;) {
          const { watermark, stopped } = await readWatermark(pool, shard);
          if (watermark >= seq) return true;
          if (stopped !== null || systemClock.monotonicMs() > untilMs) return false;
          await systemClock.wait(lookEveryMs);
        }
      });
      return (await Promise.all(levels)).every(Boolean);
    },
    reconcile: (waitMs) => reconcile({ pool, source: outbox, shards: config.shards, waitMs, clock: systemClock }),
    async committed(saleId) {
      const { rows } = await pool.query<{ shard: number; seq: string; sale: number; buyer: string; key: string }>(
        `select r.shard, r.seq, r.sale, r.buyer, r.key from ledger.reservation r
           join ledger.sale s on s.shard = r.shard and s.sale = r.sale
          where s.id = $1 and r.state = 'committed'`,
        [saleId],
      );
      return new Set(rows.map((row) => encodeReservationId({ ...row, seq: Number(row.seq) })));
    },
    close,
  };
}
