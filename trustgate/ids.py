"""Identifiers and the clock. Owns the only two sources of randomness and time that records are made with."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

MICROSECONDS_PER_SECOND = 1_000_000


def now_us() -> int:
    """Returns the time now: microseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1000


def iso_us(at_us: int) -> str:
    """The time to the second, ISO 8601: ``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(at_us // MICROSECONDS_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(prefix: str, at_us: int | None = None) -> str:
    """``prefix_`` and 32 hexadecimal digits: 48 bits of milliseconds, then 80 random bits.

    Identifiers of one kind sort by the time they were made (the layout of UUIDv7, RFC 9562 section 5.7,
    without its version bits).
    """
    at_ms = (now_us() if at_us is None else at_us) // 1000
    return f"{prefix}_{at_ms:012x}{os.urandom(10).hex()}"


def new_request(at_us: int) -> tuple[str, bytes, bytes]:
    """Draws for a request that has come at this time; a call of the system draws for many.

    Returns:
        The id of its receipt; its own, for one that brings none, which leads to the receipt (``receipt_of_request``);
        and the secret of its receipt, 32 bytes.
    """
    try:
        drawn = _drawn.pop()
    except IndexError:
        block = os.urandom(_DRAW * _DRAWS_AT_ONCE)
        _drawn.extend([block[at : at + _DRAW] for at in range(_DRAW, len(block), _DRAW)])
        drawn = block[:_DRAW]
    digits = ((at_us // 1000).to_bytes(6, "big") + drawn[:10]).hex()
    return "rcpt_" + digits, b"req_" + digits.encode(), drawn[10:]


#: Random bytes of a request: of its ids, and its secret.
_DRAW = 42
_DRAWS_AT_ONCE = 256
#: Random bytes that were not used yet; a process that is forked off does not use them too.
_drawn: list[bytes] = []
os.register_at_fork(after_in_child=_drawn.clear)


def receipt_of_request(request_id: str) -> str | None:
    """Returns the id of the receipt of a request with an id of ours, should it have one; None for other ids."""
    return f"rcpt_{request_id.removeprefix('req_')}" if request_id.startswith("req_") else None
