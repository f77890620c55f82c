"""Operators' changes, taken in by every process.

The store numbers each change in the transaction that makes it, under the lock of one row, so that the numbers are in
the order in which changes were committed, and notifies (store.postgres.changes). A note that is missed is noticed at
the next renewal of the lease, which returns the last number. A command that must hold at once waits until every node
has taken its change in, or has lost its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from trustgate.cluster.database import DatabaseConnection, DatabaseSession

#: What the store notifies on; of every schema of the database, so that a note may be of another one's change.
CHANNEL = "trustgate_changes"
_TRIM = (
    "DELETE FROM changes WHERE at_us < $1 AND number < (SELECT changes FROM progress)"
    " AND number <= (SELECT min(taken_in) FROM nodes)"
)
_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.1


class Announced(NamedTuple):
    """A change as it stands in the database."""

    number: int
    #: JSON of ``store.changes.Change``.
    body: bytes


async def read_after(connection: DatabaseConnection, number: int) -> list[Announced]:
    """Returns the changes after the one of this number, in their order."""
    rows = await connection.fetch("SELECT number, body FROM changes WHERE number > $1 ORDER BY number", number)
    return [Announced(row["number"], bytes(row["body"])) for row in rows]


async def trim(connection: DatabaseConnection, before_us: int) -> None:
    """Delete the changes of before then that every node has taken in; the last one stays: the next is chained to it.

    A node that comes later loads what they have made.
    """
    await connection.execute(_TRIM, before_us)


async def report(connection: DatabaseConnection, node_id: str, number: int) -> None:
    """Record that the node has taken in every change up to ``number``."""
    await connection.execute("UPDATE nodes SET taken_in = $2 WHERE node_id = $1 AND taken_in < $2", node_id, number)


class KnownChanges(NamedTuple):
    """Which of the operators' changes a process decides by: a fencing token of what it puts on record.

    A node that is behind a change is waited for, or buried. So what is decided without a change that each node has
    taken in names a node that is buried, or a smaller number than its node has reported, and is not carried out.
    """

    node_id: str
    #: Of the last change that its memory has.
    number: int


async def wait_until_taken_in(
    session: DatabaseSession,
    number: int,
    bury: Callable[[DatabaseConnection], Awaitable[object]],
    on_waiting: Callable[[list[str]], None] = lambda _: None,
) -> None:
    """Wait until no node is behind the change: each has taken it in, or was buried since its lease is over.

    One that was buried puts nothing on record before it has joined anew and loaded everything (``KnownChanges``). It
    takes at most the length of a lease.

    Args:
        session: to ask with; free between two looks.
        number: of the change.
        bury: buries the nodes whose leases are over.
        on_waiting: called with the addresses of the nodes that are waited for, when those change.
    """
    pause_s = _FIRST_LOOK_S
    before: list[str] = []
    while True:
        async with session.use() as connection:
            rows = await connection.fetch(
                "SELECT address, lease_until > clock_timestamp() AS is_alive FROM nodes WHERE taken_in < $1"
                " ORDER BY address",
                number,
            )
            if not all(row["is_alive"] for row in rows):
                await bury(connection)
        waited_for = [row["address"] for row in rows if row["is_alive"]]
        if waited_for != before:
            before = waited_for
            on_waiting(waited_for)
        if not rows:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_LOOK_S)
