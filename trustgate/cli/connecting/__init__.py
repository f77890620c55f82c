"""Configurations of client programs for a gateway: what each looks like, merged into files, and tried."""
