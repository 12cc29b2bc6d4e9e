import { defineConfig } from 'vitest/config';

// What is refused before Valkey is asked is the same on all of them.
const contract = ['engine/contract.test.ts', 'engine/contract-{selling,ending,operator,room,room-live}.test.ts'];

export default defineConfig({
  test: {
    pool: 'forks',
    setupFiles: ['./vitest.setup.ts'],
    // Each file starts servers of its own, some of them Kafka and a crowd: one at a time is what two cores bear steadily.
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 180_000,
    teardownTimeout: 30_000,
    projects: [
      { extends: true, test: { name: 'all', include: ['**/*.test.ts'] } },
      // The contract holds on every layout of Valkey.
      { extends: true, test: { name: 'replica', include: contract, env: { STAMPEDE_TEST_VALKEY: 'replica' } } },
      { extends: true, test: { name: 'cluster', include: contract, env: { STAMPEDE_TEST_VALKEY: 'cluster' } } },
    ],
  },
});
