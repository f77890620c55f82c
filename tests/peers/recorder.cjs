// For jest in openai-node's own suite: notes the requests of its tests, and calls with a key of ours.
// Loaded by `python -m tests.peers` before the suite's own set-up.
'use strict';

const fs = require('node:fs');

const { PEERS_RECORD, PEERS_KEY } = process.env;
const send = globalThis.fetch;

globalThis.fetch = (target, options = {}) => {
  if (PEERS_RECORD) {
    const body = typeof options.body === 'string' ? options.body : '';
    const line = JSON.stringify([(options.method ?? 'GET').toUpperCase(), new URL(target).pathname, body]);
    fs.appendFileSync(`${PEERS_RECORD}.${process.pid}`, `${line}\n`);
  }
  if (!PEERS_KEY) return send(target, options);
  const headers = new Headers(options.headers);
  headers.set('authorization', `Bearer ${PEERS_KEY}`);
  return send(target, { ...options, headers });
};
