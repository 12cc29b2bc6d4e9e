/** The engine: the gateway that listens, and everything behind its port. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, within } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import type { Logger } from '../kernel/logger.ts';
import { createAdmissions } from './admissions.ts';
import { createHttp } from './http.ts';
import { createLines } from './lines.ts';
import { serveLive } from './live.ts';
import { probeRoutes } from './probes.ts';
import { createRateLimiter } from './rate-limit.ts';
import { createReservations, type ReservationArchive } from './reservations.ts';
import { roomRoutes } from './room-routes.ts';
import { type AuditLog, sellingRoutes } from './routes.ts';
import { createSaleDirectory } from './sales.ts';
import { createSessions } from './sessions.ts';
import type { Shards } from './shards.ts';
import type { EngineStats } from './stats.ts';
import { createTicketWatch } from './ticket-watch.ts';
import { uws } from './uws.ts';
import type { ListenSocket } from './uws-types.ts';
import type { Valkey } from './valkey.ts';

/** Something that a sale goes on without, for a while: it is looked at, and named when it is away. */
export type Dependency = { name: string; check(): Promise<void> };

export type Engine = {
  url: string;
  port: number;
  /** Stops taking requests, answers those it took, and closes its sockets. Resolves within `limits.stopSeconds`. */
  stop(): Promise<void>;
};

const checkEveryMs = 1_000;
const checkLimitMs = 2_000;
const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as {
  version: string;
};

/** Looks at the dependencies again and again; answers the names of those that are away. */
function watchDependencies(dependencies: Dependency[], clock: Clock): { away(): string[]; stop(): void } {
  const away = new Set<string>();
  const stopped = new AbortController();
  const watch = async (dependency: Dependency): Promise<void> => {
    while (!stopped.signal.aborted) {
      try {
        await within(dependency.check(), checkLimitMs, 'no answer');
        away.delete(dependency.name);
      } catch {
        away.add(dependency.name);
      }
      await clock.wait(checkEveryMs, stopped.signal);
    }
  };
  for (const dependency of dependencies) void watch(dependency);
  return { away: () => [...away], stop: () => stopped.abort() };
}

/**
 * Starts listening. Throws a SetupError when the port can't be had, or when Valkey isn't set so that stock is safe in it.
 */
export async function startEngine(parts: {
  config: Config;
  shards: Shards;
  valkey: Pick<Valkey, 'settings'>;
  archive: ReservationArchive;
  audit: AuditLog;
  dependencies: Dependency[];
  stats: EngineStats;
  /** The text of /metrics. */
  metrics(): Promise<string>;
  answersPerSecond(): number;
  /** Whether other processes listen on the same port. */
  shared: boolean;
  clock: Clock;
  logger: Logger;
}): Promise<Engine> {
  const { config, shards, clock, logger, stats } = parts;
  for (const settings of await parts.valkey.settings()) {
    const policy = settings.get('maxmemory-policy');
    if (policy !== 'noeviction')
      throw new SetupError(
        'valkey-evicts',
        `Valkey's maxmemory-policy is ${policy}: it would throw stock away. Set maxmemory-policy noeviction.`,
      );
  }

  const app = uws.App();
  const sessions = createSessions({ secret: config.sessionSecret, adminToken: config.adminToken });
  const sales = createSaleDirectory(shards);
  const reservations = createReservations(shards, sales, parts.archive, clock, logger);
  const rates = config.rateLimits;
  const addressLimit = rates && createRateLimiter(rates.address);
  const buyerLimit = rates && createRateLimiter(rates.buyer);
  const http = createHttp(app, {
    sessions,
    logger,
    stats,
    addressLimit,
    sessionLimit: rates && createRateLimiter(rates.sessions),
    joinLimit: rates && createRateLimiter(rates.joins),
    buyerLimit,
  });
  const health = watchDependencies(parts.dependencies, clock);
  const admissions = createAdmissions(config.sessionSecret);
  const lines = createLines({ shards, sales, admissions, clock, logger });
  const ticketWatch = createTicketWatch({ lines, clock, logger });
  const selling = [
    ...sellingRoutes({ sales, reservations, sessions, admissions, logger, audit: parts.audit }),
    ...roomRoutes({ sales, lines, logger, audit: parts.audit }),
  ];
  const live = serveLive(app, {
    sales,
    reservations,
    sessions,
    admissions,
    ticketWatch,
    addressLimit,
    buyerLimit,
    clock,
    logger,
    answersPerSecond: parts.answersPerSecond,
  });
  http.register([
    ...selling,
    ...probeRoutes({ selling, version, shards, away: health.away, metrics: parts.metrics, logger }),
  ]);
  stats.observe({ shards, reservations, sockets: () => live.sockets, ticketsWatched: () => ticketWatch.size });

  const listening = await new Promise<ListenSocket | false>((resolve) => {
    // Without the exclusive option a second server could quietly share the port.
    const options = parts.shared ? 0 : 1;
    app.listen(config.host, config.port, options, resolve);
  });
  if (!listening)
    throw new SetupError(
      'port-taken',
      `${config.host}:${config.port} can't be listened on: is the port taken (--port, 0 for any), or no such address here (--host)?`,
    );
  const port = uws.us_socket_local_port(listening);
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;

  return {
    url: `http://${host}:${port}`,
    port,
    async stop() {
      uws.us_listen_socket_close(listening);
      http.stopping = true;
      const untilMs = clock.monotonicMs() + limits.stopSeconds * 1000;
      while (http.underWay > 0 && clock.monotonicMs() < untilMs) await clock.wait(10);
      await within(
        Promise.all([reservations.idle(), lines.idle()]),
        Math.max(1, untilMs - clock.monotonicMs()),
        'calls are still under way',
      ).catch((error: unknown) => logger.warn({ error: String(error) }, 'stopped with calls under way'));
      live.close();
      ticketWatch.stop();
      health.stop();
      app.close();
    },
  };
}
