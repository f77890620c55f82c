// The stock x402 client for the account page: a fetch that pays with a wallet for an EVM chain of the browser's.
// Built into trustgate/web/static/account/pay_evm.js by `python -m tests.wallet`.

import { ExactEvmScheme } from "@x402/evm/exact/client";
import { payingBy } from "./paying.mjs";

const DOMAIN = [
  { name: "name", type: "string" },
  { name: "version", type: "string" },
  { name: "chainId", type: "uint256" },
  { name: "verifyingContract", type: "address" },
];

/**
 * A fetch that pays a 402 by `offer` with an authorization by EIP-3009, which moves no money before the gateway's
 * facilitator uses it. `sign` is given typed data (EIP-712) as JSON and gives the signature, 0x….
 */
export function payingFetch({ fetch, address, sign, offer }) {
  const signer = {
    address,
    async signTypedData({ domain, types, primaryType, message }) {
      const typed = { types: { EIP712Domain: DOMAIN, ...types }, domain, primaryType, message };
      // Wallets take whole numbers beyond JSON's as decimal text.
      const text = JSON.stringify(typed, (_, value) => (typeof value === "bigint" ? value.toString() : value));
      const signature = await sign(text);
      if (!/^0x[0-9a-f]{130,}$/i.test(signature)) throw new Error("The wallet has not signed.");
      return signature;
    },
  };
  return payingBy({ fetch, offer, scheme: new ExactEvmScheme(signer) });
}
