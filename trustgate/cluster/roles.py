"""What one process at a time does for all: sequencing the log, anchoring, reconciling, batches, books, notices.

A role is a row: the node that holds it and an epoch, one more at each taking. It is free again when its holder leaves
or is buried (nodes.py), never before: a holder that sleeps keeps it until its lease has run out. Every write of a role
begins with ``check_tenure``, so that a holder that slept through the end of its tenure and wakes up cannot write over
its successor. No lock of a session is used: a stopped process would keep it for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from trustgate.cluster.database import DatabaseConnection
from trustgate.errors import TrustGateError


class Role(StrEnum):
    """The roles there are."""

    #: Gives receipts their place in the log, writes tiles, signs checkpoints. Needs the log's key.
    SEQUENCER = "sequencer"
    #: Posts anchors. Needs the key that pays for them.
    ANCHORER = "anchorer"
    #: Looks up payments whose outcome is not known.
    RECONCILER = "reconciler"
    #: Follows batches and responses that run at the upstream.
    BATCH_KEEPER = "batch keeper"
    #: Finishes what a command has left undone whose process has ended.
    BOOKKEEPER = "bookkeeper"
    #: Watches conditions and sends notices.
    NOTIFIER = "notifier"


class RoleLost(TrustGateError):
    """The role is held by another, or by none: what was to be written under it may not be."""

    code = "role_lost"


class Tenure(NamedTuple):
    """One node's hold of one role, from its taking to its loss."""

    role: Role
    node_id: str
    epoch: int


async def take(connection: DatabaseConnection, node_id: str, wanted: Sequence[Role]) -> list[Tenure]:
    """Take those of the roles that are free, or that the node has by an earlier tenure which it gave up.

    Returns:
        The tenures that begin with this.
    """
    await connection.execute(
        "INSERT INTO roles (role) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", sorted(map(str, wanted))
    )
    rows = await connection.fetch(
        # Rows that are being taken by another, or written under, are left to it.
        "WITH free AS (SELECT role FROM roles WHERE role = ANY($2::text[])"
        " AND (node_id IS NULL OR node_id = $1) ORDER BY role FOR UPDATE SKIP LOCKED)"
        " UPDATE roles r SET node_id = $1, epoch = r.epoch + 1, since = clock_timestamp() FROM free"
        " WHERE r.role = free.role RETURNING r.role, r.epoch",
        node_id,
        sorted(map(str, wanted)),
    )
    return [Tenure(Role(row["role"]), node_id, row["epoch"]) for row in rows]


async def release(connection: DatabaseConnection, tenure: Tenure) -> None:
    """Give the role back. Does nothing where it is lost already."""
    await connection.execute(
        "UPDATE roles SET node_id = NULL WHERE role = $1 AND node_id = $2 AND epoch = $3",
        str(tenure.role),
        tenure.node_id,
        tenure.epoch,
    )


async def check_tenure(connection: DatabaseConnection, tenure: Tenure) -> None:
    """Check, first thing in a transaction, that the role is still held; it cannot be lost until the transaction ends.

    Raises:
        RoleLost: it is not.
    """
    found = await connection.fetchval(
        "SELECT 1 FROM roles WHERE role = $1 AND node_id = $2 AND epoch = $3 FOR SHARE",
        str(tenure.role),
        tenure.node_id,
        tenure.epoch,
    )
    if found is None:
        raise RoleLost(f"The role of the {tenure.role} was lost (epoch {tenure.epoch}): nothing was written.")
