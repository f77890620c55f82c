"""Chains: what a node of a network knows about a payment."""
