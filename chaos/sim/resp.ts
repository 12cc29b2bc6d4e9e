/**
 * A plain client of Valkey. Many seeds share it: what they ask in one turn of the event loop goes out as one write. (With a
 * larger client, and a write for each call, nearly all of a seed's time went into system calls.)
 */
import { connect } from 'node:net';

export type Reply = Buffer | number | null | Reply[];

export type PlainClient = {
  /** Sends all of them at once; resolves with the answer to each. An answer may be an Error. */
  send(commands: readonly (readonly (string | Buffer)[])[]): Promise<(Reply | Error)[]>;
  close(): void;
};

type Parsed = { value: Reply | Error; next: number } | null;

function lineEnd(buffer: Buffer, from: number): number {
  return buffer.indexOf('\r\n', from, 'latin1');
}

/** Reads one answer from `at`; null when it isn't there whole. */
function parse(buffer: Buffer, at: number): Parsed {
  const end = lineEnd(buffer, at + 1);
  if (end < 0) return null;
  const text = buffer.toString('latin1', at + 1, end);
  const next = end + 2;
  switch (buffer[at]) {
    case 0x2b: // +
      return { value: Buffer.from(text), next };
    case 0x2d: // -
      return { value: new Error(text), next };
    case 0x3a: // :
      return { value: Number(text), next };
    case 0x24: {
      const length = Number(text);
      if (length < 0) return { value: null, next };
      if (buffer.length < next + length + 2) return null;
      return { value: Buffer.from(buffer.subarray(next, next + length)), next: next + length + 2 };
    }
    default: {
      const items: Reply[] = [];
      let place = next;
      for (let i = 0; i < Number(text); i++) {
        const item = parse(buffer, place);
        if (!item) return null;
        if (item.value instanceof Error) return item;
        items.push(item.value);
        place = item.next;
      }
      return { value: items, next: place };
    }
  }
}

export async function connectPlain(path: string): Promise<PlainClient> {
  const socket = connect({ path });
  const waiting: { answers: (Reply | Error)[]; count: number; resolve(answers: (Reply | Error)[]): void }[] = [];
  let rest: Buffer<ArrayBufferLike> = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    for (let found = waiting.length > 0 ? parse(rest, 0) : null; found; ) {
      at = found.next;
      const one = waiting[0];
      if (one && one.answers.push(found.value) === one.count) {
        waiting.shift();
        one.resolve(one.answers);
      }
      found = at < rest.length ? parse(rest, at) : null;
    }
    rest = rest.subarray(at);
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  let outgoing: Buffer[] = [];
  const flush = (): void => {
    const parts = outgoing;
    outgoing = [];
    socket.write(Buffer.concat(parts));
  };
  return {
    send: (commands) =>
      new Promise((resolve) => {
        // Once nothing else can run.
        if (outgoing.length === 0) setImmediate(flush);
        for (const words of commands) {
          outgoing.push(Buffer.from(`*${words.length}\r\n`));
          for (const word of words) {
            const bytes = typeof word === 'string' ? Buffer.from(word) : word;
            outgoing.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
          }
        }
        waiting.push({ answers: [], count: commands.length, resolve });
      }),
    close: () => socket.destroy(),
  };
}
