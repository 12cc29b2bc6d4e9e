import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { removeFolderAtParentDeath } from './children.ts';
import { mustRun } from './commands.ts';

/**
 * Where downloaded servers are kept, outside the repository: `STAMPEDE_CACHE_DIR`; else for root a place that the
 * users whom servers run as can read; else the user's cache folder.
 */
export function cacheRoot(env: NodeJS.ProcessEnv): string {
  if (env.STAMPEDE_CACHE_DIR) return env.STAMPEDE_CACHE_DIR;
  if (process.getuid?.() === 0) return '/var/cache/stampede';
  return join(env.XDG_CACHE_HOME || join(env.HOME || homedir(), '.cache'), 'stampede');
}

export type Installation = {
  /** Folder name in the cache; carries the version, so that another version is another folder. */
  name: string;
  env: NodeJS.ProcessEnv;
  /** Fills the folder, which takes its final name afterwards; throws when it can't. */
  fill(folder: string): Promise<void>;
};

/**
 * Gives the folder of an installation, filling it when it is not there yet. A folder in its place is complete: it is
 * filled under another name and renamed. Of two who install at once the first to end wins, and both use its folder.
 */
export async function installOnce(installation: Installation): Promise<string> {
  const { env } = installation;
  const root = cacheRoot(env);
  const place = join(root, installation.name);
  if (existsSync(place)) return place;
  if (!existsSync(root)) {
    mkdirSync(root, { recursive: true });
    chmodSync(root, 0o755);
  }
  const draft = mkdtempSync(join(root, `.${installation.name}-`));
  const cleaner = removeFolderAtParentDeath(draft, env);
  try {
    await installation.fill(draft);
    await mustRun(['chmod', '-R', 'a+rX', draft], { env, timeoutMs: 60_000 });
    try {
      renameSync(draft, place);
    } catch (error) {
      if (!existsSync(place)) throw error;
    }
  } finally {
    rmSync(draft, { recursive: true, force: true });
    cleaner.callOff();
  }
  return place;
}
