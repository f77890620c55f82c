"""Receipts: what one is, the journal that makes it durable, and the log that hands it to the store."""
