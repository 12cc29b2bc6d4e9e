/** A TigerBeetle server of one replica with fresh data, where TIGERBEETLE_BIN names its program. */
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { freePorts } from '../services/waiting.ts';

export type TigerBeetle = { address: string; version: string; pid: number; stop(): Promise<void> };

/** null: TIGERBEETLE_BIN isn't set. Not `--development`: that takes smaller batches. */
export async function startTigerBeetle(
  folder: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<TigerBeetle | null> {
  const program = env.TIGERBEETLE_BIN;
  if (!program) return null;
  const file = join(folder, '0_0.tigerbeetle');
  const version = execFileSync(program, ['version'], { encoding: 'utf8' }).trim();
  execFileSync(program, ['format', '--cluster=0', '--replica=0', '--replica-count=1', file], { stdio: 'ignore' });
  const [port = 0] = await freePorts(1);
  const child = spawn(program, ['start', `--addresses=127.0.0.1:${port}`, file], { stdio: 'ignore' });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const end = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', end);
  return {
    address: `127.0.0.1:${port}`,
    version,
    pid: child.pid ?? 0,
    async stop() {
      process.off('exit', end);
      child.kill('SIGTERM');
      await ended;
    },
  };
}
