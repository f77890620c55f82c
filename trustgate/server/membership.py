"""A server on Postgres as a node: it joins before it serves, and leaves when its last receipt is written.

One process at a time serves a Postgres database. The database's lock alone does not make it so: a process that is cut
off loses the lock without noticing, and serves on from memory. With a lease it stops by itself before another begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from trustgate import __version__
from trustgate.cluster.changes import Announced
from trustgate.cluster.database import DatabaseConnection, DatabaseSession
from trustgate.cluster.member import Member
from trustgate.cluster.nodes import Identity, list_nodes
from trustgate.errors import HomeUnusable, StoreLocked
from trustgate.settings import Settings
from trustgate.store import Store

_logger = logging.getLogger("trustgate.cluster")

#: What one look at the database gets at least. When to stop serving does not depend on it.
_LEAST_STATEMENT_S = 5.0
#: How often another node's lease is looked at, and for how many leases.
_LOOK_S, _PATIENCE_LEASES = 0.2, 2.5


class OwnMemory:
    """The memory of a process that makes all changes itself: it knows them already."""

    async def load(self) -> None:
        """Nothing: the server loads its state after joining."""

    async def take_in(self, found: Sequence[Announced]) -> None:
        """Nothing: they are this process's own."""


@contextlib.asynccontextmanager
async def membership(settings: Settings, address: str, stop: asyncio.Event) -> AsyncIterator[Member]:
    """Be a node for the block, which begins when no other node may serve any more.

    Args:
        settings: of the server; they name a Postgres database.
        address: under which it is reached.
        stop: set when another process has taken the database over.

    Raises:
        StoreLocked: another node serves, and goes on renewing its lease.
        Unavailable: the database cannot be reached.
        HomeUnusable: the file that names this home's node cannot be written, or another process has it.
    """
    postgres = settings.postgres()
    assert postgres is not None, "the database is a file"
    from trustgate.store.postgres.connecting import connect

    async def open_connection() -> DatabaseConnection:
        opened: DatabaseConnection = await connect(postgres, "node")
        return opened

    session = DatabaseSession(open_connection, timeout_s=max(_LEAST_STATEMENT_S, settings.store.lease_s / 2))
    identity = Identity(socket.gethostname(), os.getpid(), __version__, address)
    with _node_file(settings.worker_folder / "node") as file:
        predecessor = os.pread(file, 100, 0).decode("ascii", "replace")
        member = Member(
            identity, session, OwnMemory(), predecessor=predecessor, joins_anew=False, lease_s=settings.store.lease_s
        )
        try:
            await member.join()
            await _wait_until_alone(member, session, settings.store.lease_s)
            os.ftruncate(file, 0)
            os.pwrite(file, str(member.node_id).encode(), 0)
            staying = asyncio.ensure_future(_stay(member, stop))
            try:
                yield member
            finally:
                staying.cancel()
                await asyncio.gather(staying, return_exceptions=True)
        finally:
            await member.leave()


async def check_log_key(settings: Settings, store: Store) -> None:
    """Check that a home that is new to a database's log does not go on with it under another name by accident.

    Raises:
        HomeUnusable: the log's key is missing here."""
    names = [name.vkey.partition("+")[0] for name in await store.log_names()]
    origin = settings.receipts.origin
    if not names or settings.log_key.exists() or (origin and origin not in names):
        return
    raise HomeUnusable(
        f"The log in the database is signed as {names[-1]}, and its key {settings.log_key} is missing.",
        hint="Copy log.key from the home that has served this database. If it is lost for good, give the log another "
        "name with receipts.origin.",
    )


@contextlib.contextmanager
def _node_file(path: Path) -> Iterator[int]:
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


async def _wait_until_alone(member: Member, session: DatabaseSession, lease_s: float) -> None:
    """Wait until the leases of other nodes are over. This process has the database's lock, so that none comes anew."""
    until_s = asyncio.get_running_loop().time() + _PATIENCE_LEASES * lease_s
    told = ""
    while True:
        await member.renew()
        async with session.use() as connection:
            others = [node for node in await list_nodes(connection) if node.id != member.node_id]
        if not others:
            return
        other = others[0]
        if asyncio.get_running_loop().time() > until_s:
            raise StoreLocked(
                f"The database is in use by the gateway at {other.address} ({other.host}, process {other.pid}).",
                hint="Stop that one first. One process at a time serves a database.",
            )
        if told != other.id:
            told = other.id
            _logger.info("waiting for the gateway at %s: its lease has %.0f s", other.address, other.lease_left_s)
        await asyncio.sleep(_LOOK_S)
