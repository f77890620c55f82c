// Wallets for chains as Ethereum's: EIP-1193 providers that show themselves by EIP-6963, or, where none does, the one at
// window.ethereum. They sign a transfer by EIP-3009, which costs the payer no gas.

import { networkName } from "./networks.js";

/** Codes of EIP-1193, EIP-3085 and EIP-1474. */
const DECLINED = 4001;
const UNKNOWN_CHAIN = 4902;
const WORDS = new Map([
  [DECLINED, "You have declined in the wallet."],
  [4100, "The wallet does not let this page use the account. Allow it in the wallet, then try again."],
  [4200, "The wallet cannot sign typed data (eth_signTypedData_v4)."],
  [4900, "The wallet is not connected to any network. Open it, then try again."],
  [4901, "The wallet is not connected to this network. Open it, then try again."],
  [-32002, "The wallet still waits for your answer to an earlier question. Open it, answer, then try again."],
]);
const found = [];
let changed = () => {};

addEventListener("eip6963:announceProvider", ({ detail }) => {
  if (!detail?.provider?.request || found.some((each) => each.provider === detail.provider)) return;
  const name = detail.info?.name;
  found.push({ name: typeof name === "string" && name.trim() ? name.trim().slice(0, 60) : "a wallet", provider: detail.provider });
  changed();
});
dispatchEvent(new Event("eip6963:requestProvider"));
// Older wallets come late and only there.
addEventListener("ethereum#initialized", () => changed(), { once: true });

/** Call `told` whenever a wallet has shown itself. */
export function watch(told) {
  changed = told;
}

export function wallets() {
  const old = globalThis.ethereum;
  const shown = found.length || !old?.request ? found : [{ name: "the browser's wallet", provider: old }];
  return shown.map(({ name, provider }) => ({
    name,
    takes,
    payingFetch: (given) => payingFetch(provider, given),
    worded,
  }));
}

/** Whether such wallets can pay an offer: every one of them may know its chain, which is seen when it pays. */
function takes(offer) {
  const { name, version, assetTransferMethod } = offer.extra ?? {};
  const isByAuthorization = (assetTransferMethod ?? "eip3009") === "eip3009" && Boolean(name && version);
  return offer.network.startsWith("eip155:") && offer.scheme === "exact" && isByAuthorization;
}

/** A fetch that pays an offer; `signed` is called once the wallet has signed. */
async function payingFetch(provider, { fetch, offer, signed }) {
  const [address] = await provider.request({ method: "eth_requestAccounts" });
  if (!address) throw new Error("The wallet has no account.");
  await beOn(provider, offer.network);
  let refusal = null;
  const sign = async (typed) => {
    try {
      const signature = await provider.request({ method: "eth_signTypedData_v4", params: [address, typed] });
      signed();
      return signature;
    } catch (error) {
      refusal = error;
      throw error;
    }
  };
  const client = await import("./pay_evm.js");
  const pay = client.payingFetch({ fetch, address, sign, offer });
  // The client makes an error of its own of the wallet's, without its code.
  return (...request) => pay(...request).catch((error) => { throw refusal ?? error; });
}

/** Have the wallet on a network: wallets sign typed data for the chain alone that they are on. Throws an Error. */
async function beOn(provider, network) {
  const wanted = BigInt(network.slice("eip155:".length));
  const isOn = async () => BigInt(await provider.request({ method: "eth_chainId" })) === wanted;
  if (await isOn()) return;
  const title = networkName(network);
  try {
    const params = [{ chainId: `0x${wanted.toString(16)}` }];
    await provider.request({ method: "wallet_switchEthereumChain", params });
  } catch (error) {
    if (codeOf(error) === UNKNOWN_CHAIN) {
      throw new Error(`The wallet does not know ${title} (chain ${wanted}). Add this network in the wallet, then try again.`);
    }
    if (codeOf(error) === DECLINED) throw new Error(`You have declined to change the wallet's network to ${title}.`);
    throw new Error(`The wallet is on another network than ${title}. Change it in the wallet, then try again.`);
  }
  if (!(await isOn())) throw new Error(`The wallet is on another network than ${title}. Change it in the wallet, then try again.`);
}

/** Some wallets put the code of a refusal within another error. */
function codeOf(error) {
  return error?.data?.originalError?.code ?? error?.code;
}

function worded(error) {
  return WORDS.get(codeOf(error)) ?? error?.message ?? String(error);
}
