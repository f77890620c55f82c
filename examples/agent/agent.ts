// An agent that pays for what it asks: openai's client, with x402 as its fetch.
//
//     npm install openai @x402/fetch @x402/svm @solana/kit@5
//     node agent.ts "What is a payment channel?"        (Node 22.18 or newer; before that: npx tsx agent.ts)
//
// Set OPENAI_BASE_URL (the gateway's address with /v1), OPENAI_API_KEY (a key of it) and AGENT_WALLET (a Solana keypair
// file with a little USDC in its account; SOL it needs none). MODEL, SOLANA_RPC_URL and AGENT_TOKEN are optional.

import { readFileSync } from "node:fs";
import { createKeyPairSignerFromBytes } from "@solana/kit";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import OpenAI from "openai";

// The most that one request may cost. The gateway asks for its worst case; what is not used stays as credit there.
const MOST_USD = "$0.05";
// The same in units of a token with six decimals, as USDC has them.
const MOST_UNITS = "50000";
const DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";

const env = process.env;

// What signs payments. It never sends anything itself: the seller's facilitator does, and pays the fee.
async function makeWallet(): Promise<x402Client> {
  const bytes = Uint8Array.from(JSON.parse(readFileSync(env.AGENT_WALLET!, "utf8")) as number[]);
  const signer = await createKeyPairSignerFromBytes(bytes);
  const scheme = new ExactSvmScheme(signer, env.SOLANA_RPC_URL ? { rpcUrl: env.SOLANA_RPC_URL } : undefined);
  // USDC may be spent anyway. Another token has to be named: on a local chain there is no USDC.
  const token = env.AGENT_TOKEN;
  const also = token ? [{ network: DEVNET, asset: token, maxAmountPerPayment: MOST_UNITS } as const] : [];
  return new x402Client()
    .register("solana:*", scheme)
    .setSpendControls({ maxAmountPerPayment: MOST_USD, allowedAssets: also });
}

// This fetch does it all: it meets the 402, has the wallet sign what is asked for, and asks again. A retry of openai's
// would pay anew; what failed without being answered was not charged, or is credit.
const fetch402 = wrapFetchWithPayment(fetch, await makeWallet());
const client = new OpenAI({ fetch: fetch402, maxRetries: 0 });

const conversation: OpenAI.ChatCompletionMessageParam[] = [];
for (const question of process.argv.slice(2)) {
  conversation.push({ role: "user", content: question });
  const { data: stream, response } = await client.chat.completions
    .create({ model: env.MODEL ?? "trustgate/echo", messages: conversation, max_tokens: 500, stream: true })
    .withResponse();
  let answer = "";
  for await (const chunk of stream) {
    const piece = chunk.choices[0]?.delta.content ?? "";
    answer += piece;
    process.stdout.write(piece);
  }
  process.stdout.write("\n");
  conversation.push({ role: "assistant", content: answer });
  const settled = response.headers.get("payment-response");
  if (settled) {
    const paid = decodePaymentResponseHeader(settled);
    console.error(`paid ${Number(paid.amount ?? 0) / 1_000_000} USD in transaction ${paid.transaction}`);
  } else {
    console.error("paid from the credit of earlier payments");
  }
  console.error(`receipt ${response.headers.get("x-trustgate-receipt")}`);
}
const credit = (await client.get("/credits")) as { balance_usd: string };
console.error(`credit left: ${credit.balance_usd} USD`);
