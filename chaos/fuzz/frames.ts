/** WebSocket frames as RFC 6455 writes them, made and read without the engine's code. */

export const opcodes = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

export type Frame = { fin: boolean; rsv: number; opcode: number; masked: boolean; payload: Buffer };

export type FrameOptions = Partial<Omit<Frame, 'payload'>> & {
  mask?: Buffer;
  /** How the length is written: in 7 bits, 16 or 64, whatever it is. */
  form?: 7 | 16 | 64;
  /** The length that it says it has. */
  says?: bigint;
};

function lengthBytes(length: bigint, form: 7 | 16 | 64, maskBit: number): Buffer {
  if (form === 7) return Buffer.of(maskBit | Number(length & 0x7fn));
  const bytes = Buffer.alloc(form === 16 ? 3 : 9);
  bytes[0] = maskBit | (form === 16 ? 126 : 127);
  if (form === 16) bytes.writeUInt16BE(Number(length & 0xffffn), 1);
  else bytes.writeBigUInt64BE(length, 1);
  return bytes;
}

/** A frame of a client; masked unless it is said otherwise. */
export function frame(payload: Buffer | string, options: FrameOptions = {}): Buffer {
  const body = Buffer.from(payload);
  const { fin = true, rsv = 0, opcode = opcodes.text, masked = true, says = BigInt(body.length) } = options;
  const form = options.form ?? (says < 126n ? 7 : says < 65_536n ? 16 : 64);
  const mask = options.mask ?? Buffer.of(0x37, 0xfa, 0x21, 0x3d);
  const sent = masked ? Buffer.from(body.map((byte, i) => byte ^ (mask[i % 4] ?? 0))) : body;
  return Buffer.concat([
    Buffer.of((fin ? 0x80 : 0) | (rsv << 4) | opcode),
    lengthBytes(says, form, masked ? 0x80 : 0),
    ...(masked ? [mask] : []),
    sent,
  ]);
}

/** The whole frames at the beginning of the bytes, and how many bytes they are. */
export function readFrames(bytes: Buffer): { frames: Frame[]; read: number } {
  const frames: Frame[] = [];
  let at = 0;
  for (;;) {
    const rest = bytes.subarray(at);
    const [first, second] = rest;
    if (first === undefined || second === undefined) break;
    const short = second & 0x7f;
    const lengthSize = short === 126 ? 2 : short === 127 ? 8 : 0;
    const masked = (second & 0x80) !== 0;
    const head = 2 + lengthSize + (masked ? 4 : 0);
    if (rest.length < head) break;
    const length = lengthSize === 0 ? short : lengthSize === 2 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2));
    if (rest.length < head + length) break;
    const mask = rest.subarray(head - 4, head);
    const body = rest.subarray(head, head + length);
    const payload = masked ? Buffer.from(body.map((byte, i) => byte ^ (mask[i % 4] ?? 0))) : body;
    frames.push({ fin: (first & 0x80) !== 0, rsv: (first >> 4) & 7, opcode: first & 15, masked, payload });
    at += head + length;
  }
  return { frames, read: at };
}

const isUtf8 = (bytes: Buffer): boolean => {
  try {
    new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
};

/** Messages of one side, in order; `why`: what RFC 6455 has against what follows them ('' when nothing). */
export type Messages = { texts: string[]; closed: { code: number; reason: string } | null; pings: number; why: string };

/** `strict`: as RFC 6455 has it, up to the first fault. Else what can be made of it, for what a server might make of it. */
export function readMessages(
  frames: Frame[],
  { fromClient, strict }: { fromClient: boolean; strict: boolean },
): Messages {
  const found: Messages = { texts: [], closed: null, pings: 0, why: '' };
  let parts: Buffer[] | null = null;
  let kind = 0;
  for (const { fin, rsv, opcode, masked, payload } of frames) {
    if (found.closed) return found;
    const wrong =
      (rsv !== 0 && 'reserved bits') ||
      (masked !== fromClient && 'masking') ||
      (opcode > 2 && opcode < 8 && 'an opcode that is none') ||
      (opcode > 10 && 'a control opcode that is none') ||
      (opcode >= 8 && (!fin || payload.length > 125) && 'a control frame that is long or in pieces') ||
      (opcode === 0 && !parts && 'a continuation of nothing') ||
      ((opcode === 1 || opcode === 2) && parts && 'a message within a message');
    if (wrong && strict) return { ...found, why: wrong };
    if (opcode === opcodes.ping) found.pings++;
    if (opcode === opcodes.close) {
      const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
      const isCode = payload.length === 0 || (code >= 1000 && code < 5000 && ![1004, 1005, 1006].includes(code));
      if (strict && (!isCode || payload.length === 1 || !isUtf8(payload.subarray(2))))
        return { ...found, why: 'a close frame that is wrong' };
      found.closed = { code, reason: payload.subarray(2).toString() };
      continue;
    }
    if (opcode > 2) continue;
    if (opcode !== 0) {
      kind = opcode;
      parts = [];
    }
    parts ??= [];
    parts.push(payload);
    if (!fin) continue;
    const whole = Buffer.concat(parts);
    parts = null;
    if (strict && kind === opcodes.text && !isUtf8(whole)) return { ...found, why: 'a text that is not UTF-8' };
    if (kind === opcodes.text || !strict) found.texts.push(whole.toString());
    else found.texts.push('');
  }
  return found;
}
