import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Copies the files of the Valkey in `dataDir`, which it must not write just then; what it answers puts the copy in the place
 * of what is there.
 */
export function copyFiles(dataDir: string): () => void {
  const files = join(dataDir, 'appendonlydir');
  const copy = mkdtempSync(join(tmpdir(), 'stampede-old-copy-'));
  cpSync(files, copy, { recursive: true });
  return () => {
    rmSync(files, { recursive: true });
    cpSync(copy, files, { recursive: true });
    rmSync(copy, { recursive: true });
  };
}
