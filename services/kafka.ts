import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { installOnce } from './cache.ts';
import { startChild, stopChild } from './children.ts';
import { findOnPath, mustRun, runCommand, tellingLine } from './commands.ts';
import type { Binary, Context, KafkaOptions, Launch, Recipe, Site } from './recipe.ts';
import { freePorts, waitUntil } from './waiting.ts';

const OLDEST_MAJOR = 4;
const OLDEST_JAVA = 17;
const VERSION = '4.3.1';
const STARTED = 'Kafka Server started';
const ARCHIVE = 'classes.jsa';
/** Relative, since the archive of classes remembers the class path by name, and the folder is renamed. */
const CLASS_PATH = 'jars/*';
const JAVA_FLAGS = ['-Xmx256m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-XX:+ExitOnOutOfMemoryError'];
/** Quiet, but for the line that says that the broker serves. */
const LOG_FLAGS = [
  '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
  '-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info',
  '-Dorg.slf4j.simpleLogger.showDateTime=true',
];

/**
 * The settings of the one broker, wherever it runs; `docker-compose.yml` carries the same.
 * A killed broker may come back only after its old session has ended, so sessions are short.
 */
export function kafkaSettings(): Record<string, string> {
  return {
    'auto.create.topics.enable': 'false',
    'offsets.topic.replication.factor': '1',
    'offsets.topic.num.partitions': '8',
    'transaction.state.log.replication.factor': '1',
    'transaction.state.log.min.isr': '1',
    'transaction.state.log.num.partitions': '8',
    'share.coordinator.state.topic.replication.factor': '1',
    'share.coordinator.state.topic.min.isr': '1',
    'group.initial.rebalance.delay.ms': '0',
    'log.cleaner.dedupe.buffer.size': '16777216',
    'broker.session.timeout.ms': '4000',
    'broker.heartbeat.interval.ms': '1000',
  };
}

/** Kafka as a single KRaft node. */
export const kafkaRecipe: Recipe = {
  name: 'kafka',
  title: `Kafka ${OLDEST_MAJOR} or later`,
  variable: 'KAFKA_BROKERS',
  remedy: `put kafka-server-start.sh on PATH, or install Java ${OLDEST_JAVA} and Maven (to fetch it from Maven Central), or Docker with Compose`,
  portCount: 2,
  stopSignal: 'SIGTERM',
  fromPath,
  fromRegistry,
  prepare,
  isReady: async (_site, _pid, logPath) => readFileSync(logPath, 'utf8').includes(STARTED),
  url: (site) => `127.0.0.1:${site.ports[0]}`,
  compose: { port: 9094, url: (address) => address },
};

async function fromPath({ env }: Context): Promise<Binary | null> {
  const program = findOnPath('kafka-server-start.sh', env);
  if (program === null || !existsSync(join(dirname(program), 'kafka-storage.sh'))) return null;
  const { output } = await runCommand([program, '--version'], { env, timeoutMs: 30_000 });
  const version = /^(\d+)\.[\d.]+/m.exec(output);
  if (version === null || Number(version[1]) < OLDEST_MAJOR) return null;
  return { source: 'path', version: version[0], folder: dirname(program) };
}

async function fromRegistry(context: Context): Promise<Binary> {
  const { env, progress } = context;
  const java = await findJava(env);
  const folder = await installOnce({
    name: `kafka-${VERSION}`,
    env,
    fill: async (draft) => {
      const maven = findOnPath('mvn', env);
      if (maven === null) throw new Error('Maven: mvn is not on PATH');
      progress(`kafka: fetching ${VERSION} from Maven Central (44 MB, once)`);
      writeFileSync(join(draft, 'pom.xml'), POM);
      const goal = 'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies';
      const options = ['-DincludeScope=runtime', `-DoutputDirectory=${join(draft, 'jars')}`];
      await mustRun([maven, '--batch-mode', '--quiet', goal, ...options], { env, cwd: draft, timeoutMs: 600_000 });
      progress('kafka: making an archive of its classes, for quicker starts (once)');
      await archiveClasses(java, draft, context);
    },
  });
  return { source: 'registry', version: VERSION, folder };
}

async function findJava(env: NodeJS.ProcessEnv): Promise<string> {
  const own = env.JAVA_HOME ? join(env.JAVA_HOME, 'bin', 'java') : null;
  const java = own !== null && existsSync(own) ? own : findOnPath('java', env);
  if (java === null) throw new Error('Java: java is not on PATH');
  const { output } = await runCommand([java, '-version'], { env, timeoutMs: 30_000 });
  const major = Number(/version "(?:1\.)?(\d+)/.exec(output)?.[1]);
  if (!(major >= OLDEST_JAVA)) throw new Error(`Java: ${OLDEST_JAVA} or later is needed, not ${tellingLine(output)}`);
  return java;
}

/** One start and stop of a broker, which leaves the archive behind; without it a start takes twice as long. */
async function archiveClasses(java: string, installed: string, context: Context): Promise<void> {
  const folder = join(installed, 'warm-up');
  mkdirSync(folder);
  const site = { folder, ports: await freePorts(2) };
  const { env } = context;
  await format([java, '-cp', CLASS_PATH, 'kafka.tools.StorageTool'], site, { env, cwd: installed });
  const logPath = join(folder, 'server.log');
  const child = await startChild(
    [
      java,
      `-XX:ArchiveClassesAtExit=${join(installed, ARCHIVE)}`,
      ...JAVA_FLAGS,
      ...LOG_FLAGS,
      '-cp',
      CLASS_PATH,
      'kafka.Kafka',
      propertiesPath(site),
    ],
    { logPath, env, cwd: installed },
  );
  await waitUntil(async () => child.hasExited() || readFileSync(logPath, 'utf8').includes(STARTED), 60_000);
  await stopChild(child, 'SIGTERM', 60_000);
  rmSync(folder, { recursive: true, force: true });
}

async function prepare(binary: Binary, site: Site, { env, kafka }: Context): Promise<Launch> {
  if (binary.source === 'path') {
    const scriptEnv = {
      ...env,
      LOG_DIR: join(site.folder, 'logs'),
      KAFKA_HEAP_OPTS: '-Xmx256m',
      KAFKA_JVM_PERFORMANCE_OPTS: '-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true',
    };
    await format([join(binary.folder, 'kafka-storage.sh')], site, { env: scriptEnv, cwd: site.folder }, kafka);
    return { command: [join(binary.folder, 'kafka-server-start.sh'), propertiesPath(site)], env: scriptEnv };
  }
  const java = await findJava(env);
  const cwd = binary.folder;
  const shared = existsSync(join(cwd, ARCHIVE)) ? ['-Xshare:auto', `-XX:SharedArchiveFile=${ARCHIVE}`] : [];
  const run = [java, ...shared, ...JAVA_FLAGS, ...LOG_FLAGS, '-cp', CLASS_PATH];
  await format([...run, 'kafka.tools.StorageTool'], site, { env, cwd }, kafka);
  return { command: [...run, 'kafka.Kafka', propertiesPath(site)], cwd };
}

/** Writes the properties with this site's ports, and formats the storage when it is new. */
async function format(
  tool: string[],
  site: Site,
  where: { env: NodeJS.ProcessEnv; cwd: string },
  { advertisedPort = site.ports[0] }: KafkaOptions = {},
): Promise<void> {
  const data = join(site.folder, 'data');
  const [clients, controller] = site.ports;
  const properties: Record<string, string> = {
    ...kafkaSettings(),
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': `1@127.0.0.1:${controller}`,
    listeners: `PLAINTEXT://127.0.0.1:${clients},CONTROLLER://127.0.0.1:${controller}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${advertisedPort}`,
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'log.dirs': data,
  };
  const lines = Object.entries(properties).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(propertiesPath(site), lines.join(''));
  if (existsSync(join(data, 'meta.properties'))) return;
  // One in 64 begins with a dash, and would be taken for an option by itself.
  const clusterId = Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('base64url');
  await mustRun([...tool, 'format', `--cluster-id=${clusterId}`, '--config', propertiesPath(site)], {
    ...where,
    timeoutMs: 60_000,
  });
}

function propertiesPath(site: Site): string {
  return join(site.folder, 'server.properties');
}

const POM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stampede</groupId>
  <artifactId>kafka-runtime</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`;
