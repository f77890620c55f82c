"""Where a server's receipts go: recovered at the start, and kept for as long as it serves.

alone             journal → recovery → log → publisher, and on Postgres a node that waits for its turn
among several     node → journal → books → follower of the log
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from trustgate.admin.clustering import check_log_key, place_waiting, take_in_drafts
from trustgate.receipts.archive import Archive
from trustgate.receipts.diverged import append_diverged, set_aside_diverged
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.publisher import Publisher
from trustgate.receipts.tree import Tree
from trustgate.settings import Settings
from trustgate.store import Store

if TYPE_CHECKING:
    from trustgate.cluster.member import Member
    from trustgate.server.several import Together


class Kept(NamedTuple):
    """Where receipts go."""

    log: Log
    archive: Archive
    #: Runs for ever: signs the log's state, or reads what another process has signed. Its argument returns how often,
    #: seconds.
    upkeep: Callable[[Callable[[], float]], Coroutine[Any, Any, None]]
    #: This process among the nodes of its database; None where that is a file.
    member: Member | None
    #: This process among those that serve the database at the same time; None: it serves alone.
    together: Together | None = None


async def keep_receipts(
    settings: Settings, store: Store, address: str, stop: asyncio.Event, stack: contextlib.AsyncExitStack
) -> Kept:
    """Recover what the process before has left, and keep receipts until ``stack`` is closed.

    Args:
        settings: Of the server.
        store: The open store.
        address: Where the server is reached.
        stop: Set when this process cannot serve any more.
        stack: Closes what this opens.

    Returns:
        The log, and what goes with it.

    Raises:
        OperatorError: What the process before has left cannot be recovered.
    """
    return await (_keep_together if settings.several else _keep_alone)(settings, store, address, stop, stack)


async def _keep_alone(
    settings: Settings, store: Store, address: str, stop: asyncio.Event, stack: contextlib.AsyncExitStack
) -> Kept:
    """Recover the log, which this process alone appends to."""
    member = None
    if settings.store.url:
        from trustgate.server.membership import membership

        await check_log_key(settings, store)
        await place_waiting(settings, store)
        member = await stack.enter_async_context(membership(settings, address, stop))
        await set_aside_diverged(settings.journal_folder, store)
    journal = Journal.open(
        settings.journal_folder,
        store_id=store.store_id,
        last_seq=await store.last_seq(),
        segment_bytes=settings.journal.segment_bytes,
    )
    stack.callback(journal.close)
    tree = await Tree.open(store)
    log = await Log.recover(store, journal, tree)
    if member is not None:
        await append_diverged(settings.journal_folder, store, log)
        await take_in_drafts(settings, store, log)
    publisher = await Publisher.open(
        store,
        tree,
        key_file=settings.log_key,
        checkpoint_file=settings.checkpoint,
        origin=settings.receipts.origin,
    )
    return Kept(log, Archive(store, tree, publisher), publisher.run, member)


async def _keep_together(
    settings: Settings, store: Store, address: str, stop: asyncio.Event, stack: contextlib.AsyncExitStack
) -> Kept:
    """Join the processes that append to the log."""
    from trustgate.server.several import serving_together

    together = await stack.enter_async_context(serving_together(settings, store, address, stop))
    return Kept(
        together.books.log,
        together.archive,
        lambda _: together.follower.run(),
        together.member,
        together,
    )
