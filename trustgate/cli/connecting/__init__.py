"""Configurations of client programs for a gateway: their contents, merged into files, and tried."""
