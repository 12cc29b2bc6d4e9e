/** The fuzzers for a short while; `npm run fuzz` is the long form. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { httpFuzzer } from './http-fuzzer.ts';
import { type Fuzzer, runRounds } from './rounds.ts';
import { type FuzzTarget, startTarget } from './target.ts';
import { webSocketFuzzer } from './websocket-fuzzer.ts';

const seed = Number(process.env.STAMPEDE_FUZZ_SEED ?? 1);
let target: FuzzTarget;
beforeAll(async () => {
  target = await startTarget();
});
afterAll(() => target?.stop());

it.each<[string, Fuzzer, number]>([
  ['HTTP', httpFuzzer, 6_000],
  ['WebSocket', webSocketFuzzer, 1_200],
])(
  'bytes that are nearly %s: contract’s answers, a living engine, no unit moved by what is invalid',
  {
    timeout: 600_000,
  },
  async (_, fuzzer, cases) => {
    const options = { seed, from: 0, cases, minutes: 5, progress: () => undefined };
    const report = await runRounds(target, fuzzer, options);
    expect(report.findings.map(({ kind, what, replay, bytes }) => [kind, what, replay, bytes])).toEqual([]);
    expect(report.cases).toBeGreaterThan(500);
    expect(report.movements).toBeGreaterThan(50);
    process.stderr.write(
      `${report.cases} cases of ${fuzzer.name}, seed ${seed}, ${report.movements} movements explained\n`,
    );
  },
);
