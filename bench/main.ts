/**
 * `npm run bench`: reservations a second of one engine process on one hot SKU, on disk before each answer, beside a server
 * that only parses the same body and answers. Rounds alternate, since machines are shared and noisy: the ratio counts.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import { createSigner } from 'fast-jwt';
import { type Started, serve, stampede, startNode } from './command.ts';
import { runWrk, type WrkResult } from './wrk.ts';

const options = new Command('bench')
  .description('Reservations a second beside a server that does nothing, on this machine, in one run')
  .addOption(new Option('--connections <n>', 'open connections').argParser(Number).default(256))
  .addOption(new Option('--seconds <n>', 'of each round').argParser(Number).default(5))
  .addOption(
    new Option('--rounds <n>', 'pairs of rounds; one more goes before, to warm up').argParser(Number).default(5),
  )
  .addOption(new Option('--ledger', 'relay and ledger run beside (else they catch up afterwards)').default(false))
  .addOption(new Option('--json', 'the result as one JSON object on the last line').default(false))
  .parse()
  .opts<{ connections: number; seconds: number; rounds: number; ledger: boolean; json: boolean }>();

const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};
const median = (values: number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
};

const adminToken = randomBytes(18).toString('base64url');
const sessionSecret = randomBytes(32).toString('base64url');
const folder = mkdtempSync(join(tmpdir(), 'stampede-bench-'));
const name = `bench-${process.pid}`;
const baseEnv = { ...process.env, XDG_STATE_HOME: folder };
const sign = createSigner({ key: sessionSecret, algorithm: 'HS256', expiresIn: 3_600_000 });
const tokensFile = join(folder, 'tokens');

/** As many tokens as a round can possibly use. */
function writeTokens(count: number): void {
  const lines = Array.from({ length: count }, () => sign({ sub: randomBytes(9).toString('base64url') }));
  writeFileSync(tokensFile, `${lines.join('\n')}\n`);
}

async function putSale(url: string, saleId: string): Promise<void> {
  const answer = await fetch(`${url}/v1/admin/sales/${saleId}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify({
      title: 'bench',
      perBuyer: 1,
      durability: 'fsync',
      stock: [{ sku: 'hot', warehouse: 'w1', quantity: 1_000_000_000 }],
    }),
  });
  if (answer.status !== 201) throw new Error(`the sale could not be made: ${await answer.text()}`);
}

type Services = Record<'valkey' | 'postgres', { url: string; socketPath?: string }>;
type Reconciled = { drift: number; rows: { saleId: string; ledger: { reserved: number } | null }[]; error?: string };

const running: Started[] = [];
let cleaning: Promise<void> | null = null;
function clean(): Promise<void> {
  cleaning ??= (async () => {
    for (const each of running.reverse()) await each.stop().catch(() => undefined);
    await stampede(['down', '--name', name, '--json'], baseEnv).catch((error: unknown) => say(String(error)));
    rmSync(folder, { recursive: true, force: true });
  })();
  return cleaning;
}
// Servers that `up` has started outlive this process: whatever ends it ends them.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => void clean().then(() => process.exit(1)));
try {
  say('Starting Valkey and Postgres …');
  const services = (await stampede(['up', '--name', name, '--json'], baseEnv)) as Services;
  const env = {
    ...baseEnv,
    VALKEY_URL: services.valkey.socketPath ? `unix://${services.valkey.socketPath}` : services.valkey.url,
    DATABASE_URL: services.postgres.url,
    ADMIN_TOKEN: adminToken,
    SESSION_SECRET: sessionSecret,
    RATE_LIMITS: 'off',
    LOG_LEVEL: 'error',
  };
  const background = 'relay,ledger,sweeper';
  const engine = await serve(['--port', '0', '--roles', 'http'], env);
  running.push(engine);
  if (options.ledger) running.push(await serve(['--roles', background], env));
  const noop = await startNode(fileURLToPath(new URL('./peers/noop.ts', import.meta.url)), ['0'], env);
  running.push(noop);
  const urls = { noop: `http://127.0.0.1:${String(noop.ready.port)}`, stampede: String(engine.ready.url) };

  const rounds: { noop: WrkResult; stampede: WrkResult; saleId: string }[] = [];
  let most = 60_000 * options.seconds;
  for (let round = 0; round <= options.rounds; round++) {
    const saleId = `bench-${round}`;
    await putSale(urls.stampede, saleId);
    writeTokens(most);
    const load = { connections: options.connections, seconds: options.seconds, tokensFile, saleId };
    const noopResult = await runWrk({ url: urls.noop, ...load });
    const result = await runWrk({ url: urls.stampede, ...load });
    most = Math.ceil(Math.max(most, noopResult.requests * 1.3));
    const ratio = result.perSecond / noopResult.perSecond;
    say(
      `${round === 0 ? 'warm-up' : `round ${round}`}: noop ${noopResult.perSecond.toFixed(0)}/s, stampede ${result.perSecond.toFixed(0)}/s, ratio ${ratio.toFixed(3)}`,
    );
    rounds.push({ noop: noopResult, stampede: result, saleId });
  }

  say('The ledger catches up …');
  if (!options.ledger) running.push(await serve(['--roles', background], env));
  const ledger = (await stampede(['reconcile', '--json', '--wait', '240000'], env)) as Reconciled;
  if (ledger.error) throw new Error(ledger.error);
  const faults: string[] = ledger.drift === 0 ? [] : [`drift of ${ledger.drift} units`];
  for (const { saleId, stampede: result } of rounds) {
    const written = ledger.rows.find((row) => row.saleId === saleId)?.ledger?.reserved ?? 0;
    const granted = result.requests - result.refused;
    // wrk hangs up with a request under way on each connection: those may have been granted unseen.
    if (written < granted || written > granted + options.connections)
      faults.push(`${saleId}: ${granted} answers of 201, ${written} reservations in the ledger`);
    if (result.refused + result.failed > 0)
      faults.push(`${saleId}: ${result.refused} refused, ${result.failed} failed`);
  }

  const counted = rounds.slice(1);
  const ratios = counted.map((round) => round.stampede.perSecond / round.noop.perSecond);
  const summary = {
    connections: options.connections,
    ledgerRunning: options.ledger,
    noopPerSecond: median(counted.map((round) => round.noop.perSecond)),
    stampedePerSecond: median(counted.map((round) => round.stampede.perSecond)),
    ratio: median(ratios),
    ratioMin: Math.min(...ratios),
    ratioMax: Math.max(...ratios),
    noopP99Ms: median(counted.map((round) => round.noop.p99Ms)),
    stampedeP99Ms: median(counted.map((round) => round.stampede.p99Ms)),
    reservations: rounds.reduce((sum, round) => sum + round.stampede.requests, 0),
    drift: ledger.drift,
    faults,
  };
  const table = new Table({ head: ['median of rounds', 'noop', 'stampede'], style: { head: [], border: [] } });
  table.push(
    ['answers a second', summary.noopPerSecond.toFixed(0), summary.stampedePerSecond.toFixed(0)],
    ['p99, ms', summary.noopP99Ms.toFixed(1), summary.stampedeP99Ms.toFixed(1)],
    ['ratio', '1', `${summary.ratio.toFixed(3)} (${summary.ratioMin.toFixed(3)} to ${summary.ratioMax.toFixed(3)})`],
  );
  process.stdout.write(`${table.toString()}\n`);
  process.stdout.write(
    faults.length === 0
      ? `${summary.reservations} reservations, as many in the ledger; drift 0.\n`
      : `Wrong: ${faults.join('; ')}\n`,
  );
  if (options.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
  if (faults.length > 0) process.exitCode = 1;
} finally {
  await clean();
}
