/**
 * The HTTP server that all peers share: it parses the body, takes buyer and key from the headers, and answers. Tokens are not
 * checked: a peer does no more than its own store asks for.
 */
import { uws } from '../../engine/uws.ts';

export type Order = {
  buyer: string;
  key: string;
  saleId: string;
  lines: { sku: string; quantity: number }[];
};
export type Outcome = 'held' | 'sold-out' | 'failed';

const statusLines: Record<Outcome, string> = {
  held: '201 Created',
  'sold-out': '409 Conflict',
  failed: '503 Service Unavailable',
};
/** As long as Stampede's answer to the same request. */
const held = JSON.stringify({
  id: 'AAAAAAABAAAAAAAF05l0lnV2SNo9arnx6499M4j0',
  saleId: 'bench',
  buyerId: '05l0lnV2SNo9',
  state: 'held',
  lines: [{ sku: 'hot', warehouse: 'w1', quantity: 1 }],
  expiresAt: '2026-11-23T00:46:05.897Z',
  durability: 'fsync',
});
const bodies: Record<Outcome, string> = { held, 'sold-out': '{"code":"sold-out"}', failed: '{"code":"unavailable"}' };

const bodyBytes = 65_536;

/** The `sub` of a session's token. */
function buyerOf(authorization: string): string {
  const payload = authorization.slice(authorization.indexOf('.') + 1, authorization.lastIndexOf('.'));
  return (JSON.parse(Buffer.from(payload, 'base64url').toString('latin1')) as { sub: string }).sub;
}

/**
 * Serves `POST /v1/reservations` on the port that the command line names (0: a free one), and prints a line when it listens.
 * `take` decides an order and answers once; `anonymous`: who asks is not looked at.
 */
export function serveFront(take: (order: Order, answer: (outcome: Outcome) => void) => void, anonymous = false): void {
  const app = uws.App();
  app.post('/v1/reservations', (res, req) => {
    let open = true;
    res.onAborted(() => {
      open = false;
    });
    const authorization = anonymous ? '' : req.getHeader('authorization');
    const key = anonymous ? '' : req.getHeader('idempotency-key');
    res.collectBody(bodyBytes, (body) => {
      const text = Buffer.from(body ?? new ArrayBuffer(0)).toString('utf8');
      const asked = JSON.parse(text) as Pick<Order, 'saleId' | 'lines'>;
      const order: Order = { buyer: anonymous ? '' : buyerOf(authorization), key, ...asked };
      take(order, (outcome) => {
        if (!open) return;
        res.cork(() => {
          res.writeStatus(statusLines[outcome]);
          res.writeHeader('Content-Type', 'application/json').end(bodies[outcome]);
        });
      });
    });
  });
  app.listen('127.0.0.1', Number(process.argv[2] ?? 0), 1, (socket) => {
    if (!socket) process.exit(1);
    process.stdout.write(`${JSON.stringify({ ready: true, port: uws.us_socket_local_port(socket) })}\n`);
  });
}

/** An orderly end: what the store counts is printed as a last line of JSON. */
export function atEnd(count: () => Promise<Record<string, unknown>>): void {
  process.once('SIGTERM', () => {
    count().then(
      (counted) => process.stdout.write(`${JSON.stringify(counted)}\n`, () => process.exit(0)),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`);
        process.exit(1);
      },
    );
  });
}
