/**
 * The packed form in which calls travel to the Valkey functions and back: little-endian, no padding. The generated
 * bindings use it; the Lua side uses `struct`.
 */

/** Grows as it is written to; `done` gives what was written. */
export class Writer {
  #buffer: Buffer;
  #offset = 0;

  constructor(bytes = 4096) {
    this.#buffer = Buffer.allocUnsafe(bytes);
  }

  #reserve(bytes: number): number {
    const offset = this.#offset;
    if (offset + bytes > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, offset + bytes));
      this.#buffer.copy(larger, 0, 0, offset);
      this.#buffer = larger;
    }
    this.#offset = offset + bytes;
    return offset;
  }

  u8(value: number): void {
    const at = this.#reserve(1);
    this.#buffer.writeUInt8(value, at);
  }
  u16(value: number): void {
    const at = this.#reserve(2);
    this.#buffer.writeUInt16LE(value, at);
  }
  u32(value: number): void {
    const at = this.#reserve(4);
    this.#buffer.writeUInt32LE(value, at);
  }
  f64(value: number): void {
    const at = this.#reserve(8);
    this.#buffer.writeDoubleLE(value, at);
  }
  /** Exactly `length` one-byte characters. */
  chars(value: string, length: number): void {
    if (value.length !== length) throw new RangeError(`expected ${length} characters, got ${value.length}`);
    const at = this.#reserve(length);
    this.#buffer.write(value, at, length, 'latin1');
  }
  /** How many, then `length` one-byte characters of each: written at once, which costs a fifth of one by one. */
  charsColumn(values: string[], length: number): void {
    this.u16(values.length);
    for (const value of values)
      if (value.length !== length) throw new RangeError(`expected ${length} characters, got ${value.length}`);
    const at = this.#reserve(values.length * length);
    this.#buffer.write(values.join(''), at, values.length * length, 'latin1');
  }
  #text(value: string, at: number, bytes: number): void {
    this.#buffer.write(value, at, bytes, 'utf8');
  }
  str8(value: string): void {
    const bytes = Buffer.byteLength(value);
    if (bytes > 0xff) throw new RangeError('a string of more than 255 bytes');
    this.u8(bytes);
    this.#text(value, this.#reserve(bytes), bytes);
  }
  str16(value: string): void {
    const bytes = Buffer.byteLength(value);
    if (bytes > 0xffff) throw new RangeError('a string of more than 65,535 bytes');
    this.u16(bytes);
    this.#text(value, this.#reserve(bytes), bytes);
  }
  raw32(value: Buffer): void {
    this.u32(value.length);
    const at = this.#reserve(value.length);
    value.copy(this.#buffer, at);
  }
  done(): Buffer {
    return this.#buffer.subarray(0, this.#offset);
  }
}

/** Reads what a function answered; reading past the end throws. */
export class Reader {
  readonly #buffer: Buffer;
  #offset = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  get left(): number {
    return this.#buffer.length - this.#offset;
  }
  u8(): number {
    return this.#buffer.readUInt8(this.#offset++);
  }
  u16(): number {
    const value = this.#buffer.readUInt16LE(this.#offset);
    this.#offset += 2;
    return value;
  }
  u32(): number {
    const value = this.#buffer.readUInt32LE(this.#offset);
    this.#offset += 4;
    return value;
  }
  f64(): number {
    const value = this.#buffer.readDoubleLE(this.#offset);
    this.#offset += 8;
    return value;
  }
  /** So many of something: a loop costs a tenth of what Array.from does. */
  list<Item>(count: number, read: () => Item): Item[] {
    const items: Item[] = [];
    for (let i = 0; i < count; i++) items.push(read());
    return items;
  }
  bytes(length: number): Buffer {
    const end = this.#offset + length;
    if (end > this.#buffer.length) throw new RangeError('the answer is shorter than its layout');
    const value = this.#buffer.subarray(this.#offset, end);
    this.#offset = end;
    return value;
  }
  chars(length: number): string {
    return this.bytes(length).toString('latin1');
  }
  str8(): string {
    return this.bytes(this.u8()).toString('utf8');
  }
  str16(): string {
    return this.bytes(this.u16()).toString('utf8');
  }
  raw16(): Buffer {
    return this.bytes(this.u16());
  }
  raw32(): Buffer {
    return this.bytes(this.u32());
  }
}
