import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { startServices } from './services.ts';

/** Writes down how it is called and answers as Compose does; what Compose itself does needs an engine. */
const DOCKER = `#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *" port valkey 6379") echo 127.0.0.1:7001 ;;
  *" port postgres 5432") echo 127.0.0.1:7002 ;;
  *" config --images") printf 'valkey/valkey:9.1.4-trixie\\npostgres:18.6-trixie\\n' ;;
  *" ps "*postgres) echo 0123456789ab ;;
esac
`;

const root = mkdtempSync(join(tmpdir(), 'stampede-compose-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

test('what is neither on PATH nor in a registry is started by Compose, and stopped if it did not run before', async () => {
  const bin = join(root, 'bin');
  const calls = join(root, 'calls');
  mkdirSync(bin);
  writeFileSync(join(bin, 'docker'), DOCKER);
  chmodSync(join(bin, 'docker'), 0o755);
  const env = { PATH: bin, HOME: root, CALLS: calls, STAMPEDE_CACHE_DIR: join(root, 'cache') };

  const set = await startServices({ names: ['valkey', 'postgres'], dataDir: join(root, 'set'), env });
  expect(set.services).toMatchObject({
    valkey: { url: 'redis://127.0.0.1:7001', source: 'compose', pid: null, version: '9.1.4-trixie' },
    postgres: {
      url: 'postgres://stampede:stampede@127.0.0.1:7002/stampede',
      source: 'compose',
      version: '18.6-trixie',
    },
  });
  await set.kill('valkey', 'SIGKILL');
  await set.startOne('valkey');
  await set.stop();

  const said = readFileSync(calls, 'utf8');
  const valkeyCalls = said.split('\n').filter((call) => / (up|kill|stop) .*valkey$/.test(call));
  expect(valkeyCalls.map((call) => call.replace(/^.*docker-compose\.yml /, ''))).toEqual([
    'up --detach --wait valkey',
    'kill --signal SIGKILL valkey',
    'up --detach --wait valkey',
    'stop valkey',
  ]);
  expect(said).not.toContain('stop postgres');
});
