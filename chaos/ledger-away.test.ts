/** The quick form of `npm run ledger-away`: what must hold while Postgres or Kafka is away and the outbox is full. */
import { expect, it } from 'vitest';
import { limits } from '../kernel/limits.ts';
import { type AwayReport, runLedgerAway, wrongsOf } from './ledger-away-run.ts';

const events = 15_000;
const silent = { step: () => undefined, detail: () => undefined, stepDone: () => undefined };

it.each([['postgres'], ['kafka']] as const)(
  'without %s the outbox fills up to its limit, then holds are refused and endings go through; later all drains',
  async (away) => {
    const options = { events, away, churnEvents: 0, rememberSeconds: limits.rememberSeconds };
    const report = await runLedgerAway(options, silent);
    expect(report).toMatchObject({
      refusedWith: 'overloaded',
      whenFull: {
        ...{ reserve: 'overloaded', 'the same key again': '201', extend: 'overloaded' },
        ...{ commit: '200', release: '200' },
      },
      endings: { ended: report.endings.holds, left: 0 },
      reserve: { full: 'overloaded', after: '201' },
      ...{ lag: 0, drift: 0, unread: [] },
    });
    // Some were ended by calls, and some by the sweep, while the outbox was full.
    expect(Math.min(report.endings.holds, report.endings.lapsing)).toBeGreaterThan(0);
    expect([events - 1, events]).toContain(report.mostWaiting);
    expect(report.kept).toBeLessThan(limits.outboxTailEvents + 1_000);
    expect(report.most.usedMemoryBytes).toBeLessThan(report.maxmemoryBytes);
    expect(wrongsOf(report)).toEqual([]);

    const broken: Partial<AwayReport>[] = [
      { refusedWith: '' },
      { whenFull: { ...report.whenFull, commit: 'overloaded' } },
      { endings: { ...report.endings, ended: report.endings.holds - 1 } },
      { endings: { ...report.endings, left: 1 } },
      { mostWaiting: events + 1 },
      { mostWaiting: events - 100 },
      { reserve: { full: '201', after: '201' } },
      { reserve: { full: 'overloaded', after: 'overloaded' } },
      ...[{ lag: 1 }, { drift: 1 }, { unread: ['away'] }, { kept: events }, { maxmemoryBytes: 1_000 }],
    ];
    for (const wrong of broken) expect(wrongsOf({ ...report, ...wrong }), JSON.stringify(wrong)).toHaveLength(1);
  },
  300_000,
);
