"""Solana: reading transactions, talking to a cluster, and anchoring the log's checkpoints there."""
