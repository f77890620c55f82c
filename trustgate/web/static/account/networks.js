// The networks that x402 names by CAIP-2, in words.

import { name } from "./common.js";

const NETWORKS = new Map([
  ["solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "Solana"],
  ["solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "Solana devnet"],
  ["solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "Solana testnet"],
  ["eip155:1", "Ethereum"],
  ["eip155:10", "OP Mainnet"],
  ["eip155:137", "Polygon"],
  ["eip155:143", "Monad"],
  ["eip155:1329", "Sei"],
  ["eip155:8453", "Base"],
  ["eip155:42161", "Arbitrum One"],
  ["eip155:42220", "Celo"],
  ["eip155:43114", "Avalanche"],
  ["eip155:80002", "Polygon Amoy"],
  ["eip155:84532", "Base Sepolia"],
]);

/** A network's name; its CAIP-2 id where it has none here. */
export function networkName(caip2) {
  return NETWORKS.get(caip2) ?? name(caip2);
}
