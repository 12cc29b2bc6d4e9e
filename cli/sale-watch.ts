/** Watches a sale from outside, as any page could: over its WebSocket. */

export type SaleSeen = {
  available: number;
  reserved: number;
  sold: number;
  /** Answers to purchase calls a second, as the engine counts them. */
  answersPerSecond: number;
  /** What the ledger hasn't got yet: events, and the age of the oldest. */
  ledgerLagEvents: number;
  ledgerLagMs: number;
};

type Frame = { type: string } & Partial<SaleSeen>;

const openAgainMs = 500;

/** What was seen last. It opens the socket again when it breaks: a view goes on as well as it can. */
export function watchLive(url: string, saleId: string): { seen(): SaleSeen; stop(): void } {
  const seen: SaleSeen = {
    available: 0,
    reserved: 0,
    sold: 0,
    answersPerSecond: 0,
    ledgerLagEvents: 0,
    ledgerLagMs: 0,
  };
  const address = new URL(`/v1/sales/${saleId}/live`, url);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  let socket: WebSocket;
  let again: NodeJS.Timeout | undefined;
  let stopped = false;
  const open = (): void => {
    socket = new WebSocket(address);
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(String(data)) as Frame;
      const names: (keyof SaleSeen)[] =
        frame.type === 'stock'
          ? ['available', 'reserved', 'sold']
          : frame.type === 'sale'
            ? ['answersPerSecond', 'ledgerLagEvents', 'ledgerLagMs']
            : [];
      for (const name of names) seen[name] = frame[name] ?? 0;
    };
    socket.onclose = () => {
      if (!stopped) again = setTimeout(open, openAgainMs);
    };
  };
  open();
  return {
    seen: () => seen,
    stop() {
      stopped = true;
      clearTimeout(again);
      socket.close();
    },
  };
}
