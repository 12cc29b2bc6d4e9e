/** Numbers from 0 up to 1 that look random and are the same for the same seed and stream: mulberry32. */
export function createRandom(seed: number, stream: number): () => number {
  // Neighbouring streams must not look alike: the seed and the number of the stream are mixed well first.
  let state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(stream + 1, 0xc2b2ae35);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
