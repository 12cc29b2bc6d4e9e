/** For tests: lies that the witness finds. */
import type { Lie } from './lies.ts';
import * as lie from './lies.ts';
import { change } from './lies.ts';

export const liesToTheWitness: Lie[] = [
  {
    name: 'a fact stands before one that had been answered',
    by: { witness: /stands after/ },
    tell: change(lie.apart, ([a, b], history) => lie.swap(history, a, b)),
  },
  {
    name: 'a hold that was acknowledged is in no fact',
    by: { witness: /has no such reservation/ },
    tell: change(lie.lonely, (one, history) => {
      const seq = lie.reservedOf(history).find(({ id }) => id === lie.idOf(one))?.seq;
      const shard = history.sales.find(({ saleId }) => saleId === one.saleId)?.shard;
      history.facts = history.facts.filter(
        (fact) => fact.shard !== shard || (fact.seq !== seq && !('reservation' in fact && fact.reservation === seq)),
      );
    }),
  },
  {
    name: 'a commit that was acknowledged is in no fact',
    by: { witness: /not committed by then/ },
    tell: change(
      (history) => lie.settles(history, 'commit').find(({ answered }) => answered.answer.status === 200),
      (one, history) => {
        const seq = lie.reservedOf(history).find(({ id }) => id === lie.idOf(one))?.seq;
        history.facts = history.facts.filter((fact) => !('reservation' in fact && fact.reservation === seq));
      },
    ),
  },
  {
    name: 'a buyer is told of another warehouse',
    by: { witness: /it was answered .* has / },
    tell: change(
      (history) => lie.grants(history)[0]?.answered.answer.reservation?.lines[0],
      (line) => {
        line.warehouse = 'south';
      },
    ),
  },
  {
    name: 'a hold takes from another warehouse than the one that serves first',
    by: { witness: /should be/ },
    tell: change(
      (history) => lie.reservedOf(history).find(({ lines }) => lines.length === 1),
      (fact, history) =>
        lie.relabel(
          history,
          fact,
          fact.lines.map((line) => ({ ...line, warehouse: lie.other(line.warehouse, ['east', 'west']) })),
        ),
    ),
  },
  {
    name: 'a hold of two SKUs lists them the other way round in the answer',
    by: { witness: /it was answered .* has / },
    tell: change(
      (history) => lie.grants(history).find(({ answered }) => (answered.answer.reservation?.lines.length ?? 0) > 1),
      ({ answered }) => answered.answer.reservation?.lines.reverse(),
    ),
  },
  {
    name: 'a hold is told to last longer than it does',
    by: { witness: /told to expire/ },
    tell: change(
      (history) => lie.grants(history)[0]?.answered.answer.reservation,
      (reservation) => {
        if (reservation) reservation.expiresAtMs += 1;
      },
    ),
  },
  {
    name: 'a hold lasts longer than its sale says',
    by: { witness: /not the sale's 1 s/ },
    tell: change(
      (history) => lie.reservedOf(history)[0],
      (fact) => {
        fact.expiresAtMs += 1_000;
        fact.lastExpiresAtMs += 1_000;
      },
    ),
  },
  {
    name: 'sold out, with units left',
    by: { witness: /none of it was sold out/ },
    tell: change(lie.plentiful, ({ saleId, sku }, history) =>
      lie.addReserve(history, saleId, [{ sku, quantity: 1 }], 'sold-out'),
    ),
  },
  {
    name: 'too few left, with enough left',
    by: { witness: /there was enough, or nothing/ },
    tell: change(lie.plentiful, ({ saleId, sku, units }, history) =>
      lie.addReserve(history, saleId, [{ sku, quantity: units }], 'insufficient-stock'),
    ),
  },
  {
    name: 'a limit is named that nobody has reached',
    by: { witness: /the buyer never had more/ },
    tell: change(lie.plentiful, ({ saleId, sku }, history) =>
      lie.addReserve(history, saleId, [{ sku, quantity: 1 }], 'purchase-limit'),
    ),
  },
  {
    name: 'stock can’t be taken away that is there',
    by: { witness: /there was enough to take away/ },
    tell: change(lie.plentiful, ({ saleId, sku }, history) =>
      lie.add(
        history,
        saleId,
        'operator____',
        { kind: 'adjust', id: 'lie', sku, warehouse: 'east', delta: 1 },
        { status: 409, code: 'insufficient-stock', reservation: null, replayed: false },
      ),
    ),
  },
  {
    name: 'a change of stock that was acknowledged is in no fact',
    by: { witness: /no such change/ },
    tell: change(
      (history) => history.operations.find((one) => one.call.kind === 'adjust' && one.answered?.answer.status === 200),
      ({ call }, history) => {
        history.facts = history.facts.filter(
          (fact) => !('units' in fact && call.kind === 'adjust' && fact.id === call.id),
        );
      },
    ),
  },
  {
    name: 'a commit is told that what is committed has ended otherwise',
    by: { witness: /had not ended so/ },
    tell: change(
      (history) => lie.settles(history, 'commit').find(({ answered }) => answered.answer.status === 200),
      (one) => lie.tell(one, 'reservation-ended'),
    ),
  },
  {
    name: 'a hold that never ended reads as expired',
    by: { witness: /was not expired/ },
    tell: change(
      (history) => lie.reservedOf(history).find((fact) => !lie.endFor(history, fact)),
      (fact, history) => lie.addRead(history, fact, 'expired'),
    ),
  },
  {
    name: 'a committed reservation reads as held, long after',
    by: { witness: /not held any more/, oneOutcome: /is held again/ },
    tell: change(
      (history) => lie.settles(history, 'commit').find(({ answered }) => answered.answer.status === 200),
      (one, history) => {
        const fact = lie.reservedOf(history).find(({ id }) => id === lie.idOf(one));
        if (fact) lie.addRead(history, fact, 'held');
      },
    ),
  },
  {
    name: 'a reservation is known nowhere after it was answered',
    by: { witness: /there was reserved/ },
    tell: change(
      (history) => lie.grants(history)[0],
      (one, history) => {
        const call = { kind: 'read' as const, reservation: lie.idOf(one) };
        const answer = { status: 404, code: 'not-found', reservation: null, replayed: false };
        lie.add(history, one.saleId, one.buyer, call, answer);
      },
    ),
  },
  {
    name: 'a reservation is read before it was reserved',
    by: { witness: /before anybody asked/ },
    tell: change(
      (history) => lie.reservedOf(history).find((fact) => lie.grants(history).some((one) => lie.idOf(one) === fact.id)),
      (fact, history) => lie.addRead(history, fact, 'held', 1_789_999_990_000),
    ),
  },
  {
    name: 'a commit is of a time after the hold’s end',
    by: { witness: /when the hold was over/ },
    tell: change(
      (history) => lie.endsOf(history, 'committed')[0],
      (fact, history) => {
        fact.atMs = lie.reservedFor(history, fact)?.lastExpiresAtMs ?? 0;
      },
    ),
  },
  {
    name: 'a hold is expired before its time',
    by: { witness: /before the hold's end/ },
    tell: change(
      (history) => lie.endsOf(history, 'expired')[0],
      (fact, history) => {
        fact.atMs = (lie.reservedFor(history, fact)?.lastExpiresAtMs ?? 0) - 1;
      },
    ),
  },
  {
    name: 'the shard’s time goes back',
    by: { witness: /before the fact in front of it/ },
    tell: change(
      (history) => history.facts.findLast((fact) => fact.shard === 0 && fact.kind !== 'reserved'),
      (fact) => {
        fact.atMs -= 100_000;
      },
    ),
  },
  {
    name: 'a hold that nobody asked for',
    by: { witness: /no call of buyer/ },
    tell: change(lie.lonely, (one, history) => {
      history.operations = history.operations.filter((operation) => operation !== one);
    }),
  },
  {
    name: 'nothing was taken, it was said, and it was',
    by: { witness: /no call of buyer/ },
    tell: change(lie.lonely, (one) => lie.tell(one, 'overloaded', 503)),
  },
  {
    name: 'a hold of more than was asked for',
    by: { witness: /no call of buyer/, sameKeySameAnswer: /Another body/ },
    tell: change(lie.lonely, (one, history) => {
      const fact = lie.reservedOf(history).find(({ id }) => id === lie.idOf(one));
      if (fact)
        lie.relabel(
          history,
          fact,
          fact.lines.map((line) => ({ ...line, quantity: line.quantity + 1 })),
        );
    }),
  },
  {
    name: 'a release that nobody asked for',
    by: { witness: /nobody asked for it/ },
    tell: change(
      (history) => lie.endsOf(history, 'released')[0],
      (fact, history) => {
        const id = lie.reservedFor(history, fact)?.id;
        history.operations = history.operations.filter(
          ({ call }) => !(call.kind === 'release' && call.reservation === id),
        );
      },
    ),
  },
  {
    name: 'an extension that nobody asked for',
    by: { witness: /calls say/ },
    tell: change(
      (history) =>
        lie
          .reservedOf(history)
          .find(({ id }) => !history.operations.some(({ call }) => call.kind === 'extend' && call.reservation === id)),
      (fact) => {
        fact.extensions = 1;
        fact.lastExpiresAtMs += 1_000;
      },
    ),
  },
  {
    name: 'one extension counts as two',
    by: { witness: /was extended 2 times, 1 s in all/ },
    tell: change(
      (history) =>
        lie
          .reservedOf(history)
          .find((fact) => fact.extensions === 1 && fact.lastExpiresAtMs === fact.expiresAtMs + 1_000),
      (fact) => {
        fact.extensions = 2;
      },
    ),
  },
  {
    name: 'a hold is extended more often than its sale allows',
    by: { witness: /of 0 that the sale allows/ },
    tell: change(
      (history) => lie.reservedOf(history).find(({ extensions }) => extensions > 0),
      (_, { sales }) => {
        for (const sale of sales) sale.extensions = 0;
      },
    ),
  },
  {
    name: 'a hold is in the ledger twice',
    by: { witness: /twice/, oneOutcome: /was reserved before/, sameKeySameAnswer: /holds twice/ },
    tell: change(
      (history) => lie.reservedOf(history)[0],
      (fact, history) => history.facts.push(structuredClone(fact)),
    ),
  },
];
