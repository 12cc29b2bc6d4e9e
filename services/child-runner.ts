import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Child, endsWithin, sendSignal, startChild, stopChild } from './children.ts';
import { tellingLine } from './commands.ts';
import { ServiceError } from './errors.ts';
import type { Binary, Context, Recipe, Site } from './recipe.ts';
import { isAlive, processStart, readRecord, writeRecord } from './records.ts';
import type { Runner } from './runner.ts';
import { freePorts, waitUntil } from './waiting.ts';

const START_WAIT_MS = 90_000;
const STOP_WAIT_MS = 15_000;
const KILL_WAIT_MS = 5_000;
/** A port may be taken between finding and using it; a killed Postgres holds its shared memory a little longer. */
const ATTEMPTS = 20;
const RETRY_MS = 250;
const IN_USE = /\bin use\b/i;

/**
 * Runs a service from its programs, as a child with its own folder and ports, and waits until it serves.
 * @throws ServiceError `service-failed` with the log's reason, or `data-folder-unusable` when another one runs there
 */
export async function runChild(recipe: Recipe, binary: Binary, folder: string, context: Context): Promise<Runner> {
  mkdirSync(folder, { recursive: true });
  const last = readRecord(folder);
  if (last !== null && (await isAlive(last))) {
    throw new ServiceError('data-folder-unusable', `${recipe.title} runs in ${folder} already, as process ${last.pid}`);
  }
  const site: Site = { folder, ports: await freePorts(recipe.portCount, last?.ports) };
  let child = await launch(recipe, binary, site, context, true);
  const socketPath = recipe.socketPath?.(site);
  const service: Runner['service'] = {
    name: recipe.name,
    url: recipe.url(site),
    source: binary.source,
    pid: child.pid,
    dataDir: folder,
    ...(socketPath === undefined ? {} : { socketPath }),
    version: binary.version,
  };
  const remember = async () => {
    service.pid = child.pid;
    writeRecord(folder, { ...service, processStart: await processStart(child.pid), ports: site.ports });
  };
  await remember();
  return {
    service,
    start: async () => {
      if (!child.hasExited()) return;
      child = await launch(recipe, binary, site, context, false);
      await remember();
    },
    stop: async () => {
      await stopChild(child, recipe.stopSignal, STOP_WAIT_MS);
    },
    kill: async (signal) => {
      if (child.hasExited()) return;
      sendSignal(child.pid, signal);
      if (signal === 'SIGKILL') await endsWithin(child, KILL_WAIT_MS);
    },
    release: () => child.release(),
  };
}

async function launch(recipe: Recipe, binary: Binary, site: Site, context: Context, mayMove: boolean): Promise<Child> {
  const logPath = join(site.folder, 'server.log');
  for (let attempt = 1; ; attempt += 1) {
    const { command, env, ...where } = await recipe.prepare(binary, site, context);
    const child = await startChild(command, {
      cwd: site.folder,
      ...where,
      logPath,
      env: env ?? context.env,
      stopSignal: recipe.stopSignal,
    });
    const ready = async () => child.hasExited() || (await recipe.isReady(site, child.pid, logPath));
    const answered = await waitUntil(ready, START_WAIT_MS);
    if (answered && !child.hasExited()) return child;
    await stopChild(child, recipe.stopSignal, KILL_WAIT_MS);
    const log = readFileSync(logPath, 'utf8');
    if (!answered || !IN_USE.test(log) || attempt === ATTEMPTS) {
      const reason = answered ? tellingLine(log) : `no answer after ${START_WAIT_MS / 1_000} s`;
      throw new ServiceError('service-failed', `${recipe.title} did not start: ${reason} (log: ${logPath})`);
    }
    if (mayMove) site.ports = await freePorts(recipe.portCount);
    else await sleep(RETRY_MS);
  }
}
