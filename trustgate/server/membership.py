"""A server on Postgres as a node: it joins before it serves, and leaves when its last receipt is written.

Where one process at a time serves a Postgres database, the database's lock alone does not make it so: a process that is
cut off loses the lock without noticing, and serves on from memory. With a lease it stops by itself before another
begins. Where several serve it, a lease is for how long one may serve without taking in what others have changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from trustgate import __version__
from trustgate.cluster.books import give_back
from trustgate.cluster.changes import Announced
from trustgate.cluster.database import DatabaseAway, DatabaseConnection, DatabaseSession, is_away
from trustgate.cluster.member import Member, Memory, nothing_held
from trustgate.cluster.node_files import read_node, write_node
from trustgate.cluster.nodes import Identity, depose, list_nodes
from trustgate.errors import HomeUnusable, Unavailable
from trustgate.settings import Settings
from trustgate.tasks import end_tasks

_logger = logging.getLogger("trustgate.cluster")

#: Ends the sessions that hold the database's lock for nodes whose lease is over: one that hangs keeps its connections,
#: and so the lock. A session that is younger than the lease's end is of a process that came afterwards.
_END_LAPSED = """SELECT pg_terminate_backend(a.pid)
    FROM pg_stat_activity a
    JOIN nodes n ON a.application_name = left(concat_ws(' ', 'trustgate writer', n.pid, n.host), 63)
    WHERE n.lease_until < now() AND a.backend_start < n.lease_until AND n.node_id <> $1
        AND a.datname = current_database() AND a.usename = current_user"""

#: What one look at the database gets at least. When to stop serving does not depend on it.
_LEAST_STATEMENT_S = 5.0


class OwnMemory:
    """The memory of a process that makes all changes itself: it has them already."""

    async def load(self) -> None:
        """Nothing: the server loads its state after joining."""

    async def take_in(self, found: Sequence[Announced]) -> None:
        """Nothing: they are this process's own."""


@contextlib.asynccontextmanager
async def membership(
    settings: Settings, address: str, stop: asyncio.Event, *, memory: Memory | None = None
) -> AsyncIterator[Member]:
    """Be a node for the block, which begins when no other node may serve any more, or beside others.

    Args:
        settings: of the server; they name a Postgres database.
        address: under which it is reached.
        stop: set when another process has taken the database over.
        memory: takes in what other processes change; None: this process serves alone.

    Raises:
        Unavailable: the database cannot be reached.
        HomeUnusable: the file that names this home's node cannot be written, or another process has it.
    """
    from trustgate.cluster.connections import database_address, opener

    # Stopped within a transaction it must not keep its row locked: it could not be buried.
    open_connection = opener(database_address(settings), "node", settings.store.lease_s / 2)
    session = DatabaseSession(open_connection, timeout_s=max(_LEAST_STATEMENT_S, settings.store.lease_s / 2))
    identity = Identity(socket.gethostname(), os.getpid(), __version__, address)
    with node_file(settings.worker_folder / "node") as file:
        predecessor = read_node(file)
        member = Member(
            identity,
            session,
            OwnMemory() if memory is None else memory,
            give_back=nothing_held if memory is None else give_back,
            predecessor=predecessor,
            joins_anew=memory is not None,
            lease_s=settings.store.lease_s,
        )

        def write_id(node_id: str) -> None:
            write_node(file, node_id)

        try:
            if memory is not None:
                member.on_join = write_id
            await member.join()
            if memory is None:
                await _become_the_only_one(member, session)
                write_id(str(member.node_id))
            staying = asyncio.ensure_future(_stay(member, stop))
            try:
                yield member
            finally:
                await end_tasks([staying])
        finally:
            await member.leave()


class Turn:
    """Whether it is this process's turn to serve, looked at before it takes the database's lock.

    A node whose lease is over may be dead, or the database may have been away for all: then the one that has served is
    let go first, since receipts of answers that ended meanwhile are in its journal alone. So a lease that is over
    counts only when the database was there to renew it in, for as long as a lease is. What hangs then loses its lock.
    """

    def __init__(self, settings: Settings) -> None:
        """``settings`` name a Postgres database."""
        self._settings = settings
        self._there_since_s = time.monotonic()

    async def why_not(self) -> str:
        """Returns why it is not; "" where it is."""
        try:
            return await self._look()
        except Unavailable as error:
            self._there_since_s = time.monotonic()
            return error.message

    async def _look(self) -> str:
        from trustgate.cluster.connections import database_address
        from trustgate.store.postgres.connecting import connect

        try:
            with (self._settings.worker_folder / "node").open("rb") as file:
                own = read_node(file.fileno())
        except OSError:
            own = ""
        connection: DatabaseConnection = await connect(database_address(self._settings), "spare")
        try:
            if await connection.fetchval("SELECT to_regclass('nodes')") is None:
                return ""
            nodes = [node for node in await list_nodes(connection) if node.id != own]
            for node in nodes:
                if node.lease_left_s > 0:
                    return f"The database is in use by the gateway at {node.address} ({node.host}, process {node.pid})."
            if nodes and time.monotonic() < self._there_since_s + self._settings.store.lease_s:
                return f"The gateway at {nodes[0].address} may come back."
            if nodes:
                await connection.execute(_END_LAPSED, own)
            return ""
        except Exception as error:
            if is_away(error):
                raise DatabaseAway("The database is away.") from error
            raise
        finally:
            connection.terminate()


@contextlib.contextmanager
def node_file(path: Path) -> Iterator[int]:
    """The file with the id of this home's node, held so that a node that it names is dead."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeUnusable(
            f"{path} cannot be written: {error.strerror}.", hint="Give it to the user who runs TrustGate."
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise HomeUnusable(
            f"Another process serves with the home folder {path.parent}.",
            hint="Give each process a home of its own with --home, or stop the other one.",
        ) from None
    try:
        yield file
    finally:
        os.close(file)


async def _stay(member: Member, stop: asyncio.Event) -> None:
    """Renew the lease; set ``stop`` where it was lost to another process."""
    await member.run()
    _logger.error("another gateway has taken over the database: stopping")
    stop.set()


async def _become_the_only_one(member: Member, session: DatabaseSession) -> None:
    """Depose other nodes, and wait until none of them serves. This process has the database's lock."""
    assert member.node_id is not None
    async with session.use() as connection:
        left_s = await depose(connection, member.node_id, nothing_held)
    if left_s > 0:
        _logger.info("waiting for another gateway, which may serve for %.0f s yet", left_s)
        until_s = time.monotonic() + left_s
        while (wait_s := until_s - time.monotonic()) > 0:
            await asyncio.sleep(min(wait_s, member.left_s() / 2))
            await member.renew()
