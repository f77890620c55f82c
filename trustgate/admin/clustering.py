"""The verb on nodes, as data, and its handler: the processes that serve one Postgres database.

Owns what a command or a server may not do on a database that another home's processes serve, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trustgate.admin.commands import Command
from trustgate.admin.context import AdminContext
from trustgate.cluster import counted_once, sequencer
from trustgate.cluster.database import DatabaseSession
from trustgate.cluster.node_files import read_node
from trustgate.cluster.nodes import ClusterNode, bury, list_nodes, node_findings
from trustgate.errors import Conflict, HomeUnusable, StoreLocked
from trustgate.receipts.logkey import load_log_key
from trustgate.settings import Settings
from trustgate.store import Store
from trustgate.types import Entry

if TYPE_CHECKING:
    from trustgate.receipts.log import Log


class NodesFound(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of the database, and what is wrong with them."""

    #: None: the database is a file, which one process serves.
    nodes: tuple[ClusterNode, ...] | None
    #: A sentence each.
    findings: tuple[str, ...] = ()


class NodeList(Command[NodesFound], frozen=True, kw_only=True, tag="node.list"):
    result = NodesFound


async def node_list(context: AdminContext, command: NodeList) -> NodesFound:
    """Look the nodes up in the database: a server that is asleep is shown, too."""
    postgres = context.settings.postgres()
    if postgres is None:
        return NodesFound(nodes=None)
    from trustgate.store.postgres.connecting import connect

    connection = await connect(postgres, "status")
    try:
        nodes = await list_nodes(connection)
    finally:
        await connection.close()
    return NodesFound(nodes=tuple(nodes), findings=tuple(node_findings(nodes)))


async def check_alone(settings: Settings) -> None:
    """Check that no other home's gateway serves the database, for a command that is carried out without a server.

    A gateway that has lost its sessions holds no lock before it writes again, and serves on from its memory until its
    lease is over: what is changed meanwhile would not reach it. One whose lease is over is buried, so that it loads the
    change before it puts anything on record.

    Raises:
        StoreLocked: one may serve; the message names it.
    """
    async with _session(settings) as session:
        if session is None:
            return
        from trustgate.cluster.books import give_back

        own = await asyncio.to_thread(_dead_nodes, settings)
        async with session.use() as connection:
            await bury(connection, give_back)
            nodes = await list_nodes(connection)
    for node in nodes:
        if node.lease_left_s > 0 and node.id not in own:
            raise StoreLocked(
                f"The database is in use by the gateway at {node.address} ({node.host}, process {node.pid}).",
                hint="Give commands on its machine, with its --home. If it is dead, its lease ends in "
                f"{node.lease_left_s:.0f} s.",
            )


async def place_waiting(settings: Settings, store: Store) -> None:
    """Give every receipt its place that several processes have left waiting. The store is this process's alone."""
    async with _session(settings) as session:
        if session is not None:
            await sequencer.place_waiting(session, store)


async def counted_by_others(settings: Settings, entries: Sequence[Entry]) -> list[Entry]:
    """Leave out of receipts, which a journal alone has, what others have put on record (``cluster.counted_once``)."""
    async with _session(settings) as session:
        if session is None or not entries:
            return list(entries)
        async with session.use() as connection:
            return await counted_once.counted_by_others(connection, entries)


async def take_in_drafts(settings: Settings, store: Store, log: Log, *, keeps_journals: bool = False) -> None:
    """Append what processes of this home, which served among several, had in their journals alone.

    Args:
        settings: of the home; they name a Postgres database.
        store: of this process alone.
        log: appends to it.
        keeps_journals: whether the journals stay, for processes that serve among several again.
    """
    from trustgate.cluster.drafts import home_id
    from trustgate.receipts.diverged import append_diverged, append_drafts

    settle = partial(counted_by_others, settings)
    for drafts in settings.all_drafts():
        await append_diverged(drafts, store, log, settle)
        if drafts.is_dir():
            await append_drafts(drafts, home_id(drafts), store, log, settle, keeps_journal=keeps_journals)


async def left_drafts(settings: Settings, store: Store) -> Path | None:
    """Returns a journal of this home's processes that has receipts which the database lacks; None: there is none."""
    from trustgate.cluster.drafts import home_id
    from trustgate.receipts.diverged import left_aside, missing_of

    for drafts in settings.all_drafts():
        if await left_aside(drafts, store) or (drafts.is_dir() and await missing_of(drafts, store, home_id(drafts))):
            return drafts
    return None


async def check_no_drafts(settings: Settings, store: Store) -> None:
    """Raise ``Conflict`` where a process of this home has left receipts that the database lacks."""
    drafts = await left_drafts(settings, store)
    if drafts is not None:
        raise Conflict(
            f"The journal {drafts} has receipts that the database lacks.",
            hint="Start a gateway on the database with this home, and stop it again.",
        )


@contextlib.asynccontextmanager
async def _session(settings: Settings) -> AsyncIterator[DatabaseSession | None]:
    """A session of a command that is carried out without a server; None without Postgres."""
    postgres = settings.postgres()
    if postgres is None:
        yield None
        return
    from trustgate.cluster.connections import command_session

    session = command_session(postgres)
    try:
        yield session
    finally:
        await session.close()


def _dead_nodes(settings: Settings) -> set[str]:
    """Returns this home's nodes that have ended, its workers' too."""
    return {_dead_node(path) for path in (settings.home / "node", *settings.home.glob("workers/*/node"))}


def _dead_node(path: Path) -> str:
    """Returns the id of this home's last node, which has ended; "" where there is none, or it lives."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return read_node(file.fileno())
    except OSError:
        return ""


async def check_log_key(settings: Settings, store: Store) -> None:
    """Check that a home that is new to a database's log does not go on with it under another name by accident.

    Raises:
        HomeUnusable: the log's key is missing here, or is another log's.
    """
    vkeys = [name.vkey for name in await store.log_names()]
    names = [vkey.partition("+")[0] for vkey in vkeys]
    origin = settings.receipts.origin
    if not names or (origin and origin not in names):
        return
    fault = "is missing"
    if settings.log_key.exists():
        key = load_log_key(settings.log_key)
        if str(key.verifier) in vkeys:
            return
        fault = f"is another one, of {key.name}"
    raise HomeUnusable(
        f"The log in the database is signed as {names[-1]}, and its key {settings.log_key} {fault}.",
        hint="Copy log.key from the home that has served this database. If it is lost for good, give the log another "
        "name with receipts.origin.",
    )
