/**
 * Admissions: what lets somebody who was let in buy. A JWT with a secret of its own, so that neither it nor a session's token is ever
 * taken for the other. An engine verifies it without a round trip; whether it was used up or taken back the shard says in the reserve.
 */
import { createHmac } from 'node:crypto';
import { createSigner, createVerifier } from 'fast-jwt';

export type Admissions = {
  /** The same for the same ticket, however often and wherever it is asked for. */
  sign(buyer: string, saleId: string, ticket: number, expiresMs: number): string;
  /** The number of the ticket that lets this buyer in to this sale; 0 for a token that is forged, expired, or for something else. */
  ticketOf(token: string, buyer: string, saleId: string): number;
};

/** The shard decides to the millisecond, by its own clock: an engine whose clock is ahead of it must not be stricter. */
const leewaySeconds = 30;

type Claims = { sub: string; sale: string; ticket: number };

export function createAdmissions(sessionSecret: string): Admissions {
  const key = createHmac('sha256', sessionSecret).update('admission').digest('base64url');
  const sign = createSigner({ key, algorithm: 'HS256', noTimestamp: true });
  const verify = createVerifier({ key, algorithms: ['HS256'], cache: false });
  return {
    sign: (sub, sale, ticket, expiresMs) =>
      sign({ sub, sale, ticket, exp: Math.ceil(expiresMs / 1_000) + leewaySeconds }),
    ticketOf(token, buyer, saleId) {
      try {
        const { sub, sale, ticket } = verify(token) as Claims;
        return sub === buyer && sale === saleId && Number.isSafeInteger(ticket) ? ticket : 0;
      } catch {
        return 0;
      }
    },
  };
}
