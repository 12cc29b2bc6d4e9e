import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

/** How a Node is called: its path, and flags. */
type Call = [path: string, ...flags: string[]];

/** Makes the Node that runs these tests look like another one to whoever asks for its version. */
const pretending = (version: string): Call => [
  process.execPath,
  '--import',
  `data:text/javascript,Object.defineProperty(process.versions, 'node', { value: '${version}' })`,
];

const systemNode = '/usr/bin/node';
const hasOldNode =
  existsSync(systemNode) && /^v(1\d|2[0-3])\./.test(execFileSync(systemNode, ['-v'], { encoding: 'utf8' }));
const olderNodes: [string, Call][] = [
  ['an older Node', pretending('20.19.0')],
  ...(hasOldNode ? ([["this machine's old Node", [systemNode]]] satisfies [string, Call][]) : []),
];

const mainScript = `
  import { exitWithParent } from ${JSON.stringify(join(import.meta.dirname, 'parent.ts'))};
  exitWithParent();
  const [task, ...rest]: string[] = process.argv.slice(2);
  const alive = setInterval(() => {}, 60_000);
  const signals: string[] = [];
  for (const signal of task === 'wait' ? ['SIGINT', 'SIGTERM', 'SIGHUP'] : []) {
    process.on(signal, () => {
      signals.push(signal);
      setTimeout(() => { console.log('ended by ' + signals.join()); process.exit(42); }, 200);
    });
  }
  if (task === 'kill') process.kill(process.pid, rest[0]);
  if (task !== 'kill') console.log(JSON.stringify({ pid: process.pid, major: process.version.slice(0, 3), rest }));
  if (task === 'echo') process.stdin.on('end', () => clearInterval(alive)).pipe(process.stdout);
  if (task === 'exit') process.exit(Number(rest[0]));
`;

describe('the stampede command', () => {
  let folder: string;
  let wrapper: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'stampede-cli-'));
    wrapper = join(folder, 'wrapper.mjs');
    const findNode = JSON.stringify(join(import.meta.dirname, 'find-node.js'));
    writeFileSync(
      wrapper,
      `import { runOnNode24 } from ${findNode};\nawait runOnNode24(new URL('./main.ts', import.meta.url));`,
    );
    writeFileSync(join(folder, 'main.ts'), mainScript);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** Starts the wrapper and reads its first line; `rest` is what it prints after that, until nobody can print more. */
  async function start([path, ...flags]: Call, ...args: string[]) {
    const child = spawn(path, [...flags, wrapper, ...args], { stdio: ['pipe', 'pipe', 'inherit'], timeout: 20_000 });
    const ended = once(child, 'exit');
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const { value: firstLine = '{}' } = await lines.next();
    const rest = (async () => {
      const printed: string[] = [];
      for (let line = await lines.next(); !line.done; line = await lines.next()) printed.push(line.value);
      return printed.join('\n');
    })();
    return { child, ended, first: JSON.parse(firstLine) as { pid: number; major: string; rest: string[] }, rest };
  }

  describe.each(olderNodes)('called with %s', (_, node) => {
    it('passes arguments, input and output to Node 24', async () => {
      const { child, ended, first, rest } = await start(node, 'echo', '--units', '10 000', '');
      child.stdin.end('from standard input');
      expect(first).toMatchObject({ major: 'v24', rest: ['--units', '10 000', ''] });
      expect(first.pid).not.toBe(child.pid);
      expect(await rest).toBe('from standard input');
      expect(await ended).toEqual([0, null]);
    });

    it('ends with the exit code of what it runs', async () => {
      const { ended } = await start(node, 'exit', '7');
      expect(await ended).toEqual([7, null]);
    });

    it.each(['SIGTERM', 'SIGKILL', 'SIGINT'])('ends by %s as what it runs did', async (signal) => {
      const { ended } = await start(node, 'kill', signal);
      expect(await ended).toEqual([null, signal]);
    });

    it.each<NodeJS.Signals>(['SIGTERM', 'SIGINT', 'SIGHUP'])('passes %s on and waits for the end', async (signal) => {
      const { child, ended, rest } = await start(node, 'wait');
      child.kill(signal);
      expect(await rest).toBe(`ended by ${signal}`);
      expect(await ended).toEqual([42, null]);
    });

    it('leaves nothing running when it is killed', async () => {
      const { child, rest } = await start(node, 'wait');
      child.kill('SIGKILL');
      expect(await rest).toBe('ended by SIGTERM');
    });

    it.skipIf(!existsSync('/usr/bin/script'))("lets a terminal's Ctrl-C arrive once", async () => {
      const words = [...node, wrapper, 'wait'].map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ');
      // Without exec, a plain shell between script and the command would die of the Ctrl-C itself.
      const command = `exec ${words}`;
      const terminal = spawn('/usr/bin/script', ['--quiet', '--return', '--command', command, '/dev/null'], {
        stdio: ['pipe', 'pipe', 'inherit'],
        timeout: 20_000,
      });
      const ended = once(terminal, 'exit');
      let printed = '';
      for await (const chunk of terminal.stdout) {
        if (printed === '') terminal.stdin.write('\x03');
        printed += chunk;
      }
      expect(printed).toMatch(/ended by SIGINT\r?\n/);
      expect(await ended).toEqual([42, null]);
    });
  });

  it('runs in the same process when called with Node 24', async () => {
    const { child, ended, first, rest } = await start([process.execPath], 'wait', 'x');
    expect(first).toEqual({ pid: child.pid, major: 'v24', rest: ['x'] });
    child.kill('SIGTERM');
    expect(await rest).toBe('ended by SIGTERM');
    expect(await ended).toEqual([42, null]);
  });

  it('leaves a newer Node for the Node 24 that came with the package', async () => {
    const { child, ended, first } = await start(pretending('26.1.0'), 'exit', '0');
    expect(first.pid).not.toBe(child.pid);
    expect(await ended).toEqual([0, null]);
  });

  describe('where no Node came with the package', () => {
    /** Runs the script from a copy of `find-node.js` that lies alone, called with Node `version`. */
    async function startAlone(version: string) {
      const alone = mkdtempSync(join(folder, 'alone-'));
      const copy = join(alone, 'find-node.mjs');
      copyFileSync(join(import.meta.dirname, 'find-node.js'), copy);
      writeFileSync(join(alone, 'main.mjs'), 'console.log("it runs in " + process.pid)');
      const script = `const { runOnNode24 } = await import(${JSON.stringify(copy)});
        await runOnNode24(new URL(${JSON.stringify(pathToFileURL(join(alone, 'main.mjs')).href)}));`;
      const [path, ...flags] = pretending(version);
      const child = spawn(path, [...flags, '--input-type=module', '-e', script], { timeout: 20_000 });
      const ended = once(child, 'exit');
      return { pid: child.pid, stdout: text(child.stdout), stderr: text(child.stderr), ended };
    }

    it('an older Node says in one line what to install', async () => {
      const { stderr, ended } = await startAlone('20.19.0');
      expect(await stderr).toMatch(/^Stampede needs Node 24, .* install it .*\n$/);
      expect(await ended).toEqual([1, null]);
    });

    it('a newer Node runs it itself', async () => {
      const { pid, stdout, ended } = await startAlone('26.1.0');
      expect(await stdout).toBe(`it runs in ${pid}\n`);
      expect(await ended).toEqual([0, null]);
    });
  });
});
