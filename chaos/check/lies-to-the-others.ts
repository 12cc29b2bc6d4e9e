/** For tests: lies about stock, ends, limits and keys. */
import type { Lie } from './lies.ts';
import * as lie from './lies.ts';
import { change } from './lies.ts';

export const liesToTheOthers: Lie[] = [
  {
    name: 'more was sold than there ever was',
    by: { neverOversold: /below zero/, witness: /leave/ },
    tell: change(
      (history) => lie.reservedOf(history)[0]?.lines[0],
      (line, history) => {
        for (const fact of history.facts)
          if ('units' in fact && fact.sku === line.sku && fact.units > 0) fact.units = 0;
      },
    ),
  },
  {
    name: 'stock is taken away that is not there',
    by: { neverOversold: /below zero/, witness: /leaves -/ },
    tell: change(
      (history) => history.facts.find((fact) => fact.kind === 'adjusted'),
      (fact) => {
        if ('units' in fact) fact.units -= 1_000;
      },
    ),
  },
  {
    name: 'a commit moves a unit too many',
    by: { neverOversold: /below zero|reserved in the end/, oneOutcome: /not all lines together/, witness: /moved/ },
    tell: change(
      (history) => lie.endsOf(history, 'committed')[0]?.lines[0],
      (line) => {
        line.quantity++;
      },
    ),
  },
  {
    name: 'an expiry is applied twice',
    by: { neverOversold: /below zero|reserved in the end/, oneOutcome: /ended twice/ },
    tell: change(
      (history) => lie.endsOf(history, 'expired')[0],
      (fact, history) => history.facts.push({ ...fact, seq: 1_000_000 }),
    ),
  },
  {
    name: 'a hold ends with one of its lines only',
    by: { oneOutcome: /not all lines together/, neverOversold: /below zero|reserved in the end/ },
    tell: change(
      (history) => lie.endsOf(history, 'committed', 'released', 'expired').find(({ lines }) => lines.length > 1),
      (fact) => {
        fact.lines = fact.lines.slice(1);
      },
    ),
  },
  {
    name: 'a sale of no units',
    by: { neverOversold: /moves 0 units/ },
    tell: change(
      (history) => lie.reservedOf(history)[0],
      (fact) => fact.lines.push({ sku: 'hat', warehouse: 'east', quantity: 0 }),
    ),
  },
  {
    name: 'what was committed is released later',
    by: { oneOutcome: /ended twice/, witness: /was committed before/ },
    tell: change(
      (history) => lie.endsOf(history, 'committed')[0],
      (fact, history) => history.facts.push({ ...fact, kind: 'released', seq: 1_000_000 }),
    ),
  },
  {
    name: 'a buyer is told committed, and it was released',
    by: { oneOutcome: /ended otherwise/, witness: /not committed by then/ },
    tell: change(
      (history) => lie.settles(history, 'commit').find(({ answered }) => answered.answer.status === 200),
      (one, history) => {
        const fact = lie.reservedOf(history).find(({ id }) => id === lie.idOf(one));
        const end = fact && lie.endFor(history, fact);
        if (end) end.kind = 'released';
      },
    ),
  },
  {
    name: 'two ends of one reservation are told',
    by: { oneOutcome: /Two ends/, witness: /was not released/ },
    tell: change(
      (history) => lie.settles(history, 'commit').find(({ answered }) => answered.answer.status === 200),
      (one, history) => {
        const fact = lie.reservedOf(history).find(({ id }) => id === lie.idOf(one));
        if (fact) lie.addRead(history, fact, 'released');
      },
    ),
  },
  {
    name: 'units come back that were not bought',
    by: { oneOutcome: /never committed/, witness: /has not sold so much/ },
    tell: change(
      (history) => lie.endsOf(history, 'released')[0],
      (fact, history) => history.facts.push({ ...fact, kind: 'returned', seq: 1_000_000 }),
    ),
  },
  {
    name: 'more comes back than was bought',
    by: { oneOutcome: /more was returned/ },
    tell: change(
      (history) => lie.endsOf(history, 'returned')[0],
      (fact, history) => history.facts.push({ ...fact, seq: 1_000_000 }),
    ),
  },
  {
    name: 'something ends that was never reserved',
    by: { oneOutcome: /nothing was reserved/, witness: /no such reservation was held/ },
    tell: change(
      (history) => lie.endsOf(history, 'released')[0],
      (fact, history) => history.facts.push({ ...fact, reservation: 999_999, seq: 1_000_000 }),
    ),
  },
  {
    name: 'a buyer has more than the limit',
    by: { limitsHold: /which allows 1/, witness: /should have been refused/ },
    tell: change(
      (history) => lie.reservedOf(history).find(({ lines }) => (lines[0]?.quantity ?? 0) > 1),
      (fact, { sales }) => {
        for (const sale of sales) if (sale.shard === fact.shard && sale.no === fact.no) sale.perBuyer = 1;
      },
    ),
  },
  {
    name: 'a replay has other lines',
    by: { sameKeySameAnswer: /One key was answered/, witness: /it was answered .* has / },
    tell: change(lie.replayOfTold, ({ answered }) => {
      for (const line of answered.answer.reservation?.lines ?? []) line.warehouse = 'south';
    }),
  },
  {
    name: 'a replay has another expiry',
    by: { sameKeySameAnswer: /One key was answered/, witness: /told to expire/ },
    tell: change(
      (history) => lie.replayOfTold(history)?.answered.answer.reservation,
      (reservation) => {
        if (reservation) reservation.expiresAtMs += 1_000;
      },
    ),
  },
  {
    name: 'a replay tells how it stands now',
    by: { sameKeySameAnswer: /as it was the first time/, witness: /as it was the first time/ },
    tell: change(
      (history) => lie.replayOfTold(history)?.answered.answer.reservation,
      (reservation) => {
        if (reservation) reservation.state = 'committed';
      },
    ),
  },
  {
    name: 'a replay is another reservation',
    by: { sameKeySameAnswer: /two reservations/ },
    tell: change(lie.replayOfTold, (one, history) => {
      const reservation = one.answered.answer.reservation;
      const found = lie.reservedOf(history).find(({ id }) => id !== reservation?.id);
      if (reservation && found) reservation.id = found.id;
    }),
  },
  {
    name: 'a replay says that it is the first answer',
    by: { sameKeySameAnswer: /Two answers say/ },
    tell: change(lie.replayOfTold, ({ answered }) => {
      answered.answer.replayed = false;
    }),
  },
  {
    name: 'another body is answered',
    by: { sameKeySameAnswer: /Another body/, witness: /not the .* asked for/ },
    tell: change(lie.replayOfTold, (one) => {
      one.call.lines = lie.otherBody(one.call.lines);
    }),
  },
  {
    name: 'the same body is a mismatch',
    by: { sameKeySameAnswer: /without another body/, witness: /no other body/ },
    tell: change(lie.replayOfTold, (one) => lie.tell(one, 'idempotency-mismatch', 422)),
  },
  {
    name: 'a key that was answered is refused later',
    by: { sameKeySameAnswer: /Its key was answered/, witness: /its key had .* all along/ },
    tell: change(
      (history) => lie.grants(history)[0],
      (one, history) => {
        const answer = { status: 409, code: 'sold-out', reservation: null, replayed: false };
        lie.add(history, one.saleId, one.buyer, one.call, answer);
      },
    ),
  },
];
