// What both clients share: a fetch that pays a 402 by the offer that was shown, and by no other.

import { wrapFetchWithPayment, x402Client } from "@x402/fetch";

/**
 * A fetch that pays a 402 by `offer`: its network, token, amount and receiver have to be asked for again.
 * `scheme` makes the payment (an ExactSvmScheme, an ExactEvmScheme).
 */
export function payingBy({ fetch, offer, scheme }) {
  const same = (each) => ["network", "asset", "amount", "payTo"].every((member) => each[member] === offer[member]);
  const choose = (version, accepts) => {
    const found = accepts.find(same);
    if (!found) throw new Error("The gateway asks for another payment than it has shown. Nothing was paid.");
    return found;
  };
  // By itself the client pays no more than a dollar of a token that it knows; here the payer has seen the amount.
  const spending = { allowedAssets: [{ network: offer.network, asset: offer.asset }], maxAmountPerPayment: false };
  const client = new x402Client(choose).register(offer.network, scheme).setSpendControls(spending);
  return wrapFetchWithPayment(fetch, client);
}
