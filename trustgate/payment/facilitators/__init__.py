"""Facilitators: what verifies and settles a payment, embedded or remote."""
