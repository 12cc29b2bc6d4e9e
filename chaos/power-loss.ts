/**
 * Valkey on a machine that loses power. A shim (fsync-shim.c) notes what each sync of Valkey has brought to the disk; after
 * a SIGKILL whatever was not is taken out of its folder, and Valkey can be started on the rest.
 *
 * Modelled:
 * - A file has the length it had when its last successful sync began. One that was never synced is empty. It is known by
 *   its inode, so what was synced under a temporary name is there under the final one.
 * - With `tail: 'half'`, half of what was written after that has come to the disk by itself, mostly up to the middle of a
 *   command.
 * - With `names: 'synced'`, a folder has the names it had when it was last synced: later files are gone, renames undone,
 *   removed files back. One never synced has none. With `names: 'found'`, all later changes of names have come to the disk
 *   by themselves. Valkey has to bear both, and file systems do something in between.
 * - A rewrite's child dies with Valkey.
 *
 * Not modelled: pages of a file that come to the disk out of order, or zeros in their place (ext4's and XFS' defaults don't
 * show them behind the synced length of a file that is only appended to); changes of names of which a later one is on
 * the disk and an earlier one isn't; an overwritten file's old content (Valkey overwrites none); the folder of the
 * append-only files itself, which Valkey makes without syncing its parent; a disk that lies about its syncs.
 */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { environmentWithoutServices } from '../lua/testing.ts';
import { mustRun } from '../services/commands.ts';
import { processStart } from '../services/records.ts';
import { type ServiceSet, startServices, type ValkeyOptions } from '../services/services.ts';
import { waitUntil } from '../services/waiting.ts';

export type PowerLoss = { names: 'synced' | 'found'; tail: 'gone' | 'half' };

/** What the shim has noted since the power came on. */
export type Notes = {
  /** Inode -> bytes of the file that are on the disk. */
  lengths: Map<string, number>;
  /** Inode of a folder -> name -> inode, as they are on the disk. */
  names: Map<string, Map<string, string>>;
  /** The path of each synced file, once for each sync, in order. */
  syncs: string[];
  children: number[];
};

export type Crash = {
  /** In files that have kept a name: written, and not synced. */
  unsyncedBytes: number;
  /** Until then. */
  notes: Notes;
};

export type FragileValkey = {
  services: ServiceSet;
  /** Where Valkey has its append-only files. */
  folder: string;
  notes(): Notes;
  /** SIGKILL at once, then the files are cut. */
  losePower(loss: PowerLoss): Promise<Crash>;
  powerOn(): Promise<void>;
  stop(): Promise<void>;
};

const compiler = 'cc';
const syncDelayUs = 1_000;
const endOfChildrenMs = 20_000;

/** Whether there is a C compiler, with libc's headers. */
export function canCompile(): boolean {
  return spawnSync(compiler, ['-E', '-include', 'stdio.h', '-x', 'c', '/dev/null']).status === 0;
}

/** What stands between a Valkey in `folder` and its disk. */
export type FragileDisk = {
  /** For Valkey's process. */
  env: Record<string, string>;
  notes(): Notes;
  /** Once Valkey was killed: takes out of the folder what was not on the disk. */
  lose(loss: PowerLoss): Promise<Crash>;
};

/** Makes the disk of a Valkey that will live in `dataDir`/valkey. `dataDir` is what the kernel calls the place: no links. */
export async function makeFragileDisk(dataDir: string): Promise<FragileDisk> {
  const notesFolder = join(dataDir, 'notes');
  mkdirSync(notesFolder);
  const env = environmentWithoutServices();
  const shim = join(dataDir, 'fsync-shim.so');
  const source = join(import.meta.dirname, 'fsync-shim.c');
  await mustRun([compiler, '-shared', '-fPIC', '-O2', '-pthread', '-o', shim, source], { env, timeoutMs: 60_000 });
  const folder = join(dataDir, 'valkey');
  const notes = (): Notes => readNotes(notesFolder);
  return {
    env: {
      ...{ LD_PRELOAD: shim, SYNCED_FOLDER: folder, SYNCED_NOTES: notesFolder },
      SYNCED_DELAY_US: String(syncDelayUs),
    },
    notes,
    async lose(loss) {
      const allGone = async () => (await Promise.all(notes().children.map(processStart))).every((one) => one === null);
      if (!(await waitUntil(allGone, endOfChildrenMs))) throw new Error('a child of Valkey has outlived it');
      const found = notes();
      return { unsyncedBytes: cut(folder, notesFolder, found, loss), notes: found };
    },
  };
}

/** Starts a Valkey whose power can be lost, in a temporary folder of its own. */
export async function startFragileValkey(options: ValkeyOptions = {}): Promise<FragileValkey> {
  const dataDir = realpathSync(mkdtempSync(join(tmpdir(), 'stampede-power-')));
  const disk = await makeFragileDisk(dataDir);
  const services = await startServices({
    names: ['valkey'],
    dataDir,
    removeDataDir: true,
    env: { ...environmentWithoutServices(), ...disk.env },
    valkey: options,
  });
  if (disk.notes().names.size === 0) {
    await services.stop();
    throw new Error('Valkey runs without the shim: it has noted nothing of the start');
  }
  return {
    services,
    folder: join(dataDir, 'valkey', 'appendonlydir'),
    notes: disk.notes,
    async losePower(loss) {
      await services.kill('valkey', 'SIGKILL');
      return disk.lose(loss);
    },
    powerOn: async () => {
      await services.startOne('valkey');
    },
    stop: () => services.stop(),
  };
}

/** A line that the end of a process has torn does not count, nor one that another wrote at its tear. */
function readNotes(notesFolder: string): Notes {
  const notes: Notes = { lengths: new Map(), names: new Map(), syncs: [], children: [] };
  const path = join(notesFolder, 'log');
  const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [];
  for (const line of lines) {
    const [, kind = '', inode = '', rest = ''] =
      /^([FT]) (\d+) (\d+(?: \/.*)?)$/.exec(line) ??
      /^(D) (\d+)((?: [^/]+\/\d+)*)$/.exec(line) ??
      /^(C) (\d+)$/.exec(line) ??
      [];
    const length = Number.parseInt(rest, 10);
    if (kind === 'F') {
      notes.lengths.set(inode, length);
      if (rest.includes('/')) notes.syncs.push(rest.slice(rest.indexOf('/')));
    } else if (kind === 'T') notes.lengths.set(inode, Math.min(length, notes.lengths.get(inode) ?? 0));
    else if (kind === 'D')
      notes.names.set(
        inode,
        new Map(rest.split(' ').flatMap((one) => (one ? [one.split('/') as [string, string]] : []))),
      );
    else if (kind === 'C') notes.children.push(Number(inode));
  }
  return notes;
}

function inodeOf(path: string): string | null {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino.toString() ?? null;
}

/** What lies in Valkey's folder and isn't Valkey's data: its log, and what services/ remembers. */
const notData = /^(server\.log|service\.json)/;

function namesIn(dir: string): Map<string, string> {
  const files = readdirSync(dir, { withFileTypes: true }).filter((one) => one.isFile() && !notData.test(one.name));
  return new Map(files.map(({ name }) => [name, String(inodeOf(join(dir, name)))]));
}

/** Takes out of the folder what was not on the disk, and says how much that is; the rest is there, from now on. */
function cut(folder: string, notesFolder: string, notes: Notes, loss: PowerLoss): number {
  const dirs = readdirSync(folder, { withFileTypes: true }).filter((one) => one.isDirectory());
  const kept: { dir: string; files: Map<string, Buffer> }[] = [];
  let unsyncedBytes = 0;
  for (const dir of [folder, ...dirs.map(({ name }) => join(folder, name))]) {
    const names = loss.names === 'found' ? namesIn(dir) : (notes.names.get(String(inodeOf(dir))) ?? new Map());
    const files = new Map<string, Buffer>();
    for (const [name, inode] of names) {
      // Under its name; or if that was changed, as the shim has kept it; or it was never synced, and nothing is left.
      const source = [join(dir, name), join(notesFolder, inode)].find((path) => inodeOf(path) === inode);
      const content = source === undefined ? Buffer.alloc(0) : readFileSync(source);
      const synced = Math.min(content.length, notes.lengths.get(inode) ?? 0);
      const unsynced = content.length - synced;
      unsyncedBytes += unsynced;
      files.set(name, content.subarray(0, synced + (loss.tail === 'half' ? Math.floor(unsynced / 2) : 0)));
    }
    kept.push({ dir, files });
  }
  rmSync(notesFolder, { recursive: true });
  mkdirSync(notesFolder);
  const log: string[] = [];
  for (const { dir, files } of kept) {
    for (const name of namesIn(dir).keys()) rmSync(join(dir, name));
    for (const [name, content] of files) {
      const path = join(dir, name);
      writeFileSync(path, content);
      linkSync(path, join(notesFolder, String(inodeOf(path))));
      log.push(`F ${inodeOf(path)} ${content.length}\n`);
    }
    const names = [...namesIn(dir)].map(([name, inode]) => ` ${name}/${inode}`);
    log.push(`D ${inodeOf(dir)}${names.join('')}\n`);
  }
  writeFileSync(join(notesFolder, 'log'), log.join(''));
  return unsyncedBytes;
}
