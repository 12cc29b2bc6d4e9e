/** Reads the Lua files as one library: its source, its name (a hash of its content), and the headers of its commands. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * A member of a layout: a scalar (`name type`), a column of scalars (`name type*`, counted by u16), or a list (`name { … }`,
 * counted by u16; `name[u32] { … }`).
 */
export type Field =
  | { kind: 'scalar' | 'column'; name: string; type: string }
  | { kind: 'list'; name: string; count: string; fields: Field[] };

export type Command = {
  name: string;
  summary: string;
  flags: string[];
  /** Whether the argument starts with the call header (epoch, sequence seen, deadline). */
  header: boolean;
  args: Field[];
  answer: Field[];
};

export type Library = {
  /** Content hash, part of the library's and of every function's name, so that two releases can share a server. */
  hash: string;
  /** What FUNCTION LOAD takes. */
  source: string;
  commands: Command[];
  /** Tables of numbers that both sides know, by their Lua name. */
  constants: Record<string, Record<string, number>>;
};

/** Parses a layout such as `now f64, results { status u8, lines raw16 }`. */
export function parseLayout(text: string): Field[] {
  const tokens = text.match(/[A-Za-z0-9_]+|[{}[\],*]/g) ?? [];
  let next = 0;
  const fields = (closing: string | undefined): Field[] => {
    const found: Field[] = [];
    while (next < tokens.length && tokens[next] !== closing) {
      if (tokens[next] === ',') next++;
      const name = tokens[next++];
      let count = 'u16';
      if (tokens[next] === '[') {
        count = tokens[next + 1] ?? '';
        next += 3;
      }
      if (!name) break;
      if (tokens[next] === '{') {
        next++;
        found.push({ kind: 'list', name, count, fields: fields('}') });
        next++;
      } else {
        const type = tokens[next++];
        if (!type) throw new Error(`a member without a type in the layout: ${text}`);
        const column = tokens[next] === '*';
        if (column) next++;
        found.push({ kind: column ? 'column' : 'scalar', name, type });
      }
    }
    return found;
  };
  return fields(undefined);
}

function parseCommand(file: string, text: string): Command {
  const comment = /^--\[\[\n([\s\S]*?)\n\]\]/.exec(text)?.[1];
  if (!comment) throw new Error(`${file} has no header comment`);
  const name = file.replace(/\.lua$/, '');
  const first = comment.split('\n\n')[0]?.replace(/\s+/g, ' ') ?? '';
  const tag = (wanted: string): string | undefined =>
    new RegExp(`^@${wanted}[ ]*(.*)$`, 'm').exec(comment)?.[1]?.trim();
  const args = tag('args');
  const answer = tag('answer');
  if (!first.startsWith(`${name}: `) || args === undefined || !answer || tag('flags') === undefined)
    throw new Error(`the header of ${file} needs "${name}: …", @flags, @args and @answer`);
  return {
    name,
    summary: first.slice(name.length + 2),
    flags: tag('flags')?.split(/\s+/).filter(Boolean) ?? [],
    header: tag('header') !== 'none',
    args: parseLayout(args),
    answer: parseLayout(answer),
  };
}

function parseConstants(text: string): Library['constants'] {
  const tables: Library['constants'] = {};
  for (const [, name = '', body = ''] of text.matchAll(/^local ([A-Z]+) = \{([^}]*)\}/gm)) {
    const values: Record<string, number> = {};
    for (const [, key = '', value] of body.matchAll(/(\w+) = (\d+)/g)) values[key] = Number(value);
    tables[name] = values;
  }
  return tables;
}

/** Reads the library from this folder. Throws when a command's header is not as it should be. */
export function readLibrary(): Library {
  const folder = import.meta.dirname;
  const luaFiles = (path: string): string[] =>
    readdirSync(path)
      .filter((file) => file.endsWith('.lua'))
      .sort();
  const includes = luaFiles(join(folder, 'includes')).map((file) => ({
    file,
    text: readFileSync(join(folder, 'includes', file), 'utf8'),
  }));
  const files = luaFiles(folder).map((file) => ({ file, text: readFileSync(join(folder, file), 'utf8') }));
  const all = [...includes, ...files].map(({ file, text }) => `${file}\n${text}`).join('\n');
  const hash = createHash('sha256').update(all).digest('hex').slice(0, 12);
  const commands = files.map(({ file, text }) => parseCommand(file, text));
  const registered = files.map(({ text }, i) => {
    const command = commands[i];
    if (!command) throw new Error('a file without a command');
    const flags = command.flags.map((flag) => `'${flag}'`).join(', ');
    return `do\n${text}\nserver.register_function{ function_name = '${command.name}_${hash}', callback = ${command.name}, flags = { ${flags} } }\nend`;
  });
  const source = [`#!lua name=stampede_${hash}`, ...includes.map(({ text }) => text), ...registered].join('\n');
  return { hash, source, commands, constants: parseConstants(includes[0]?.text ?? '') };
}
