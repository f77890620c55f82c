// What every client's program for Node is given, and how it reports: see report.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const given = JSON.parse(readFileSync(0, "utf8"));
given.url = `${given.origin}/v1`;

export const REPLY = "Hello from LiteLLM!";
export const TEXT = "Grüße aus Köln, 你好 👋";
export const HELLO = [{ role: "user", content: "Hello, who are you?" }];
export const PLACE = { city: "Köln", days: 3 };
export const CALLS = ["weather", "population"].map((name) => [name, PLACE]);
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const SOUND_BYTES = 4 + 256 * 64;

export async function report(features) {
  const found = {};
  for (const [name, feature] of Object.entries(features)) {
    try {
      await feature();
      found[name] = null;
    } catch (error) {
      found[name] = `${error?.stack ?? error}`.slice(0, 4000);
    }
  }
  console.log(JSON.stringify(found));
  process.exit(0); // connections that are kept alive would keep the process alive
}

export { assert };
