/** What some faults need of the machine. */
import { existsSync } from 'node:fs';
import { canCompile } from './power-loss.ts';

export type Requirement = 'root' | 'cc' | 'faketime';

/** Where Debian's package `faketime` has its library. */
export const faketimePath = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1';

const checks: Record<Requirement, () => string | null> = {
  root: () => (process.getuid?.() === 0 ? null : 'only root can mount a small disk'),
  cc: () => (canCompile() ? null : 'there is no C compiler: install gcc and libc6-dev'),
  faketime: () => (existsSync(faketimePath) ? null : 'there is no libfaketime: install faketime'),
};

/** Why a fault can't be had here; null when it can. */
export function whyNot(needs: readonly Requirement[]): string | null {
  const lacking = needs.flatMap((need) => checks[need]() ?? []);
  return lacking.length > 0 ? lacking.join('; ') : null;
}
