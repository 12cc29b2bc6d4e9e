/**
 * schemathesis, a public tester of OpenAPI interfaces (PyPI), against a live engine: the document as it is served, with a
 * buyer's token and with the operator's; then the document narrowed to sales that are there, so that calls get past 404.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installOnce } from '../../services/cache.ts';
import { findOnPath, mustRun, runCommand } from '../../services/commands.ts';
import type { Finding, Progress } from './report.ts';

const requirements = join(import.meta.dirname, 'requirements.txt');
const version = /^schemathesis==(\S+)/m.exec(readFileSync(requirements, 'utf8'))?.[1] ?? '';

export type Pass = { name: string; cases: number; operations: number; seconds: number };
export type SchemathesisReport = { version: string; passes: Pass[]; findings: Finding[] };

/** Why schemathesis can't run here; '' where it can. */
export async function missingForSchemathesis(env: NodeJS.ProcessEnv): Promise<string> {
  const python = findOnPath('python3', env);
  if (python === null) return 'python3 is not on PATH';
  const look = 'import sys, pip; sys.exit(0 if sys.version_info >= (3, 11) else 3)';
  const { code } = await runCommand([python, '-c', look], { env, timeoutMs: 30_000 });
  if (code === 3) return 'python3 is older than 3.11';
  return code === 0 ? '' : 'python3 has no pip';
}

/** The program, installed once into the machine's cache with every package's digest checked. */
export async function installSchemathesis(env: NodeJS.ProcessEnv, progress: Progress): Promise<string> {
  const python = findOnPath('python3', env);
  if (python === null) throw new Error('schemathesis needs python3 on PATH');
  const about = await mustRun([python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], {
    env,
    timeoutMs: 30_000,
  });
  const folder = await installOnce({
    name: `schemathesis-${version}-python${about.trim()}`,
    env,
    fill: async (draft) => {
      progress(`fetching schemathesis ${version} from PyPI (once)`);
      const rest = ['install', '--quiet', '--only-binary=:all:', '--require-hashes', '--target', draft];
      await mustRun([python, '-m', 'pip', ...rest, '--requirement', requirements], { env, timeoutMs: 300_000 });
    },
  });
  return folder;
}

type Json = { [member: string]: Json } | Json[] | string | number | boolean | null;
type OpenApi = { paths: Record<string, Record<string, Record<string, Json>>> };

/** A schema or a parameter with the ids that `ids` names limited to those. */
function limited(part: Json, ids: Record<string, string[]>): Json {
  if (Array.isArray(part)) return part.map((each) => limited(each, ids));
  if (typeof part !== 'object' || part === null) return part;
  const named = 'in' in part ? ids[String(part.name)] : undefined;
  if (named) return { ...part, schema: { type: 'string', enum: named } };
  return Object.fromEntries(
    Object.entries(part).map(([name, value]): [string, Json] => {
      const known = ids[name];
      // A member's schema, and not one of a list of names.
      const isSchema = typeof value === 'object' && value !== null && 'pattern' in value;
      return [name, known && isSchema ? { type: 'string', enum: known } : limited(value, ids)];
    }),
  );
}

/** The document with what requests may name (parameters, members of bodies) limited to ids that are there. */
export function narrowed<Document extends OpenApi>(document: Document, ids: Record<string, string[]>): Document {
  const paths = Object.entries(document.paths).map(([path, operations]) => {
    const narrow = Object.entries(operations).map(([method, operation]) => [
      method,
      Object.fromEntries(
        Object.entries(operation).map(([name, part]) => [name, name === 'responses' ? part : limited(part, ids)]),
      ),
    ]);
    return [path, Object.fromEntries(narrow)];
  });
  return { ...document, paths: Object.fromEntries(paths) };
}

/** What a check would otherwise hold against answers that are the contract's. */
const settings = `
[checks.negative_data_rejection]
# A list that is longer than it may be can be more than a body may have.
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415]

[checks.positive_data_acceptance]
# A key or an id of a change that was used with another body.
expected-statuses = ["2xx", 401, 403, 404, 409, 413, 422]

[[operations]]
include-name = "PUT /v1/admin/sales/{saleId}"
# Members may be right each for itself and wrong together: closesAt before opensAt, a SKU given twice.
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, 413, 422]
`;

export type Target = {
  url: string;
  adminToken: string;
  buyerToken: string;
  /** Sales that buyers may buy from, sales that the operator may change, and what they sell. */
  sales: { buyers: string[]; operators: string[]; skus: string[]; warehouses: string[] };
};

type RunReport = {
  operations: { tested: number };
  running_time: number;
  stop_reason: string;
  test_cases: { generated: number };
  failures: unknown[];
  errors: unknown[];
};

/** The part of its output that says what failed and how to do it again; bodies may be very long. */
function failuresIn(output: string): string {
  const from = output.search(/^=+ (FAILURES|ERRORS) =+$/m);
  const to = output.search(/^=+ (WARNINGS|SUMMARY) =+$/m);
  const lines = output.slice(Math.max(0, from), to < 0 ? undefined : to).split('\n');
  return lines.map((line) => line.slice(0, 1_000)).join('\n');
}

export async function runSchemathesis(
  target: Target,
  options: { seed: number; seconds: number; env: NodeJS.ProcessEnv; progress: Progress },
): Promise<SchemathesisReport> {
  const { env, progress, seed } = options;
  const program = await installSchemathesis(env, progress);
  const folder = mkdtempSync(join(tmpdir(), 'stampede-schemathesis-'));
  const report: SchemathesisReport = { version, passes: [], findings: [] };
  const served = `${target.url}/openapi.json`;
  const document = (await (await fetch(served)).json()) as OpenApi;
  const { buyers, operators, skus, warehouses } = target.sales;
  const narrow = (name: string, saleId: string[]): string => {
    const path = join(folder, `${name}.json`);
    writeFileSync(path, JSON.stringify(narrowed(document, { saleId, sku: skus, warehouse: warehouses })));
    return path;
  };
  writeFileSync(join(folder, 'schemathesis.toml'), settings);
  // A reservation that was given back can still be read, as the contract has it.
  const whole = ['--exclude-checks', 'use_after_free'];
  // What the narrowed document forbids, the engine need not.
  const positive = [
    '--mode',
    'positive',
    '--phases',
    'fuzzing,stateful',
    '--exclude-checks',
    'negative_data_rejection,use_after_free',
  ];
  const buying = [...positive, '--exclude-path-regex', '^/v1/admin'];
  // Buyers first: an operator closes every sale that it can find.
  const passes: [string, string, string, string[]][] = [
    ['buyer', target.buyerToken, served, whole],
    ['buyer, sales that are there', target.buyerToken, narrow('buyer', buyers), buying],
    ['operator', target.adminToken, served, whole],
    ['operator, sales that are there', target.adminToken, narrow('operator', operators), positive],
  ];
  try {
    for (const [name, token, location, more] of passes) {
      progress(`schemathesis as ${name}`);
      const seconds = Math.max(5, Math.round(options.seconds / passes.length));
      const { code, output } = await runCommand(
        [
          ...[findOnPath('python3', env) ?? 'python3', '-m', 'schemathesis.cli', '--config-file', 'schemathesis.toml'],
          ...['run', location, '--url', target.url, '--header', `Authorization: Bearer ${token}`],
          ...['--checks', 'all', '--seed', String(seed), '--max-time', String(seconds), '--max-examples', '100000'],
          ...['--continue-on-failure', '--generation-database', 'none', '--no-color', '--request-timeout', '20'],
          ...['--report', 'json', '--report-json-path', 'report.json', ...more],
        ],
        { env: { ...env, PYTHONPATH: program }, cwd: folder, timeoutMs: (seconds * 4 + 60) * 1_000 },
      );
      // 0: all passed. 1: it found something. Any other: it could not do its work.
      if (code > 1) throw new Error(`schemathesis ended with ${code}: ${output.slice(-2_000)}`);
      const run = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8')) as RunReport;
      rmSync(join(folder, 'report.json'));
      report.passes.push({
        name,
        cases: run.test_cases.generated,
        operations: run.operations.tested,
        seconds: run.running_time,
      });
      if (run.failures.length + run.errors.length > 0)
        report.findings.push({ kind: `schemathesis as ${name}`, what: failuresIn(output) });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return report;
}
