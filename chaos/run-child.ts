/** One run in a process of its own: what `main.ts` and the tests start. */
import { oneRun } from './one-run.ts';

const [seed = '1', fault = '', folder = '', control] = process.argv.slice(2);
// Nobody is there any more to take what it comes to; what it has started ends with it.
process.once('disconnect', () => process.exit(1));

const end = (message: unknown): void => {
  process.send?.(message, () => process.exit(0));
};
oneRun({ seed: Number(seed), fault, folder, ...(control ? { control } : {}) }).then(
  (result) => end({ result }),
  (error: Error) => end({ failed: error.stack ?? String(error) }),
);
