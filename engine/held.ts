/**
 * What a buyer is told whose reserve held units. It differs in three places only among those who were granted the same at once, so it is
 * printed once for them, as bytes, and the three are written into it (docs/explanation/performance.md).
 */
import {
  encodeReservationId,
  reservationIdChars,
  shortIdChars,
  writeChars,
  writeReservationId,
} from '../kernel/ids.ts';
import type { Lent } from './replies.ts';

/** `sale`: the number of the sale whose name is printed. */
export type HeldForm = { readonly sale: number; readonly bytes: Buffer; readonly buyerAt: number };

const blank = '.'.repeat(shortIdChars);
const [idBegins, saleBegins, buyerBegins] = ['{"id":"', '","saleId":"', '","buyerId":"'] as const;
const idAt = idBegins.length;

/** `end`: the JSON that comes after the buyer's id. Names of sales are of ASCII, what comes after them need not be. */
export function printHeld(place: { shard: number; no: number; saleId: string }, end: string): HeldForm {
  const { shard, no, saleId } = place;
  const id = encodeReservationId({ shard, sale: no, seq: 0, buyer: blank, key: blank });
  return {
    sale: no,
    bytes: Buffer.from(`${idBegins}${id}${saleBegins}${saleId}${buyerBegins}${blank}"${end}`),
    buyerAt: idAt + reservationIdChars + saleBegins.length + saleId.length + buyerBegins.length,
  };
}

/** The form with one buyer's reservation in it. */
export function fillHeld(form: HeldForm, seq: number, buyer: string, key: string): Lent {
  writeReservationId(form.bytes, idAt, seq, buyer, key);
  writeChars(form.bytes, form.buyerAt, buyer);
  return form.bytes;
}
