/** `stampede repair`: carries out what `stampede reconcile --repair …` printed. */
import { text } from 'node:stream/consumers';
import type { Config } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { createLogger } from '../kernel/logger.ts';
import { differenceOf, parseStep, type RepairStep, repairLedger } from '../ledger/repair.ts';
import { correctCommand, statusCodes } from '../lua/bindings.ts';
import { openStores, type Stores } from './compose.ts';

type Done = { step: RepairStep; outcome: 'done' | 'done before' | 'refused'; why?: string };

/** Reads a plan, a step a line. Throws a SetupError for a line that is none: then nothing has been done. */
export async function readPlan(input: NodeJS.ReadableStream): Promise<RepairStep[]> {
  const lines = (await text(input)).split('\n').filter((line) => line.trim() !== '');
  return lines.map((line, i) => {
    const step = parseStep(line);
    if (!step)
      throw new SetupError('bad-plan', `line ${i + 1} is no step of a plan: give what \`reconcile --repair\` prints`);
    return step;
  });
}

async function carryOut(stores: Stores, step: RepairStep): Promise<Done> {
  const { rows } = await stores.pool.query<{ epoch: number }>('select epoch from ledger.shard where shard = $1', [
    step.shard,
  ]);
  // A rebuild has put right what there was to put right, and knows no steps that were done before it.
  if (rows[0]?.epoch !== step.epoch)
    return { step, outcome: 'refused', why: 'the plan is of another epoch of the shard. Reconcile again.' };
  const { available, reserved, sold } = differenceOf(step);
  if (step.repair === 'ledger') {
    const done = await repairLedger(stores.pool, step);
    return { step, outcome: done ? 'done' : 'done before' };
  }
  const { shard, sale, id, sku, warehouse } = step;
  const change = { onHand: available + reserved, reserved, sold };
  const { status } = await stores.shards.call(shard, correctCommand, {
    ...{ sale, sku, warehouse, ...change },
    id: `${id}-${sku}-${warehouse}`.slice(0, 255),
  });
  if (status === statusCodes.ok) return { step, outcome: 'done' };
  if (status === statusCodes.replay) return { step, outcome: 'done before' };
  return { step, outcome: 'refused', why: 'a counter would come below zero: sold in the meantime? Reconcile again.' };
}

const describe = ({ step, outcome, why }: Done): string => {
  const { repair, saleId, sku, warehouse } = step;
  const { available, reserved, sold } = differenceOf(step);
  const signed = (units: number): string => (units > 0 ? `+${units}` : String(units));
  const change = `available ${signed(available)}, reserved ${signed(reserved)}, sold ${signed(sold)}`;
  return `${outcome}: ${repair}, ${saleId} ${sku} ${warehouse}: ${change}${why ? ` (${why})` : ''}`;
};

/** Answers the exit code: 0 all done, 1 some were refused, 2 set up wrongly or couldn't be reached. */
export async function repairCommand(
  config: Config,
  input: NodeJS.ReadableStream,
  options: { json: boolean },
  print: (line: string) => void,
): Promise<0 | 1> {
  const steps = await readPlan(input);
  const stores = await openStores(config, createLogger({ level: 'silent', name: 'stampede' }), { observe: true });
  const all: Done[] = [];
  try {
    for (const step of steps) {
      const done = await carryOut(stores, step).catch(
        (error: unknown): Done => ({
          step,
          outcome: 'refused',
          why: error instanceof Error ? error.message : String(error),
        }),
      );
      all.push(done);
      if (!options.json) print(describe(done));
    }
  } finally {
    await stores.close();
  }
  if (options.json) print(JSON.stringify({ steps: all }));
  else if (steps.length === 0) print('Nothing to repair.');
  return all.some(({ outcome }) => outcome === 'refused') ? 1 : 0;
}
