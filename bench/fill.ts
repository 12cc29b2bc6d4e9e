/** autocannon, where exactly so many requests are wanted: reservations that are there before something is measured. */
import autocannon from 'autocannon';

export type Fill = {
  url: string;
  saleId: string;
  sku: string;
  /** Each the token of another buyer: a request each. */
  tokens: readonly string[];
  connections: number;
  /** Told now and then how many were made. */
  progress?(made: number): void;
};

/** Makes a reservation for each token. Rejects unless all were made. */
export async function fill({ url, saleId, sku, tokens, connections, progress }: Fill): Promise<void> {
  let next = 0;
  let made = 0;
  const options: autocannon.Options = {
    ...{ url, connections: Math.min(connections, tokens.length), amount: tokens.length, timeout: 30 },
    requests: [
      {
        method: 'POST',
        path: '/v1/reservations',
        body: JSON.stringify({ saleId, lines: [{ sku, quantity: 1 }] }),
        setupRequest(request) {
          const at = next++ % tokens.length;
          const headers = { ...request.headers, authorization: `Bearer ${tokens[at]}` };
          return {
            ...request,
            headers: { ...headers, 'content-type': 'application/json', 'idempotency-key': `fill-${at}` },
          };
        },
      },
    ],
  };
  const result = await new Promise<autocannon.Result>((resolve, reject) => {
    const running = autocannon(options, (error, found) => (error ? reject(error) : resolve(found)));
    running.on('response', () => {
      if (++made % 10_000 === 0) progress?.(made);
    });
  });
  if (result['2xx'] !== tokens.length || result.errors > 0)
    throw new Error(`of ${tokens.length} reservations ${result['2xx']} were made, ${result.non2xx} refused`);
}
