/**
 * Lets a native module that was linked against glibc 2.38 load on an older glibc.
 *
 * A compiler with glibc 2.38's headers turns `strtol` and its relatives into `__isoc23_strtol`, which differ only in
 * that they also read `0b…` binary numbers. An older glibc has the same functions under their plain names, so a copy
 * of the module whose symbol table asks for those is enough: no code changes. Why this is done at all is told in
 * `docs/decisions/0001-node-24-and-uwebsockets-on-old-glibc.md`.
 */

const PREFIX = '__isoc23_';
const NEW_VERSION = 'GLIBC_2.38';
/** The first version of x86-64 glibc; it has all of `PLAIN_NAMES`. */
const BASE_VERSION = 'GLIBC_2.2.5';
const PLAIN_NAMES = new Set(['strtol', 'strtoul', 'strtoll', 'strtoull', 'sscanf']);

const SECTION = { dynsym: 11, verneed: 0x6ffffffe, versym: 0x6fffffff };
const SECTION_HEADER_BYTES = 64;
const SYMBOL_BYTES = 24;
const VERSION_INDEX_MASK = 0x7fff;
/** The loader doesn't insist on a version that carries this flag. */
const WEAK_FLAG = 2;

/** One version that a module asks of a library, such as `GLIBC_2.34` of `libc.so.6`. */
export type VersionNeed = { file: string; version: string; weak: boolean };
type LocatedNeed = VersionNeed & { index: number; flagsOffset: number };
type DynamicSymbol = { name: string; undefined: boolean; nameOffset: number; versionOffset: number };
type Dynamic = { symbols: DynamicSymbol[]; needs: LocatedNeed[] };

/**
 * The glibc that this process runs on, such as `2.36`; `undefined` on another C library or operating system.
 */
export function runtimeGlibc(): string | undefined {
  const reporter: NodeJS.ProcessReport & { excludeNetwork?: boolean } = process.report;
  const { excludeNetwork = false } = reporter;
  // Otherwise the report looks up the name of every peer that this process is connected to.
  reporter.excludeNetwork = true;
  const report = reporter.getReport() as { header?: { glibcVersionRuntime?: string } };
  reporter.excludeNetwork = excludeNetwork;
  return report.header?.glibcVersionRuntime;
}

/** Whether version `a` is older than version `b`; both are numbers joined by dots. */
export function isOlder(a: string, b: string): boolean {
  return a.localeCompare(b, 'en', { numeric: true }) < 0;
}

/**
 * The versions that a module asks of its libraries, in file order.
 * Throws an `Error` with a message for people when `binary` isn't a shared library for 64-bit x86.
 */
export function versionNeeds(binary: Buffer): VersionNeed[] {
  return readDynamic(binary).needs.map(({ file, version, weak }) => ({ file, version, weak }));
}

/**
 * A copy of the native module `binary` that asks for nothing newer than `glibc` (such as `2.36`).
 * Throws an `Error` with a message for people when the module isn't what this function was written for, is patched
 * already, or needs more of a newer glibc than this function can replace.
 */
export function patchForGlibc(binary: Buffer, glibc: string): Buffer {
  const { symbols, needs } = readDynamic(binary);
  const libc = needs.filter((need) => need.file === 'libc.so.6');
  const newer = libc.find((need) => need.version === NEW_VERSION);
  const base = libc.find((need) => need.version === BASE_VERSION);
  if (!newer) throw new Error(`it doesn't ask for ${NEW_VERSION}, so there is nothing to patch`);
  if (newer.weak) throw new Error('it is patched already');
  if (!base) throw new Error(`it doesn't ask for ${BASE_VERSION}, to which its newer functions would be tied`);

  const versionOf = (symbol: DynamicSymbol) => binary.readUInt16LE(symbol.versionOffset) & VERSION_INDEX_MASK;
  const affected = symbols.filter((symbol) => versionOf(symbol) === newer.index);
  if (affected.length === 0) throw new Error(`none of its functions is tied to ${NEW_VERSION}`);

  const patched = Buffer.from(binary);
  for (const symbol of affected) {
    if (!symbol.undefined || !symbol.name.startsWith(PREFIX) || !PLAIN_NAMES.has(symbol.name.slice(PREFIX.length))) {
      throw new Error(`it needs ${symbol.name} of ${NEW_VERSION}, which has no older equal`);
    }
    // The plain name is the end of the prefixed one, so it is in the string table already.
    patched.writeUInt32LE(binary.readUInt32LE(symbol.nameOffset) + PREFIX.length, symbol.nameOffset);
    patched.writeUInt16LE(base.index, symbol.versionOffset);
  }
  patched.writeUInt16LE(binary.readUInt16LE(newer.flagsOffset) | WEAK_FLAG, newer.flagsOffset);

  const missing = unsatisfied(patched, glibc);
  if (missing.length > 0) throw new Error(`it needs ${missing.join(', ')}, and this machine has glibc ${glibc}`);
  return patched;
}

/** The versions that `binary` insists on and that `glibc` can't be relied on to have. */
function unsatisfied(binary: Buffer, glibc: string): string[] {
  return versionNeeds(binary)
    .filter((need) => !need.weak)
    .map((need) => need.version)
    .filter((version) => !/^GLIBC_[\d.]+$/.test(version) || isOlder(glibc, version.slice('GLIBC_'.length)));
}

function readDynamic(binary: Buffer): Dynamic {
  const isElf64 =
    binary.length > SECTION_HEADER_BYTES && binary.subarray(0, 6).toString('latin1') === '\x7fELF\x02\x01';
  if (!isElf64) throw new Error("it isn't a 64-bit little-endian ELF file");
  if (binary.readUInt16LE(18) !== 62) throw new Error("it isn't made for x86-64");
  try {
    return readTables(binary);
  } catch (cause) {
    if (cause instanceof RangeError) throw new Error('its ELF tables point outside the file', { cause });
    throw cause;
  }
}

function readTables(binary: Buffer): Dynamic {
  if (binary.readUInt16LE(58) !== SECTION_HEADER_BYTES) throw new Error('its ELF section headers have another size');
  const headersOffset = offsetAt(binary, 40);
  const headers = Array.from({ length: binary.readUInt16LE(60) }, (_, index) => {
    const at = headersOffset + index * SECTION_HEADER_BYTES;
    return {
      type: binary.readUInt32LE(at + 4),
      offset: offsetAt(binary, at + 24),
      bytes: offsetAt(binary, at + 32),
      link: binary.readUInt32LE(at + 40),
      info: binary.readUInt32LE(at + 44),
    };
  });
  const the = (name: keyof typeof SECTION) => {
    const [section, ...others] = headers.filter((header) => header.type === SECTION[name]);
    if (!section || others.length > 0) throw new Error(`it doesn't have exactly one ELF section .${name}`);
    return section;
  };
  const symbolTable = the('dynsym');
  const symbolVersions = the('versym');
  const versionTable = the('verneed');
  const strings = headers[symbolTable.link];
  const count = symbolTable.bytes / SYMBOL_BYTES;
  if (!strings || versionTable.link !== symbolTable.link || symbolVersions.bytes !== count * 2) {
    throw new Error("its ELF symbol, version and string tables don't belong together");
  }

  const text = (nameIndex: number) => {
    const start = strings.offset + nameIndex;
    const end = binary.indexOf(0, start);
    if (nameIndex >= strings.bytes || end < 0) throw new Error('a name lies outside its ELF string table');
    return binary.toString('latin1', start, end);
  };
  const symbols = Array.from({ length: count }, (_, index) => {
    const nameOffset = symbolTable.offset + index * SYMBOL_BYTES;
    return {
      name: text(binary.readUInt32LE(nameOffset)),
      undefined: binary.readUInt16LE(nameOffset + 6) === 0,
      nameOffset,
      versionOffset: symbolVersions.offset + index * 2,
    };
  });
  return { symbols, needs: readNeeds(binary, versionTable, text) };
}

/** Reads the list of libraries, each with its own list of versions, both chained by relative offsets. */
function readNeeds(
  binary: Buffer,
  table: { offset: number; info: number },
  text: (nameIndex: number) => string,
): LocatedNeed[] {
  const needs: LocatedNeed[] = [];
  let library = table.offset;
  for (let left = table.info; left > 0; left--) {
    const file = text(binary.readUInt32LE(library + 4));
    let entry = library + binary.readUInt32LE(library + 8);
    for (let versionsLeft = binary.readUInt16LE(library + 2); versionsLeft > 0; versionsLeft--) {
      const flags = binary.readUInt16LE(entry + 4);
      const index = binary.readUInt16LE(entry + 6);
      const version = text(binary.readUInt32LE(entry + 8));
      needs.push({ file, version, weak: (flags & WEAK_FLAG) !== 0, index, flagsOffset: entry + 4 });
      entry += binary.readUInt32LE(entry + 12);
    }
    library += binary.readUInt32LE(library + 12);
  }
  return needs;
}

/** A 64-bit file offset or size; anything that can't lie in a file ends as a `RangeError` where it is used. */
function offsetAt(binary: Buffer, at: number): number {
  return Number(binary.readBigUInt64LE(at));
}
