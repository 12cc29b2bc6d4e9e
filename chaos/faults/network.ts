/** A bad network between Stampede and one of its stores. */
import type { Networked } from '../bed.ts';
import { type Fault, rest } from './fault.ts';

function network(store: Networked, weather: 'cut' | 'silent' | 'deaf' | 'slow', about: string): Fault {
  return {
    about,
    prepare: async () => ({
      bed: { proxied: [store], ...(store === 'kafka' ? { transport: 'kafka' as const } : {}) },
      async strike({ bed, random, struck }) {
        struck(`${store}: ${weather}`);
        bed.proxy(store).set(weather, random.int(20, 250));
        await rest(random, 800, weather === 'silent' || weather === 'deaf' ? 6_500 : 3_000);
        const touched = bed.proxy(store).touched();
        bed.proxy(store).set('fine');
        if (touched === 0) throw new Error(`nothing went to ${store} or came from it while its network was ${weather}`);
      },
    }),
  };
}

const networked: readonly Networked[] = ['valkey', 'postgres', 'kafka'];
export const networks: Record<string, Fault> = Object.fromEntries(
  networked.flatMap((store) => [
    [`cut-${store}`, network(store, 'cut', `all lose their connections to ${store}, and get no new ones`)],
    [`partition-${store}`, network(store, 'silent', `nothing gets through to ${store}, and nobody is told`)],
    [`half-open-${store}`, network(store, 'deaf', `what is sent to ${store} arrives; its answers do not`)],
    [`slow-${store}`, network(store, 'slow', `each piece to and from ${store} comes 20 to 250 ms late`)],
  ]),
);
