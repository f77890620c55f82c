"""Bounded conversations with other servers: HTTP exchanges, JSON-RPC, and how long to retry."""
