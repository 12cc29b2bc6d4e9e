/** Contenders take turns, round after round: machines are shared and noisy, so that only ratios within a run count. */

export type Spread = { median: number; min: number; max: number };

export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle] : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
  return { median: median ?? 0, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 };
}

export type Contender<Result> = { name: string; run(round: number): Promise<Result> };

/** Round 0 warms all up, and is not in what is answered: name -> a result of each round. */
export async function interleave<Result>(
  contenders: readonly Contender<Result>[],
  rounds: number,
  say: (round: number, name: string, result: Result) => void,
): Promise<Map<string, Result[]>> {
  const results = new Map<string, Result[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    // Who goes first changes, so that none has always the same neighbour.
    const shift = round % contenders.length;
    for (const { name, run } of [...contenders.slice(shift), ...contenders.slice(0, shift)]) {
      const result = await run(round);
      say(round, name, result);
      if (round > 0) results.get(name)?.push(result);
    }
  }
  return results;
}

/** The ratios of two contenders, round by round. */
export function ratios<Result>(
  of: readonly Result[],
  against: readonly Result[],
  pick: (one: Result) => number,
): Spread {
  return spreadOf(
    of.flatMap((one, i) => {
      const other = against[i];
      return other === undefined ? [] : [pick(one) / pick(other)];
    }),
  );
}
