/** What waits to be sent to one broker; only what is mended of it. */
declare module 'kafkajs/src/network/requestQueue/index.js' {
  class RequestQueue {
    pending: unknown[];
    scheduleCheckPendingRequests(): void;
  }
  export = RequestQueue;
}
