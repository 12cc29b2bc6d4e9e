/**
 * The limit: a uWebSockets.js server that parses the same body and answers, and does nothing else.
 * `node bench/peers/noop.ts PORT` prints a line when it listens.
 */
import { uws } from '../../engine/uws.ts';

const answer = JSON.stringify({
  id: 'AAAAAAABAAAAAAAF05l0lnV2SNo9arnx6499M4j0',
  saleId: 'bench',
  buyerId: '05l0lnV2SNo9',
  state: 'held',
  lines: [{ sku: 'hot', warehouse: 'w1', quantity: 1 }],
  expiresAt: '2026-11-23T00:46:05.897Z',
  durability: 'fsync',
});

const app = uws.App();
app.post('/v1/reservations', (res) => {
  res.onAborted(() => {});
  res.collectBody(65_536, (body) => {
    const parsed = JSON.parse(Buffer.from(body ?? new ArrayBuffer(0)).toString('utf8')) as { lines: unknown[] };
    res.cork(() => {
      res.writeStatus(parsed.lines.length > 0 ? '201 Created' : '400 Bad Request');
      res.writeHeader('Content-Type', 'application/json').end(answer);
    });
  });
});
app.listen('127.0.0.1', Number(process.argv[2] ?? 0), 1, (socket) => {
  if (!socket) process.exit(1);
  process.stdout.write(`${JSON.stringify({ ready: true, port: uws.us_socket_local_port(socket) })}\n`);
});
