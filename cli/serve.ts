/** `stampede serve`: one process with everything, or several that share a port. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { constants, setPriority } from 'node:os';
import { AggregatorRegistry } from 'prom-client';
import { createRate } from '../engine/stats.ts';
import type { Config } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import { type Role, startProcess } from './compose.ts';

/** What parent and workers say to each other. */
type ToWorker =
  | { type: 'metrics?'; id: number }
  | { type: 'metrics'; id: number; text: string }
  | { type: 'rate'; perSecond: number };
type ToParent =
  | { type: 'ready'; port: number; url: string }
  | { type: 'purchases'; count: number }
  | { type: 'metrics'; id: number; metrics: unknown }
  | { type: 'metrics?'; id: number }
  | { type: 'failed'; message: string };

export type Serving = { url: string | null; stop(): Promise<void>; failed: Promise<Error> };

const never = new Promise<Error>(() => {});
const askLimitMs = 2_000;

/**
 * A process that nobody waits for yields to the others, where processors are short: the ledger may be behind for a while, a buyer must not
 * wait for it, nor for the sweep. (docs/explanation/performance.md says what it is worth.)
 */
const backgroundPriority = constants.priority.PRIORITY_BELOW_NORMAL;
const isWaitedFor = (role: Role): boolean => role === 'http' || role === 'sweeper';

/** Everything in this process. */
export async function serveAlone(config: Config, roles: readonly Role[], autoRebuild: boolean): Promise<Serving> {
  if (!roles.some(isWaitedFor)) setPriority(backgroundPriority);
  const running = await startProcess(config, roles, { autoRebuild });
  return { url: running.engine?.url ?? null, stop: running.stop, failed: never };
}

/** A worker's part: HTTP on a shared port, until its parent says stop or is gone. */
export async function serveAsWorker(config: Config): Promise<void> {
  const send = (message: ToParent): void => {
    process.send?.(message);
  };
  const waiting = new Map<number, (text: string) => void>();
  let asked = 0;
  let perSecond = 0;
  const running = await startProcess(config, ['http'], {
    shared: true,
    answersPerSecond: () => perSecond,
    metrics: () =>
      new Promise((resolve, reject) => {
        const id = ++asked;
        const late = setTimeout(() => {
          waiting.delete(id);
          reject(new Error('the other processes did not answer'));
        }, askLimitMs);
        waiting.set(id, (text) => {
          clearTimeout(late);
          resolve(text);
        });
        send({ type: 'metrics?', id });
      }),
  });
  const counting = setInterval(() => send({ type: 'purchases', count: running.purchases() }), 500);
  process.on('message', (message: ToWorker) => {
    if (message.type === 'rate') perSecond = message.perSecond;
    else if (message.type === 'metrics') {
      waiting.get(message.id)?.(message.text);
      waiting.delete(message.id);
    } else
      running.registry.getMetricsAsJSON().then(
        (metrics) => send({ type: 'metrics', id: message.id, metrics }),
        () => send({ type: 'metrics', id: message.id, metrics: [] }),
      );
  });
  const stop = (): void => {
    clearInterval(counting);
    running.stop().then(
      () => process.exit(0),
      () => process.exit(1),
    );
  };
  process.on('SIGTERM', stop);
  // A terminal's Ctrl-C reaches the workers too; the parent tells them when to stop.
  process.on('SIGINT', () => {});
  process.on('disconnect', stop);
  if (running.engine) send({ type: 'ready', port: running.engine.port, url: running.engine.url });
}

/**
 * The port itself, or any free one for 0, kept until `release`. uWebSockets.js shares a port only where it is named, so
 * the workers can't be left to find one.
 */
async function holdPort(host: string, port: number): Promise<{ port: number; release(): void }> {
  if (port !== 0) return { port, release: () => {} };
  const holder = createServer().listen({ host, port, reusePort: true });
  await once(holder, 'listening');
  return { port: (holder.address() as AddressInfo).port, release: () => holder.close() };
}

/** `workers` processes that share a port, and the other roles in this one. */
export async function serveWithWorkers(
  config: Config,
  roles: readonly Role[],
  workers: number,
  autoRebuild: boolean,
): Promise<Serving> {
  const backgroundRoles = roles.filter((role) => role !== 'http');
  const background = await startProcess(config, backgroundRoles, { autoRebuild });
  const purchases = new Map<number, number>();
  const children = new Set<ChildProcess>();
  let stopping = false;
  let counted = 0;
  const rate = createRate(() => counted);
  let failed: (error: Error) => void = () => {};
  const failure = new Promise<Error>((resolve) => {
    failed = resolve;
  });

  const tell = (child: ChildProcess, message: ToWorker): void => {
    if (child.connected) child.send(message);
  };
  const collecting = new Map<number, (metrics: unknown) => void>();
  let asked = 0;
  const collect = async (): Promise<string> => {
    const answers = [...children].map(
      (child) =>
        new Promise<unknown>((resolve) => {
          const id = ++asked;
          const late = setTimeout(() => {
            collecting.delete(id);
            resolve([]);
          }, askLimitMs / 2);
          collecting.set(id, (metrics) => {
            clearTimeout(late);
            resolve(metrics);
          });
          tell(child, { type: 'metrics?', id });
        }),
    );
    const all = [await background.registry.getMetricsAsJSON(), ...(await Promise.all(answers))];
    return AggregatorRegistry.aggregate(all as object[]).metrics();
  };

  const start = (port: number): Promise<{ port: number; url: string }> =>
    new Promise((resolve, reject) => {
      const child = fork(new URL('./main.ts', import.meta.url), ['serve-worker'], {
        env: {
          ...process.env,
          HOST: config.host,
          PORT: String(port),
          ADMIN_TOKEN: config.adminToken,
          SESSION_SECRET: config.sessionSecret,
          STAMPEDE_TRANSPORT: config.transport,
        },
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      });
      children.add(child);
      const { pid } = child;
      child.on('message', (message: ToParent) => {
        switch (message.type) {
          case 'ready':
            resolve(message);
            break;
          case 'failed':
            reject(new SetupError('worker-failed', message.message));
            break;
          case 'purchases': {
            const before = purchases.get(pid ?? 0) ?? 0;
            counted += message.count - before;
            purchases.set(pid ?? 0, message.count);
            tell(child, { type: 'rate', perSecond: rate.perSecond() });
            break;
          }
          case 'metrics':
            collecting.get(message.id)?.(message.metrics);
            collecting.delete(message.id);
            break;
          case 'metrics?':
            collect().then(
              (text) => tell(child, { type: 'metrics', id: message.id, text }),
              () => tell(child, { type: 'metrics', id: message.id, text: '' }),
            );
        }
      });
      child.on('exit', (code) => {
        children.delete(child);
        purchases.delete(pid ?? 0);
        reject(new SetupError('worker-failed', `a worker ended with ${code} before it was ready`));
        if (stopping) return;
        // One that died is replaced: it held nothing that isn't in Valkey.
        start(port).catch(failed);
      });
    });

  const stop = async (): Promise<void> => {
    stopping = true;
    rate.stop();
    const ended = [...children].map(
      (child) =>
        new Promise<void>((resolve) => {
          const late = setTimeout(() => child.kill('SIGKILL'), (limits.stopSeconds + 2) * 1000);
          child.on('exit', () => {
            clearTimeout(late);
            resolve();
          });
          child.kill('SIGTERM');
        }),
    );
    await Promise.all(ended);
    await background.stop();
  };

  try {
    const held = await holdPort(config.host, config.port);
    try {
      const [first] = await Promise.all(Array.from({ length: workers }, () => start(held.port)));
      return { url: first?.url ?? null, stop, failed: failure };
    } finally {
      held.release();
    }
  } catch (error) {
    await stop();
    throw error;
  }
}
