/** The live board in a real browser, on a real engine. */
import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startTestbed, type Testbed } from '../cli/testbed.ts';
import { waitUntil } from '../services/waiting.ts';

const chromiumPath = '/usr/bin/chromium';
const waitMs = 15_000;

describe.skipIf(!existsSync(chromiumPath))(`the live board (needs ${chromiumPath})`, () => {
  let bed: Testbed;
  let browser: Browser;
  let page: Page;
  /** What the console and the page's scripts complained of. */
  let complaints: string[];

  beforeAll(async () => {
    [bed, browser] = await Promise.all([
      startTestbed(),
      chromium.launch({
        executablePath: chromiumPath,
        args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
      }),
    ]);
  });
  afterAll(async () => {
    await browser?.close();
    await bed?.stop();
  });
  beforeEach(async () => {
    complaints = [];
    page = await browser.newPage();
    page.setDefaultTimeout(waitMs);
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(error.message));
  });
  afterEach(() => page.close());

  const makeSale = async (id: string, more: object = {}): Promise<void> => {
    const stock = [{ sku: 'ticket', warehouse: 'main', quantity: 1_000 }];
    expect((await bed.putSale(id, { title: id, stock, ...more })).status).toBe(201);
  };
  const hold = async (saleId: string, sku = 'ticket', quantity = 1): Promise<() => Promise<void>> => {
    const { token } = await bed.session();
    const held = await bed.reserve(token, 'key', { saleId, lines: [{ sku, quantity }] });
    expect(held.status).toBe(201);
    return async () => {
      const answer = await bed.request('POST', `/v1/reservations/${held.body.id}/commit`, { token });
      expect(answer.status).toBe(200);
    };
  };
  const text = (selector: string): Promise<string | null> => page.locator(selector).textContent();
  const shows = async (units: { left: string; held: string; sold: string }): Promise<void> => {
    let shown = {};
    const read = async () => {
      shown = { left: await text('#left'), held: await text('#held'), sold: await text('#sold') };
      return JSON.stringify(shown) === JSON.stringify(units);
    };
    await waitUntil(read, waitMs);
    expect(shown).toEqual(units);
  };

  it('tells how to make the first sale, and shows it once it is made', async () => {
    await page.goto(bed.url);
    await page.locator('#empty').waitFor();
    expect(await text('#example')).toContain(`curl -X PUT ${bed.url}/v1/admin/sales/`);
    await makeSale('first');
    await page.locator('#board').waitFor();
    expect(await text('#title')).toBe('first');
    expect(complaints).toEqual([]);
  });

  it('follows units from left to held to sold without a reload', async () => {
    await makeSale('follow');
    await page.goto(`${bed.url}/?sale=follow`);
    await shows({ left: '1,000', held: '0', sold: '0' });
    const commit = await hold('follow', 'ticket', 2);
    await shows({ left: '998', held: '2', sold: '0' });
    await commit();
    await shows({ left: '998', held: '0', sold: '2' });
    await page.locator('#lag', { hasText: /^\d+ ms$/ }).waitFor();
    expect(await text('#state')).toBe('Open');
    expect(complaints).toEqual([]);
  });

  it('shows each SKU in a row, its warehouses added up', async () => {
    const stock = [
      ['a', 'north', 5],
      ['b', 'north', 7],
      ['a', 'south', 3],
    ].map(([sku, warehouse, quantity]) => ({ sku, warehouse, quantity }));
    await makeSale('skus', { stock });
    await page.goto(`${bed.url}/?sale=skus`);
    await hold('skus', 'b', 7);
    await page.locator('#skus tbody tr', { hasText: /^b070$/ }).waitFor();
    await page.locator('#skus tbody tr', { hasText: /^a800$/ }).waitFor();
    await shows({ left: '8', held: '7', sold: '0' });
  });

  it.each([
    ['Scheduled', { opensAt: new Date(Date.now() + 3_600_000).toISOString() }, null],
    ['Paused', {}, 'pause'],
    ['Closed', {}, 'close'],
  ])('says that a sale is %s', async (state, more, verb) => {
    await makeSale(state, more);
    await page.goto(`${bed.url}/?sale=${state}`);
    if (verb) await bed.operator('POST', `${state}/${verb}`);
    await page.locator('#state', { hasText: state }).waitFor();
    if (state === 'Scheduled') expect(await text('#clock')).toMatch(/^(00:59|01:00):\d\d$/);
  });

  it('shows a title with markup as text, in the list and on the board', async () => {
    const title = '<script>document.title = "taken"</script><img src=x onerror="document.title=1">';
    await makeSale('markup', { title });
    await page.goto(`${bed.url}/?sale=`);
    await page.getByRole('link', { name: title }).click();
    await page.locator('#board').waitFor();
    expect(await text('#title')).toBe(title);
    expect(await page.title()).toBe(`1,000 left: ${title}`);
    expect(await page.locator('main script, main img').count()).toBe(0);
    expect(complaints).toEqual([]);
  });

  it('says that there is no such sale', async () => {
    await page.goto(`${bed.url}/?sale=unheard-of`);
    await page.locator('#notice', { hasText: 'There is no sale unheard-of.' }).waitFor();
    expect(await page.locator('#board').isVisible()).toBe(false);
  });

  it('says that it is disconnected and how old its numbers are, and recovers', async () => {
    await makeSale('away');
    const second = await bed.serve();
    await page.goto(`${second.url}/?sale=away`);
    await shows({ left: '1,000', held: '0', sold: '0' });
    second.child.kill('SIGSTOP');
    await page.locator('#notice', { hasText: /^Disconnected\..* These numbers are \d+ s old\./ }).waitFor();
    await shows({ left: '1,000', held: '0', sold: '0' });
    await hold('away');
    second.child.kill('SIGCONT');
    await page.locator('#notice').waitFor({ state: 'hidden' });
    await shows({ left: '999', held: '1', sold: '0' });
    await second.stop();
    await page.locator('#notice', { hasText: 'Disconnected.' }).waitFor();
    await shows({ left: '999', held: '1', sold: '0' });
  });
});
