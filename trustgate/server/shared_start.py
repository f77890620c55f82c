"""The start of a server that keeps books with others on one Postgres: what is done once, before its first request.

    the first process   → receipts that wait get their places; all rows are written anew
    every process       → what the process before left in this journal is closed

Owns when rows are written anew from the receipts: whenever no other process has a lease, and where they are not at the
ends of the tenants' chains. So what adds receipts by itself (a server alone, a command, a move) leaves rows alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller, Directory
from trustgate.access.quota import Quota
from trustgate.admin.budget_counts import load as load_budgets
from trustgate.cluster import roles
from trustgate.cluster.books import give_back
from trustgate.cluster.connections import (
    database_address,
    lengthy_session,
)
from trustgate.cluster.database import DatabaseConnection, DatabaseSession, at_work
from trustgate.cluster.drafts import Drafts, home_id, part_from_copy
from trustgate.cluster.holds import SharedCounters
from trustgate.cluster.lasting_work import EndedWork
from trustgate.cluster.nodes import bury
from trustgate.cluster.roles import Role
from trustgate.cluster.rows_anew import balances_anew, counted_anew, heads_anew, quotas_anew, written_anew
from trustgate.cluster.sequencer import Sequencer
from trustgate.cluster.shared_log import SharedLog
from trustgate.errors import Unavailable
from trustgate.models.catalog import Catalog
from trustgate.payment.balance import Balances
from trustgate.receipts.diverged import has_asides, left_aside, put_aside_left, remove_asides
from trustgate.receipts.receipt import balance_change, leaf_hash
from trustgate.server.counts import restore_counts
from trustgate.server.missing_rows import MissingRows, waiting_receipts
from trustgate.settings import Settings
from trustgate.store import Store
from trustgate.types import Entry, Receipt

_logger = logging.getLogger("trustgate.server")

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' books', 0))"
_OTHERS = "SELECT EXISTS (SELECT 1 FROM nodes WHERE node_id <> $1 AND lease_until > clock_timestamp())"
_HEADS = "SELECT key, state::text AS state FROM shared_state WHERE key >= 'head/' AND key < 'head0'"
COUNTED = (
    "SELECT key, state::text AS state FROM shared_state WHERE key >= 'balance/' AND key < 'balance0'"
    " OR key >= 'quota/' AND key < 'quota0' OR key >= 'budget/' AND key < 'budget0'"
)
NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_CLOSED = "SELECT receipt_id FROM waiting_receipts WHERE receipt_id = ANY($1::text[])"
#: All but how far the drafts of each home are closed, which of them were put on record late, which payments are
#: credited, and which work is charged.
_FORGET = (
    "DELETE FROM shared_state WHERE key !~ '^done/.*/drafts$' AND key !~ '^(credited|recorded)/'"
    " AND NOT (key ~ '^work/' AND state @> '{\"settled\": true}')"
)
_FORGET_HEADS = "DELETE FROM shared_state WHERE key >= 'head/' AND key < 'head0'"
REPLACE = (
    "INSERT INTO shared_state (key, state) SELECT * FROM unnest($1::text[], $2::text[]::jsonb[])"
    " ON CONFLICT (key) DO UPDATE SET state = excluded.state"
)

#: By tenant, the number and the leaf hash (hex) of its last receipt.
Heads = dict[str, tuple[int, str]]


class SharedStart:
    """The start of one server. ``run`` once."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: SharedLog,
        session: DatabaseSession,
        directory: Directory,
        catalog: Catalog,
    ) -> None:
        """
        Args:
            settings: of the server.
            store: the database.
            log: the log as all processes have it, with the books.
            session: for statements that may take long.
            directory: of the server.
            catalog: of the server.
        """
        self._settings = settings
        self._store = store
        self._log = log
        self._session = session
        self._directory = directory
        self._catalog = catalog

    async def run(self, node_id: str) -> None:
        """Write the books anew where that is due, and close what journals of this home have left.

        Args:
            node_id: this process as a node.

        Raises:
            Unavailable: the database cannot be reached, or another process is at the same.
            StoreDamaged: receipts are missing from the database.
        """
        await self._begin_books(node_id)
        books = self._log.books
        books.directory = self._directory
        books.restore = MissingRows(
            self._store, self._directory, self._catalog, books.quota, books.budgets.clock, self._find_owner
        ).restore
        await self._log.drafts.recover(self._find_owner)
        await self._take_in_journal()
        await self._take_in_drafts()

    async def _begin_books(self, node_id: str) -> None:
        """Write all rows anew if no other process serves, or if they are not at the ends of the tenants' chains."""
        async with self._session.use() as connection, connection.transaction():
            # One process at a time begins.
            await connection.execute(_LOCK)
            is_alone = not await connection.fetchval(_OTHERS, node_id)
            if is_alone:
                await bury(connection, give_back)
                async with at_work(connection):
                    await self._place_waiting(node_id)
            # Until the end no other process closes anything, not even one that hangs and whose lease is over.
            await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
            waiting, heads = await self._heads(connection)
            found = {
                row["key"].partition("/")[2]: msgspec.json.decode(row["state"], type=tuple[int, str])
                for row in await connection.fetch(_HEADS)
            }
            if is_alone or found != heads:
                if waiting:
                    raise Unavailable("Receipts wait for their places in the log: start again in some seconds.")
                await self._write_anew(connection, heads, is_alone=is_alone)

    async def _take_in_journal(self) -> None:
        """Close what a process that served alone has left in this home's journal."""
        journal = self._settings.journal_folder
        await self._close_left(await put_aside_left(journal, self._store), journal)
        # Of a home that another process has gone on with, in a copy of it.
        drafts = self._settings.drafts_folder
        await self._close_left(await left_aside(drafts, self._store), drafts, are_drafts=True)

    async def _close_left(self, left: list[Entry], journal: Path, *, are_drafts: bool = False) -> None:
        """Close the receipts that journals have which were put aside, and remove those journals."""
        async with self._session.use() as connection:
            # Closed by a start that was killed.
            ids = [entry.receipt.id for entry in left]
            closed = {row["receipt_id"] for row in await connection.fetch(_CLOSED, ids)}
        entries = [entry for entry in left if entry.receipt.id not in closed]
        done = [
            self._log.books.close_late(
                entry.receipt,
                entry.secret,
                None,
                who=self._find_owner(entry.receipt),
                credit_nano_usd=balance_change(entry.receipt)[1],
                work=EndedWork.of_mark(entry.receipt.tprev) if are_drafts else None,
            )
            for entry in entries
        ]
        for each in done:
            await each
        if self._log.books.closing.fault is not None:
            raise Unavailable("The database is away.", code="store_unreachable", hint="Start again when it is back.")
        await remove_asides(journal)
        if entries:
            _logger.info("closed %d receipts that a journal that was put aside had left", len(entries))

    async def _take_in_drafts(self) -> None:
        """Close what processes of this home have left that this start does not have: it was one with other workers."""
        settings = self._settings
        if settings.worker > 1:
            return
        for folder in _drafts_of_others(settings):
            with contextlib.suppress(BlockingIOError), (folder.parent / "node").open("a") as node:
                # Its process is gone. The home's own is where there are workers: their supervisor has the file.
                if folder.parent != settings.home:
                    fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
                async with self._session.use() as connection:
                    await part_from_copy(connection, folder)
                await self._close_left(await left_aside(folder, self._store), folder, are_drafts=True)
                if not folder.is_dir():
                    continue
                drafts = await Drafts.open(
                    self._log.books,
                    self._session,
                    folder,
                    home_id=home_id(folder),
                    segment_bytes=settings.journal.segment_bytes,
                )
                try:
                    await drafts.recover(self._find_owner)
                finally:
                    drafts.journal.close()

    async def _heads(self, connection: DatabaseConnection) -> tuple[bool, Heads]:
        """Returns whether receipts wait for their places, and the ends of the chains by all receipts."""
        # First those that wait: one that gets its place meanwhile is seen twice then, and not missed.
        waiting = await waiting_receipts(connection)
        async with at_work(connection):
            found = await self._store.load_heads()
        heads = {head.tenant_id: (head.entry.receipt.tseq, leaf_hash(head.entry.receipt).hex()) for head in found}
        for receipt in waiting:
            if receipt.tseq > heads.get(receipt.tenant, (0, ""))[0]:
                heads[receipt.tenant] = receipt.tseq, leaf_hash(receipt).hex()
        return bool(waiting), heads

    async def _write_anew(
        self,
        connection: DatabaseConnection,
        heads: Heads,
        *,
        is_alone: bool,
    ) -> None:
        """Write all rows anew from the receipts. Nothing is held in them but by other processes that serve."""
        directory = self._directory
        async with at_work(connection):
            counted = SharedCounters(Quota(), Budgets(), Balances(await self._store.balances()))
            load_budgets(counted.budgets, directory, directory.budgets())
            await restore_counts(self._store, directory, self._catalog, counted.quota, counted.budgets)
        if is_alone:
            rows = written_anew(counted.quota, counted.budgets, counted.balances, heads, directory.limited())
            await connection.execute(_FORGET)
        else:
            at_us: int = await connection.fetchval(NOW)
            found = {row["key"]: row["state"] for row in await connection.fetch(COUNTED)}
            rows = quotas_anew(counted.quota, directory.limited(), found, at_us)
            await connection.execute(_FORGET_HEADS)
            rows |= counted_anew(counted.budgets, found) | balances_anew(counted.balances, found) | heads_anew(heads)
        await connection.execute(REPLACE, list(rows), list(rows.values()))
        self._log.books.forget_rows()
        _logger.info("wrote the books anew from the receipts: %d rows", len(rows))

    async def _place_waiting(self, node_id: str) -> None:
        """Give receipts their places that wait for them."""
        session = lengthy_session(database_address(self._settings))
        try:
            async with session.use() as connection:
                if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM waiting_receipts)"):
                    return
                await bury(connection, give_back)
                taken = await roles.take(connection, node_id, [Role.SEQUENCER])
            if not taken:
                raise Unavailable("Another process is giving receipts their places.", headers={"retry-after": "2"})
            sequencer = await Sequencer.begin(session, self._store, taken[0])
            while await sequencer.take():
                pass
            async with session.use() as connection:
                await roles.release(connection, taken[0])
        finally:
            await session.close()

    def _find_owner(self, receipt: Receipt) -> tuple[Caller, Drawer] | None:
        """Returns whose a receipt is; None where tenant or key are gone."""
        owner = self._directory.owner(receipt.tenant, receipt.key)
        if owner is None:
            return None
        resolved = self._catalog.resolve(receipt.model, owner.profile) if receipt.model else None
        models = () if resolved is None else resolved.all_names(receipt.model)
        end_user: Any = None if receipt.end_user is UNSET else receipt.end_user
        return owner, Drawer(owner.tenant.id, owner.key.account_id, owner.plan.name, models, end_user)


def _drafts_of_others(settings: Settings) -> list[Path]:
    """Returns the journals in this home of which this start has no process: they are looked at by its first."""
    # Worker 0 is a process without others of its home.
    is_alone = settings.worker == 0
    found = [] if is_alone else [settings.home / "drafts"]
    found += [
        worker / "drafts"
        for worker in settings.home.glob("workers/*")
        if worker.name.isdecimal() and (is_alone or int(worker.name) > settings.serve.workers)
    ]
    return [folder for folder in found if folder.is_dir() or has_asides(folder)]
