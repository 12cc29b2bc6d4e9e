/** How a `stampede sale` shows itself: steps, then the sale, live on a terminal and in plain lines elsewhere. */
import { styleText } from 'node:util';
import { createLogUpdate } from 'log-update';
import type { Counts } from '../bench/tally.ts';
import type { SaleSeen } from './sale-watch.ts';

export type SaleMoment = {
  /** Since the sale opened; negative before. */
  seconds: number;
  units: number;
  buyers: number;
  counts: Counts;
  seen: SaleSeen;
};

export type SaleView = {
  /** Something began that takes a while. */
  step(name: string): void;
  /** How the step is going on. */
  detail(text: string): void;
  /** The step ended well. */
  stepDone(text: string): void;
  moment(moment: SaleMoment): void;
  /** Takes away what is updated in place; what comes after is written below. */
  close(): void;
};

type Stream = NodeJS.WriteStream;

/** A step that takes longer than this says what it is doing, where nothing is updated in place. */
const quietMs = 2_000;
const lineEveryMs = 2_000;
const redrawEveryMs = 100;
const barWidth = 50;

const number = new Intl.NumberFormat('en').format;

/** As many characters for each share as its part of the whole says; what is not zero gets at least one. */
export function barOf(shares: { units: number; character: string }[], whole: number, width: number): string[] {
  const cells = shares.map(({ units }) => (units <= 0 ? 0 : Math.max(1, Math.round((units / whole) * width))));
  while (cells.reduce((sum, cell) => sum + cell, 0) > width) {
    const widest = cells.indexOf(Math.max(...cells));
    cells[widest] = (cells[widest] ?? 1) - 1;
  }
  return shares.map(({ character }, i) => character.repeat(cells[i] ?? 0));
}

function frameOf({ seconds, units, buyers, counts, seen }: SaleMoment): string {
  const { sold, reserved, available } = seen;
  const [soldBar, heldBar, leftBar] = barOf(
    [
      { units: sold, character: '█' },
      { units: reserved, character: '▓' },
      { units: available, character: '░' },
    ],
    Math.max(1, units),
    barWidth,
  );
  const bar = `${styleText('green', soldBar ?? '')}${styleText('yellow', heldBar ?? '')}${leftBar ?? ''}`;
  const trying = buyers - counts.bought - counts.left;
  return [
    '',
    `  ${bar}`,
    `  ${styleText('green', `sold ${number(sold)}`)}   ${styleText('yellow', `held ${number(reserved)}`)}   left ${number(available)}`,
    '',
    `  time      ${seconds < 0 ? `opens in ${(-seconds).toFixed(1)} s` : `${seconds.toFixed(1)} s`}`,
    `  answers   ${number(seen.answersPerSecond)} a second, ${number(counts.answers)} in all`,
    `  buyers    ${number(trying)} trying, ${number(counts.bought)} bought, ${number(counts.left)} gone home`,
    `  ledger    ${seen.ledgerLagEvents === 0 ? 'level' : `${number(seen.ledgerLagEvents)} events behind, ${number(seen.ledgerLagMs)} ms`}`,
    '',
  ].join('\n');
}

function lineOf({ seconds, counts, seen, buyers }: SaleMoment): string {
  const trying = buyers - counts.bought - counts.left;
  return `${seconds.toFixed(1).padStart(5)} s: sold ${number(seen.sold)}, held ${number(seen.reserved)}, left ${number(seen.available)}; ${number(trying)} buyers trying; ${number(counts.answers)} answers; ledger ${number(seen.ledgerLagEvents)} events behind`;
}

function terminalView(stream: Stream): SaleView {
  const update = createLogUpdate(stream);
  let name = '';
  let shownMs = 0;
  return {
    step(text) {
      name = text;
      update(`${styleText('dim', '…')} ${text}`);
    },
    detail(text) {
      const nowMs = performance.now();
      if (nowMs - shownMs < redrawEveryMs) return;
      shownMs = nowMs;
      update(`${styleText('dim', '…')} ${name}: ${text}`);
    },
    stepDone(text) {
      update(`${styleText('green', '✔')} ${text}`);
      update.done();
    },
    moment(moment) {
      const nowMs = performance.now();
      if (nowMs - shownMs < redrawEveryMs) return;
      shownMs = nowMs;
      update(frameOf(moment));
    },
    close() {
      update.clear();
      update.done();
    },
  };
}

function plainView(write: (line: string) => void): SaleView {
  let name = '';
  let shownMs = 0;
  return {
    step(text) {
      name = text;
      shownMs = performance.now();
    },
    detail(text) {
      const nowMs = performance.now();
      if (nowMs - shownMs < quietMs) return;
      shownMs = nowMs;
      write(`${name}: ${text}`);
    },
    stepDone: write,
    moment(moment) {
      const nowMs = performance.now();
      if (moment.seconds < 0 || nowMs - shownMs < lineEveryMs) return;
      shownMs = nowMs;
      write(lineOf(moment));
    },
    close() {},
  };
}

/** `stream` null: nothing is shown. */
export function createSaleView(stream: Stream | null): SaleView {
  if (stream?.isTTY) return terminalView(stream);
  return plainView((line) => {
    stream?.write(`${line}\n`);
  });
}
