// Wallets of the browser's that pay on Solana, by the Wallet Standard; the payment itself is the stock x402 client's
// (pay.js, built from npm), which is loaded when somebody pays. The wallet shows what it signs and asks first.

import { Refusal, session } from "./common.js";

/** The Wallet Standard's names of the chains, by CAIP-2. */
const CHAINS = new Map([
  ["solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana:mainnet"],
  ["solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana:devnet"],
  ["solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "solana:testnet"],
]);
const found = [];
const listeners = new Set();

const api = Object.freeze({
  register(...wallets) {
    found.push(...wallets.filter((wallet) => !found.includes(wallet)));
    for (const listener of listeners) listener(found);
    return () => {};
  },
});
addEventListener("wallet-standard:register-wallet", (event) => event.detail(api));
dispatchEvent(new CustomEvent("wallet-standard:app-ready", { detail: api }));

/** Call `listener` with the wallets that have shown themselves, now and whenever another one does. */
export function wallets(listener) {
  listeners.clear();
  listeners.add(listener);
  listener(found);
}

/** Whether a wallet can pay an offer. */
export function takes(wallet, offer) {
  const chain = CHAINS.get(offer.network);
  return (
    chain !== undefined && offer.scheme === "exact" && wallet.chains.includes(chain) &&
    "standard:connect" in wallet.features && "solana:signTransaction" in wallet.features
  );
}

/** Pay an offer for a top-up of so many USD; gives the balance after it. Throws a Refusal. */
export async function payWith(wallet, offer, amount) {
  let isSigned = false;
  try {
    const { accounts } = await wallet.features["standard:connect"].connect();
    const chain = CHAINS.get(offer.network);
    const account = accounts.find((each) => each.chains.includes(chain));
    if (!account) throw new Refusal(0, { message: `The wallet has no account on ${chain}.` });
    const sign = async (transaction) => {
      const [signed] = await wallet.features["solana:signTransaction"].signTransaction({ account, transaction, chain });
      isSigned = true;
      return signed.signedTransaction;
    };
    const { payingFetch } = await import("./pay.js");
    const pay = payingFetch({
      fetch: (request) => fetch(request, { credentials: "omit", cache: "no-store" }),
      address: account.address,
      sign,
      rpcUrl: new URL(`/account/node/${encodeURIComponent(offer.network)}`, location.href).href,
      offer,
    });
    const response = await pay(new URL("/v1/credits", location.href), {
      method: "POST",
      headers: { authorization: `Bearer ${session.key}`, "content-type": "application/json" },
      body: JSON.stringify({ amount_usd: amount }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Refusal(response.status, answer.error);
    return answer;
  } catch (error) {
    if (error instanceof Refusal) throw error;
    const why = error?.message ?? error;
    // Once it is signed it may have been sent: a payer who reads that it was not made pays twice.
    throw new Refusal(0, {
      message: isSigned
        ? `The payment may have been made, but its answer did not arrive (${why}). See the balance and the payments here before you pay again.`
        : `The payment was not made: ${why}`,
    });
  }
}
