/**
 * What this project uses of uWebSockets.js. (The package of typings can't be depended on: it names binaries for platforms
 * that are not published, and `npm ci` refuses a lock file without them. See docs/decisions/0001.)
 * Meanings: https://unetworking.github.io/uWebSockets.js/generated/
 */

/** Valid until its handler returns. */
export type HttpRequest = {
  /** '' when it isn't there; the name in lower case, or its bytes. */
  getHeader(name: string | ArrayBuffer): string;
  getParameter(index: number): string | undefined;
  /** What comes after the `?`. */
  getQuery(): string | undefined;
  getUrl(): string;
  getMethod(): string;
};

/** Valid until it is answered or aborted. */
export type HttpResponse = {
  /**
   * What is given is written as it is, so that headers may follow the status after a line's end. Bytes are copied before it returns,
   * here and by `end`.
   */
  writeStatus(status: string | Buffer): HttpResponse;
  writeHeader(name: string, value: string): HttpResponse;
  end(body?: string | Buffer, closeConnection?: boolean): HttpResponse;
  endWithoutBody(reportedLength?: number, closeConnection?: boolean): HttpResponse;
  /** Everything written within goes out together. */
  cork(write: () => void): HttpResponse;
  onAborted(handler: () => void): HttpResponse;
  /** The whole body, whose memory is the server's until this returns; null when it is longer than `maxBytes`. */
  collectBody(maxBytes: number, handler: (body: ArrayBuffer | null) => void): HttpResponse;
  getRemoteAddressAsText(): ArrayBuffer;
  upgrade<Data>(data: Data, key: string, protocol: string, extensions: string, context: UpgradeContext): void;
};

export type UpgradeContext = { readonly upgradeContext: never };
export type ListenSocket = { readonly listenSocket: never };

export type WebSocket<Data> = {
  getUserData(): Data;
  /** 0: buffered, 1: sent, 2: dropped. */
  send(message: string | ArrayBuffer, isBinary?: boolean): number;
  subscribe(topic: string): boolean;
  /** Says goodbye with a close code. */
  end(code?: number, reason?: string): void;
  /** Cuts the connection. */
  close(): void;
};

export type WebSocketBehavior<Data> = {
  maxPayloadLength?: number;
  maxBackpressure?: number;
  idleTimeout?: number;
  sendPingsAutomatically?: boolean;
  upgrade?(res: HttpResponse, req: HttpRequest, context: UpgradeContext): void;
  open?(ws: WebSocket<Data>): void;
  message?(ws: WebSocket<Data>, message: ArrayBuffer, isBinary: boolean): void;
  /** A message was not sent, since more than `maxBackpressure` waits already. */
  dropped?(ws: WebSocket<Data>, message: ArrayBuffer, isBinary: boolean): void;
  close?(ws: WebSocket<Data>, code: number, message: ArrayBuffer): void;
};

type Handler = (res: HttpResponse, req: HttpRequest) => void;

export type TemplatedApp = {
  get(pattern: string, handler: Handler): TemplatedApp;
  post(pattern: string, handler: Handler): TemplatedApp;
  put(pattern: string, handler: Handler): TemplatedApp;
  del(pattern: string, handler: Handler): TemplatedApp;
  any(pattern: string, handler: Handler): TemplatedApp;
  ws<Data>(pattern: string, behavior: WebSocketBehavior<Data>): TemplatedApp;
  publish(topic: string, message: string, isBinary?: boolean): boolean;
  /** `options` 1: the port is not shared with another process. */
  listen(host: string, port: number, options: number, done: (socket: ListenSocket | false) => void): TemplatedApp;
  listen(host: string, port: number, done: (socket: ListenSocket | false) => void): TemplatedApp;
  close(): TemplatedApp;
};

export type Uws = {
  App(): TemplatedApp;
  us_listen_socket_close(socket: ListenSocket): void;
  us_socket_local_port(socket: ListenSocket): number;
};
