/** Which server of Valkey serves a key now: the only one, the primary among several, or a node of a cluster. */
import keySlot from 'cluster-key-slot';
import { systemClock, within } from '../kernel/clock.ts';
import { limits } from '../kernel/limits.ts';
import { type Link, openLink, type ServerInfo } from './valkey-link.ts';

export type Valkey = {
  /** The number of the connection behind which a key's server is; 0 while there is none. Another one: another run. */
  linkOf(key: string): number;
  /** The id of the run that serves a key. Throws while nothing does. */
  runId(key: string): string;
  /** Calls a function on a key's server; the answer is its packed string. Rejects when it can't be known to have run. */
  call(name: string, readOnly: boolean, key: string, argument: Buffer): Promise<Buffer>;
  /** As `Link.sync`, on a key's server. */
  sync(name: string, key: string, argument: Buffer, replicas: 0 | 1): Promise<void>;
  /** The settings that durability rests on, of every server in use (of one key's: give it), and `replicas`. */
  settings(key?: string): Promise<Map<string, string>[]>;
  /** Calls `listener` each time that other servers serve (at the first time too). */
  onChange(listener: () => void): void;
  /** Why no server could be found at the last look; '' when all is well. */
  readonly complaint: string;
  close(): Promise<void>;
};

/** Slots `first` to `last`, and who serves them. */
type Route = { first: number; last: number; link: Link };
type View = { ok: boolean; epoch: number; routes: Route[] };

const slots = 16_384;
const durabilitySettings = ['appendonly', 'appendfsync', 'no-appendfsync-on-rewrite', 'maxmemory-policy'];
/** With these a server says that it did nothing, and that another one should be asked. */
const elsewhere = /^(MOVED|ASK|READONLY|CLUSTERDOWN|TRYAGAIN|MASTERDOWN)\b/;
const firstRetryMs = 20;
/** However many ask for it. */
const pauseMs = 50;
const lastRetryMs = 1_000;

/** Whether a call failed with the word that nothing was done. */
export function wasElsewhere(error: unknown): boolean {
  return error instanceof Error && elsewhere.test(error.message);
}

/**
 * Ranges of slots and the address of each one's primary, out of the answer to CLUSTER SHARDS. A node that names no endpoint is
 * where the one that was asked is.
 */
function primariesOf(answer: unknown, asked: string): { ranges: [number, number][]; host: string; port: number }[] {
  const member = (list: unknown[], name: string): unknown => list[list.indexOf(name) + 1];
  return (answer as unknown[][]).flatMap((shard) => {
    const numbers = member(shard, 'slots') as number[];
    const ranges = numbers.flatMap((first, i): [number, number][] =>
      i % 2 === 0 ? [[first, numbers[i + 1] ?? first]] : [],
    );
    const nodes = member(shard, 'nodes') as unknown[][];
    const primary = nodes.find((node) => member(node, 'role') === 'master' && member(node, 'health') === 'online');
    if (!primary || ranges.length === 0) return [];
    const endpoint = String(member(primary, 'endpoint') ?? '');
    const host = endpoint === '?' ? String(member(primary, 'ip')) : endpoint || asked.replace(/:\d+$/, '');
    return [{ ranges, host, port: Number(member(primary, 'port')) }];
  });
}

/** Slots for which there is a server. */
function covered(routes: Route[]): number {
  return routes.reduce((sum, { first, last }) => sum + last - first + 1, 0);
}

/** Host and port, or the path: without user and password. */
function hostOf(url: string): string {
  return url.startsWith('unix:') ? url : new URL(url.replace(/^valkey:/, 'redis:')).host;
}

/** `seed`, but of another server: a cluster's nodes share user and password. */
function urlOfNode(seed: string, host: string, port: number): string {
  const url = new URL(seed.startsWith('unix:') ? 'redis://localhost' : seed.replace(/^valkey:/, 'redis:'));
  url.hostname = host.includes(':') ? `[${host.replace(/^\[|\]$/g, '')}]` : host;
  url.port = String(port);
  return url.href;
}

/**
 * Connects to the servers at `urls` (redis://, valkey:// or unix://): one server; a primary and its replicas, in any
 * order; or some nodes of a cluster. Looks anew whenever a connection ends or a server says that another one serves.
 */
export function connectValkey(urls: readonly string[], onError: (error: Error) => void): Valkey {
  const links = new Map<string, Link>();
  const listeners: (() => void)[] = [];
  const closed = new AbortController();
  const slotOf = new Map<string, number>();
  let routes: Route[] = [];
  let complaint = 'not connected yet';
  let poke = (): void => undefined;
  let stale = true;

  const look = (): void => {
    stale = true;
    poke();
  };

  const reach = async (url: string): Promise<{ link: Link; info: ServerInfo }> => {
    const known = links.get(url);
    if (known && !known.ended) return { link: known, info: await within(known.info(), limits.connectMs, 'no answer') };
    const opened = await openLink(url, (link) => {
      if (routes.some((route) => route.link === link)) look();
    });
    if (closed.signal.aborted) opened.link.close();
    links.set(url, opened.link);
    return opened;
  };

  /** A cluster as one member sees it; a primary that can't be reached is left out. */
  const viewOf = async (member: Link): Promise<View> => {
    const state = String(await member.command('CLUSTER', 'INFO'));
    const primaries = primariesOf(await member.command('CLUSTER', 'SHARDS'), hostOf(member.url));
    const found = await Promise.allSettled(
      primaries.map(async ({ ranges, host, port }) => {
        const { link } = await reach(urlOfNode(member.url, host, port));
        return ranges.map(([first, last]) => ({ first, last, link }));
      }),
    );
    return {
      ok: /^cluster_state:ok\r?$/m.test(state),
      epoch: Number(/^cluster_current_epoch:(\d+)/m.exec(state)?.[1] ?? 0),
      routes: found.flatMap((one) => (one.status === 'fulfilled' ? one.value : [])),
    };
  };

  const findRoutes = async (): Promise<Route[]> => {
    const seeds = new Set([...[...links.values()].filter((link) => !link.ended).map(({ url }) => url), ...urls]);
    const asked = await Promise.allSettled([...seeds].map(reach));
    const reached = asked.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const members = reached.filter(({ info }) => info.cluster);
    if (members.length > 0) {
      // One that was taken out, or is cut off with a minority, sees less or is behind.
      const views = (await Promise.allSettled(members.map(({ link }) => viewOf(link)))).flatMap((one) =>
        one.status === 'fulfilled' ? [one.value] : [],
      );
      const worth = ({ ok, epoch, routes: found }: View): number[] => [
        Math.min(found.length, 1),
        Number(ok),
        epoch,
        covered(found),
      ];
      const better = (a: View, b: View): number =>
        worth(b)
          .map((value, i) => value - (worth(a)[i] ?? 0))
          .find((difference) => difference !== 0) ?? 0;
      return views.sort(better)[0]?.routes ?? [];
    }
    // The same server may be there under two names.
    const primaries = new Map(reached.filter(({ info }) => info.primary).map(({ link }) => [link.runId, link]));
    if (primaries.size > 1)
      throw new Error(
        `several servers of VALKEY_URL say that they are the primary (${[...primaries.values()].map(({ url }) => hostOf(url)).join(', ')}): make all but one of them replicas (REPLICAOF)`,
      );
    for (const link of primaries.values()) return [{ first: 0, last: slots - 1, link }];
    const failed = asked.find((one) => one.status === 'rejected');
    throw reached.length > 0 || !failed
      ? new Error(
          `${reached.map(({ link }) => hostOf(link.url)).join(' and ')} answer, as replicas: name the primary in VALKEY_URL too, or promote one`,
        )
      : failed.reason instanceof Error
        ? failed.reason
        : new Error(String(failed.reason));
  };

  const same = (a: Route[], b: Route[]): boolean =>
    a.length === b.length &&
    a.every(({ first, last, link }, i) => first === b[i]?.first && last === b[i]?.last && link === b[i]?.link);

  const lookOnce = async (): Promise<void> => {
    stale = false;
    const found = await findRoutes();
    if (closed.signal.aborted) return;
    const changed = !same(found, routes);
    routes = found;
    for (const [url, link] of links)
      if (!routes.some((route) => route.link === link)) {
        links.delete(url);
        link.close();
      }
    if (routes.some(({ link }) => link.ended)) stale = true;
    if (changed) for (const listener of listeners) listener();
    if (covered(found) < slots) throw new Error(`only ${covered(found)} of the cluster's ${slots} slots are served`);
    complaint = '';
  };

  const maintain = async (): Promise<void> => {
    for (let failures = 0; !closed.signal.aborted; ) {
      try {
        await lookOnce();
        failures = 0;
      } catch (error) {
        complaint = error instanceof Error ? error.message : String(error);
        onError(new Error(complaint));
        stale = true;
        await systemClock.wait(Math.min(firstRetryMs * 2 ** Math.min(failures++, 6), lastRetryMs), closed.signal);
      }
      const poked = new Promise<void>((resolve) => {
        poke = resolve;
      });
      if (!stale && !closed.signal.aborted) await poked;
      await systemClock.wait(pauseMs, closed.signal);
    }
  };

  const find = (key: string): Link | undefined => {
    // Where one serves everything no slot is needed.
    if (routes.length === 1 && covered(routes) === slots) return routes[0]?.link;
    let slot = slotOf.get(key);
    if (slot === undefined) {
      slot = keySlot(key);
      slotOf.set(key, slot);
    }
    for (const route of routes) if (route.first <= slot && slot <= route.last) return route.link;
    return undefined;
  };
  const serving = (key: string): Link => {
    const link = find(key);
    if (!link || link.ended) throw new Error(`the connection to Valkey is broken: ${complaint}`);
    return link;
  };
  /** Passes a call's outcome on; one that belongs elsewhere has the servers looked at anew. */
  const watched = async <T>(calling: Promise<T>): Promise<T> => {
    try {
      return await calling;
    } catch (error) {
      if (wasElsewhere(error)) look();
      throw error;
    }
  };
  const settingsOf = async (link: Link): Promise<Map<string, string>> => {
    const found = (await link.command('CONFIG', 'GET', ...durabilitySettings)) as string[];
    const map = new Map<string, string>();
    for (let i = 0; i + 1 < found.length; i += 2) map.set(found[i] ?? '', found[i + 1] ?? '');
    return map.set('replicas', String((await link.info()).replicas));
  };

  void maintain();
  return {
    linkOf(key) {
      const link = find(key);
      return link && !link.ended ? link.id : 0;
    },
    runId: (key) => serving(key).runId,
    call: async (name, readOnly, key, argument) => watched(serving(key).call(name, readOnly, key, argument)),
    sync: async (name, key, argument, replicas) => watched(serving(key).sync(name, key, argument, replicas)),
    settings: async (key) => {
      const used = key === undefined ? [...new Set(routes.map(({ link }) => link))] : [serving(key)];
      return Promise.all(used.map(settingsOf));
    },
    onChange(listener) {
      listeners.push(listener);
      if (routes.length > 0) listener();
    },
    get complaint() {
      return complaint;
    },
    async close() {
      closed.abort();
      poke();
      for (const link of links.values()) link.close();
    },
  };
}
