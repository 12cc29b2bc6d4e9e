/**
 * SHA-256 (FIPS 180-4) of four messages at once, each in a lane of WebAssembly's 128-bit vectors. Node's one-shot hash costs
 * 3,700 instructions, of which the hashing itself is a tenth; this costs 930 a block and lane, and no call into C++
 * (docs/explanation/performance.md). What is hashed lies in the program's memory: word `i` of lane `l` is `words[at + 4 * i + l]`.
 */

export const lanes = 4;
/** Places in `words` that a block takes, and that a state or digest takes. */
export const blockPlaces = 16 * lanes;
export const statePlaces = 8 * lanes;

export type Sha256x4 = {
  readonly words: Uint32Array;
  /** Hashes the blocks at `block` into what is at `state`, and puts it at `out`; all are places in `words`, `out` may be `state`. */
  compress(state: number, block: number, out: number): void;
  /**
   * Puts characters `from` to `to` of a text, a byte each, into a lane of the blocks at `at`, from the message's byte `offset` on.
   * Each has to be a byte: a text with others is hashed as something else, and has to be refused elsewhere.
   */
  write(at: number, lane: number, offset: number, text: string, from: number, to: number): void;
  /** Ends a message of `bytes` bytes in a lane of the `blocks` blocks at `at`; `before` of it, whole blocks, were hashed already. */
  pad(at: number, lane: number, blocks: number, bytes: number, before: number): void;
  /** Puts the state with which every hash begins at a place, in all lanes. */
  begin(state: number): void;
};

/** The first 32 bits of the fraction of the square roots of the first 8 primes, and of the cube roots of the first 64. */
const primes = Array.from({ length: 312 }, (_, n) => n).filter(
  (n) => n > 1 && !Array.from({ length: 16 }, (_, i) => i + 2).some((d) => d < n && n % d === 0),
);
const fraction = (value: number): number => Math.floor((value % 1) * 2 ** 32);
const initial = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const constants = primes.slice(0, 64).map((prime) => fraction(Math.cbrt(prime)));

/** Unsigned LEB128, in which WebAssembly writes numbers. */
function leb(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >>> 7)];
}
const section = (id: number, content: number[]): number[] => [id, ...leb(content.length), ...content];
const get = (local: number): number[] => [0x20, ...leb(local)];
const set = (local: number): number[] => [0x21, ...leb(local)];
const vector = (operation: number): number[] => [0xfd, ...leb(operation)];
const and = vector(78);
const xor = vector(81);
const add = vector(174);
const shiftLeft = (bits: number): number[] => [0x41, bits, ...vector(171)];
const shiftRight = (bits: number): number[] => [0x41, bits, ...vector(173)];
const load = (address: number, offset: number): number[] => [...get(address), ...vector(0), 4, ...leb(offset)];
const store = (offset: number): number[] => [...vector(11), 4, ...leb(offset)];
const constant = (value: number): number[] => {
  const bytes = [0, 8, 16, 24].map((bits) => (value >>> bits) & 0xff);
  return [...vector(12), ...bytes, ...bytes, ...bytes, ...bytes];
};
/** The exclusive or of a local rotated right by each of these. */
const rotations = (local: number, bits: number[]): number[] =>
  bits.flatMap((n, i) => [
    ...[...get(local), ...shiftRight(n), ...(i > 0 ? xor : [])],
    ...[...get(local), ...shiftLeft(32 - n), ...xor],
  ]);

/** The function's code: parameters are three addresses, then come eight working variables, then sixteen words of the schedule. */
function codeOf(): number[] {
  const [state, block, out, firstVariable, firstWord] = [0, 1, 2, 3, 11];
  const word = (t: number): number => firstWord + (t % 16);
  const schedule = (t: number): number[] => [
    ...[...get(word(t)), ...rotations(word(t - 15), [7, 18]), ...get(word(t - 15)), ...shiftRight(3), ...xor, ...add],
    ...[...get(word(t - 7)), ...add],
    ...[...rotations(word(t - 2), [17, 19]), ...get(word(t - 2)), ...shiftRight(10), ...xor, ...add, ...set(word(t))],
  ];
  const round = (t: number): number[] => {
    // The variables change their names instead of their places.
    const [a, b, c, d, e, f, g, h] = Array.from({ length: 8 }, (_, i) => firstVariable + ((i + 64 - t) % 8)) as [
      ...[number, number, number, number, number, number, number, number],
    ];
    return [
      ...[...get(h), ...rotations(e, [6, 11, 25]), ...add],
      ...[...get(g), ...get(e), ...get(f), ...get(g), ...xor, ...and, ...xor, ...add],
      ...[...constant(constants[t] ?? 0), ...get(word(t)), ...add, ...add, ...set(h)],
      ...[...get(d), ...get(h), ...add, ...set(d)],
      ...[...get(h), ...rotations(a, [2, 13, 22]), ...add],
      ...[...get(a), ...get(b), ...and, ...get(c), ...get(a), ...get(b), ...xor, ...and, ...xor, ...add, ...set(h)],
    ];
  };
  const code: number[] = [];
  for (let i = 0; i < 8; i++) code.push(...load(state, 16 * i), ...set(firstVariable + i));
  for (let i = 0; i < 16; i++) code.push(...load(block, 16 * i), ...set(firstWord + i));
  for (let t = 0; t < 64; t++) code.push(...(t < 16 ? [] : schedule(t)), ...round(t));
  for (let i = 0; i < 8; i++)
    code.push(...get(out), ...load(state, 16 * i), ...get(firstVariable + i), ...add, ...store(16 * i));
  return code;
}

let compiled: WebAssembly.Module | null = null;
function compile(): WebAssembly.Module {
  const [i32, v128, functionType] = [0x7f, 0x7b, 0x60];
  const body = [1, 24, v128, ...codeOf(), 0x0b];
  const name = (text: string): number[] => [text.length, ...Buffer.from(text)];
  return new WebAssembly.Module(
    Uint8Array.from([
      ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      ...section(1, [1, functionType, 3, i32, i32, i32, 0]),
      ...section(3, [1, 0]),
      ...section(5, [1, 0, 1]),
      ...section(7, [2, ...name('memory'), 2, 0, ...name('compress'), 0, 0]),
      ...section(10, [1, ...leb(body.length), ...body]),
    ]),
  );
}

/** A hasher with a memory of its own, of 16,384 places. */
export function createSha256x4(): Sha256x4 {
  compiled ??= compile();
  const { memory, compress } = new WebAssembly.Instance(compiled).exports as {
    memory: WebAssembly.Memory;
    compress(state: number, block: number, out: number): void;
  };
  const words = new Uint32Array(memory.buffer);
  const bytes = new Uint8Array(memory.buffer);
  /** Words are big-endian in SHA-256, and little-endian in WebAssembly. */
  const byteAt = (at: number, lane: number, i: number): number => (at + (i >> 2) * lanes + lane) * 4 + 3 - (i & 3);
  return {
    words,
    write(at, lane, offset, text, from, to) {
      let [i, char] = [offset, from];
      for (; char < to && (i & 3) !== 0; i++, char++) bytes[byteAt(at, lane, i)] = text.charCodeAt(char);
      // Word by word: a third of what byte by byte takes.
      for (; char + 4 <= to; i += 4, char += 4)
        words[at + (i >> 2) * lanes + lane] =
          (text.charCodeAt(char) << 24) |
          (text.charCodeAt(char + 1) << 16) |
          (text.charCodeAt(char + 2) << 8) |
          text.charCodeAt(char + 3);
      for (; char < to; i++, char++) bytes[byteAt(at, lane, i)] = text.charCodeAt(char);
    },
    pad(at, lane, blocks, length, before) {
      bytes[byteAt(at, lane, length)] = 0x80;
      const last = blocks * 16 - 1;
      for (let i = length + 1; (i & 3) !== 0; i++) bytes[byteAt(at, lane, i)] = 0;
      for (let i = (length + 4) >> 2; i < last; i++) words[at + i * lanes + lane] = 0;
      words[at + last * lanes + lane] = (before + length) * 8;
    },
    compress: (state, block, out) => compress(state * 4, block * 4, out * 4),
    begin(state) {
      for (let i = 0; i < statePlaces; i++) words[state + i] = initial[Math.floor(i / lanes)] ?? 0;
    },
  };
}
