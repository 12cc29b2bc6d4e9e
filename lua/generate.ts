/**
 * Writes `bindings.ts` from the headers of the commands: `npm run generate`. A test (`tidy.test.ts`) fails when the file
 * is not in step.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, type Field, readLibrary } from './library.ts';

const pascal = (name: string): string => name.replace(/(^|_)([a-z])/g, (_, _u, letter: string) => letter.toUpperCase());
const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

const scalarTypes: Record<string, string> = {
  u8: 'number',
  u16: 'number',
  u32: 'number',
  f64: 'number',
  str8: 'string',
  str16: 'string',
  raw16: 'Buffer',
  raw32: 'Buffer',
};

const fixedChars = (type: string): string | undefined => /^c(\d+)$/.exec(type)?.[1];

function typeOf(fields: Field[], list = ''): string {
  const members = fields.map((field) => {
    if (field.kind === 'list') return `${field.name}: ${list}${typeOf(field.fields, list)}[]`;
    const type = fixedChars(field.type) ? 'string' : scalarTypes[field.type];
    if (!type) throw new Error(`no such type in a layout: ${field.type}`);
    return `${field.name}: ${type}${field.kind === 'column' ? '[]' : ''}`;
  });
  return `{ ${members.join('; ')} }`;
}

function writes(fields: Field[], from: string, depth: number, indent: string): string {
  return fields
    .map((field) => {
      if (field.kind === 'list') {
        const each = `${from}.${field.name}`;
        const item = `e${depth}`;
        return `${indent}w.${field.count}(${each}.length);\n${indent}for (const ${item} of ${each}) {\n${writes(field.fields, item, depth + 1, `${indent}  `)}\n${indent}}`;
      }
      const length = fixedChars(field.type);
      if (field.kind === 'column') {
        const column = `${from}.${field.name}`;
        return length
          ? `${indent}w.charsColumn(${column}, ${length});`
          : `${indent}w.u16(${column}.length);\n${indent}for (const value of ${column}) w.${field.type}(value);`;
      }
      return length
        ? `${indent}w.chars(${from}.${field.name}, ${length});`
        : `${indent}w.${field.type}(${from}.${field.name});`;
    })
    .join('\n');
}

function reads(fields: Field[]): string {
  const members = fields.map((field) => {
    if (field.kind === 'list') return `${field.name}: r.list(r.${field.count}(), () => (${reads(field.fields)}))`;
    if (field.kind === 'column') throw new Error(`no command answers a column yet: ${field.name}`);
    const length = fixedChars(field.type);
    return length ? `${field.name}: r.chars(${length})` : `${field.name}: r.${field.type}()`;
  });
  return `{ ${members.join(', ')} }`;
}

function binding(command: Command): string {
  const type = pascal(command.name);
  const hasArgs = command.args.length > 0;
  const header = command.header ? '    writeHeader(w, header);\n' : '';
  return `export type ${type}Args = ${hasArgs ? typeOf(command.args, 'readonly ') : 'Record<string, never>'};
export type ${type}Answer = ${typeOf(command.answer)};
/** ${command.summary} */
export const ${camel(command.name)}Command: ShardCommand<${type}Args, ${type}Answer> = {
  name: '${command.name}',
  readOnly: ${command.flags.includes('no-writes')},
  encode: (${command.header ? 'header' : '_header'}, ${hasArgs ? 'args' : '_args'}) => {
    const w = new Writer();
${header}${writes(command.args, 'args', 0, '    ')}
    return w.done();
  },
  decode: (buffer) => {
    const r = new Reader(buffer);
    return ${reads(command.answer)};
  },
};
`;
}

/** The whole text of `bindings.ts`. */
export function generateBindings(): string {
  const library = readLibrary();
  const constants = Object.entries(library.constants)
    .map(([name, values]) => {
      const members = Object.entries(values).map(([key, value]) => `  ${camel(key)}: ${value},`);
      return `export const ${camel(name.toLowerCase())}Codes = {\n${members.join('\n')}\n} as const;`;
    })
    .join('\n\n');
  return `// Generated from the headers in lua/ by \`npm run generate\`. Do not edit.
import { Reader, Writer } from './packing.ts';

/** What every call carries: the shard's epoch, the highest sequence its caller has seen, its deadline (ms, shard time). */
export type CallHeader = { epoch: number; seen: number; deadlineMs: number };

export type ShardCommand<Args, Answer> = {
  name: string;
  readOnly: boolean;
  encode(header: CallHeader, args: Args): Buffer;
  decode(buffer: Buffer): Answer;
};

function writeHeader(w: Writer, header: CallHeader): void {
  w.u32(header.epoch);
  w.f64(header.seen);
  w.f64(header.deadlineMs);
}

${constants}

${library.commands.map(binding).join('\n')}`;
}

if (import.meta.main) {
  writeFileSync(join(import.meta.dirname, 'bindings.ts'), generateBindings());
}
