// @x402/fetch with @x402/svm, by itself and as the fetch of openai's client. See purchases.py.

import { readFileSync } from "node:fs";
import { createKeyPairSignerFromBytes, getBase58Encoder } from "@solana/kit";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { ExactSvmSchemeV1 } from "@x402/svm/v1";
import OpenAI from "openai";

const given = JSON.parse(readFileSync(0, "utf8"));
const NETWORKS = ["solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana-devnet"];

async function paying(purchase, seen) {
  const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(purchase.secret));
  const config = { rpcUrl: given.rpc_url };
  const client = new x402Client()
    .register("solana:*", new ExactSvmScheme(signer, config))
    .registerV1("solana-devnet", new ExactSvmSchemeV1(signer, config))
    .setSpendControls({ allowedAssets: NETWORKS.map((network) => ({ network, asset: given.mint })) });
  return wrapFetchWithPayment(async (request) => {
    const response = await fetch(request);
    seen.headers = Object.fromEntries(response.headers);
    if (purchase.version === 2 || response.status !== 402) return response;
    // A client that knows version 1 alone does not see the header that version 2 brought.
    const headers = new Headers(response.headers);
    headers.delete("payment-required");
    return new Response(response.body, { status: 402, headers });
  }, client);
}

const text = (chunks) => chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? "")).join("");

async function buy(purchase) {
  const seen = {};
  const fetch = await paying(purchase, seen);
  const messages = [{ role: "user", content: "Hello, who are you?" }];
  const body = { model: given.model, messages, max_tokens: 16, stream: purchase.stream };
  const got = {};
  if (purchase.name.startsWith("openai")) {
    const openai = new OpenAI({ baseURL: `${given.origin}/v1`, apiKey: purchase.key, fetch });
    const answer = await openai.chat.completions.create(body);
    if (purchase.stream) {
      const chunks = [];
      for await (const chunk of answer) chunks.push(chunk);
      got.text = text(chunks);
    } else {
      got.text = answer.choices[0].message.content;
    }
    got.status = 200;
  } else {
    const path = purchase.what === "top-up" ? "/v1/credits" : "/v1/chat/completions";
    const response = await fetch(given.origin + path, {
      method: "POST",
      headers: { authorization: `Bearer ${purchase.key}`, "content-type": "application/json" },
      body: purchase.what === "top-up" ? undefined : JSON.stringify(body),
    });
    got.status = response.status;
    if (purchase.what === "top-up") {
      got.credits = await response.json();
    } else if (purchase.stream) {
      const frames = (await response.text()).split("\n\n").filter(Boolean);
      if (frames.pop() !== "data: [DONE]") throw new Error("the stream has no end");
      got.text = text(frames.map((frame) => JSON.parse(frame.slice("data: ".length))));
    } else {
      got.text = (await response.json()).choices[0].message.content;
    }
  }
  got.headers = seen.headers;
  got.settled = decodePaymentResponseHeader(seen.headers["payment-response"] ?? seen.headers["x-payment-response"]);
  return got;
}

const found = {};
for (const purchase of given.purchases) {
  try {
    found[purchase.name] = await buy(purchase);
  } catch (error) {
    found[purchase.name] = { error: `${error?.stack ?? error} ${error?.cause?.stack ?? ""}`.slice(0, 4000) };
  }
}
console.log(JSON.stringify(found));
process.exit(0); // connections that are kept alive would keep the process alive
