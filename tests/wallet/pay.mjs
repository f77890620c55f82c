// The stock x402 client for the account page: a fetch that pays with a Solana wallet of the browser's.
// Built into trustgate/web/static/account/pay.js by `python -m tests.wallet`.

import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { getTransactionDecoder, getTransactionEncoder } from "@solana/kit";

/**
 * A fetch that pays a 402 by `offer`, the one that was shown, and by no other: its network, token, amount and receiver
 * have to be asked for again. `sign` is given a transaction (Uint8Array) and gives it signed; `rpcUrl` is a Solana node.
 */
export function payingFetch({ fetch, address, sign, rpcUrl, offer }) {
  const signer = {
    address,
    async signTransactions(transactions) {
      return Promise.all(
        transactions.map(async (transaction) => {
          const signed = getTransactionDecoder().decode(await sign(new Uint8Array(getTransactionEncoder().encode(transaction))));
          const [before, after] = [transaction.messageBytes, signed.messageBytes];
          if (before.length !== after.length || before.some((byte, at) => byte !== after[at])) {
            throw new Error("The wallet has signed another transaction than it was given.");
          }
          const signature = signed.signatures[address];
          if (!signature) throw new Error("The wallet has not signed.");
          return { [address]: signature };
        }),
      );
    },
  };
  const same = (each) => ["network", "asset", "amount", "payTo"].every((member) => each[member] === offer[member]);
  const choose = (version, accepts) => {
    const found = accepts.find(same);
    if (!found) throw new Error("The gateway asks for another payment than it has shown. Nothing was paid.");
    return found;
  };
  const client = new x402Client(choose)
    .register(offer.network, new ExactSvmScheme(signer, { rpcUrl }))
    .setSpendControls({ allowedAssets: [{ network: offer.network, asset: offer.asset }] });
  return wrapFetchWithPayment(fetch, client);
}
