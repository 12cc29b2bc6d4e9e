/** The package carries no types of its own. */
declare module 'cluster-key-slot' {
  /** The slot, 0 to 16383, of a key: of its hash tag, if it has one. */
  function keySlot(key: string): number;
  export = keySlot;
}
