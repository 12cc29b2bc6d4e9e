import { type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';

const modulePath = JSON.stringify(join(import.meta.dirname, 'parent.ts'));

/** Runs `script` after `exitWithParent(300)`, with a pipe at file descriptor 3 and `STAMPEDE_PARENT_FD` as given. */
function start(script: string, parentFd: string | undefined) {
  const { STAMPEDE_PARENT_FD: _, ...env } = process.env;
  const source = `const { exitWithParent } = await import(${modulePath}); exitWithParent(300); ${script}`;
  const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', 'pipe'];
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio,
    env: parentFd === undefined ? env : { ...env, STAMPEDE_PARENT_FD: parentFd },
    timeout: 20_000,
  });
  const pipe = child.stdio[3] as Readable;
  return {
    child,
    pipe,
    ended: once(child, 'exit'),
    stdout: child.stdout as Readable,
    stderr: child.stderr as Readable,
  };
}

const stayAlive = 'setInterval(() => {}, 60_000); console.log("ready");';

describe('a process that exits with its parent', () => {
  it('gets SIGTERM when the pipe closes', async () => {
    const { pipe, ended, stdout } = start(stayAlive, '3');
    await once(stdout, 'data');
    pipe.destroy();
    expect(await ended).toEqual([null, 'SIGTERM']);
  });

  it('exits after the grace time when it does not stop by itself', async () => {
    const { pipe, ended, stdout } = start(`process.on("SIGTERM", () => {}); ${stayAlive}`, '3');
    await once(stdout, 'data');
    pipe.destroy();
    expect(await ended).toEqual([1, null]);
  });

  it('ends by itself as before while the pipe is open', async () => {
    const { ended } = start('', '3');
    expect(await ended).toEqual([0, null]);
  });

  it('keeps the variable from its own children', async () => {
    const { stdout } = start('console.log(process.env.STAMPEDE_PARENT_FD)', '3');
    expect(await text(stdout)).toBe('undefined\n');
  });

  it('is not bound to anything without the variable', async () => {
    const { child, pipe, ended, stdout } = start(
      `process.on("SIGUSR2", () => process.exit(5)); ${stayAlive}`,
      undefined,
    );
    await once(stdout, 'data');
    pipe.destroy();
    child.kill('SIGUSR2');
    expect(await ended).toEqual([5, null]);
  });

  it.each(['', 'three', '0', '1', '-1', '99'])('refuses %j as its pipe', async (parentFd) => {
    const { ended, stderr } = start('', parentFd);
    expect(await text(stderr)).toContain(`STAMPEDE_PARENT_FD is set to ${parentFd}, which is no open pipe`);
    expect(await ended).toEqual([1, null]);
  });
});
