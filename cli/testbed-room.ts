/** What tests of waiting rooms do again and again: sales with a room, guests who join, look, and buy. */
import { expect } from 'vitest';
import type { Ticket } from '../engine/lines.ts';
import { waitUntil } from '../services/waiting.ts';
import { type Answer, request, type Testbed } from './testbed.ts';

export type Guest = { token: string; buyerId: string };

/** Waits until the condition holds; fails when it does not. */
export const until: typeof waitUntil = async (...asked) => {
  const held = await waitUntil(...asked);
  expect(held, 'what was waited for did not come').toBe(true);
  return held;
};

let sales = 0;

/** Calls on a testbed; `origin` is another engine process than its first. */
export function roomsOn(bed: Testbed) {
  /** A new sale with a waiting room; answers its id. */
  async function openSale(waitingRoom: object, more: object = {}): Promise<string> {
    const saleId = `room-${++sales}`;
    const body = { title: 'room', stock: [{ sku: 'a', warehouse: 'w', quantity: 5 }], waitingRoom, ...more };
    const answer = await bed.putSale(saleId, body);
    expect(answer.status, JSON.stringify(answer.body)).toBe(201);
    return saleId;
  }

  const join = (saleId: string, { token }: Guest, body: object = {}, origin = bed.url): Promise<Answer<Ticket>> =>
    request<Ticket>(bed.agent, origin, 'POST', `/v1/sales/${saleId}/tickets`, { token, body });
  const see = (saleId: string, { token }: Guest, ticketId: string, origin = bed.url): Promise<Answer<Ticket>> =>
    request<Ticket>(bed.agent, origin, 'GET', `/v1/sales/${saleId}/tickets/${ticketId}`, { token });
  const admitted = async (saleId: string, guest: Guest, ticketId: string): Promise<Ticket> => {
    let last = (await see(saleId, guest, ticketId)).body;
    const look = async (): Promise<boolean> => {
      last = (await see(saleId, guest, ticketId)).body;
      return last.state === 'admitted';
    };
    await until(look, 10_000, 20);
    return last;
  };
  const reserve = (saleId: string, { token }: Guest, admission: string | null, key = 'k'): Promise<Answer> =>
    bed.request('POST', '/v1/reservations', {
      token,
      key,
      body: { saleId, lines: [{ sku: 'a', quantity: 1 }] },
      headers: admission === null ? {} : { 'admission-token': admission },
    });
  const act = (saleId: string, ticketId: string, body: object): Promise<Answer<Ticket>> =>
    bed.operator<Ticket>('POST', `${saleId}/tickets/${ticketId}`, body);
  return { openSale, join, see, admitted, reserve, act };
}
