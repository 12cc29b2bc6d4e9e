/** `stampede sale`: a whole flash sale on real servers, from an empty machine to the ledger's verdict. */
import { runSale, SaleFailed, type SaleOptions, type Stops } from './sale-run.ts';
import { verdictText } from './sale-verdict.ts';
import { createSaleView } from './sale-view.ts';

/** Why a run stops before its end. */
class Stopped extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** How long a step that can't be broken off may take to end after a signal; what it started ends with us anyway. */
const stepEndsWithinMs = 3_000;

/** Stops what was started, the last first, each even when another one can't be stopped. */
function createStops(): Stops & { run(): Promise<void> } {
  const stops: (() => unknown)[] = [];
  let closed = false;
  return {
    async add(stop) {
      stops.push(stop);
      if (!closed) return;
      await this.run();
      throw new Error('stopped');
    },
    async run() {
      closed = true;
      for (let stop = stops.pop(); stop; stop = stops.pop()) {
        try {
          await stop();
        } catch (error) {
          process.stderr.write(`stampede: ${error instanceof Error ? error.message : String(error)}\n`);
        }
      }
    },
  };
}

/** Resolves, with why, at the first signal or when the time is up; a second signal a while later ends at once. */
function untilStopped(timeoutSeconds: number): Promise<Stopped> {
  return new Promise((resolve) => {
    let firstMs = 0;
    for (const [signal, code] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }))
      process.on(signal, () => {
        // Launchers pass a terminal's Ctrl-C on, so it may arrive twice within moments.
        if (firstMs > 0 && Date.now() - firstMs > 1_000) process.exit(code);
        if (firstMs === 0) firstMs = Date.now();
        resolve(new Stopped('', code));
      });
    const late = new Stopped(`the sale took longer than ${timeoutSeconds} s and was ended (--timeout)`, 1);
    setTimeout(() => resolve(late), timeoutSeconds * 1_000).unref();
  });
}

/**
 * Runs a sale from beginning to end and prints the verdict. Answers the exit code: 0 all is well, 1 something is wrong
 * (and it is said what), 129, 130 or 143 after a signal. Throws a SetupError when there can be no sale. Whatever
 * happens, nothing that was started runs afterwards.
 */
export async function saleCommand(options: SaleOptions & { json: boolean }): Promise<number> {
  const stops = createStops();
  // With --json, standard output belongs to the program that reads it; a person may still look on.
  const view = createSaleView(options.json ? (process.stderr.isTTY ? process.stderr : null) : process.stdout);
  const stopped = untilStopped(options.timeout).then((reason) => {
    throw reason;
  });
  const run = runSale(options, view, stops);
  try {
    const { verdict, crowd, saleId } = await Promise.race([run, stopped]);
    await stops.run();
    view.close();
    const { figures, faults } = verdict;
    if (options.json) {
      for (const fault of faults) process.stderr.write(`stampede: ${fault}\n`);
      const { purchases: _, complaints: _complaints, ...more } = crowd;
      process.stdout.write(`${JSON.stringify({ ...figures, onSale: verdict.onSale, saleId, ...more, faults })}\n`);
    } else {
      process.stdout.write(`${verdictText(verdict, crowd)}\n`);
    }
    return faults.length === 0 ? 0 : 1;
  } catch (error) {
    view.close();
    await stops.run();
    // A step under way finds itself stopped; one that can't be broken off is not waited for.
    const stepEnd = run.then(
      () => undefined,
      () => undefined,
    );
    await Promise.race([stepEnd, new Promise((resolve) => setTimeout(resolve, stepEndsWithinMs))]);
    if (!(error instanceof Stopped) && !(error instanceof SaleFailed)) throw error;
    if (error.message !== '') process.stderr.write(`stampede: ${error.message}\n`);
    return error instanceof Stopped ? error.exitCode : 1;
  }
}
