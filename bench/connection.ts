/** One buyer's own connection: HTTP/1.1 over one TCP socket that is kept alive. */
import { Client, type Dispatcher } from 'undici';

export type Request = {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  path: string;
  token?: string;
  idempotencyKey?: string;
  body?: string;
};

/** An answer as it came. `retryAfterMs`: what its `Retry-After` said, else 0. `ms`: how long it took. */
export type Answer = { status: number; body: unknown; replayed: boolean; retryAfterMs: number; ms: number };

export type Connection = {
  /**
   * Rejects when no whole answer came: connection refused, cut, or silent for longer than the limit. A cut connection
   * is opened again by the next call. `hangUpAfterMs`: cuts it that long after sending, unless the answer was faster.
   */
  send(request: Request, hangUpAfterMs?: number): Promise<Answer>;
  close(): void;
};

export type ConnectionOptions = {
  url: string;
  /** The loopback address to come from; each has ports of its own. */
  localAddress?: string;
  /** Silence for longer than this is an error. */
  limitMs: number;
};

const keptAliveMs = 600_000;

export function openConnection(options: ConnectionOptions): Connection {
  const { limitMs } = options;
  const client = new Client(options.url, {
    pipelining: 1,
    headersTimeout: limitMs,
    bodyTimeout: limitMs,
    connect: { timeout: limitMs },
    keepAliveTimeout: keptAliveMs,
    keepAliveMaxTimeout: keptAliveMs,
    ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
  });
  return {
    send: (request, hangUpAfterMs) =>
      new Promise((resolve, reject) => client.dispatch(toDispatch(request), handler(resolve, reject, hangUpAfterMs))),
    close() {
      client.destroy().catch(() => undefined);
    },
  };
}

function toDispatch({ method, path, token, idempotencyKey, body }: Request): Dispatcher.DispatchOptions {
  const headers: string[] = [];
  if (token !== undefined) headers.push('authorization', `Bearer ${token}`);
  if (idempotencyKey !== undefined) headers.push('idempotency-key', idempotencyKey);
  if (body !== undefined) headers.push('content-type', 'application/json');
  return { method, path, headers, body: body ?? null };
}

function handler(
  resolve: (answer: Answer) => void,
  reject: (error: Error) => void,
  hangUpAfterMs: number | undefined,
): Dispatcher.DispatchHandler {
  const startedMs = performance.now();
  let hangUp: NodeJS.Timeout | undefined;
  let status = 0;
  let replayed = false;
  let retryAfterMs = 0;
  let text = '';
  return {
    onRequestStart(controller) {
      if (hangUpAfterMs === undefined) return;
      clearTimeout(hangUp);
      hangUp = setTimeout(() => controller.abort(new Error('hung up')), hangUpAfterMs);
    },
    onResponseStart(_controller, statusCode, headers) {
      status = statusCode;
      replayed = headers['idempotency-replayed'] === 'true';
      retryAfterMs = Number(headers['retry-after'] ?? 0) * 1_000 || 0;
    },
    onResponseData(_controller, chunk) {
      // Bodies are ASCII or short: a character split between chunks would only spoil a text that nobody reads.
      text += chunk.toString('utf8');
    },
    onResponseEnd() {
      clearTimeout(hangUp);
      const ms = performance.now() - startedMs;
      let body: unknown = null;
      try {
        if (text !== '') body = JSON.parse(text);
      } catch {
        reject(new Error(`the answer (status ${status}) is not JSON`));
        return;
      }
      resolve({ status, body, replayed, retryAfterMs, ms });
    },
    onResponseError(_controller, error) {
      clearTimeout(hangUp);
      reject(error);
    },
  };
}
