"""The operator's console: pages on the running gateway, opened by ``trustgate console``."""
