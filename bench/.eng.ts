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


  const { spawn } = await import('node:child_process');
  const { execSync } = await import('node:child_process');
  const pids = { noop: noop.child.pid!, engine: engine.child.pid!, valkey: Number(execSync(`pgrep -x valkey-server | tail -1`).toString()) };
  const watch = (pid: number) => { const p = spawn('perf', ['stat', '-x,', '-e', 'instructions:u,instructions:k,cycles:u,cycles:k,task-clock', '-p', String(pid)], { stdio: ['ignore', 'ignore', 'pipe'] }); let out = ''; p.stderr.on('data', (d) => (out += d)); return async () => { p.kill('SIGINT'); if (p.exitCode === null) await new Promise((r) => { p.on('exit', r); setTimeout(r, 2000); }); return out.trim().split('\n').map((l) => Number(l.split(',')[0])); }; };
  const show = (n: string, v: number[], req: number, secs: number) => say(`  ${n.padEnd(7)} instr u ${Math.round(v[0]! / req)} k ${Math.round(v[1]! / req)} cycles ${Math.round((v[2]! + v[3]!) / req)} cpu ${(v[4]! / 1000 / secs).toFixed(2)}`);
  let most = 60_000 * options.seconds;
  const ratios: number[] = [];
  for (let round = 0; round <= options.rounds; round++) {
    const saleId = `bench-${round}`;
    await putSale(urls.stampede, saleId);
    writeTokens(most);
    const load = { connections: options.connections, seconds: options.seconds, tokensFile, saleId };
    const w0 = watch(pids.noop);
    const a = await runWrk({ url: urls.noop, ...load });
    const v0 = await w0();
    if (process.env.PROF && round > 0) spawn('perf', ['record', '-g', '-o', '/tmp/vk/node.data', '-e', 'instructions:u', '-c', '200000', '-p', String(pids.engine), '--', 'sleep', String(options.seconds - 2)], { stdio: 'ignore' });
    const w1 = watch(pids.engine), w2 = watch(pids.valkey);
    const b = await runWrk({ url: urls.stampede, ...load });
    const v1 = await w1(), v2 = await w2();
    if (round > 0) ratios.push(b.perSecond / a.perSecond);
    say(`${round}: noop ${a.perSecond.toFixed(0)} stampede ${b.perSecond.toFixed(0)} ratio ${(b.perSecond / a.perSecond).toFixed(3)} p99 ${a.p99Ms} ${b.p99Ms} bad ${b.refused} ${b.failed}`);
    show('noop', v0, a.requests, options.seconds); show('engine', v1, b.requests, options.seconds); show('valkey', v2, b.requests, options.seconds);
    const metrics = await (await fetch(urls.stampede + '/metrics')).text().catch(() => '');
  }
  say(`median ${median(ratios).toFixed(3)}`);
} finally {
  for (const each of running.reverse()) await each.stop().catch(() => undefined);
  await stampede(['down', '--name', name, '--json'], baseEnv).catch((error: unknown) => say(String(error)));
  rmSync(folder, { recursive: true, force: true });
}
