/** What clients of a fault test did and were told, and what the ledger says of it: what the checkers look at. */

export type Wanted = { sku: string; quantity: number };
export type Line = { sku: string; warehouse: string; quantity: number };

/** What a client asked for. `reservation`: its id. */
export type Call =
  | { kind: 'reserve'; key: string; lines: Wanted[] }
  | { kind: 'commit' | 'release' | 'read'; reservation: string }
  | { kind: 'extend'; reservation: string; seconds: number }
  | { kind: 'adjust'; id: string; sku: string; warehouse: string; delta: number };

export type State = 'held' | 'committed' | 'released' | 'expired';

export type Answer = {
  status: number;
  /** The problem's code; '' when the call succeeded. */
  code: string;
  /** Of a reservation's call that succeeded. */
  reservation: { id: string; state: State; expiresAtMs: number; lines: Line[] } | null;
  replayed: boolean;
};

/** One call. Times are Unix ms with fractions, of the one process in which all clients run. */
export type Operation = {
  client: number;
  saleId: string;
  buyer: string;
  call: Call;
  callMs: number;
  /** null: nobody knows what came of it. It may have happened, may happen yet (a bounded time), or never. */
  answered: { atMs: number; answer: Answer } | null;
};

/** How a sale was set, which doesn't change while it is watched. `stock`: in serving order, per SKU. */
export type SaleRules = {
  saleId: string;
  shard: number;
  /** The sale's number on its shard. */
  no: number;
  /** 0: no limit. */
  perBuyer: number;
  holdSeconds: number;
  extensions: number;
  durability: 'memory' | 'fsync' | 'replicated';
  /** What it was opened with, where that is known: then who changes its stock is recorded too. */
  stock?: Line[];
};

/** A fact as the ledger has it. `seq` grows over the shard's sales; `atMs` is the shard's time when it happened. */
export type Fact = { shard: number; no: number; seq: number; atMs: number } & (
  | {
      kind: 'reserved';
      id: string;
      buyer: string;
      lines: Line[];
      expiresAtMs: number;
      /** As it is known in the end. */
      extensions: number;
      lastExpiresAtMs: number;
    }
  /** `reservation`: the sequence at which it was reserved; `lines`: what moved. */
  | { kind: 'committed' | 'released' | 'expired' | 'returned'; reservation: number; lines: Line[] }
  /** `id`: the change's. `units`: signed, what is added to those available. */
  | { kind: 'restocked' | 'adjusted'; id: string; sku: string; warehouse: string; units: number }
);

/** One run as its checkers see it. */
export type History = { sales: SaleRules[]; operations: Operation[]; facts: Fact[] };

/** What a checker found: a sentence that a person can act on. Nothing found: the promise was kept. */
export type Finding = string;
