#!/usr/bin/env node
// Checks a TrustGate receipt bundle: node verify.mjs BUNDLE [--key VKEY] [--payer ADDRESS]
//                                    [--request FILE] [--response FILE]
// Needs Node 20 or newer and nothing else; asks nobody. Exit code: 0 it holds, 1 it does not, 2 wrong use.

// --- core: the same text in verify.mjs and index.html ---
// What a bundle is, and every check of one, with nothing but what browsers and Node have in common (WebCrypto).
// Sources: RFC 8785 (canonical JSON), RFC 6962 and RFC 9162 (the tree), RFC 8032 (Ed25519), C2SP signed-note,
// tlog-checkpoint and tlog-proof, and the wire format of Solana transactions.

const FORMAT = "trustgate-receipt-bundle@v1";
const MAX_BUNDLE_BYTES = 1024 * 1024;
const CHAIN_NOT_ASKED = "Only the chain can show whether the transaction reached it.";

/** A check that failed: the message says why. */
class Refused extends Error {}

function refuse(why) {
  throw new Refused(why);
}

/**
 * Check the bundle in `data` (Uint8Array). Optional: `key`, the log's verifier key as its operator publishes it, and
 * `feePayer`, the address that pays for its anchors (strings); `request` and `response` (Uint8Array), what the
 * commitments are to be opened to. Gives the checks in their order, each {name, state, detail}, where state is
 * "passed", "failed" or "not checked" and a failed check is the last; and what to believe if none failed.
 */
async function verifyBundle(data, { key = null, feePayer = null, request = null, response = null } = {}) {
  const checks = [];
  let name = "";
  const record = {
    begin: (next) => (name = next),
    passed: (detail) => checks.push({ name, state: "passed", detail }),
    skipped: (detail) => checks.push({ name, state: "not checked", detail }),
  };
  let found = null;
  try {
    found = await examine(record, data, { key, feePayer, request, response });
  } catch (error) {
    // Whatever goes wrong in a check, it has not passed.
    const detail = error instanceof Refused ? error.message : `The check could not be made: ${error}`;
    checks.push({ name, state: "failed", detail });
  }
  return { ok: found !== null, checks, found };
}

async function examine(record, data, given) {
  record.begin("form");
  const bundle = readBundle(data);
  record.passed(`A document of the format ${FORMAT}, in its unambiguous form.`);

  record.begin("receipt");
  const canonical = utf8(canonicalReceipt(bundle.receipt));
  const { v } = bundle.receipt;
  record.passed(`All members of a version ${v} receipt and no other; ${canonical.length} bytes in RFC 8785 form.`);

  record.begin("leaf");
  const leaf = await sha256(Uint8Array.of(0), canonical);
  record.passed(`The receipt's leaf hash is ${hex(leaf)}.`);

  record.begin("proof");
  const proof = readProof(bundle.proof);
  record.passed(`A tlog-proof of ${proof.hashes.length} hashes for leaf ${proof.index}.`);

  record.begin("checkpoint");
  const checkpoint = await openCheckpoint(proof.note, await verifierKey(bundle.key, given.key));
  const signed = `${checkpoint.origin} signed a checkpoint of ${checkpoint.size} receipts`;
  record.passed(
    given.key !== null
      ? `${signed} with the given key.`
      : `${signed} with the key that the bundle itself names. This shows nothing about whose key it is: compare ` +
          `${bundle.key} with what the operator publishes.`,
  );

  record.begin("inclusion");
  await verifyInclusion(leaf, proof, checkpoint);
  record.passed(`Leaf ${proof.index} of the ${checkpoint.size} under the root ${hex(checkpoint.root)} is the receipt.`);

  for (const label of ["request", "response"]) {
    record.begin(label);
    await verifyOpening(record, label, bundle.salts[label], given[label], bundle.receipt[`${label}_commitment`]);
  }
  const transaction = await verifyAnchor(record, bundle.anchor, proof.note, given.feePayer);
  return { receipt: bundle.receipt, key: bundle.key, checkpoint, transaction };
}

async function verifyOpening(record, label, salt, content, commitment) {
  if (content === null) {
    const disclosed = salt === null ? "is not disclosed" : "is disclosed, but no content was given";
    record.skipped(`What opens the commitment to the ${label} ${disclosed}.`);
    return;
  }
  if (salt === null) refuse(`The bundle does not disclose what opens the commitment to the ${label}.`);
  if (hex(await hmac(unhex(salt), await sha256(content))) !== commitment) {
    refuse(`The given ${label} is not what the receipt was issued for.`);
  }
  record.passed(`The receipt was issued for the given ${label} of ${content.length} bytes.`);
}

async function verifyAnchor(record, anchor, note, feePayer) {
  record.begin("anchor transaction");
  if (anchor === null) {
    if (feePayer !== null) refuse("The bundle has no anchor, so it has no fee payer.");
    for (const name of ["transaction", "signature", "memo", "fee payer"]) {
      record.begin(`anchor ${name}`);
      record.skipped("The bundle has no anchor: only the log's key protects the log from being rewritten.");
    }
    return null;
  }
  const raw = unbase64(anchor);
  const transaction = readTransaction(raw);
  record.passed(`A well-formed Solana transaction of ${raw.length} bytes.`);

  record.begin("anchor signature");
  for (const [at, signature] of transaction.signatures.entries()) {
    if (!(await verifySignature(transaction.keys[at], signature, transaction.message))) {
      refuse(`The signature of ${base58(transaction.keys[at])} does not match the transaction.`);
    }
  }
  record.passed(`Signed by all its signers; it is known as ${transaction.signature}.`);

  record.begin("anchor memo");
  if (transaction.memos.length !== 1 || hex(transaction.memos[0]) !== hex(utf8(note))) {
    refuse(
      `The transaction carries ${transaction.memos.length} memos, of which one alone has to be the checkpoint, ` +
        "to the byte.",
    );
  }
  record.passed("Its one memo is the signed checkpoint, to the byte.");

  record.begin("anchor fee payer");
  const paid = transaction.feePayer;
  if (feePayer !== null && feePayer !== paid) refuse(`${paid} signed and paid for the transaction, not ${feePayer}.`);
  record.passed(
    feePayer !== null
      ? `${paid}, the given address, signed and paid for it.`
      : `${paid} signed and paid for it. Compare this address with the one that the operator publishes.`,
  );
  return transaction;
}

// The document.

const isText = (value) => typeof value === "string";
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isHash = (value) => isText(value) && /^[0-9a-f]{64}$/.test(value);
const isFlag = (value) => typeof value === "boolean";
const oneOf = (...values) => (value) => values.includes(value);
const orNull = (is) => (value) => value === null || is(value);

const BUNDLE = {
  format: oneOf(FORMAT),
  receipt: isObject,
  salts: isObject,
  proof: isText,
  key: isText,
  anchor: orNull((value) => isText(value) && value !== "" && unbase64(value) !== null),
};
const SALTS = { request: orNull(isHash), response: orNull(isHash) };
const ENDINGS = ["complete", "client_gone", "upstream_cut", "cut", "upstream_error", "refused"];
const RECEIPT_V1 = {
  v: oneOf(1),
  id: isText,
  created_us: isCount,
  tenant: isText,
  key: isText,
  tseq: isCount,
  tprev: isHash,
  endpoint: isText,
  model: isText,
  passport: isText,
  upstream_model: isText,
  request_commitment: isHash,
  response_commitment: isHash,
  prompt_tokens: isCount,
  cached_tokens: isCount,
  completion_tokens: isCount,
  reasoning_tokens: isCount,
  usage_source: oneOf("provider", "estimate"),
  cost_nano_usd: isCount,
  price_hash: isHash,
  policy_hash: isHash,
  latency_first_ms: isCount,
  latency_total_ms: isCount,
  status: isCount,
  finish: oneOf(...ENDINGS),
  stream: isFlag,
};
const FINISH_V2 = oneOf(...ENDINGS, "credited");
/** Of a tenant that pays. */
const PAYMENT = {
  charged_nano_usd: isCount,
  credited_nano_usd: isCount,
  payment: isText,
  payment_network: isText,
  payment_transaction: isText,
  payment_asset: isText,
  payment_amount: (value) => isText(value) && /^[0-9]*$/.test(value),
  payment_payer: isText,
};
/** What the price looked at. */
const PRICE = {
  price_known: isFlag,
  billed_nano_usd: isCount,
  price_factor_ppm: isCount,
  cache_write_tokens: isCount,
  cache_write_1h_tokens: isCount,
  audio_prompt_tokens: isCount,
  audio_completion_tokens: isCount,
  image_prompt_tokens: isCount,
  image_completion_tokens: isCount,
  images: isCount,
  audio_ms: isCount,
  characters: isCount,
  searches: isCount,
  service_tier: isText,
  image_size: isText,
  image_quality: isText,
  usage_contradictory: isFlag,
};
/** Of a key whose requests name end users. */
const END_USER = { end_user: isText };
const RECEIPTS = new Map([
  [1, RECEIPT_V1],
  [2, { ...RECEIPT_V1, v: oneOf(2), finish: FINISH_V2, ...PAYMENT }],
  [3, { ...RECEIPT_V1, v: oneOf(3), ...PRICE }],
  [4, { ...RECEIPT_V1, v: oneOf(4), finish: FINISH_V2, ...PAYMENT, ...PRICE }],
  [5, { ...RECEIPT_V1, v: oneOf(5), ...PRICE, ...END_USER }],
  [6, { ...RECEIPT_V1, v: oneOf(6), finish: FINISH_V2, ...PAYMENT, ...PRICE, ...END_USER }],
]);

function readBundle(data) {
  const bad = (why) => refuse(`This is not a receipt bundle: ${why}.`);
  if (data.length > MAX_BUNDLE_BYTES) bad(`it has ${data.length} bytes, more than the ${MAX_BUNDLE_BYTES} it may have`);
  let written, bundle, rewritten;
  try {
    written = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    bundle = JSON.parse(written);
    rewritten = JSON.stringify(bundle);
  } catch (error) {
    bad(`it is not JSON: ${error.message}`);
  }
  if (isObject(bundle) && bundle.format !== FORMAT) bad(`its format is not ${FORMAT}, the only one known here`);
  checkMembers("bundle", bundle, BUNDLE, bad);
  checkMembers("object salts", bundle.salts, SALTS, bad);
  for (const [name, value] of Object.entries(bundle.receipt)) {
    if (!/^[a-z_][a-z0-9_]*$/.test(name)) bad(`no receipt has a member ${JSON.stringify(name)}`);
    if (!isText(value) && !isFlag(value) && !Number.isSafeInteger(value)) {
      bad(`the receipt's member ${name} is neither a string nor a boolean nor an integer that every reader keeps`);
    }
  }
  // Blanks between tokens are free. Everything else can be written in one way alone, so that nobody reads it otherwise.
  const dense = written.replace(/("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+/g, "$1");
  if (dense !== rewritten || /(^|[^\\])(\\\\)*\\ud[89a-f]/.test(dense)) {
    bad("a member is there twice, or a string or a number is written in an unusual way");
  }
  return bundle;
}

/** The text that is hashed. RFC 8785 of a flat object: members in the order of their names, no blanks. */
function canonicalReceipt(receipt) {
  const known = RECEIPTS.get(receipt.v) ?? refuse("The receipt is of none of the versions 1 to 6.");
  checkMembers("receipt", receipt, known, (why) => refuse(`This is not a receipt of version ${receipt.v}: ${why}.`));
  const members = Object.keys(receipt).sort();
  return `{${members.map((name) => `${JSON.stringify(name)}:${JSON.stringify(receipt[name])}`).join(",")}}`;
}

function checkMembers(what, value, members, bad) {
  if (!isObject(value)) bad(`the ${what} is not an object`);
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(members, name)) bad(`the ${what} has a member ${name}, which none has`);
  }
  for (const [name, is] of Object.entries(members)) {
    if (!Object.hasOwn(value, name)) bad(`the ${what} lacks ${name}`);
    if (!is(value[name])) bad(`${name} in the ${what} is not what it has to be`);
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// The log: proof, checkpoint, tree.

const PROOF_HEADER = "c2sp.org/tlog-proof@v1";
const MAX_HASHES = 63;
const MAX_SIGNATURES = 100;
const MAX_SIZE = 2n ** 63n - 1n;

function readProof(proof) {
  const bad = (why) => refuse(`This is not a proof of inclusion: ${why}.`);
  const end = proof.indexOf("\n\n");
  if (end < 0 || proof.length === end + 2) bad("it has no checkpoint below an empty line");
  const [header, position, ...lines] = proof.slice(0, end).split("\n");
  if (header !== PROOF_HEADER) bad(`its first line is not ${PROOF_HEADER}`);
  if (position?.startsWith("extra ")) bad("it has extra data, which nothing authenticates");
  const index = position?.startsWith("index ") ? decimal(position.slice(6)) : null;
  if (index === null || index === MAX_SIZE) bad("it does not say the index of its leaf");
  if (lines.length > MAX_HASHES) bad(`it has more than ${MAX_HASHES} hashes, which no tree needs`);
  const hashes = lines.map((line) => unbase64(line));
  if (hashes.some((found) => found?.length !== 32)) bad("a line of it is not a hash");
  return { index, hashes, note: proof.slice(end + 2) };
}

/** The bundle's key, which has to be the expected one if there is one: {name, id, publicKey}. */
async function verifierKey(written, expected) {
  const key = await readKey(written, "The bundle's key");
  if (expected === null) return key;
  await readKey(expected, "The given key");
  if (written !== expected) refuse(`The bundle names the key ${written}, not the one it is to be checked with.`);
  return key;
}

async function readKey(written, what) {
  const [, name, id, encoded] = /^([^+]*)\+([^+]*)\+(.*)$/s.exec(written) ?? refuse(`${what} is not a verifier key.`);
  const material = unbase64(encoded);
  if (!isKeyName(name) || material?.length !== 33 || material[0] !== 1) {
    refuse(`${what} is not an Ed25519 verifier key.`);
  }
  if (hex((await sha256(utf8(`${name}\n`), material)).slice(0, 4)) !== id) {
    refuse(`${what} is mistyped: its hash is not that of its name and key.`);
  }
  return { name, id, publicKey: material.slice(1) };
}

/** The checkpoint in a signed note, its signature checked: {origin, size, root}. */
async function openCheckpoint(note, key) {
  const bad = (why) => refuse(`The checkpoint does not hold: ${why}.`);
  if (!isNoteText(note)) bad("it holds control characters, or does not end with a newline");
  const end = note.lastIndexOf("\n\n");
  const below = end < 0 ? "" : note.slice(end + 2);
  if (below === "") bad("it has no signatures below an empty line");
  const lines = below.slice(0, -1).split("\n");
  if (lines.length > MAX_SIGNATURES) bad("it has too many signatures");
  const signatures = lines.map((line) => readSignature(line) ?? bad("a line below its text is not a signature"));
  const own = signatures.filter(({ name, id }) => name === key.name && id === key.id);
  if (own.length === 0) bad(`it is not signed by ${key.name} with the key ${key.id}`);
  const body = note.slice(0, end + 1);
  for (const { signature } of own) {
    if (signature.length !== 64 || !(await verifySignature(key.publicKey, signature, utf8(body)))) {
      bad(`the signature of ${key.name} is wrong`);
    }
  }
  const said = body.slice(0, -1).split("\n");
  const [origin, size, root] = [said[0], decimal(said[1] ?? ""), unbase64(said[2] ?? "")];
  if (said.includes("") || size === null || root?.length !== 32) bad("it is not origin, size and root");
  if (origin !== key.name) bad(`it is of the log ${origin}, not of ${key.name}`);
  return { origin, size, root };
}

function readSignature(line) {
  const [, name, encoded] = /^— ([^ ]*) (.*)$/s.exec(line) ?? [];
  const data = encoded === undefined ? null : unbase64(encoded);
  if (data === null || data.length <= 4 || !isKeyName(name)) return null;
  return { name, id: hex(data.slice(0, 4)), signature: data.slice(4) };
}

function isKeyName(name) {
  return /^[^+\p{White_Space}\p{Surrogate}\0-\x1f]+$/u.test(name);
}

function isNoteText(note) {
  return note.endsWith("\n") && !/[\0-\x09\x0b-\x1f]|\p{Surrogate}/u.test(note);
}

/** RFC 9162 section 2.1.3.2. */
async function verifyInclusion(leaf, { index, hashes }, { size, root }) {
  if (index >= size) refuse(`A tree of ${size} leaves has no leaf ${index}.`);
  let [place, last, node] = [index, size - 1n, leaf];
  for (const sibling of hashes) {
    if (last === 0n) refuse("The proof has more hashes than lead from this leaf to the root.");
    if (place % 2n === 1n || place === last) {
      node = await sha256(Uint8Array.of(1), sibling, node);
      while (place % 2n === 0n && place !== 0n) [place, last] = [place / 2n, last / 2n];
    } else {
      node = await sha256(Uint8Array.of(1), node, sibling);
    }
    [place, last] = [place / 2n, last / 2n];
  }
  if (last !== 0n) refuse("The proof has fewer hashes than lead from this leaf to the root.");
  if (hex(node) !== hex(root)) refuse(`The proof leads to the root ${hex(node)}, not to ${hex(root)}.`);
}

// The anchor: a Solana transaction, legacy or version 0.

const MAX_TRANSACTION_BYTES = 1232;
const MEMO_PROGRAMS = ["Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo", "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"];
const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function readTransaction(raw) {
  const bad = (why) => refuse(`This is not a Solana transaction: ${why}.`);
  if (raw.length > MAX_TRANSACTION_BYTES) bad(`it has more than ${MAX_TRANSACTION_BYTES} bytes`);
  let at = 0;
  const take = (length) => {
    if (at + length > raw.length) bad(`it breaks off at byte ${raw.length}`);
    return raw.slice(at, (at += length));
  };
  const compact = () => {
    let value = 0;
    for (let place = 0; place < 3; place++) {
      const [byte] = take(1);
      value |= (byte & 0x7f) << (7 * place);
      if (byte & 0x80) continue;
      if ((place > 0 && byte === 0) || value > 0xffff) break;
      return value;
    }
    return bad("a count in it is not a compact-u16");
  };
  const list = (read) => Array.from({ length: compact() }, read);

  const signatures = list(() => take(64));
  const message = raw.slice(at);
  const versioned = (message[0] & 0x80) !== 0;
  if (versioned && take(1)[0] !== 0x80) bad("only its legacy format and version 0 are known here");
  const [required, readonlySigned, readonlyUnsigned] = take(3);
  const keys = list(() => take(32));
  take(32); // the blockhash
  const instructions = list(() => ({ program: take(1)[0], accounts: take(compact()), data: take(compact()) }));
  const lookups = versioned ? list(() => (take(32), take(compact()).length + take(compact()).length)) : [];
  if (at !== raw.length) bad(`${raw.length - at} bytes follow after its end`);

  if (required === 0 || signatures.length !== required) bad("its signatures are not as many as its header asks for");
  if (required > keys.length || readonlySigned >= required || readonlyUnsigned > keys.length - required) {
    bad("its header does not match the number of its account keys");
  }
  if (new Set(keys.map(hex)).size !== keys.length) bad("it names an account twice");
  if (lookups.includes(0)) bad("it names an address table that it takes nothing from");
  const accounts = lookups.reduce((sum, looked) => sum + looked, keys.length);
  if (accounts > 256) bad("it names more than 256 accounts");
  for (const instruction of instructions) {
    const there = instruction.program > 0 && instruction.program < keys.length;
    if (!there || instruction.accounts.some((account) => account >= accounts)) {
      bad("an instruction points to an account that is not there");
    }
  }
  const memos = instructions.filter(({ program }) => MEMO_PROGRAMS.includes(base58(keys[program])));
  return {
    signatures,
    message,
    keys,
    memos: memos.map(({ data }) => data),
    signature: base58(signatures[0]),
    feePayer: base58(keys[0]),
  };
}

function base58(data) {
  const zeros = data.findIndex((byte) => byte !== 0);
  let number = BigInt(`0x0${hex(data)}`);
  let digits = "";
  for (; number > 0n; number /= 58n) digits = BASE58[Number(number % 58n)] + digits;
  return "1".repeat(zeros < 0 ? data.length : zeros) + digits;
}

// Bytes, hashes and signatures.

/** The y coordinates of the points of small order, little-endian: keys and signatures made of these sign anything. */
const SMALL_ORDER = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

function isSmallOrder(point) {
  const y = point.slice();
  y[31] &= 0x7f; // the sign of x
  return SMALL_ORDER.includes(hex(y));
}

/** Ed25519, refusing what strict verifiers refuse. */
async function verifySignature(publicKey, signature, message) {
  if (isSmallOrder(publicKey) || isSmallOrder(signature.slice(0, 32))) return false;
  const subtle = globalThis.crypto?.subtle ?? refuse("This browser or Node has no WebCrypto here.");
  let key;
  try {
    key = await subtle.importKey("raw", publicKey, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") {
      refuse("This browser or Node cannot check Ed25519 signatures: take a newer one.");
    }
    return false; // not a key
  }
  return subtle.verify({ name: "Ed25519" }, key, signature, message);
}

async function sha256(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
}

async function hmac(key, data) {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const imported = await crypto.subtle.importKey("raw", key, algorithm, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
}

function utf8(string) {
  return new TextEncoder().encode(string);
}

function hex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function unhex(digits) {
  return Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
}

/** The bytes, or null unless this is the one way to write them in base64. */
function unbase64(encoded) {
  try {
    const binary = atob(encoded);
    return btoa(binary) === encoded ? Uint8Array.from(binary, (character) => character.charCodeAt(0)) : null;
  } catch {
    return null;
  }
}

/** A size or an index as a BigInt; null unless it is a whole number from 0 to 2^63 - 1, written in the one way. */
function decimal(digits) {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(digits)) return null;
  const number = BigInt(digits);
  return number <= MAX_SIZE ? number : null;
}
// --- end of core ---

import { realpathSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { argv, stderr, stdout, version } from "node:process";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

export { verifyBundle };

const USAGE =
  "usage: node verify.mjs BUNDLE [--key VKEY] [--payer ADDRESS] [--request FILE] [--response FILE]\n";

class Unreadable extends Error {}

async function main(args) {
  if (!globalThis.crypto?.subtle) {
    stderr.write(`This needs Node 20 or newer, not ${version}.\n`);
    return 2;
  }
  let given;
  try {
    given = await readArguments(args);
  } catch (error) {
    stderr.write(`${error.message}\n${error instanceof Unreadable ? "" : USAGE}`);
    return 2;
  }
  const { ok, checks, found } = await verifyBundle(given.data, given);
  for (const { name, state, detail } of checks) stdout.write(`${state.padEnd(11)}  ${name}: ${detail}\n`);
  if (found?.transaction) stdout.write(`not checked  chain: ${CHAIN_NOT_ASKED}\n`);
  stdout.write(ok ? "The bundle holds.\n" : `REFUSED: ${checks.at(-1).name}\n`);
  return ok ? 0 : 1;
}

async function readArguments(args) {
  const string = { type: "string" };
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { key: string, payer: string, request: string, response: string },
  });
  if (positionals.length !== 1) throw new Error("Name one bundle.");
  const read = async (path) => {
    try {
      return path === undefined ? null : new Uint8Array(await readFile(path));
    } catch (error) {
      throw new Unreadable(`${path} cannot be read: ${error.message}`);
    }
  };
  return {
    data: await read(positionals[0]),
    key: values.key ?? null,
    feePayer: values.payer ?? null,
    request: await read(values.request),
    response: await read(values.response),
  };
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(realpathSync(argv[1])).href) {
  process.exitCode = await main(argv.slice(2));
}
