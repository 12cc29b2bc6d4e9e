// k6: each arrival is a person who joins a line, waits, is let in, reserves and buys. Environment: URL, TOKENS (a file with a token a
// line), SALE, SKU, RATE, SECONDS, VUS, WAIT (seconds that a person waits at the most).

import { sleep } from 'k6';
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';

const tokens = new SharedArray('tokens', () => open(__ENV.TOKENS).trim().split('\n'));
const bought = new Counter('people_bought');
const gone = new Counter('people_without');
const inLine = new Trend('line_ms');
const lookEverySeconds = 0.5;

export const options = {
  systemTags: ['status', 'error_code'],
  summaryTrendStats: ['med', 'p(99)', 'p(99.9)'],
  scenarios: {
    people: {
      exec: 'person',
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.VUS),
      gracefulStop: `${__ENV.WAIT}s`,
    },
  },
  thresholds: { 'http_reqs{status:0}': [] },
};

export function person() {
  const at = exec.scenario.iterationInTest;
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${tokens[at]}` };
  const sale = `${__ENV.URL}/v1/sales/${__ENV.SALE}`;
  const beganMs = Date.now();
  let ticket = http.post(`${sale}/tickets`, '{}', { headers }).json();
  while (ticket && ticket.state === 'waiting' && Date.now() - beganMs < Number(__ENV.WAIT) * 1000) {
    sleep(lookEverySeconds);
    ticket = http.get(`${sale}/tickets/${ticket.ticketId}`, { headers }).json();
  }
  if (ticket?.state !== 'admitted') {
    gone.add(1);
    return;
  }
  inLine.add(Date.now() - beganMs);
  const body = JSON.stringify({ saleId: __ENV.SALE, lines: [{ sku: __ENV.SKU, quantity: 1 }] });
  const admitted = { ...headers, 'Idempotency-Key': `person-${at}`, 'Admission-Token': ticket.admissionToken };
  const held = http.post(`${__ENV.URL}/v1/reservations`, body, { headers: admitted });
  if (held.status !== 201) {
    gone.add(1);
    return;
  }
  const paid = http.post(`${__ENV.URL}/v1/reservations/${held.json().id}/commit`, null, { headers });
  if (paid.status === 200) bought.add(1);
  else gone.add(1);
}

export function handleSummary({ metrics, state }) {
  const count = (name) => metrics[name]?.values.count ?? 0;
  const times = metrics.http_req_duration.values;
  const line = metrics.line_ms?.values ?? { med: 0, 'p(99)': 0 };
  const said = {
    requests: count('http_reqs'),
    perSecond: (count('http_reqs') * 1000) / state.testRunDurationMs,
    p50Ms: times.med,
    p99Ms: times['p(99)'],
    p999Ms: times['p(99.9)'],
    refused: count('people_without'),
    failed: count('http_reqs{status:0}'),
    dropped: count('dropped_iterations'),
    bought: count('people_bought'),
    inLineMs: line.med,
    inLineP99Ms: line['p(99)'],
  };
  return { stdout: `${JSON.stringify(said)}\n` };
}
