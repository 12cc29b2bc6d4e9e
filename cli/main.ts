/** The `stampede` command. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { durabilities } from '../engine/durability.ts';
import { type Config, readConfig, variables } from '../kernel/config.ts';
import { SetupError } from '../kernel/errors.ts';
import { limits } from '../kernel/limits.ts';
import type { ValkeyLayout } from '../services/services.ts';
import { exitWithParent } from './parent.ts';
import type { SaleOptions } from './sale-run.ts';

exitWithParent();

function integerIn(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < min || value > max)
      throw new InvalidArgumentError(`give a whole number from ${min} to ${max}.`);
    return value;
  };
}

const transportOption = new Option(
  '--transport <how>',
  'how events reach the ledger; auto takes Kafka where KAFKA_BROKERS is set',
)
  .choices(['auto', 'direct', 'kafka'] as const)
  .default('auto' as const);

const layoutOption = () =>
  new Option('--valkey <layout>', 'one server, one with a replica, or a cluster of three').choices([
    'single',
    'replica',
    'cluster',
  ] as const);

const jsonOption = new Option('--json', 'answer with one JSON object on the last line');

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Runs until a signal: the first asks to stop, a second one a while later ends it at once. */
async function untilSignal(failed: Promise<Error>): Promise<void> {
  let firstMs = 0;
  const asked = new Promise<void>((resolve) => {
    const onSignal = (): void => {
      // Launchers pass a terminal's Ctrl-C on, so it may arrive twice within moments.
      if (firstMs > 0 && Date.now() - firstMs > 1_000) process.exit(130);
      if (firstMs === 0) firstMs = Date.now();
      resolve();
    };
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
  });
  const error = await Promise.race([asked, failed]);
  if (error) throw error;
}

function announce(config: Config): void {
  if (config.madeUp.includes('ADMIN_TOKEN'))
    process.stderr.write(`Development mode: ADMIN_TOKEN was made up for this run: ${config.adminToken}\n`);
  if (config.madeUp.includes('SESSION_SECRET'))
    process.stderr.write('Development mode: sessions end with this run (set SESSION_SECRET to keep them).\n');
}

const program = new Command('stampede')
  .description('A flash-sale inventory engine: sells exactly what there is, and a ledger proves it.')
  .showHelpAfterError('(--help tells more)')
  .configureHelp({ sortSubcommands: false });

const environmentHelp = `\nEnvironment:\n${Object.entries(variables)
  .map(([name, meaning]) => `  ${name.padEnd(18)} ${meaning}`)
  .join('\n')}\n`;

program
  .command('serve')
  .description('Serve HTTP and WebSocket; relay, ledger and sweep in the background')
  .addOption(new Option('--host <address>', 'address to listen on (HOST)'))
  .addOption(new Option('--port <port>', 'port, 0 for any (PORT)').argParser(integerIn(0, 65_535)))
  .addOption(
    new Option('--workers <n>', 'processes that share the port; with 2 or more this one keeps the background roles')
      .argParser(integerIn(1, limits.workersMax))
      .default(1),
  )
  .addOption(new Option('--roles <list>', 'what this process does: http,relay,ledger,sweeper').default('all'))
  .addOption(transportOption)
  .addOption(new Option('--auto-rebuild', 'rebuild shards that Valkey has lost from the ledger, without being told'))
  .addHelpText(
    'after',
    `${environmentHelp}
Prints one line {"ready":true,"url":"…"} when ready; logs are JSON lines on standard error.
Exit codes: 0 stopped as asked, 1 failed, 2 set up wrongly (one line says what).`,
  )
  .action(
    async (options: {
      host?: string;
      port?: number;
      workers: number;
      roles: string;
      transport: 'auto' | 'direct' | 'kafka';
      autoRebuild?: boolean;
    }) => {
      const { host, port, transport } = options;
      const config = readConfig(process.env, {
        ...(host === undefined ? {} : { host }),
        ...(port === undefined ? {} : { port }),
        transport,
      });
      const { roles: allRoles } = await import('./compose.ts');
      const wanted =
        options.roles === 'all' ? [...allRoles] : allRoles.filter((role) => options.roles.split(',').includes(role));
      if (options.roles !== 'all' && wanted.length !== new Set(options.roles.split(',')).size)
        throw new SetupError('bad-roles', `--roles ${options.roles}: choose from ${allRoles.join(', ')}`);
      announce(config);
      const { serveAlone, serveWithWorkers } = await import('./serve.ts');
      const serving =
        options.workers > 1 && wanted.includes('http')
          ? await serveWithWorkers(config, wanted, options.workers, options.autoRebuild ?? false)
          : await serveAlone(config, wanted, options.autoRebuild ?? false);
      print(JSON.stringify({ ready: true, url: serving.url }));
      try {
        await untilSignal(serving.failed);
      } finally {
        await serving.stop();
      }
    },
  );

program.command('serve-worker', { hidden: true }).action(async () => {
  const transport = process.env.STAMPEDE_TRANSPORT === 'kafka' ? 'kafka' : 'direct';
  const { serveAsWorker } = await import('./serve.ts');
  try {
    await serveAsWorker(readConfig(process.env, { transport }));
  } catch (error) {
    process.send?.({ type: 'failed', message: error instanceof Error ? error.message : String(error) });
    throw error;
  }
});

program
  .command('sale')
  .description('Run a whole flash sale here, on real servers, and prove it with the ledger')
  .addOption(new Option('--units <n>', 'units on sale').argParser(integerIn(0, 1_000_000)).default(1_000))
  .addOption(
    new Option('--buyers <n>', 'buyers, each with a connection and a session')
      .argParser(integerIn(1, 1_000_000))
      .default(10_000),
  )
  .addOption(
    new Option('--hold <seconds>', 'how long a unit is held')
      .argParser(integerIn(limits.holdSecondsMin, limits.holdSecondsMax))
      .default(4),
  )
  .addOption(
    new Option('--commit-rate <0..1>', 'how many of the holds are bought; the others are left to expire')
      .argParser((text) => {
        const value = Number(text);
        if (text.trim() === '' || !(value >= 0 && value <= 1))
          throw new InvalidArgumentError('give a number from 0 to 1.');
        return value;
      })
      .default(0.9),
  )
  .addOption(
    new Option('--warehouses <n>', 'warehouses that the units lie in')
      .argParser(integerIn(1, limits.warehousesPerSku))
      .default(1),
  )
  .addOption(
    new Option('--workers <n>', 'processes of the engine').argParser(integerIn(1, limits.workersMax)).default(1),
  )
  .addOption(transportOption)
  .addOption(layoutOption().default('single' as const))
  .addOption(
    new Option('--durability <what>', 'what every answer survives; replicated needs a replica')
      .choices(durabilities)
      .default('fsync' as const),
  )
  .addOption(new Option('--seed <n>', 'who of the crowd does what').argParser(integerIn(0, 2 ** 31 - 1)).default(1))
  .addOption(
    new Option('--timeout <seconds>', 'ends the whole when it takes longer')
      .argParser(integerIn(1, 86_400))
      .default(300),
  )
  .addOption(jsonOption)
  .addHelpText(
    'after',
    `
Starts Valkey, Postgres and, for Kafka, a broker in a temporary folder, and removes them in the end; VALKEY_URL,
DATABASE_URL and KAFKA_BROKERS name servers to use instead.
Exit codes: 0 sold as it should be, 1 something is wrong (it says what), 2 set up wrongly, 130 ended by Ctrl-C.`,
  )
  .action(async (options: SaleOptions & { json?: boolean }) => {
    const { saleCommand } = await import('./sale.ts');
    process.exit(await saleCommand({ ...options, json: options.json ?? false }));
  });

const setOption = new Option('--name <name>', 'which of several sets of services').default('default');

program
  .command('up')
  .description('Start Valkey and Postgres on this machine, and leave them running')
  .addOption(new Option('--kafka', 'Kafka too'))
  .addOption(layoutOption().default(undefined, 'single, or what the set was made with'))
  .addOption(setOption)
  .addOption(jsonOption)
  .action(async (options: { kafka?: boolean; valkey?: ValkeyLayout; name: string; json?: boolean }) => {
    const { upCommand } = await import('./local.ts');
    const { name: setName, valkey, kafka = false, json = false } = options;
    await upCommand({ setName, valkey, kafka, json }, print);
  });

program
  .command('down')
  .description('Stop what `up` started; the data stay')
  .addOption(setOption)
  .addOption(jsonOption)
  .action(async (options: { name: string; json?: boolean }) => {
    const { downCommand } = await import('./local.ts');
    await downCommand({ setName: options.name, json: options.json ?? false }, print);
  });

program
  .command('status')
  .description('What `up` started and still runs')
  .addOption(setOption)
  .addOption(jsonOption)
  .action(async (options: { name: string; json?: boolean }) => {
    const { statusCommand } = await import('./local.ts');
    await statusCommand({ setName: options.name, json: options.json ?? false }, print);
  });

program
  .command('migrate')
  .description('Bring the ledger’s tables up to date (serve does it too)')
  .addOption(jsonOption)
  .action(async (options: { json?: boolean }) => {
    const { createLogger } = await import('../kernel/logger.ts');
    const { createPool } = await import('../ledger/pool.ts');
    const { migrate } = await import('../ledger/migrate.ts');
    const config = readConfig({ VALKEY_URL: 'redis://127.0.0.1:6379', ...process.env, STAMPEDE_MODE: 'development' });
    const pool = createPool(config.databaseUrl, createLogger({ level: config.logLevel, name: 'stampede' }));
    try {
      const applied = await migrate(pool);
      if (options.json) print(JSON.stringify({ applied }));
      else print(applied.length > 0 ? `Applied ${applied.join(', ')}.` : 'Nothing to do: the tables are up to date.');
    } finally {
      await pool.end();
    }
  });

program
  .command('reconcile')
  .description('Compare each shard’s counters with the ledger, both as of exactly the same sequence')
  .addOption(
    new Option('--wait <ms>', 'how long the ledger may take to catch up')
      .argParser(integerIn(0, 3_600_000))
      .default(30_000),
  )
  .addOption(
    new Option('--repair <side>', 'print, a JSON line a step, what would make this side agree with the other').choices([
      'valkey',
      'ledger',
    ] as const),
  )
  .addOption(jsonOption)
  .addHelpText(
    'after',
    `
Changes nothing, --repair neither: \`stampede repair\` carries out what that prints, once you have looked at it:
  stampede reconcile --repair valkey > plan
  stampede repair < plan
Exit codes: 0 agrees, 1 drift, 2 could not look. Safe to run while a sale is live.`,
  )
  .action(async (options: { wait: number; json?: boolean; repair?: 'valkey' | 'ledger' }) => {
    const { reconcileCommand } = await import('./reconcile.ts');
    const config = readConfig({ ...process.env, STAMPEDE_MODE: 'development' });
    const { wait: waitMs, json = false, repair } = options;
    process.exitCode = await reconcileCommand(config, { waitMs, json, ...(repair ? { repair } : {}) }, print);
  });

program
  .command('repair')
  .description('Carry out, from standard input, the plan that `reconcile --repair` printed')
  .addOption(jsonOption)
  .addHelpText(
    'after',
    `
The ledger gets compensating entries (ledger.correction), Valkey's counters are corrected in place; a sale may go on
meanwhile. A step that was done before is not done again.
Exit codes: 0 all done, 1 some refused, 2 set up wrongly, or the plan is none.`,
  )
  .action(async (options: { json?: boolean }) => {
    const { repairCommand } = await import('./repair.ts');
    const config = readConfig({ ...process.env, STAMPEDE_MODE: 'development' });
    process.exitCode = await repairCommand(config, process.stdin, { json: options.json ?? false }, print);
  });

program
  .command('rebuild')
  .description('Build shards of Valkey anew from the ledger, under a new epoch, and say what may be lost')
  .addOption(
    new Option('--shard <n>', 'which one; can be given several times').argParser(
      (text: string, before: number[] | undefined) => [...(before ?? []), integerIn(0, limits.shardsMax - 1)(text)],
    ),
  )
  .addOption(new Option('--all', 'all of them'))
  .addOption(
    new Option('--discard', 'of a shard that the ledger has stopped: leave out the bad event and all that follows'),
  )
  .addOption(transportOption)
  .addOption(jsonOption)
  .addHelpText(
    'after',
    `
For a shard whose stock Valkey has lost or has too little of (GET /readyz names it). Selling stops on the shard
meanwhile, holds and keys stay. It can be interrupted at any point and done again.
Exit codes: 0 rebuilt and nothing known to be lost, 1 rebuilt with sequences that may be lost, 2 not rebuilt.`,
  )
  .action(
    async (options: {
      shard?: number[];
      all?: boolean;
      discard?: boolean;
      transport: 'auto' | 'direct' | 'kafka';
      json?: boolean;
    }) => {
      const { rebuildCommand } = await import('./rebuild.ts');
      const config = readConfig({ ...process.env, STAMPEDE_MODE: 'development' }, { transport: options.transport });
      const { shard: named, all = false, discard = false, json = false } = options;
      process.exitCode = await rebuildCommand(config, { shards: named ?? [], all, discard, json }, print);
    },
  );

program
  .command('stops')
  .description('Shards that the ledger has stopped, with why, and how to go on')
  .addOption(
    new Option('--retry <shard>', 'take its events again: once what was wrong is mended').argParser(
      integerIn(0, limits.shardsMax - 1),
    ),
  )
  .addOption(jsonOption)
  .addHelpText(
    'after',
    `
The ledger stops a shard whose history forks or has an event that can't be. Buyers go on buying until its outbox is full;
other shards don't notice.
Exit codes: 0 none is stopped (or the one named goes on), 1 some are, 2 could not look.`,
  )
  .action(async (options: { retry?: number; json?: boolean }) => {
    const { stopsCommand } = await import('./stops.ts');
    const config = readConfig({ VALKEY_URL: 'redis://127.0.0.1:6379', ...process.env, STAMPEDE_MODE: 'development' });
    process.exitCode = await stopsCommand(config, { retry: options.retry ?? null, json: options.json ?? false }, print);
  });

program
  .command('verify-draw')
  .description('Do a waiting room’s draw again from what is public, and say whether everybody stands where they should')
  .addOption(new Option('--url <url>', 'a running engine'))
  .addOption(new Option('--sale <id>', 'the sale'))
  .addOption(new Option('--file <file>', 'instead: what GET /v1/sales/ID/draw answered, - for standard input'))
  .addOption(new Option('--commitment <hex>', 'what was published before the draw, as you noted it then'))
  .addOption(new Option('--ticket <id>', 'tell the place of this ticket'))
  .addOption(jsonOption)
  .addHelpText(
    'after',
    '\nExit codes: 0 all is as it should be, 1 it is not, 2 nothing is drawn yet or it could not be read.',
  )
  .action(
    async (options: {
      url?: string;
      sale?: string;
      file?: string;
      commitment?: string;
      ticket?: string;
      json?: boolean;
    }) => {
      const { verifyDraw } = await import('./verify-draw.ts');
      const { url = null, sale = null, file = null, commitment = null, ticket = null, json = false } = options;
      process.exitCode = await verifyDraw({ url, sale, file, commitment, ticket, json }, print);
    },
  );

/** One line for what a person can put right; the stack for what is a fault of the program. */
function fail(error: unknown): never {
  if (error instanceof SetupError) {
    process.stderr.write(`stampede: ${error.message}\n`);
    process.exit(2);
  }
  const code = (error as { code?: string }).code;
  if (code === 'ECONNREFUSED' || code === '28P01' || code === '3D000')
    fail(new SetupError('postgres-unreachable', `DATABASE_URL can't be used: ${(error as Error).message}`));
  process.stderr.write(`stampede: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exit(1);
}

program.parseAsync().catch(fail);
