/** `stampede up`, `down` and `status`: the services of this machine. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import Table from 'cli-table3';
import { SetupError } from '../kernel/errors.ts';
import { down, type LocalServices, stateFolder, status, up } from '../services/local.ts';
import { layoutOf, type RunningService, type ValkeyLayout, valkeyLayouts, valkeyUrlOf } from '../services/services.ts';

type Options = { setName: string; json: boolean };
type Print = (line: string) => void;

function checkName({ setName }: Options): void {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(setName))
    throw new SetupError('bad-name', `--name ${setName}: give 1 to 64 letters, digits, _ and -`);
}

function running(services: LocalServices): RunningService[] {
  return Object.values(services).filter((service) => service !== undefined);
}

function servicesTable(services: LocalServices): string {
  const table = new Table({ head: ['service', 'version', 'URL', 'pid', 'data'], style: { head: [], border: [] } });
  for (const { name, version, url, pid, dataDir } of running(services))
    table.push([name, version, url, pid ?? '', dataDir ?? '']);
  return table.toString();
}

/** What `serve` needs in its environment to use them. */
function exportsOf(services: LocalServices): string {
  const { postgres, kafka } = services;
  const quoted = (value: string): string => `'${value.replaceAll("'", `'\\''`)}'`;
  const variables = { VALKEY_URL: valkeyUrlOf(services), DATABASE_URL: postgres?.url, KAFKA_BROKERS: kafka?.url };
  const given = Object.entries(variables).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return `export ${given.map(([name, value]) => `${name}=${quoted(value)}`).join(' ')}`;
}

/** Starts them, and prints where they are. Throws a ServiceError when one can't be had. */
export async function upCommand(
  options: Options & { kafka: boolean; valkey: ValkeyLayout | undefined },
  print: Print,
): Promise<void> {
  checkName(options);
  const { setName, kafka, json } = options;
  const made = layoutOf((name) => existsSync(join(stateFolder({ setName }), name)));
  // Another layout beside the same Postgres would be an empty Valkey in the place of the one that sold.
  if (made && options.valkey && made !== options.valkey && !(made === 'single' && options.valkey === 'replica'))
    throw new SetupError(
      'other-layout',
      `the set ${setName} was made with --valkey ${made}: leave it so, or take another --name`,
    );
  const valkey = options.valkey ?? made ?? 'single';
  const services = await up({
    setName,
    names: [...valkeyLayouts[valkey], 'postgres', ...(kafka ? (['kafka'] as const) : [])],
    onProgress: (line) => process.stderr.write(`${line}\n`),
  });
  if (json) {
    print(JSON.stringify(services));
    return;
  }
  print(servicesTable(services));
  const given = running(services).filter(({ source }) => source === 'environment');
  if (given.length > 0)
    print(
      `Not started, since the environment names them: ${given.map(({ name }) => name).join(', ')} (unset it to start them).`,
    );
  print('`stampede serve` finds them by:');
  print(exportsOf(services));
}

/** Stops them, and prints what was stopped. */
export async function downCommand(options: Options, print: Print): Promise<void> {
  checkName(options);
  const stopped = await down({ setName: options.setName });
  if (options.json) print(JSON.stringify(stopped));
  else print(running(stopped).length === 0 ? 'Nothing was running.' : `Stopped ${Object.keys(stopped).join(', ')}.`);
}

/** Prints what runs. */
export async function statusCommand(options: Options, print: Print): Promise<void> {
  checkName(options);
  const services = await status({ setName: options.setName });
  if (options.json) print(JSON.stringify(services));
  else if (running(services).length === 0) print('Nothing is running: start it with `stampede up`.');
  else {
    print(servicesTable(services));
    print(exportsOf(services));
  }
}
