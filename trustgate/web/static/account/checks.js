// Checking receipts and statements in this page, against the log's key and what the log has said before.
// The checks are those of examples/verify, which the gateway serves as one module; here are the tiles and what is kept.

import { h, send } from "./common.js";

let loaded = null;
/** The checks of examples/verify. */
export const core = () => (loaded ??= import("/account/verify.js"));

/** The bundle of a receipt (Uint8Array). */
export async function bundleOf(id) {
  const response = await send(`/v1/receipts/${encodeURIComponent(id)}/bundle`);
  return new Uint8Array(await response.arrayBuffer());
}

/**
 * Check a bundle or a statement (Uint8Array) against the log's key. `contents`: {request, response}, as sent and as
 * received, to open the commitments to. Gives {ok, checks, found}; after the checks of the document itself come those
 * that the log as it is now still begins with what the document, and this browser, have seen of it.
 */
export async function check(data, vkey, { kind = "bundle", ...contents } = {}) {
  const checks = await core();
  const verify = kind === "statement" ? checks.verifyStatement : checks.verifyBundle;
  const verdict = await verify(data, { key: vkey, ...contents });
  if (!verdict.ok) return verdict;
  const record = (name, state, detail) => verdict.checks.push({ name, state, detail });
  let name = "log now";
  try {
    const note = await (await fetch("/log/checkpoint", { cache: "no-store", credentials: "omit" })).text();
    const now = await checks.openCheckpoint(note, await checks.verifierKey(vkey, vkey));
    record(name, "passed", `The log is signed as having ${now.size} receipts now.`);
    const seen = verdict.found.checkpoint;
    name = "consistency";
    await consistent(checks, seen, now);
    record(name, "passed", `The ${seen.size} receipts that the document was signed with are where the log begins.`);
    name = "consistency with before";
    const before = remembered(vkey);
    if (before === null) {
      record(name, "not checked", "This browser has not seen the log before. From now on it remembers what it saw.");
    } else {
      const old = await checks.openCheckpoint(before, await checks.verifierKey(vkey, vkey));
      if (old.size > now.size) throw new Error(`The log has ${now.size} receipts; it has shown ${old.size} before.`);
      await consistent(checks, old, now);
      record(name, "passed", `The log still begins with the ${old.size} receipts that this browser saw of it before.`);
    }
    remember(vkey, note);
  } catch (error) {
    record(name, "failed", error.message);
    return { ...verdict, ok: false };
  }
  return verdict;
}

// What is public of the log, and nothing of the tenant's, stays in this browser.
const place = (vkey) => `trustgate.log.${vkey}`;
const remembered = (vkey) => localStorage.getItem(place(vkey));
const remember = (vkey, note) => localStorage.setItem(place(vkey), note);

export async function consistent(checks, one, other) {
  const [old, now] = one.size <= other.size ? [one, other] : [other, one];
  const nodes = new Tiles(checks, Number(now.size));
  const proof = old.size === 0n || old.size === now.size ? [] : await nodes.consistency(Number(old.size));
  await checks.verifyConsistency(old, now, proof);
}

/** A log of a size, by its tiles (C2SP tlog-tiles). What they hold is believed only as far as a proof leads to a root. */
class Tiles {
  constructor(checks, size) {
    this.checks = checks;
    this.size = size;
    this.fetched = new Map();
  }

  /** RFC 6962, section 2.1.2: the proof that the first `old` leaves are where this log begins. */
  consistency(old) {
    const walk = async (count, start, end, isWhole) => {
      if (count === end - start) return isWhole ? [] : [await this.root(start, end)];
      const half = largestHalf(end - start);
      if (count <= half) {
        return [...(await walk(count, start, start + half, isWhole)), await this.root(start + half, end)];
      }
      return [...(await walk(count - half, start + half, end, false)), await this.root(start, start + half)];
    };
    return walk(old, 0, this.size, true);
  }

  async root(start, end) {
    const count = end - start;
    const height = Math.log2(count);
    if (Number.isInteger(height) && start % count === 0) return this.node(height, start / count);
    const half = largestHalf(count);
    return this.joined(await this.root(start, start + half), await this.root(start + half, end));
  }

  /** The root of a full subtree: 2^height leaves. */
  async node(height, index) {
    const [level, above] = [Math.floor(height / 8), height % 8];
    const first = index * 2 ** above;
    const tile = await this.tile(level, Math.floor(first / 256));
    let hashes = Array.from({ length: 2 ** above }, (_, at) => {
      const from = ((first % 256) + at) * 32;
      return tile.slice(from, from + 32);
    });
    while (hashes.length > 1) {
      const pairs = Array.from({ length: hashes.length / 2 }, (_, at) => this.joined(hashes[2 * at], hashes[2 * at + 1]));
      hashes = await Promise.all(pairs);
    }
    return hashes[0];
  }

  joined(left, right) {
    return this.checks.sha256(Uint8Array.of(1), left, right);
  }

  async tile(level, index) {
    const width = Math.min(256, Math.floor(this.size / 256 ** level) - index * 256);
    const path = `/log/tile/${level}/${threes(index)}${width === 256 ? "" : `.p/${width}`}`;
    if (!this.fetched.has(path)) {
      const response = await fetch(path, { credentials: "omit" });
      if (!response.ok) throw new Error(`The log does not show its tile ${path}.`);
      this.fetched.set(path, new Uint8Array(await response.arrayBuffer()));
    }
    return this.fetched.get(path);
  }
}

function largestHalf(count) {
  let half = 1;
  while (half * 2 < count) half *= 2;
  return half;
}

function threes(index) {
  const last = String(index % 1000).padStart(3, "0");
  let [path, rest] = [last, Math.floor(index / 1000)];
  while (rest) {
    path = `x${String(rest % 1000).padStart(3, "0")}/${path}`;
    rest = Math.floor(rest / 1000);
  }
  return path;
}

// how a verdict looks

const MARKS = { passed: "✓", failed: "✗", "not checked": "–" };

export function checkList({ checks }) {
  const items = checks.map(({ name, state, detail }) =>
    h(
      "li",
      { class: state === "not checked" ? "skipped" : state },
      h("span", { class: "mark", "aria-hidden": "true" }, MARKS[state]),
      h("div", null, h("strong", null, name), h("span", { class: "how" }, state), h("p", null, detail)),
    ),
  );
  return h("ul", { class: "checks" }, items);
}

/** One sentence on a verdict, and its mood. */
export function sentence({ ok, checks, found }, what) {
  if (!ok) {
    const failed = checks.find((each) => each.state === "failed");
    return ["bad", `The ${what} does not hold: ${failed.name}. ${failed.detail}`];
  }
  const anchored = found.transaction ? " and its anchor carries the log's state" : "; no anchor covers it yet";
  const inside = what === "statement" ? "its receipts are" : "it is";
  return ["good", `The ${what} holds: ${inside} in the log${anchored}.`];
}
