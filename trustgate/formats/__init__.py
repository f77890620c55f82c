"""Formats that several rooms read or write: Solana transactions and tokens, Ed25519, Keccak, numbers for people."""
