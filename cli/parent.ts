import { fstatSync } from 'node:fs';
import { Socket } from 'node:net';

/** The environment variable that names the file descriptor of the pipe to the process that started this one. */
const PARENT_FD = 'STAMPEDE_PARENT_FD';
const STANDARD_ERROR = 2;

/**
 * Ends this process when the one that started it is gone, however that ended (SIGKILL too).
 *
 * The parent gives this process one end of a pipe, writes nothing to it, and names its file descriptor in
 * `STAMPEDE_PARENT_FD`; the kernel closes the other end with the parent. Then this process sends itself SIGTERM, as if
 * it had been asked to stop, and exits with code 1 if it is still there after `graceMs`. Without the variable this does
 * nothing. The variable is removed, since the descriptor means nothing to this process's own children. The pipe doesn't
 * keep this process running.
 *
 * Call it once, early. Throws an `Error` if the variable doesn't name a pipe.
 */
export function exitWithParent(graceMs = 15_000): void {
  const value = process.env[PARENT_FD];
  delete process.env[PARENT_FD];
  if (value === undefined) return;

  const fd = Number(value);
  if (fd <= STANDARD_ERROR || !isPipe(fd))
    throw new Error(`${PARENT_FD} is set to ${value}, which is no open pipe; unset it`);

  const pipe = new Socket({ fd, readable: true, writable: false });
  pipe.on('error', () => pipe.destroy());
  pipe.on('close', () => {
    setTimeout(() => process.exit(1), graceMs).unref();
    process.kill(process.pid, 'SIGTERM');
  });
  pipe.resume();
  pipe.unref();
}

function isPipe(fd: number): boolean {
  try {
    const stat = fstatSync(fd);
    return stat.isSocket() || stat.isFIFO();
  } catch {
    return false;
  }
}
