"""The connections over which books are kept.

Owns what each is set to. A process that is stopped in the middle of a transaction must not keep its rows locked: the
database ends a transaction that is idle for half a lease.
"""

from __future__ import annotations

from typing import Any

from trustgate.cluster.database import DatabaseSession
from trustgate.settings import PostgresAddress
from trustgate.store.postgres import connecting

#: How long one batch may take before the database counts as away, seconds.
_TIMEOUT_S = 10.0
#: How long the first of several processes may read receipts for, while none serves, milliseconds.
_START_MS = 600_000


def opening_session(address: PostgresAddress, lease_s: float) -> DatabaseSession:
    """Returns what opens go over: a commit does not wait for the disk, since what is used is in receipts.

    ``lease_s``: a node's, seconds.
    """
    return _session(address, "opens", "off", lease_s)


def closing_session(address: PostgresAddress, lease_s: float) -> DatabaseSession:
    """Returns what closes go over: what is committed outlives a crash of the database.

    ``lease_s``: a node's, seconds.
    """
    return _session(address, "closes", "on", lease_s)


def looking_session(address: PostgresAddress) -> DatabaseSession:
    """Returns what others' figures are looked at over, and held while a start reads the receipts."""

    async def connect() -> Any:
        return await connecting.connect(address, "books", idle_in_transaction_session_timeout=str(_START_MS))

    return DatabaseSession(connect, timeout_s=_START_MS / 1_000)


def _session(address: PostgresAddress, role: str, synchronous_commit: str, lease_s: float) -> DatabaseSession:
    idle_ms = int(lease_s / 2 * 1_000)

    async def connect() -> Any:
        return await connecting.connect(
            address,
            role,
            synchronous_commit=synchronous_commit,
            idle_in_transaction_session_timeout=str(idle_ms),
            # A statement that waits for a stranger's lock is given up here, and a new connection opened: it must end
            # there, too, or they become more and more.
            statement_timeout=str(int(_TIMEOUT_S * 1_000)),
        )

    return DatabaseSession(connect, timeout_s=_TIMEOUT_S)
