"""What operators change reaches every process.

Each change has a version, given under the lock of one row, so that versions are in the order in which changes were
committed. NOTIFY wakes the nodes; a note that is missed is noticed at the next renewal of the lease, which returns the
version. A command that must hold at once waits until every node has taken its version in, or has lost its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from trustgate.cluster.database import DatabaseConnection, DatabaseSession

#: The channel of NOTIFY; the payload is empty.
CHANNEL = "trustgate_changes"
#: How many changes are kept after all have taken them in.
_KEPT = 1000
_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.1


class Announced(NamedTuple):
    """A change as it stands in the database."""

    version: int
    #: The store's form of it.
    body: bytes


async def announce(connection: DatabaseConnection, body: bytes) -> int:
    """Number a change, within the transaction that makes it. Other changes wait until it ends.

    Returns:
        Its version, to wait for with ``wait_until_taken_in`` once the transaction is committed.
    """
    version = await connection.fetchval("UPDATE change_version SET version = version + 1 RETURNING version")
    await connection.execute("INSERT INTO changes (version, body) VALUES ($1, $2)", version, body)
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
    return int(version)


async def read_after(connection: DatabaseConnection, version: int) -> list[Announced]:
    """Returns the changes after a version, in their order."""
    rows = await connection.fetch("SELECT version, body FROM changes WHERE version > $1 ORDER BY version", version)
    return [Announced(row["version"], bytes(row["body"])) for row in rows]


async def report(connection: DatabaseConnection, node_id: str, version: int) -> None:
    """Record that the node has taken in every change up to ``version``."""
    await connection.execute("UPDATE nodes SET taken_in = $2 WHERE node_id = $1 AND taken_in < $2", node_id, version)


async def prune(connection: DatabaseConnection) -> None:
    """Delete changes that every node has taken in, but for the newest."""
    await connection.execute(
        "DELETE FROM changes WHERE version <= least((SELECT min(taken_in) FROM nodes),"
        " (SELECT version FROM change_version)) - $1::bigint",
        _KEPT,
    )


async def wait_until_taken_in(
    session: DatabaseSession, version: int, on_waiting: Callable[[list[str]], None] = lambda _: None
) -> None:
    """Wait until each node has taken in the change, or its lease is over: it serves no more then.

    A node whose lease ran out serves again only after it has taken in what it missed (member.py), so that its lease
    alone is waited for. It takes at most the length of a lease.

    Args:
        session: to ask with; free between two looks.
        version: of the change.
        on_waiting: called with the addresses of the nodes that are waited for, when those change.
    """
    pause_s = _FIRST_LOOK_S
    before: list[str] = []
    while True:
        async with session.use() as connection:
            rows = await connection.fetch(
                "SELECT address FROM nodes WHERE taken_in < $1 AND lease_until > clock_timestamp() ORDER BY address",
                version,
            )
        waited_for = [row["address"] for row in rows]
        if waited_for != before:
            before = waited_for
            on_waiting(waited_for)
        if not waited_for:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_LOOK_S)
