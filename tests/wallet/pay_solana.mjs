// The stock x402 client for the account page: a fetch that pays with a Solana wallet of the browser's.
// Built into trustgate/web/static/account/pay_solana.js by `python -m tests.wallet`.

import { ExactSvmScheme } from "@x402/svm/exact/client";
import { getTransactionDecoder, getTransactionEncoder } from "@solana/kit";
import { payingBy } from "./paying.mjs";

/**
 * A fetch that pays a 402 by `offer`. `sign` is given a transaction (Uint8Array) and gives it signed; `rpcUrl` is a
 * Solana node.
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
  return payingBy({ fetch, offer, scheme: new ExactSvmScheme(signer, { rpcUrl }) });
}
