"""Addresses: of other servers, for messages, and of interfaces."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Returns whether a host's name or address (IPv6 with or without brackets) is of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(url: str) -> str:
    """Host and port of a URL, for messages: its path, query and user part are where API keys stand."""
    parts = urlsplit(url)
    host = parts.hostname or "the RPC node"
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"
