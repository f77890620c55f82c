// What the x402 client for EVM chains uses of viem, without its client of nodes: three quarters of the bundle, which
// payments by EIP-3009 never call, and which the page's policy would not let ask anybody.

export * from "viem-whole";

export function createPublicClient() {
  throw new Error("The account page asks no node of an EVM chain.");
}
export const http = createPublicClient;
