import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { describe, expect, it } from 'vitest';
import { isOlder, patchForGlibc, runtimeGlibc, versionNeeds } from './glibc.ts';

const original = readFileSync(createRequire(import.meta.url).resolve('@uwsjs/linux-x64-24/uws.node'));

/** A copy of the original in which the first `from` reads `to`. */
function withText(from: string, to: string): Buffer {
  const copy = Buffer.from(original);
  copy.write(to, copy.indexOf(from), 'latin1');
  return copy;
}

/** A copy of the original with one byte changed. */
function withByte(offset: number, value: number): Buffer {
  const copy = Buffer.from(original);
  copy[offset] = value;
  return copy;
}

describe('the glibc version', () => {
  it('is known on this machine', () => expect(runtimeGlibc()).toMatch(/^2\.\d+$/));

  it.each([
    ['2.36', '2.38', true],
    ['2.4', '2.38', true],
    ['2.2.5', '2.3', true],
    ['2.38', '2.38', false],
    ['2.41', '2.38', false],
    ['3.0', '2.38', false],
  ])('%s is older than %s: %s', (a, b, expected) => expect(isOlder(a, b)).toBe(expected));
});

describe('a patched module', () => {
  const patched = patchForGlibc(original, '2.36');

  it('insists on nothing newer than the glibc it is patched for', () => {
    const insistsOn = (binary: Buffer) => versionNeeds(binary).flatMap((need) => (need.weak ? [] : [need.version]));
    expect(insistsOn(original)).toContain('GLIBC_2.38');
    expect(insistsOn(patched)).not.toContain('GLIBC_2.38');
    expect(insistsOn(patched).length).toBe(insistsOn(original).length - 1);
    for (const version of insistsOn(patched)) expect(isOlder('2.36', version.replace('GLIBC_', ''))).toBe(false);
  });

  it('differs from the original in a few bytes of its symbol and version tables', () => {
    expect(patched.length).toBe(original.length);
    let changedBytes = 0;
    for (let at = 0; at < original.length; at++) if (patched[at] !== original[at]) changedBytes++;
    expect(changedBytes).toBeGreaterThan(0);
    expect(changedBytes).toBeLessThan(32);
  });
});

describe('the patch refuses', () => {
  it.each<[string, () => Buffer, string, string]>([
    ['an empty file', () => Buffer.alloc(0), '2.36', "isn't a 64-bit little-endian ELF"],
    ['a text', () => Buffer.from('module.exports = 1;\n'.repeat(99)), '2.36', "isn't a 64-bit little-endian ELF"],
    ['a 32-bit module', () => withByte(4, 1), '2.36', "isn't a 64-bit little-endian ELF"],
    ['a module for another processor', () => withByte(18, 183), '2.36', "isn't made for x86-64"],
    ['half a module', () => original.subarray(0, original.length / 2), '2.36', 'point outside the file'],
    ['an absurd table offset', () => withByte(47, 0x7f), '2.36', 'point outside the file'],
    ['a module without sections', () => withByte(60, 0), '2.36', 'exactly one ELF section .dynsym'],
    ['what it has patched itself', () => patchForGlibc(original, '2.36'), '2.36', 'patched already'],
    ['a module that asks for no 2.38', () => withText('GLIBC_2.38', 'GLIBC_2.37'), '2.36', 'nothing to patch'],
    [
      'a function it does not know',
      () => withText('__isoc23_strtoull', '__isoc23_strtouxx'),
      '2.36',
      '__isoc23_strtouxx',
    ],
    ['a glibc that lacks more', () => original, '2.31', 'GLIBC_2.36, GLIBC_2.34, GLIBC_2.33'],
    ['a version it cannot compare', () => withText('GLIBC_2.35', 'GLIBC_PRIV'), '2.36', 'it needs GLIBC_PRIV'],
  ])('%s', (_, binary, glibc, reason) => {
    const refused = () => patchForGlibc(binary(), glibc);
    if (reason.includes(', ')) for (const part of reason.split(', ')) expect(refused).toThrow(part);
    else expect(refused).toThrow(reason);
  });
});
