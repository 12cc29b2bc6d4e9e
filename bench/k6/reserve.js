// k6: each arrival is a new buyer with a new key. Environment: URL, TOKENS (a file with a token a line), SALE, SKU, RATE, SECONDS, VUS.
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import http from 'k6/http';

const tokens = new SharedArray('tokens', () => open(__ENV.TOKENS).trim().split('\n'));
const body = JSON.stringify({ saleId: __ENV.SALE, lines: [{ sku: __ENV.SKU, quantity: 1 }] });

export const options = {
  discardResponseBodies: true,
  systemTags: ['status', 'error_code'],
  summaryTrendStats: ['med', 'p(99)', 'p(99.9)'],
  scenarios: {
    arrivals: {
      exec: 'arrive',
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.VUS),
      gracefulStop: '10s',
    },
  },
  // So that each is counted by itself.
  thresholds: { 'http_reqs{status:201}': [], 'http_reqs{status:0}': [] },
};

export function arrive() {
  const at = exec.scenario.iterationInTest;
  http.post(`${__ENV.URL}/v1/reservations`, body, {
    headers: {
      'Content-Type': 'application/json',
      'Idempotency-Key': `${__ENV.SALE}-${at}`,
      Authorization: `Bearer ${tokens[at]}`,
    },
  });
}

export function handleSummary({ metrics, state }) {
  const count = (name) => metrics[name]?.values.count ?? 0;
  const times = metrics.http_req_duration.values;
  const [requests, granted, failed] = [
    count('http_reqs'),
    count('http_reqs{status:201}'),
    count('http_reqs{status:0}'),
  ];
  const said = {
    requests,
    perSecond: (requests * 1000) / state.testRunDurationMs,
    p50Ms: times.med,
    p99Ms: times['p(99)'],
    p999Ms: times['p(99.9)'],
    refused: requests - granted - failed,
    failed,
    dropped: count('dropped_iterations'),
  };
  return { stdout: `${JSON.stringify(said)}\n` };
}
