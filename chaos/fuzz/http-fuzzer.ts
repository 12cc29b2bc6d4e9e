/** Bytes on a socket that are HTTP/1.1, or nearly. */
import { exchange } from './connection.ts';
import { httpCase } from './http-cases.ts';
import { httpComplete, judgeHttp } from './http-judge.ts';
import { escaped } from './mutate.ts';
import type { Fuzzer } from './rounds.ts';

export const httpFuzzer: Fuzzer = {
  name: 'http',
  async run(target, world, seed, number) {
    const one = httpCase(world, seed, number);
    const bytes = Buffer.concat(one.pieces);
    const outcome = await exchange({ ...one, port: target.port, complete: httpComplete(bytes) });
    const { wrongs, claims, statuses, busy, lenient } = judgeHttp(one, outcome, world);
    const replay = `npm run fuzz -- --only http --seed ${seed} --from ${number} --cases 1`;
    const shown = `${escaped(bytes)}\n  answered: ${escaped(outcome.received, 400)}${outcome.closed ? ' (closed)' : ''}`;
    return {
      kind: one.kind.replace(/: .*/, ''),
      statuses: statuses.length > 0 ? statuses : [outcome.closed ? 'closed' : 'nothing'],
      claims,
      busy,
      lenient,
      findings: wrongs.map((what) => ({ kind: one.kind, what, replay, bytes: shown })),
    };
  },
};
