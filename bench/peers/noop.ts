/** The limit: a server that parses the body and answers, and does nothing else. */
import { serveFront } from './front.ts';

serveFront((order, answer) => answer(order.lines.length > 0 ? 'held' : 'sold-out'), true);
