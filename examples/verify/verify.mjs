#!/usr/bin/env node
// Checks a TrustGate receipt bundle: node verify.mjs BUNDLE [--key VKEY] [--payer ADDRESS]
//                                    [--request FILE] [--response FILE]
// or a monthly statement:            node verify.mjs STATEMENT [--key VKEY] [--payer ADDRESS]
//                                    [--previous STATEMENT]...
// Needs Node 20 or newer and nothing else; uses no network. Exit code: 0 it holds, 1 it does not, 2 wrong use.

// --- core: the same text in verify.mjs and index.html ---
// What a bundle and a statement are, and every check of them, with nothing but what browsers and Node have in common (WebCrypto).
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
/** Of work that went on upstream after its request: the calls that it sums up, and their step of the price. */
const WORK = { calls: isCount, price_above_prompt_tokens: isCount };
const RECEIPTS = new Map([
  [1, RECEIPT_V1],
  [2, { ...RECEIPT_V1, v: oneOf(2), finish: FINISH_V2, ...PAYMENT }],
  [3, { ...RECEIPT_V1, v: oneOf(3), ...PRICE }],
  [4, { ...RECEIPT_V1, v: oneOf(4), finish: FINISH_V2, ...PAYMENT, ...PRICE }],
  [5, { ...RECEIPT_V1, v: oneOf(5), ...PRICE, ...END_USER }],
  [6, { ...RECEIPT_V1, v: oneOf(6), finish: FINISH_V2, ...PAYMENT, ...PRICE, ...END_USER }],
]);
for (const v of [3, 4, 5, 6]) RECEIPTS.set(v + 4, { ...RECEIPTS.get(v), v: oneOf(v + 4), ...WORK });

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
  if (isObject(bundle) && bundle.format !== FORMAT) bad(`its format is not ${FORMAT}`);
  checkMembers("bundle", bundle, BUNDLE, bad);
  checkMembers("object salts", bundle.salts, SALTS, bad);
  for (const [name, value] of Object.entries(bundle.receipt)) {
    if (!/^[a-z_][a-z0-9_]*$/.test(name)) bad(`no receipt has a member ${JSON.stringify(name)}`);
    if (!isText(value) && !isFlag(value) && !Number.isSafeInteger(value)) {
      bad(`the receipt's member ${name} is neither a string nor a boolean nor an integer that every reader keeps`);
    }
  }
  // Blanks between tokens are free. Everything else can be written in one way alone, so that no reader takes it otherwise.
  const dense = written.replace(/("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+/g, "$1");
  if (dense !== rewritten || /(^|[^\\])(\\\\)*\\ud[89a-f]/.test(dense)) {
    bad("a member is there twice, or a string or a number is written in an unusual way");
  }
  return bundle;
}

/** The text that is hashed. RFC 8785 of a flat object: members in the order of their names, no blanks. */
function canonicalReceipt(receipt) {
  const known = RECEIPTS.get(receipt.v) ?? refuse("The receipt is of none of the versions 1 to 10.");
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
  if (utf8(note).length > MAX_BUNDLE_BYTES) bad("it is too long");
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

// Statements: a tenant's month with its receipts, the proof that the log has them, and every sum over them.

const STATEMENT_FORMAT = "trustgate-statement@v1";
const DATA_START = '<script type="application/octet-stream" id="trustgate-statement">';
const COUNTERS = [
  "prompt_tokens",
  "cached_tokens",
  "cache_write_tokens",
  "completion_tokens",
  "reasoning_tokens",
  "images",
  "audio_ms",
  "characters",
  "searches",
];
const SUMS = [
  ...["requests", "refused", "failed", "estimated", "unpriced", ...COUNTERS],
  ...["cost_nano_usd", "billed_nano_usd", "charged_nano_usd"],
];
const COUNTED = ["complete", "client_gone", "upstream_cut", "cut"];
const ONE_PPM = 1e6;
const isList = Array.isArray;
const isNumber = Number.isSafeInteger;
const STATEMENT = {
  account: isObject,
  anchor: orNull(isObject),
  checkpoint: isText,
  format: oneOf(STATEMENT_FORMAT),
  key: isText,
  leaves: (value) => isList(value) && value.every(isNumber),
  names: isObject,
  prices: (value) => isObject(value) && Object.values(value).every(isObject),
  proof: (value) => isList(value) && value.every(isText),
  receipts: (value) => isList(value) && value.every(isObject),
  sha256: isText,
};
const ACCOUNT = {
  ...Object.fromEntries(["from_us", "until_us", "issued_us", "receipts", "first", "last"].map((name) => [name, isNumber])),
  ...Object.fromEntries(["opening", "credited", "charged", "closing"].map((name) => [`${name}_nano_usd`, isNumber])),
  ...Object.fromEntries(["by_model", "by_key", "by_price", "money"].map((name) => [name, isList])),
  tenant: isText,
  month: isText,
  total: isObject,
};
const NAMES = { issuer: isText, tenant: isText, keys: (value) => isObject(value) && Object.values(value).every(isText) };
const ANCHOR = { checkpoint: isText, consistency: (value) => isList(value) && value.every(isText), transaction: isText };

/** The JSON of a statement: of a document, one deflated by gzip, or the HTML that carries one. */
async function statementText(data) {
  let packed = data;
  if (data[0] === 0x3c) {
    const page = new TextDecoder().decode(data);
    const start = page.indexOf(DATA_START);
    if (start < 0) refuse("This is not a statement: this HTML carries no data of one.");
    const from = start + DATA_START.length;
    const end = page.indexOf("<\/script>", from);
    const encoded = end < 0 ? "" : page.slice(from, end).replace(/^[ \t-\r]+|[ \t-\r]+$/g, "");
    packed = (encoded && unbase64(encoded)) || refuse("The page's data is damaged.");
  }
  if (packed[0] === 0x1f && packed[1] === 0x8b) {
    const said = packed.slice(-4).reduceRight((length, byte) => length * 256 + byte, 0);
    try {
      const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      packed = new Uint8Array(await new Response(inflated).arrayBuffer());
    } catch {
      refuse("This is not a statement: its gzip data is damaged.");
    }
    // Node inflates what follows the end, too, or passes over it; the length is written there (RFC 1952).
    if (packed.length % 2 ** 32 !== said) refuse("This is not a statement: its gzip data is followed by something else.");
  }
  return packed;
}

/** Whether a file is meant as a statement: as HTML, deflated, or as the JSON. */
function isStatement(data) {
  if (data[0] === 0x3c || (data[0] === 0x1f && data[1] === 0x8b)) return true;
  try {
    return JSON.parse(new TextDecoder().decode(data)).format === STATEMENT_FORMAT;
  } catch {
    return false;
  }
}

/**
 * Check the statement in `data` (Uint8Array). Optional: `key` and `feePayer` as for a bundle, and `earlier`: what the
 * verdicts on statements of months before have as `opening`. Gives what verifyBundle gives, and `opening`.
 */
async function verifyStatement(data, { key = null, feePayer = null, earlier = [] } = {}) {
  const checks = [];
  let name = "";
  const record = {
    begin: (next) => (name = next),
    passed: (detail) => checks.push({ name, state: "passed", detail }),
    skipped: (detail) => checks.push({ name, state: "not checked", detail }),
  };
  let found = null;
  try {
    found = await examineStatement(record, data, { key, feePayer, earlier });
  } catch (error) {
    const detail = error instanceof Refused ? error.message : `The check could not be made: ${error}`;
    checks.push({ name, state: "failed", detail });
  }
  return { ok: found !== null, checks, found, opening: found?.opening ?? null };
}

async function examineStatement(record, data, given) {
  record.begin("form");
  const document = readStatement(await statementText(data));
  const { account } = document;
  record.passed(`A document of the format ${STATEMENT_FORMAT}, in its unambiguous form.`);

  record.begin("hash");
  const { sha256: named, ...rest } = document;
  const digest = hex(await sha256(utf8(sorted(rest))));
  if (digest !== named) refuse(`The document's SHA-256 is ${digest}, not the ${named} that it names.`);
  record.passed(`SHA-256 over all of it: ${digest}.`);

  record.begin("receipts");
  const { receipts } = document;
  if (receipts.length === 0) refuse("The statement has no receipts.");
  const texts = receipts.map((receipt, at) => {
    if (receipt.tenant !== account.tenant) {
      refuse(`Receipt ${at + 1} of the file (${receipt.id}) is one of ${receipt.tenant}, not of ${account.tenant}.`);
    }
    return utf8(canonicalReceipt(receipt));
  });
  record.passed(`${receipts.length} receipts of ${account.tenant}, each with all members of its version.`);

  record.begin("chain");
  const leaves = [];
  for (const text of texts) leaves.push(await sha256(Uint8Array.of(0), text));
  verifyChain(receipts, leaves.map(hex));
  const [first, last] = [receipts[0], receipts.at(-1)];
  record.passed(`Numbers ${first.tseq} to ${last.tseq} of the tenant without a gap, each with the hash of the one before.`);

  record.begin("period");
  const inside = verifyPeriod(account, receipts);
  record.passed(
    `${inside.length} receipts of ${account.month} (UTC), from its first ` +
      (last.created_us >= account.until_us
        ? "to its last: one of a later month follows."
        : "on. Whether more followed in the month is for the next statement to show."),
  );

  record.begin("checkpoint");
  const checkpoint = await openCheckpoint(document.checkpoint, await verifierKey(document.key, given.key));
  const signed = `${checkpoint.origin} signed a checkpoint of ${checkpoint.size} receipts`;
  record.passed(
    given.key !== null
      ? `${signed} with the given key.`
      : `${signed} with the key that the statement itself names: compare ${document.key} with what the operator publishes.`,
  );

  record.begin("inclusion");
  const root = await batchRoot(document.leaves, leaves, checkpoint.size, proofHashes(document.proof));
  if (hex(root) !== hex(checkpoint.root)) {
    refuse(`The receipts and the proof lead to the root ${hex(root)}, not to ${hex(checkpoint.root)}.`);
  }
  record.passed(`All ${leaves.length} receipts are in the log, at the places named, under its root ${hex(root)}.`);

  record.begin("prices");
  record.passed(await verifyPrices(document.prices, receipts, inside));

  record.begin("sums");
  verifySums(account, receipts, inside);
  record.passed(`Every sum follows from the receipts: ${account.total.requests} requests.`);

  const known = receipts.map((receipt, at) => [receipt.tseq, [hex(leaves[at]), receipt.created_us, balanceChange(receipt)]]);
  const opening = { account, receipts: new Map(known), key: document.key };
  record.begin("opening balance");
  verifyOpeningBalance(record, opening, given.earlier);
  const transaction = await verifyStatementAnchor(record, document, checkpoint, given.feePayer);
  if (data[0] === 0x3c) {
    record.begin("page");
    record.skipped("Whether the page shows what its data says is not compared here: read the sums of the data, below.");
  }
  return { document, checkpoint, transaction, opening };
}

function readStatement(data) {
  const bad = (why) => refuse(`This is not a statement: ${why}.`);
  let written, document;
  try {
    written = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    document = JSON.parse(written);
  } catch (error) {
    bad(`it is not JSON: ${error.message}`);
  }
  const dense = written.replace(/("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+/g, "$1");
  if (dense !== JSON.stringify(document) || /(^|[^\\])(\\\\)*\\ud[89a-f]/.test(dense)) {
    bad("a member is there twice, or a string or a number is written in an unusual way");
  }
  checkMembers("statement", document, STATEMENT, bad);
  checkNames({ ...document, receipts: [] }, bad);
  checkMembers("account", document.account, ACCOUNT, bad);
  checkMembers("object names", document.names, NAMES, bad);
  if (document.anchor !== null) checkMembers("anchor", document.anchor, ANCHOR, bad);
  return document;
}

/** That no name in a document is one that some readers would move. Those of receipts are known each. */
function checkNames(value, bad) {
  for (const [name, member] of typeof value === "object" && value !== null ? Object.entries(value) : []) {
    if (!isList(value) && (!/^([A-Za-z_][A-Za-z0-9_]*|[0-9a-f]{64}|)$/.test(name) || /^[0-9]+$/.test(name))) {
      bad(`it has no member ${JSON.stringify(name)}`);
    }
    checkNames(member, bad);
  }
}

/** A value in RFC 8785 form: members in the order of their names, no blanks. */
function sorted(value) {
  if (isList(value)) return `[${value.map(sorted).join(",")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  const members = Object.keys(value).sort();
  return `{${members.map((name) => `${JSON.stringify(name)}:${sorted(value[name])}`).join(",")}}`;
}

function verifyChain(receipts, leaves) {
  const [first] = receipts;
  if (first.tseq < 1 || (first.tseq === 1) !== (first.tprev === "0".repeat(64))) {
    refuse(`Receipt ${first.id} is not number ${first.tseq} of the tenant.`);
  }
  for (let at = 1; at < receipts.length; at++) {
    const [before, receipt] = [receipts[at - 1], receipts[at]];
    if (receipt.tseq !== before.tseq + 1) {
      refuse(`After the tenant's receipt ${before.tseq} comes ${receipt.tseq}: receipts are left out, or out of order.`);
    }
    if (receipt.tprev !== leaves[at - 1]) {
      refuse(`The tenant's receipts ${before.tseq} and ${receipt.tseq} do not fit together: one of the two was changed.`);
    }
  }
}

/** The receipts of the month. */
function verifyPeriod(account, receipts) {
  const [, year, month] = /^([0-9]{4})-(0[1-9]|1[0-2])$/.exec(account.month) ?? refuse("account.month is not a month.");
  const bounds = { from_us: Date.UTC(+year, +month - 1, 1) * 1000, until_us: Date.UTC(+year, +month, 1) * 1000 };
  for (const [name, right] of Object.entries(bounds)) {
    if (account[name] !== right) refuse(`account.${name} is ${account[name]}; ${account.month} has ${right} (UTC).`);
  }
  if (year < 1970 || year > 9998) refuse("account.month is not a month.");
  const { from_us: from, until_us: until } = bounds;
  const inside = receipts.filter(({ created_us: at }) => from <= at && at < until);
  const [first, last] = [receipts[0], receipts.at(-1)];
  if (first.tseq > 1 && inside.includes(first)) {
    refuse(`The file begins with the tenant's receipt ${first.tseq}, which is one of the month: those before it are left out.`);
  }
  const between = receipts.length === 2 && first.created_us < from && last.created_us >= until;
  const end = receipts.length === 1 && (first.created_us < from || first.tseq === 1);
  if (inside.length === 0 && !between && !end) refuse("The file has no receipt of the month, nor the two that it lies between.");
  return inside;
}

function proofHashes(encoded) {
  const hashes = encoded.map((text) => unbase64(text));
  if (hashes.some((found) => found?.length !== 32)) refuse("A hash of a proof is not 32 bytes in base64.");
  return hashes;
}

/** The root over leaves at these places and, for all ranges without any of them, the proof's hashes from left to right. */
async function batchRoot(indices, leaves, size, proof) {
  const rises = indices.every((index, at) => index > (at ? indices[at - 1] : -1));
  if (indices.length !== leaves.length || !rises || BigInt(indices.at(-1)) >= size || size > COST_MOST) {
    refuse("The proof does not hold: no tree of this size has receipts at these places.");
  }
  let taken = 0;
  let next = 0;
  const walk = async (start, end) => {
    if (next === indices.length || indices[next] >= end) {
      if (taken === proof.length) refuse("The proof does not hold: it has too few hashes.");
      return proof[taken++];
    }
    if (end - start === 1) return leaves[next++];
    let half = 1;
    while (half * 2 < end - start) half *= 2;
    const left = await walk(start, start + half);
    return sha256(Uint8Array.of(1), left, await walk(start + half, end));
  };
  const root = await walk(0, Number(size));
  if (taken !== proof.length) refuse("The proof does not hold: it has more hashes than it needs.");
  return root;
}

/** RFC 9162 section 2.1.4.2. */
async function verifyConsistency(old, fresh, hashes) {
  if (old.size > fresh.size) refuse("The anchored log is longer than this one.");
  if (old.size === 0n && hex(old.root) !== hex(await sha256())) refuse("The anchored log has no receipts, and a root of some.");
  if (old.size === 0n || old.size === fresh.size) {
    if (hashes.length) refuse("The proof of consistency has more hashes than it needs.");
    if (old.size === fresh.size && hex(old.root) !== hex(fresh.root)) refuse("The anchored log has another root.");
    return;
  }
  const proof = (old.size & (old.size - 1n)) === 0n ? [old.root, ...hashes] : hashes;
  if (proof.length === 0) refuse("The proof of consistency has too few hashes.");
  let [place, end] = [old.size - 1n, fresh.size - 1n];
  while (place & 1n) [place, end] = [place >> 1n, end >> 1n];
  let [one, two] = [proof[0], proof[0]];
  for (const hash of proof.slice(1)) {
    if (end === 0n) refuse("The proof of consistency has more hashes than it needs.");
    if (place & 1n || place === end) {
      [one, two] = [await sha256(Uint8Array.of(1), hash, one), await sha256(Uint8Array.of(1), hash, two)];
      while (!(place & 1n) && place !== 0n) [place, end] = [place >> 1n, end >> 1n];
    } else {
      two = await sha256(Uint8Array.of(1), two, hash);
    }
    [place, end] = [place >> 1n, end >> 1n];
  }
  if (end !== 0n || hex(one) !== hex(old.root) || hex(two) !== hex(fresh.root)) {
    refuse("The proof of consistency does not lead from the anchored root to this one.");
  }
}

async function verifyStatementAnchor(record, { anchor, key, leaves }, checkpoint, feePayer) {
  record.begin("anchor consistency");
  if (anchor === null) {
    if (feePayer !== null) refuse("The statement has no anchor, so it has no fee payer.");
    for (const name of ["consistency", "transaction", "signature", "memo", "fee payer"]) {
      record.begin(`anchor ${name}`);
      record.skipped("The statement has no anchor: only the log's key protects the log from being rewritten.");
    }
    return null;
  }
  const anchored = await openCheckpoint(anchor.checkpoint, await verifierKey(key, null));
  await verifyConsistency(anchored, checkpoint, proofHashes(anchor.consistency));
  const covered = leaves.filter((leaf) => BigInt(leaf) < anchored.size).length;
  record.passed(
    `The anchored log of ${anchored.size} receipts is a beginning of this one. It has ${covered} of the statement's ` +
      `${leaves.length} receipts.`,
  );
  if (!unbase64(anchor.transaction)?.length) {
    record.begin("anchor transaction");
    refuse("The anchor's transaction is not base64.");
  }
  return verifyAnchor(record, anchor.transaction, anchor.checkpoint, feePayer);
}

/** Every cost from the receipt's counters and the table with its hash, every bill from cost and factor. */
async function verifyPrices(prices, receipts, inside) {
  const tables = {};
  for (const [hash, table] of Object.entries(prices)) {
    if (hex(await sha256(utf8(sorted(table)))) !== hash) refuse(`The price table under ${hash} was changed.`);
    if (!receipts.some((receipt) => receipt.price_hash === hash)) refuse(`No receipt names the price table ${hash}.`);
    checkTable(table, (why) => refuse(`The price table under ${hash} is not valid: ${why}.`));
    tables[hash] = { ...stated(table), conditional: (table.conditional ?? []).map(stated) };
  }
  let [checked, unknown, otherwise, batches, lines, summed] = [0, 0, 0, 0, 0, 0];
  for (const receipt of inside) {
    const charged = receipt.charged_nano_usd ?? 0;
    if (charged && ![...COUNTED, "credited"].includes(receipt.finish)) {
      refuse(`Receipt ${receipt.id} charges ${charged} nano-USD for a request that was not answered.`);
    }
    if (COUNTED.includes(receipt.finish) && charged > (receipt.billed_nano_usd ?? receipt.cost_nano_usd)) otherwise++;
    if (!COUNTED.includes(receipt.finish)) continue;
    if (receipt.v < 3) {
      unknown++;
      continue;
    }
    const billed = billedOf(BigInt(receipt.cost_nano_usd), BigInt(receipt.price_factor_ppm));
    if (BigInt(receipt.billed_nano_usd) !== billed) {
      refuse(`Receipt ${receipt.id} bills ${receipt.billed_nano_usd} nano-USD; its cost times its factor is ${billed}.`);
    }
    if (!Object.hasOwn(prices, receipt.price_hash)) {
      unknown++;
      continue;
    }
    const table = tables[receipt.price_hash];
    const cost = costOf(table, receipt);
    const isSum = receipt.v > 6;
    if (isSum) {
      if (receipt.endpoint === "batches") summed += receipt.calls;
      const fault = stepFault(table, receipt);
      if (fault) refuse(`Receipt ${receipt.id} cannot be the sum of its calls: ${fault}.`);
    }
    const calls = receipt.endpoint === "batches" && !isSum ? callsOf(table, receipt, cost) : 1n;
    if (calls > 1n) {
      batches++;
      lines += Number(calls);
    } else if (BigInt(receipt.cost_nano_usd) !== cost && (receipt.passport !== "" || receipt.cost_nano_usd !== 0)) {
      refuse(`Receipt ${receipt.id} costs ${receipt.cost_nano_usd} nano-USD; by its price table it is ${cost}.`);
    }
    checked++;
  }
  const rest = unknown ? ` ${unknown} have none in the file, or an older version: their prices were not checked.` : "";
  const more = otherwise
    ? ` ${otherwise} were charged more than they are billed at, as at a fixed price a request: compare it with what was agreed.`
    : "";
  const inBatches = batches
    ? ` ${batches} batches are priced as ${lines} calls in all: how many requests they held is in no receipt, so compare it with what was sent.`
    : "";
  const bySums = summed
    ? ` ${summed} answered lines of batches are priced each by itself: compare their number with the results that were sent.`
    : "";
  return `The cost of ${checked} requests follows from what they counted and their price tables.${rest}${more}${inBatches}${bySums}`;
}

const COST_MOST = BigInt(Number.MAX_SAFE_INTEGER);
const CONDITIONS = ["above_prompt_tokens", "service_tier", "image_size", "image_quality", "from_us", "until_us"];
const PICO_RATES = [
  ...["input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input", "output", "reasoning"],
  ...["audio_output", "image_output", "character"],
];
const NANO_RATES = ["image", "audio_second", "call", "search"];
const RATES = [...PICO_RATES.map((name) => `${name}_pico_usd`), ...NANO_RATES.map((name) => `${name}_nano_usd`)];

/** The members of a table, or of a row of it, that have a value: null is the same as leaving one out. */
function stated(rates) {
  return Object.fromEntries(Object.entries(rates).filter(([, value]) => value !== null));
}

/** That a table has no members but rates, conditions and "free", each of its type. */
function checkTable({ free = false, conditional = [], ...base }, bad) {
  if (!isFlag(free)) bad("free is not a boolean");
  if (!isList(conditional) || !conditional.every(isObject)) bad("conditional is not a list of objects");
  for (const [rates, names] of [[base, RATES], ...conditional.map((rates) => [rates, [...RATES, ...CONDITIONS]])]) {
    for (const [name, value] of Object.entries(rates)) {
      if (!names.includes(name)) bad(`it has a member ${name}, which none has`);
      const is = /^service_tier$|^image_(size|quality)$/.test(name) ? isText : isNumber;
      if (!orNull(is)(value)) bad(`${name} is not what it has to be`);
    }
  }
}

function billedOf(cost, factor) {
  const billed = factor === 1_000_000n ? cost : (cost * factor + 999_999n) / 1_000_000n;
  return billed < COST_MOST ? billed : COST_MOST;
}

/** What a receipt's counters cost by a table, nano-USD, rounded once, up; those of a sum at the rates of its step. */
function costOf(table, receipt) {
  const isSum = receipt.v > 6;
  const calls = BigInt(isSum ? receipt.calls : 1);
  const rates = ratesFor(
    table,
    isSum ? { ...receipt, prompt_tokens: receipt.price_above_prompt_tokens + 1 } : receipt,
  );
  const rate = (name) => (rates[name] === undefined ? null : BigInt(rates[name]));
  const count = (name) => BigInt(receipt[name]);
  const least = (a, b) => (a < b ? a : b);
  const first = (...names) => names.map(rate).find((found) => found !== null) ?? 0n;

  let left = count("prompt_tokens");
  let base = first("input_pico_usd", "audio_input_pico_usd", "image_input_pico_usd");
  let pico = 0n;
  const take = (tokens, price) => {
    const part = least(tokens, left);
    left -= part;
    pico += part * price;
  };
  take(count("cached_tokens"), rate("cached_input_pico_usd") ?? base);
  const write = rate("cache_write_pico_usd") ?? base;
  const written = least(count("cache_write_tokens"), left);
  const hour = least(count("cache_write_1h_tokens"), written);
  take(written - hour, write);
  take(hour, rate("cache_write_1h_pico_usd") ?? write);
  for (const kind of ["audio", "image"]) {
    const price = rate(`${kind}_input_pico_usd`);
    if (price !== null) take(count(`${kind}_prompt_tokens`), price);
  }
  pico += left * base;

  left = count("completion_tokens");
  base = first("output_pico_usd", "image_output_pico_usd", "audio_output_pico_usd");
  for (const [counter, name] of [
    ["reasoning_tokens", "reasoning_pico_usd"],
    ["audio_completion_tokens", "audio_output_pico_usd"],
    ["image_completion_tokens", "image_output_pico_usd"],
  ]) {
    const price = rate(name);
    if (price !== null) take(count(counter), price);
  }
  pico += left * base;

  // Of a model with both prices its tokens count where they are told, else the length.
  const inTokens = rate("input_pico_usd") && (receipt.audio_prompt_tokens || receipt.completion_tokens);
  pico += count("images") * (rate("image_nano_usd") ?? 0n) * 1000n;
  pico += inTokens ? 0n : count("audio_ms") * (rate("audio_second_nano_usd") ?? 0n);
  pico += count("characters") * (rate("character_pico_usd") ?? 0n);
  pico += count("searches") * (rate("search_nano_usd") ?? 0n) * 1000n;
  return least(calls * (rate("call_nano_usd") ?? 0n) + (pico + 999n) / 1000n, COST_MOST);
}

/** Why the step cannot hold for every call of a sum; "" where it can. */
function stepFault(table, receipt) {
  const step = receipt.price_above_prompt_tokens;
  const [tokens, calls] = [BigInt(receipt.prompt_tokens), BigInt(receipt.calls)];
  const steps = (table.conditional ?? [])
    .filter((rates) => rates.above_prompt_tokens > 0 && holdsFor(rates, { ...receipt, prompt_tokens: Infinity }))
    .map((rates) => rates.above_prompt_tokens);
  if (step && !steps.includes(step)) return `its price table has no step above ${step} prompt tokens`;
  if (!calls) return "";
  if (step && tokens <= calls * BigInt(step)) {
    return `${calls} calls above ${step} prompt tokens each have more than ${tokens} in all`;
  }
  const above = Math.min(...steps.filter((each) => each > step));
  if (above !== Infinity && tokens > calls * BigInt(above)) {
    return `${calls} calls of at most ${above} prompt tokens each have no ${tokens} in all`;
  }
  return "";
}

function holdsFor(rates, receipt) {
  return (
    (rates.above_prompt_tokens === undefined || receipt.prompt_tokens > rates.above_prompt_tokens) &&
    ["service_tier", "image_size", "image_quality"].every((name) => [undefined, receipt[name]].includes(rates[name])) &&
    (rates.from_us === undefined || receipt.created_us >= rates.from_us) &&
    (rates.until_us === undefined || receipt.created_us < rates.until_us)
  );
}

/** Of how many calls a batch is that cost what its receipt says; 0 where no number of them comes to it. */
function callsOf(table, receipt, cost) {
  const isCount = (name) => /_tokens$|^(images|audio_ms|characters|searches)$/.test(name);
  const nothing = Object.fromEntries(Object.keys(receipt).filter(isCount).map((name) => [name, 0]));
  const byItself = costOf(table, { ...receipt, ...nothing, image_size: "", image_quality: "" });
  const more = BigInt(receipt.cost_nano_usd) - cost;
  if (more === 0n) return 1n;
  return more < 0n || byItself === 0n || more % byItself !== 0n ? 0n : 1n + more / byItself;
}

/** The rates that hold: those with more conditions lie over those with fewer, longer prompts over shorter ones. */
function ratesFor({ conditional = [], free, ...base }, receipt) {
  const conditionsOf = (rates) => CONDITIONS.filter((name) => rates[name] !== undefined);
  const layers = conditional
    .filter((rates) => holdsFor(rates, receipt))
    .sort((a, b) => (a.above_prompt_tokens ?? 0) - (b.above_prompt_tokens ?? 0) || (a.from_us ?? 0) - (b.from_us ?? 0));
  const found = { ...base };
  for (let count = 0; count <= CONDITIONS.length; count++) {
    const byConditions = new Map();
    for (const layer of layers.filter((rates) => conditionsOf(rates).length === count)) {
      const names = conditionsOf(layer).join();
      const rates = Object.entries(layer).filter(([name]) => !CONDITIONS.includes(name));
      byConditions.set(names, { ...byConditions.get(names), ...Object.fromEntries(rates) });
    }
    const level = [...byConditions.values()];
    for (const name of new Set(level.flatMap(Object.keys))) {
      found[name] = Math.max(...level.filter((rates) => rates[name] !== undefined).map((rates) => rates[name]));
    }
  }
  return found;
}

function balanceChange(receipt) {
  return (receipt.credited_nano_usd ?? 0) - (receipt.charged_nano_usd ?? 0);
}

function verifySums(account, receipts, inside) {
  const right = addUp(account, inside);
  const differ = (place, said, found) => {
    if (isObject(found) && isObject(said)) {
      for (const name of new Set([...Object.keys(found), ...Object.keys(said)])) {
        differ(`${place}.${name}`, said[name], found[name]);
      }
    } else if (isList(found) && isList(said)) {
      for (let at = 0; at < Math.min(found.length, said.length); at++) differ(`${place}[${at}]`, said[at], found[at]);
      if (found.length !== said.length) refuse(`${place} has ${said.length} lines; the receipts make ${found.length}.`);
    } else if (said !== found) {
      refuse(`${place} is ${JSON.stringify(said)}; the receipts come to ${JSON.stringify(found)}.`);
    }
  };
  differ("account", account, right);
}

/** The account that the receipts of a month come to. */
function addUp(account, inside) {
  const none = () => Object.fromEntries(SUMS.map((name) => [name, 0]));
  const groups = { by_model: new Map(), by_key: new Map() };
  const prices = new Map();
  const [total, money] = [none(), []];
  let [credited, charged] = [0, 0];
  for (const receipt of inside) {
    const [taken, added] = [receipt.charged_nano_usd ?? 0, receipt.credited_nano_usd ?? 0];
    credited += added;
    charged += taken;
    const isCredit = receipt.finish === "credited";
    if (added || isCredit) money.push(moneyLine(receipt, added, isCredit ? taken : 0));
    if (isCredit) continue;
    const of = (map, name) => map.get(name) ?? map.set(name, none()).get(name);
    for (const sums of [total, of(groups.by_model, receipt.model), of(groups.by_key, receipt.key)]) addTo(sums, receipt, taken);
    if (COUNTED.includes(receipt.finish)) addPrice(prices, receipt);
  }
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const listed = (map) =>
    [...map]
      .map(([name, sums]) => ({ name, ...sums }))
      .sort((a, b) => b.billed_nano_usd - a.billed_nano_usd || compare(a.name, b.name));
  const numbers = inside.map(({ tseq }) => tseq);
  return {
    tenant: account.tenant,
    month: account.month,
    from_us: account.from_us,
    until_us: account.until_us,
    issued_us: account.issued_us,
    receipts: inside.length,
    first: numbers[0] ?? 0,
    last: numbers.at(-1) ?? 0,
    opening_nano_usd: account.opening_nano_usd,
    credited_nano_usd: credited,
    charged_nano_usd: charged,
    closing_nano_usd: account.opening_nano_usd + (credited - charged), // exact wherever the sum is
    total,
    by_model: listed(groups.by_model),
    by_key: listed(groups.by_key),
    by_price: [...prices.values()].sort(
      (a, b) =>
        compare(a.model, b.model) ||
        a.first_us - b.first_us ||
        compare(a.price_hash, b.price_hash) ||
        a.price_factor_ppm - b.price_factor_ppm,
    ),
    money: money.sort((a, b) => a.at_us - b.at_us || compare(a.receipt, b.receipt)),
  };
}

function addTo(sums, receipt, charged) {
  sums.charged_nano_usd += charged;
  if (!COUNTED.includes(receipt.finish)) {
    sums[receipt.finish === "refused" ? "refused" : "failed"]++;
    return;
  }
  sums.requests++;
  sums.estimated += receipt.usage_source === "estimate" ? 1 : 0;
  sums.unpriced += receipt.price_known === false ? 1 : 0;
  for (const name of COUNTERS) sums[name] += receipt[name] ?? 0;
  sums.cost_nano_usd += receipt.cost_nano_usd;
  sums.billed_nano_usd += receipt.billed_nano_usd ?? receipt.cost_nano_usd;
}

function addPrice(prices, receipt) {
  const factor = receipt.price_factor_ppm ?? ONE_PPM;
  const place = JSON.stringify([receipt.model, receipt.price_hash, factor]);
  const at = receipt.created_us;
  const line = prices.get(place) ?? {
    model: receipt.model,
    price_hash: receipt.price_hash,
    price_factor_ppm: factor,
    first_us: at,
    last_us: at,
    requests: 0,
    cost_nano_usd: 0,
    billed_nano_usd: 0,
  };
  line.first_us = Math.min(line.first_us, at);
  line.last_us = Math.max(line.last_us, at);
  line.requests++;
  line.cost_nano_usd += receipt.cost_nano_usd;
  line.billed_nano_usd += receipt.billed_nano_usd ?? receipt.cost_nano_usd;
  prices.set(place, line);
}

function moneyLine(receipt, credited, charged) {
  return {
    kind: receipt.payment ? "payment" : charged && !credited ? "refund" : "credit",
    receipt: receipt.id,
    at_us: receipt.created_us,
    credited_nano_usd: credited,
    charged_nano_usd: charged,
    payment: receipt.payment ?? "",
    network: receipt.payment_network ?? "",
    transaction: receipt.payment_transaction ?? "",
    asset: receipt.payment_asset ?? "",
    amount: receipt.payment_amount ?? "",
    payer: receipt.payment_payer ?? "",
  };
}

/** The opening balance from the receipts before the month, as far as this statement and the earlier ones have them. */
function verifyOpeningBalance(record, own, earlier) {
  const { account } = own;
  if (!own.receipts.has(1) && earlier.length === 0) {
    record.skipped(
      `The receipts before the tenant's number ${Math.min(...own.receipts.keys())} are not in the file: the statements of ` +
        "the months before show whether they come to the opening balance.",
    );
    return;
  }
  const known = new Map(own.receipts);
  for (const { account: one, receipts, key } of earlier) {
    if (one.tenant !== account.tenant) refuse(`The statement of ${one.month} is one of ${one.tenant}.`);
    if (key !== own.key) refuse(`The statement of ${one.month} is of another log: ${key}.`);
    if (one.from_us >= account.from_us) refuse(`The statement of ${one.month} is not of a month before ${account.month}.`);
    for (const [number, found] of receipts) {
      if (known.has(number) && known.get(number)[0] !== found[0]) {
        refuse(`The tenant's receipt ${number} is another one in the statement of ${one.month}: the log has two histories.`);
      }
      known.set(number, found);
    }
  }
  const numbers = [...known.keys()].sort((a, b) => a - b);
  const gap = numbers.findIndex((number, at) => at > 0 && number !== numbers[at - 1] + 1);
  if (gap > 0) refuse(`The tenant's receipts ${numbers[gap - 1] + 1} to ${numbers[gap] - 1} are in none of the statements.`);
  const lacking = lackingReceipts(own, known);
  if (lacking.length > 0) {
    refuse(`The tenant's receipt ${lacking[0]} is one of ${account.month}: another statement has it, this one does not.`);
  }
  const oldest = earlier.map(({ account: one }) => one).sort((a, b) => a.from_us - b.from_us)[0];
  const isWhole = numbers[0] === 1;
  let opening = BigInt(isWhole ? 0 : oldest.opening_nano_usd);
  for (const [, at, change] of known.values()) {
    if ((isWhole || at >= oldest.from_us) && at < account.from_us) opening += BigInt(change);
  }
  if (opening !== BigInt(account.opening_nano_usd)) {
    refuse(`account.opening_nano_usd is ${account.opening_nano_usd}; the receipts before come to ${opening}.`);
  }
  const late = earlier
    .filter((one) => lackingReceipts(one, known).length > 0)
    .map(({ account: one }) => ` The statement of ${one.month} lacks receipts of its month: ask for it again.`);
  record.passed(
    (isWhole
      ? "The tenant's receipts from the first one on come to the opening balance."
      : `It continues the statement of ${oldest.month}, without a gap; that one's opening balance is not shown here.`) +
      late.join(""),
  );
}

/** The tenant's numbers of receipts of a statement's month that are known, and not in it. */
function lackingReceipts({ account, receipts }, known) {
  return [...known.entries()]
    .filter(([number, [, at]]) => at >= account.from_us && at < account.until_us && !receipts.has(number))
    .map(([number]) => number)
    .sort((a, b) => a - b);
}

/** What a verified statement says, as names and values. */
function statementSummary({ account, names, sha256: digest }) {
  const whole = (number) => number.toLocaleString("en");
  const { total } = account;
  const hasBalance = account.opening_nano_usd || account.credited_nano_usd || account.charged_nano_usd;
  const balance = [
    ["Opening balance", usd(account.opening_nano_usd)],
    ["Credited", usd(account.credited_nano_usd)],
    ["Charged", usd(account.charged_nano_usd)],
    ["Closing balance", usd(account.closing_nano_usd)],
  ];
  return [
    ["Tenant", names.tenant ? `${names.tenant} (${account.tenant})` : account.tenant],
    ["Month", `${account.month} (UTC)${account.issued_us < account.until_us ? ", provisional" : ""}`],
    ["Requests", whole(total.requests)],
    ["Tokens", `${whole(total.prompt_tokens)} in prompts, ${whole(total.completion_tokens)} in completions`],
    ["Billed", usd(total.billed_nano_usd)],
    ...(hasBalance ? balance : []),
    ...account.by_model.map(({ name, requests, billed_nano_usd: billed }) => [
      `Model ${name || "(none)"}`,
      `${whole(requests)} requests, ${usd(billed)}`,
    ]),
    ["SHA-256", digest],
  ];
}

/** Nano-USD as dollars, exactly. */
function usd(nano) {
  const digits = String(Math.abs(nano)).padStart(10, "0");
  return `${nano < 0 ? "-" : ""}${digits.slice(0, -9)}.${digits.slice(-9).replace(/0{1,7}$/, "")} USD`;
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

export { costOf, stepFault, verifyBundle, verifyStatement };

const USAGE =
  "usage: node verify.mjs BUNDLE [--key VKEY] [--payer ADDRESS] [--request FILE] [--response FILE]\n" +
  "       node verify.mjs STATEMENT [--key VKEY] [--payer ADDRESS] [--previous STATEMENT]...\n";

class Unreadable extends Error {}

function summaryLines(document) {
  const rows = statementSummary(document);
  const width = Math.max(...rows.map(([name]) => name.length));
  return ["", ...rows.map(([name, value]) => plain(`${name.padEnd(width)}  ${value}`)), ""];
}

/** Text for a terminal: what a file holds may neither move the cursor nor turn the line around. */
function plain(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, "\ufffd");
}

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
  const what = isStatement(given.data) ? "statement" : "bundle";
  for (const data of given.previous) {
    const before = await verifyStatement(data, { key: given.key });
    if (!before.ok) {
      stdout.write(`REFUSED: an earlier statement: ${before.checks.at(-1).name}: ${plain(before.checks.at(-1).detail)}\n`);
      return 1;
    }
    given.earlier.push(before.opening);
  }
  const { ok, checks, found } = await (what === "statement" ? verifyStatement : verifyBundle)(given.data, given);
  for (const { name, state, detail } of checks) stdout.write(`${state.padEnd(11)}  ${name}: ${plain(detail)}\n`);
  if (found?.transaction) stdout.write(`not checked  chain: ${CHAIN_NOT_ASKED}\n`);
  if (ok && what === "statement") stdout.write(`${summaryLines(found.document).join("\n")}\n`);
  stdout.write(ok ? `The ${what} holds.\n` : `REFUSED: ${checks.at(-1).name}\n`);
  return ok ? 0 : 1;
}

async function readArguments(args) {
  const string = { type: "string" };
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      key: string,
      payer: string,
      request: string,
      response: string,
      previous: { type: "string", multiple: true },
    },
  });
  if (positionals.length !== 1) throw new Error("Name one bundle or statement.");
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
    previous: await Promise.all((values.previous ?? []).map(read)),
    earlier: [],
  };
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(realpathSync(argv[1])).href) {
  process.exitCode = await main(argv.slice(2));
}
