"""How long connections may take, on every protocol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConnectionTimeouts:
    """Time limits of a connection, seconds."""

    #: From the first byte of a request's head to its last.
    head_s: float
    #: How long a client may take in nothing of what it is sent before its connection is reset.
    write_s: float
    #: How long a connection may stand idle between requests, and before the first.
    keep_alive_s: float = 75.0
    #: What a client gets to take the last bytes of a connection that is being closed.
    closing_s: float = 5.0
