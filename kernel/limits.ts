/**
 * Every limit of Stampede, in one place. A limit that an operator may change has its environment variable named beside
 * it (read in `config.ts`); the others are part of the contract or of a stored format. Reference:
 * docs/reference/limits.md.
 */
export const limits = {
  // HTTP (contract, "Ground rules")
  bodyBytes: 64 * 1024,
  headerBytes: 8 * 1024,
  linesPerRequest: 50,
  quantityPerLine: 1_000,
  idempotencyKeyChars: 128,
  rememberedBodies: 1_000,
  rememberedBodyChars: 256,
  titleChars: 200,
  reasonChars: 500,

  // Selling
  holdSecondsMin: 1,
  holdSecondsMax: 86_400,
  holdSecondsDefault: 1_800,
  extendSecondsMax: 86_400,
  extendSecondsDefault: 300,
  extensionsDefault: 1,
  perBuyerMax: 1_000_000,
  allotmentsPerSale: 20_000,
  warehousesPerSku: 50,
  salesPerShard: 100_000,
  unitsPerAllotment: 1_000_000_000,
  rememberSeconds: 3_600,
  sessionSeconds: 86_400,

  // Shards and batches
  shardsMax: 1_024,
  batchRequests: 512,
  batchLines: 2_000,
  batchMin: 16,
  batchesInFlight: 4,
  linesTexts: 1_000,
  pendingRequests: 50_000,
  callMs: 5_000,
  connectMs: 2_000,
  replicaMs: 1_000,
  rebuildCallMs: 30_000,
  sweepReservations: 250,
  sweepsInFlight: 2,
  watchGapMs: 2_000,

  // Outbox, relay, ledger
  outboxEvents: 4_000_000,
  outboxTailEvents: 10_000,
  relayEntries: 2_000,
  relayAheadEvents: 200_000,
  relayStallMs: 5_000,

  // Waiting room
  ticketsPerSale: 2_000_000,
  roomsPerShard: 100,
  admissionsPerMinute: 1_000_000,
  admissionSecondsMax: 86_400,
  graceSecondsMax: 86_400,
  lanes: 8,
  laneWeight: 1_000,
  challengeBits: 32,
  tendTickets: 500,
  ticketsPerCall: 512,
  drawPage: 1_000,
  linesWatched: 1_000,

  // WebSocket (contract, "Waiting room": close codes)
  frameBytes: 16 * 1024,
  socketBufferBytes: 256 * 1024,
  socketIdleSeconds: 60,
  framesPerSecond: 50,
  framesInFlight: 100,

  // Process
  stopSeconds: 15,
  addressesTracked: 100_000,
  workersMax: 64,
} as const;
