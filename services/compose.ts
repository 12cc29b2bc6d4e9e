import { existsSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { atParentDeath } from './children.ts';
import { findOnPath, mustRun, runCommand } from './commands.ts';
import type { Context, Recipe } from './recipe.ts';
import { writeRecord } from './records.ts';
import type { Runner } from './runner.ts';

const FILE = fileURLToPath(new URL('../docker-compose.yml', import.meta.url));
const UP_WAIT_MS = 600_000;
const STOP_WAIT_MS = 60_000;

/**
 * Runs a service by Docker Compose from the repository's file. One that ran before stays as it is when we stop.
 * Throws the reason when Compose or its engine can't be had.
 */
export async function runCompose(recipe: Recipe, folder: string, context: Context): Promise<Runner> {
  const { name, compose: inCompose } = recipe;
  if (inCompose === null) throw new Error(`Docker: docker-compose.yml has no ${name}`);
  const env = composeEnv(context.env);
  const compose = composeCommand(env);
  await mustRun([...compose, 'version'], { env, timeoutMs: 20_000 });
  const running = await mustRun([...compose, 'ps', '--status', 'running', '--quiet', name], { env, timeoutMs: 20_000 });
  const ours = running.trim() === '';
  const testament = ours ? atParentDeath([...compose, 'stop', name], env) : null;
  const up = () => mustRun([...compose, 'up', '--detach', '--wait', name], { env, timeoutMs: UP_WAIT_MS });
  const stop = () => mustRun([...compose, 'stop', name], { env, timeoutMs: STOP_WAIT_MS });
  try {
    context.progress(`${name}: starting by Docker Compose`);
    await up();
    const address = await mustRun([...compose, 'port', name, String(inCompose.port)], { env, timeoutMs: 20_000 });
    const { output: images } = await runCommand([...compose, 'config', '--images'], { env, timeoutMs: 20_000 });
    const service: Runner['service'] = {
      name,
      url: inCompose.url(address.trim().replace(/^0\.0\.0\.0:/, '127.0.0.1:'), env),
      source: 'compose',
      pid: null,
      dataDir: null,
      version: new RegExp(`${name}:(\\S+)`).exec(images)?.[1] ?? 'unknown',
    };
    mkdirSync(folder, { recursive: true });
    writeRecord(folder, { ...service, processStart: null, ports: [] });
    return {
      service,
      start: async () => {
        await up();
      },
      stop: async () => {
        if (ours) await stop();
        testament?.callOff();
      },
      kill: async (signal) => {
        await mustRun([...compose, 'kill', '--signal', signal, name], { env, timeoutMs: STOP_WAIT_MS });
      },
      release: () => testament?.callOff(),
    };
  } catch (error) {
    if (ours) await stop().catch(() => undefined);
    testament?.callOff();
    throw error;
  }
}

/** Whether Compose says that the service runs. */
export async function composeRuns(name: string, ownEnv: NodeJS.ProcessEnv): Promise<boolean> {
  const env = composeEnv(ownEnv);
  if (findOnPath('docker', env) === null) return false;
  const command = [...composeCommand(env), 'ps', '--status', 'running', '--quiet', name];
  const { code, output } = await runCommand(command, { env, timeoutMs: 20_000 });
  return code === 0 && output.trim() !== '';
}

/** Stops a service that an earlier command started by Compose. */
export async function composeStop(name: string, ownEnv: NodeJS.ProcessEnv): Promise<void> {
  const env = composeEnv(ownEnv);
  await mustRun([...composeCommand(env), 'stop', name], { env, timeoutMs: STOP_WAIT_MS });
}

function composeCommand(env: NodeJS.ProcessEnv): string[] {
  const docker = findOnPath('docker', env);
  if (docker === null) throw new Error('Docker: docker is not on PATH');
  if (!existsSync(FILE)) throw new Error('Docker: docker-compose.yml is not beside the program');
  return [docker, 'compose', '--file', FILE];
}

/** The file wants the engine's secrets even when only a store is started, which never sees them. */
function composeEnv(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ADMIN_TOKEN: 'not-used-by-the-stores', SESSION_SECRET: 'not-used-by-the-stores', ...env };
}
