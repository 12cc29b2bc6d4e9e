/** What `stampede verify-draw` makes of a file; over HTTP: engine/contract-room-live.test.ts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { commitmentOf, drawAlgorithm, drawPlaces, newSeed } from '../engine/draw.ts';
import { type VerifyDrawOptions, verifyDraw } from './verify-draw.ts';

const folder = mkdtempSync(join(tmpdir(), 'stampede-draw-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const seed = newSeed();
const ids = Array.from({ length: 50 }, (_, i) => `ticket-${i}`);
const before = { commitment: commitmentOf(seed), algorithm: drawAlgorithm };
const tickets = drawPlaces(seed, ids).map((ticketId, i) => ({ ticketId, place: i + 1 }));
const draw = { ...before, seed, total: 50, page: 0, pages: 1, tickets };
const [first, second] = tickets as [(typeof tickets)[0], (typeof tickets)[0]];
const swapped = [{ ...first, ticketId: second.ticketId }, { ...second, ticketId: first.ticketId }, ...tickets.slice(2)];

async function verify(content: string, more: Partial<VerifyDrawOptions> = {}): Promise<{ code: number; said: string }> {
  const file = join(folder, 'draw.json');
  writeFileSync(file, content);
  const said: string[] = [];
  const options = { url: null, sale: null, file, commitment: null, ticket: null, json: true, ...more };
  return { code: await verifyDraw(options, (line) => said.push(line)), said: said.join('\n') };
}

it.each<[string, object, Partial<VerifyDrawOptions>, number, RegExp]>([
  ['the true order', draw, {}, 0, /50 tickets stand where the seed puts them/],
  ['the true order and what was noted', draw, { commitment: before.commitment.toUpperCase() }, 0, /that you noted/],
  ['somebody’s place', draw, { ticket: first.ticketId }, 0, /was drawn at place 1\./],
  ['two places swapped', { ...draw, tickets: swapped }, {}, 1, /WRONG .* stands at 1/],
  ['a page of two', { ...draw, total: 100 }, {}, 1, /50 of 100 tickets are there/],
  ['another commitment', draw, { commitment: commitmentOf('x') }, 1, /published before/],
  ['somebody who is not in it', draw, { ticket: 'x' }, 1, /x has no place in the draw/],
  ['no draw yet', before, {}, 2, new RegExp(`The commitment is ${before.commitment}`)],
  ['no draw yet, and another commitment by now', before, { commitment: commitmentOf('x') }, 1, /another one by now/],
])('%s', async (_, content, more, code, said) => {
  const found = await verify(JSON.stringify(content), more);
  expect(found.said).toMatch(said);
  expect(found.code).toBe(code);
});

it.each<[string, string, Partial<VerifyDrawOptions>, RegExp]>([
  ['no JSON', '<html>', {}, /has no JSON/],
  ['nothing', 'null', {}, /has no draw/],
  ['another shape', '{"seed":1,"commitment":"x","algorithm":"y","tickets":5}', {}, /has no draw/],
  ['a commitment that is none', '{}', { commitment: 'abc' }, /64 hexadecimal digits/],
  ['a file and an engine', '{}', { url: 'http://127.0.0.1:1', sale: 'x' }, /not both/],
])('%s is one clear line', async (_, content, more, said) => {
  await expect(verify(content, more)).rejects.toThrow(said);
});
