/** Valkey in cluster mode: three nodes, each a primary with a third of the slots. */
import { Redis } from 'iovalkey';
import { ServiceError } from './errors.ts';
import type { Recipe, ValkeyName } from './recipe.ts';
import { type RunningService, readRecord } from './records.ts';
import { launchOf, valkeyRecipe } from './valkey.ts';
import { waitUntil } from './waiting.ts';

export const clusterNames = ['valkey-1', 'valkey-2', 'valkey-3'] as const;

const SLOTS = 16_384;
const JOIN_WAIT_MS = 30_000;
const NODE_TIMEOUT_MS = 5_000;

/** One node. Its ports: clients', and the other nodes'. */
export function clusterNodeRecipe(name: ValkeyName): Recipe {
  return {
    ...valkeyRecipe,
    name,
    portCount: 2,
    prepare: (binary, site, context) =>
      launchOf(binary, site, context, {
        'cluster-enabled': 'yes',
        'cluster-port': String(site.ports[1]),
        'cluster-node-timeout': String(NODE_TIMEOUT_MS),
        // A node that is away takes its own shards along, and not the others'.
        'cluster-require-full-coverage': 'no',
      }),
    compose: null,
  };
}

/** Makes one cluster of the nodes, unless they are one already. */
export async function joinCluster(nodes: RunningService[]): Promise<void> {
  const clients = nodes.map(({ url }) => new Redis(url, { maxRetriesPerRequest: 3 }));
  for (const client of clients) client.on('error', () => undefined);
  try {
    const first = clients[0];
    if (first === undefined) return;
    const known = async (client: Redis): Promise<string> => String(await client.cluster('INFO'));
    for (const [i, client] of clients.entries()) {
      const [from, to] = [i, i + 1].map((n) => Math.floor((n * SLOTS) / clients.length));
      // What an interrupted start has done stays done.
      if (!/myself.* connected \d/.test(String(await client.cluster('NODES'))))
        await client.call('CLUSTER', 'ADDSLOTSRANGE', String(from), String(Number(to) - 1));
      const [port = 0, busPort = 0] = portsOf(nodes[i]);
      if (!String(await first.cluster('NODES')).includes(String(await client.cluster('MYID'))))
        await first.call('CLUSTER', 'MEET', '127.0.0.1', String(port), String(busPort));
    }
    const joined = async (): Promise<boolean> => {
      const states = await Promise.all(clients.map(known));
      return states.every((text) => /cluster_state:ok\r/.test(text) && /cluster_slots_ok:16384\r/.test(text));
    };
    if (!(await waitUntil(joined, JOIN_WAIT_MS)))
      throw new ServiceError(
        'service-failed',
        `Valkey's nodes did not become a cluster within ${JOIN_WAIT_MS / 1_000} s`,
      );
  } finally {
    for (const client of clients) client.disconnect();
  }
}

function portsOf(node: RunningService | undefined): number[] {
  return (node?.dataDir && readRecord(node.dataDir)?.ports) || [];
}
