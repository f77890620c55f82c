"""The processes that serve one database, and the leases by which they count as alive.

A node is one life of one process. Its row in ``nodes`` stands as long as the node may be alive: the node renews the
lease in it, and leaves by deleting it. A lease that has run out is found by another node, which *buries* its node: one
transaction deletes the row, frees the node's roles, and gives back what the node held. A node that wakes up after that
cannot write (``batches``) and joins as a new node.

The lease runs by the database's clock. The node itself goes by a clock of its own that no change of the time moves, and
counts from before each renewal was sent, so that it stops before its lease has run out (member.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trustgate.cluster.database import DatabaseConnection
from trustgate.errors import TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id, now_us

#: Gives back what nodes held that are gone, within the transaction that buries them.
GiveBack = Callable[[DatabaseConnection, Sequence[str]], Awaitable[None]]


class NodeBuried(TrustGateError):
    """The node's lease ran out and another process has buried it: it may write no more."""

    code = "node_buried"


class Identity(NamedTuple):
    """What a process is known by."""

    host: str
    pid: int
    version: str
    #: Under which it is reached, such as ``http://10.0.0.2:4010``.
    address: str


class ClusterNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the database has it."""

    id: str
    host: str
    pid: int
    version: str
    address: str
    started_us: int
    #: Until its lease runs out, seconds; negative where it has and the node is not buried yet.
    lease_left_s: float
    #: The last change that it has taken in, and how many it has not.
    taken_in: int
    behind: int
    #: How far its clock is ahead of the database's.
    skew_us: int
    roles: tuple[str, ...]
    #: Why it cannot hold a role, by role.
    unfit: dict[str, str]


class Renewal(NamedTuple):
    """What a joining or a renewal found."""

    node_id: str
    #: The number of the last change there is.
    last_change: int


async def join(connection: DatabaseConnection, identity: Identity, lease_s: float) -> Renewal:
    """Register a new node; it counts as having taken in every change up to the last one there is.

    The caller loads its state after this, so that what it loads has those changes.
    """
    node_id = new_id("node")
    last_change = await connection.fetchval(
        "INSERT INTO nodes (node_id, host, pid, version, address, started_us, lease_until, taken_in)"
        " SELECT $1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7), changes FROM progress"
        " RETURNING taken_in",
        node_id,
        *identity,
        now_us(),
        lease_s,
    )
    return Renewal(node_id, int(last_change))


async def renew(
    connection: DatabaseConnection, node_id: str, lease_s: float, taken_in: int, unfit: Mapping[str, str] | None = None
) -> Renewal:
    """Renew the lease, and report what the node has taken in.

    Raises:
        NodeBuried: it is a node no longer.
    """
    last_change = await connection.fetchval(
        "UPDATE nodes SET lease_until = clock_timestamp() + make_interval(secs => $2), taken_in = $3,"
        " skew_us = $4 - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, unfit = $5::text::jsonb"
        " WHERE node_id = $1 RETURNING (SELECT changes FROM progress)",
        node_id,
        lease_s,
        taken_in,
        now_us(),
        msgspec.json.encode(unfit or {}).decode(),
    )
    if last_change is None:
        raise _buried(node_id)
    return Renewal(node_id, int(last_change))


async def bury(connection: DatabaseConnection, give_back: GiveBack) -> list[str]:
    """Bury the nodes whose leases have run out, in one transaction.

    A node that is in the middle of a write is left for the next time.

    Returns:
        Their ids.
    """
    async with connection.transaction():
        found = await connection.fetch(
            "SELECT node_id FROM nodes WHERE lease_until < clock_timestamp() ORDER BY node_id FOR UPDATE SKIP LOCKED"
        )
        return await _remove(connection, [row["node_id"] for row in found], give_back)


async def leave(connection: DatabaseConnection, node_id: str, give_back: GiveBack) -> None:
    """End the node's life now: its roles are free, and what it held is given back."""
    async with connection.transaction():
        found = await connection.fetch("SELECT node_id FROM nodes WHERE node_id = $1 FOR UPDATE", node_id)
        await _remove(connection, [row["node_id"] for row in found], give_back)


async def depose(connection: DatabaseConnection, node_id: str, give_back: GiveBack) -> float:
    """Bury all nodes but this one, those whose leases run, too: they cannot renew them any more.

    Returns:
        For how long one of them may still serve, seconds.
    """
    async with connection.transaction():
        found = await connection.fetch(
            "SELECT node_id, extract(epoch FROM lease_until - clock_timestamp())::float8 AS left_s FROM nodes"
            " WHERE node_id <> $1 ORDER BY node_id FOR UPDATE",
            node_id,
        )
        await _remove(connection, [row["node_id"] for row in found], give_back)
    return max((row["left_s"] for row in found), default=0.0)


async def _remove(connection: DatabaseConnection, node_ids: list[str], give_back: GiveBack) -> list[str]:
    if node_ids:
        await give_back(connection, node_ids)
        await connection.execute("DELETE FROM nodes WHERE node_id = ANY($1::text[])", node_ids)
    return node_ids


async def list_nodes(connection: DatabaseConnection) -> list[ClusterNode]:
    """Returns every node, the oldest first."""
    rows = await connection.fetch(
        "SELECT n.*, extract(epoch FROM n.lease_until - clock_timestamp())::float8 AS lease_left_s,"
        " greatest(p.changes - n.taken_in, 0) AS behind,"
        " n.unfit::text AS unfit_json,"
        " ARRAY(SELECT role FROM roles r WHERE r.node_id = n.node_id ORDER BY role) AS roles"
        " FROM nodes n, progress p ORDER BY n.started_us, n.node_id"
    )
    return [
        ClusterNode(
            id=row["node_id"],
            host=row["host"],
            pid=row["pid"],
            version=row["version"],
            address=row["address"],
            started_us=row["started_us"],
            lease_left_s=round(row["lease_left_s"], 3),
            taken_in=row["taken_in"],
            behind=row["behind"],
            skew_us=row["skew_us"],
            roles=tuple(row["roles"]),
            unfit=msgspec.json.decode(row["unfit_json"], type=dict[str, str]),
        )
        for row in rows
    ]


#: A clock that is further off than this puts windows, payments and receipts at wrong times.
MOST_SKEW_US = 2 * MICROSECONDS_PER_SECOND


def node_findings(nodes: Sequence[ClusterNode]) -> list[str]:
    """Returns what is wrong with the nodes, a sentence each; empty where nothing is."""
    found = []
    for node in nodes:
        name = f"The node at {node.address} ({node.host}, process {node.pid})"
        if node.lease_left_s < 0:
            found.append(
                f"{name} has not renewed its lease for {-node.lease_left_s:.0f} s more than it may: it serves no more. "
                f"See whether it is stopped or cut off from the database."
            )
        if abs(node.skew_us) > MOST_SKEW_US:
            direction = "ahead of" if node.skew_us > 0 else "behind"
            found.append(
                f"{name} has a clock {abs(node.skew_us) / MICROSECONDS_PER_SECOND:.1f} s {direction} the database's: "
                f"synchronise it (NTP)."
            )
        found += [f"{name} cannot be the {role}: {why}" for role, why in sorted(node.unfit.items())]
    versions = sorted({node.version for node in nodes})
    if len(versions) > 1:
        found.append(
            f"The nodes run {len(versions)} versions ({', '.join(versions)}): right during an upgrade; finish it."
        )
    return found


def _buried(node_id: str) -> NodeBuried:
    return NodeBuried(f"The node {node_id} did not renew its lease in time and has been buried by another.")
