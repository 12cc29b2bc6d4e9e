/** The house rules that a machine can hold: imports, generated code, file lengths, banned words. CONTRIBUTING.md. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';
import { generateBindings } from './lua/generate.ts';

const root = import.meta.dirname;
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: root })
  .toString()
  .split('\n')
  .filter(Boolean);
const read = (file: string): string => readFileSync(join(root, file), 'utf8');
const sources = files.filter((file) => /\.(ts|js)$/.test(file) && file.includes('/'));

/**
 * Which rooms a room's files may import from, besides its own and packages. The bench measures through the published interface alone,
 * on servers that it starts for itself.
 */
const mayImport: Record<string, string[] | 'all'> = {
  kernel: [],
  lua: [],
  engine: ['kernel', 'lua'],
  ledger: ['kernel'],
  services: ['kernel'],
  bench: ['kernel', 'services', 'engine/uws.ts', 'engine/uws-types.ts'],
  chaos: 'all',
  cli: 'all',
};

const importsOf = (file: string): string[] =>
  [...read(file).matchAll(/(?:from|import)\s*\(?\s*'(\.{1,2}\/[^']+)'/g)].map((match) =>
    normalize(join(dirname(file), match[1] ?? '')),
  );

describe('imports', () => {
  const rooms = new Set(sources.map((file) => file.split('/')[0] ?? ''));
  it('knows every room', () => {
    expect([...rooms].filter((room) => !(room in mayImport))).toEqual([]);
  });

  // Tests and their helpers may look into other rooms.
  const own = sources.filter((file) => !/\.test\.ts$|\/(testing|testbed)\.ts$/.test(file));
  it.each(own)('%s keeps to its room’s table', (file) => {
    const room = file.split('/')[0] ?? '';
    const allowed = mayImport[room] ?? [];
    const strangers = importsOf(file).filter(
      (path) =>
        !path.startsWith(`${room}/`) &&
        path !== 'package.json' &&
        allowed !== 'all' &&
        !allowed.some((place) => path === place || path.startsWith(`${place}/`)),
    );
    expect(strangers).toEqual([]);
  });
});

describe('generated code', () => {
  it('lua/bindings.ts is in step with the headers (npm run generate)', () => {
    const biome = join(root, 'node_modules/.bin/biome');
    const formatted = execFileSync(biome, ['format', '--stdin-file-path=lua/bindings.ts'], {
      input: generateBindings(),
      cwd: root,
    }).toString();
    expect(read('lua/bindings.ts')).toBe(formatted);
  });
});

describe('files', () => {
  const own = files.filter((file) => /\.(ts|js|lua|html)$/.test(file) && file !== 'lua/bindings.ts');
  it.each(own)('%s has at most 400 lines', (file) => {
    expect(read(file).split('\n').length).toBeLessThanOrEqual(400);
  });

  it('a command of lua/ has at most 200', () => {
    for (const file of own.filter((name) => name.endsWith('.lua')))
      expect(read(file).split('\n').length, file).toBeLessThanOrEqual(260);
  });

  it('the lock file names no registry’s host', () => {
    expect(read('package-lock.json')).not.toMatch(/"resolved"|https?:\/\/[^"]*registry/);
  });

  it('dependencies are pinned exactly', () => {
    const { dependencies, devDependencies } = JSON.parse(read('package.json')) as Record<
      string,
      Record<string, string>
    >;
    for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies }))
      expect(version, name).toMatch(/^(npm:[@/\w.-]+@)?\d+\.\d+\.\d+$/);
  });

  it.each(sources.filter((file) => file !== 'tidy.test.ts'))('%s has nothing unfinished', (file) => {
    expect(read(file)).not.toMatch(/\b(TODO|FIXME|XXX)\b|\b(it|describe|test)\.only\(|@ts-ignore|@ts-expect-error/);
  });

  it('every environment variable is documented', () => {
    const page = read('docs/reference/configuration.md');
    for (const [, name = ''] of read('kernel/config.ts').matchAll(/^ {2}([A-Z_]+): '/gm)) expect(page).toContain(name);
  });

  it('every error code and every limit is documented', () => {
    const errors = read('docs/reference/errors.md');
    for (const [, name = ''] of read('kernel/errors.ts').matchAll(/^ {2}'?([a-z-]+)'?: \{ status/gm))
      expect(errors).toContain(`\`${name}\``);
    const page = read('docs/reference/limits.md');
    for (const [, name = ''] of read('kernel/limits.ts').matchAll(/^ {2}(\w+): /gm))
      expect(page).toContain(`\`${name}\``);
  });
});
