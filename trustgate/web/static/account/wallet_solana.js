// Wallets for Solana, by the Wallet Standard.

/** The Wallet Standard's names of the chains, by CAIP-2. */
const CHAINS = new Map([
  ["solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana:mainnet"],
  ["solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana:devnet"],
  ["solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "solana:testnet"],
]);
const found = [];
let changed = () => {};

const api = Object.freeze({
  register(...wallets) {
    // One that is not as the standard has it must not hide the others.
    found.push(...wallets.filter((wallet) => typeof wallet?.name === "string" && Array.isArray(wallet.chains) &&
      typeof wallet.features === "object" && wallet.features && !found.includes(wallet)));
    changed();
    return () => {};
  },
});
addEventListener("wallet-standard:register-wallet", (event) => event.detail(api));
dispatchEvent(new CustomEvent("wallet-standard:app-ready", { detail: api }));

/** Call `told` whenever a wallet has shown itself. */
export function watch(told) {
  changed = told;
}

export function wallets() {
  return found.map((wallet) => ({
    name: wallet.name.slice(0, 60),
    takes: (offer) => takes(wallet, offer),
    payingFetch: (given) => payingFetch(wallet, given),
    worded: (error) => error?.message ?? String(error),
  }));
}

/** Whether a wallet can pay an offer. */
function takes(wallet, offer) {
  const chain = CHAINS.get(offer.network);
  return (
    chain !== undefined && offer.scheme === "exact" && wallet.chains.includes(chain) &&
    "standard:connect" in wallet.features && "solana:signTransaction" in wallet.features
  );
}

/** A fetch that pays an offer; `signed` is called once the wallet has signed. */
async function payingFetch(wallet, { fetch, offer, signed }) {
  const { accounts } = await wallet.features["standard:connect"].connect();
  const chain = CHAINS.get(offer.network);
  const account = accounts.find((each) => each.chains.includes(chain));
  if (!account) throw new Error(`The wallet has no account on ${chain}.`);
  const sign = async (transaction) => {
    const [made] = await wallet.features["solana:signTransaction"].signTransaction({ account, transaction, chain });
    signed();
    return made.signedTransaction;
  };
  const client = await import("./pay_solana.js");
  const rpcUrl = new URL(`/account/node/${encodeURIComponent(offer.network)}`, location.href).href;
  return client.payingFetch({ fetch, address: account.address, sign, rpcUrl, offer });
}
