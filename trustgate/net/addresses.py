"""Addresses of other servers, for messages."""

from __future__ import annotations

from urllib.parse import urlsplit


def host_of(url: str) -> str:
    """Host and port of a URL, for messages: its path, query and user part are where API keys stand."""
    parts = urlsplit(url)
    host = parts.hostname or "the RPC node"
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"
