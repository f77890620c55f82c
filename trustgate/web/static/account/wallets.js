// Wallets of the browser's that pay: those for chains as Solana's, and those for chains as Ethereum's. The payment itself
// is the stock x402 client's (built from npm, one module for each kind), which is loaded for a payment. The wallet
// shows what it signs and asks first.

import { Refusal, session } from "./common.js";
import * as evm from "./wallet_evm.js";
import * as solana from "./wallet_solana.js";

let listener = () => {};
const tell = () => listener([...solana.wallets(), ...evm.wallets()]);
solana.watch(tell);
evm.watch(tell);

/** Call `told` with the wallets that have shown themselves, now and whenever another one does. */
export function wallets(told) {
  listener = told;
  tell();
}

/** Pay an offer for a top-up of so many USD; gives the balance after it. Throws a Refusal. */
export async function payWith(wallet, offer, amount) {
  let isSigned = false;
  try {
    const pay = await wallet.payingFetch({
      fetch: (request) => fetch(request, { credentials: "omit", cache: "no-store" }),
      offer,
      signed: () => { isSigned = true; },
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
    const why = wallet.worded(error);
    // Once it is signed it may have been sent: a payer who reads that it was not made pays twice.
    throw new Refusal(0, {
      message: isSigned
        ? `The payment may have been made, but its answer did not arrive (${why}). See the balance and the payments here before you pay again.`
        : `The payment was not made: ${why}`,
    });
  }
}
