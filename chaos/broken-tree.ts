/** Another copy of this repository, changed in a place or two: another release, or one that breaks a promise. */
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** `find` stands exactly once in `file`, so that a change that has become none is noticed. */
export type Change = { file: string; find: string; replace: string };

const repository = join(import.meta.dirname, '..');
/** What processes need to run. */
const rooms = ['cli', 'engine', 'kernel', 'ledger', 'lua', 'services', 'chaos', 'package.json'];

/** Makes the copy in `folder`, which doesn't exist yet, and answers it. */
export function copyTree(folder: string, changes: readonly Change[]): string {
  for (const room of rooms) cpSync(join(repository, room), join(folder, room), { recursive: true });
  symlinkSync(join(repository, 'node_modules'), join(folder, 'node_modules'));
  for (const { file, find, replace } of changes) {
    const path = join(folder, file);
    const text = readFileSync(path, 'utf8');
    const first = text.indexOf(find);
    if (first < 0) throw new Error(`${file} has no ${JSON.stringify(find)} any more`);
    if (find.length > 1 && text.indexOf(find, first + 1) >= 0)
      throw new Error(`${file} has ${JSON.stringify(find)} twice`);
    writeFileSync(path, text.slice(0, first) + replace + text.slice(first + find.length));
  }
  return folder;
}
