"""The books that a server keeps with others on one Postgres: opened, counted, and closed with it.

Owns its sessions with the database, and what all processes wait for: a look at everything at one moment, and counting
anew. What is done once, before the first request, is ``server.shared_start``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence

from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.admin.audit import BooksSnapshot
from trustgate.admin.budget_counts import count_anew
from trustgate.admin.budget_counts import load as load_budgets
from trustgate.cluster.batches import DatabaseClock
from trustgate.cluster.books import Books
from trustgate.cluster.connections import (
    closing_session,
    database_address,
    lengthy_session,
    looking_session,
    opening_session,
)
from trustgate.cluster.database import RETRY_AFTER_S, DatabaseConnection, DatabaseSession, at_work
from trustgate.cluster.drafts import Drafts, home_id
from trustgate.cluster.holds import SharedCounters
from trustgate.cluster.member import Member
from trustgate.cluster.old_rows import remove_old_rows
from trustgate.cluster.rows import BalanceRow, QuotaRow, look_at_budget
from trustgate.cluster.rows_anew import counted_anew, quotas_anew
from trustgate.cluster.shared_answers import SharedAnswers
from trustgate.cluster.shared_balances import SharedBalances
from trustgate.cluster.shared_log import Following, SharedLog
from trustgate.errors import Unavailable
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.models.catalog import Catalog
from trustgate.payment.balance import Balances
from trustgate.payment.paid_answers import Answers
from trustgate.server import count_notes
from trustgate.server.count_notes import Counted
from trustgate.server.counts import restore_quotas
from trustgate.server.handles import open_handles
from trustgate.server.process import background
from trustgate.server.shared_start import COUNTED, NOW, REPLACE, SharedStart
from trustgate.settings import Settings
from trustgate.store import Store
from trustgate.types import Budget, Payment

_logger = logging.getLogger("trustgate.server")

_LIMITED = (
    "SELECT key, state::text AS state FROM shared_state"
    " WHERE key >= 'budget/' AND key < 'budget0' OR key >= 'quota/' AND key < 'quota0'"
)
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM receipts"
#: How often, and after how many seconds each time, it is looked whether all receipts have their places.
_LOOKS, _LOOK_S = 100, 0.05
#: What a request may take beyond its deadline, seconds.
_GRACE_S = 60.0


class SharedServing:
    """What a server has of the books that it keeps with others. Made by ``shared_books``."""

    def __init__(
        self,
        settings: Settings,
        member: Member,
        store: Store,
        log: SharedLog,
        looking: DatabaseSession,
        lengthy: DatabaseSession,
        object_ids: SharedObjectIds,
    ) -> None:
        self._settings = settings
        self._member = member
        self._store = store
        self._looking = looking
        self._lengthy = lengthy
        self.log = log
        self.object_ids = object_ids
        #: What payments and commands see of balances.
        self.balances: Balances = SharedBalances(log.books, log.books.balances)
        #: Answers for a payment that is presented again, to any process.
        self.answers: Answers = SharedAnswers(looking, most_bytes=settings.payment.kept_answers_bytes)

    async def begin(self, directory: Directory, catalog: Catalog) -> None:
        """Begin to keep books: before the first request, and before this process does anything for all.

        Args:
            directory: of the server.
            catalog: of the server.

        Raises:
            Unavailable: the database cannot be reached.
            StoreDamaged: receipts are missing from the database.
        """
        start = SharedStart(self._settings, self._store, self.log, self._lengthy, directory, catalog)
        await start.run(self.node_id())
        await self.object_ids.begin()
        await self._lengthy.close()

    def node_id(self) -> str:
        """Returns this process's id as a node. Raises ``Unavailable`` where it is none at the moment."""
        return _node_id(self._member)

    async def are_free(self, payments: Sequence[Payment]) -> list[Payment]:
        """Returns those of the payments that no request of another process with a lease has.

        A request ends in time: what it has left open after that is free, too. Raises ``Unavailable``.
        """
        node_id = self.node_id()
        async with self._looking.use() as connection:
            leased = {row["node_id"] for row in await connection.fetch("SELECT node_id FROM nodes")} - {node_id}
        ended_us = now_us() - int((self._settings.serve.request_timeout_s + _GRACE_S) * MICROSECONDS_PER_SECOND)
        return [
            payment
            for payment in payments
            if payment.state == "unknown" or payment.node not in leased or payment.updated_us < ended_us
        ]

    async def refresh_counts(self, *subject_ids: str) -> None:
        """Have in memory what all have counted of these tenants and keys, or on all budgets. Raises ``Unavailable``."""
        await self.log.books.refresh_counts(*subject_ids)

    async def counted(self, directory: Directory) -> BooksSnapshot:
        """Returns what all have counted at one moment, when every receipt has its place. All wait meanwhile.

        Raises Unavailable: receipts get no places now.
        """
        limited = directory.limited()
        async with self._all_waiting() as connection:
            rows = await connection.fetch(COUNTED)
            at_us: int = await connection.fetchval(NOW)
            last_seq: int = await connection.fetchval(_LAST_SEQ)
        quota, balances, budgets = Quota(), Balances(), Budgets(lambda: at_us)
        quota.begin(at_us)
        load_budgets(budgets, directory, directory.budgets())
        for row in rows:
            kind, _, subject = row["key"].partition("/")
            if kind == "balance":
                BalanceRow(balances, subject).take_in(row["state"], at_us)
            elif kind == "budget":
                look_at_budget(budgets, row["key"], row["state"], at_us)
            elif subject in limited:
                QuotaRow(quota, subject).take_in(row["state"], at_us)
        keys = directory.keys()
        accounts = {key.id: key.account_id for key in keys if key.origin_id}
        return BooksSnapshot(
            last_seq,
            balances.on_record(),
            quota.current_usage(at_us),
            accounts,
            counts_limited=True,
            standings=tuple(counter.standing(at_us) for counter in budgets.counters()),
            at_us=at_us,
        )

    @contextlib.asynccontextmanager
    async def _all_waiting(self) -> AsyncIterator[DatabaseConnection]:
        """A transaction in which every receipt has its place, and no process changes a row.

        Raises Unavailable: receipts get no places now. Then no process has waited.
        """
        async with self._lengthy.use() as connection:
            await _all_placed(connection)
            async with connection.transaction():
                await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
                await _all_placed(connection)
                yield connection

    async def note_count(self, note: str) -> None:
        """Note that everything is to be counted anew, unless ``count_anew`` follows. Raises ``Unavailable``."""
        async with self._lengthy.use() as connection:
            await count_notes.add(connection, note)

    async def count_notes(self) -> frozenset[str]:
        """Returns the notes of that. Raises ``Unavailable``."""
        async with self._looking.use() as connection:
            return await count_notes.load(connection)

    async def count_anew(
        self,
        wanted: Sequence[Budget],
        subjects: Collection[str],
        directory: Directory,
        catalog: Catalog,
        notes: Counted,
    ) -> None:
        """Write rows anew, with what receipts have as used and what is held now. All processes wait meanwhile.

        The notes that it is to be done are removed in the same transaction.

        Args:
            wanted: Budgets whose rows are written.
            subjects: Tenants and keys whose quotas' rows are written.
            directory: The server's; every process has taken in what it has.
            catalog: The server's.
            notes: Those that are removed.

        Raises:
            Unavailable: Receipts get no places now, or the database is away.
        """
        if not wanted and not subjects:
            async with self._lengthy.use() as connection, connection.transaction():
                await count_notes.strike_out(connection, notes)
            return
        async with self._all_waiting() as connection:
            at_us: int = await connection.fetchval(NOW)
            last_seq: int = await connection.fetchval(_LAST_SEQ)
            async with at_work(connection):
                budgets = await count_anew(
                    store=self._store,
                    directory=directory,
                    catalog=catalog,
                    at_us=at_us,
                    wanted=wanted,
                    until_seq=last_seq,
                )
            found = {row["key"]: row["state"] for row in await connection.fetch(_LIMITED)}
            rows = counted_anew(budgets, found)
            if subjects:
                quota = Quota()
                async with at_work(connection):
                    await restore_quotas(self._store, directory, quota, at_us)
                rows |= quotas_anew(quota, subjects, found, at_us)
            await connection.execute(REPLACE, list(rows), list(rows.values()))
            await count_notes.strike_out(connection, notes)

    async def remove_old(self, directory: Directory) -> None:
        """Remove rows and ids that can no longer matter (``cluster.old_rows``). Raises Unavailable."""
        async with self._lengthy.use() as connection:
            at_us: int = await connection.fetchval(NOW)
            count = await remove_old_rows(connection, directory.budgets(), directory.removed_budgets(), at_us)
        if count:
            _logger.info("removed %d rows of the books that can no longer matter", count)
        await self.object_ids.remove_old()


@contextlib.asynccontextmanager
async def shared_books(
    settings: Settings, member: Member, store: Store, following: Following
) -> AsyncIterator[SharedServing]:
    """Keep books with other processes, for the block. Its end leaves the member as it is.

    Args:
        settings: of the server; they name a Postgres database.
        member: this process as a node; it has joined.
        store: the database.
        following: the log as the sequencer makes it.

    Raises:
        Unavailable: the database cannot be reached.
        StoreDamaged, StoreIncomplete, HomeUnusable: see ``Journal.open``.
    """
    address, lease_s = database_address(settings), settings.store.lease_s
    opening, closing = opening_session(address, lease_s), closing_session(address, lease_s)
    looking, lengthy = looking_session(address), lengthy_session(address)
    clock = DatabaseClock()
    counters = SharedCounters(Quota(clock), Budgets(clock, forgets_early=False), Balances())

    async with contextlib.AsyncExitStack() as stack:
        ids_session = closing_session(address, lease_s)
        stack.push_async_callback(_close_all, opening, closing, looking, lengthy, ids_session)
        books = Books(
            counters,
            clock,
            opening,
            closing,
            lambda: _node_id(member),
            looking=looking,
            known_changes=member.known_changes,
        )
        drafts = await Drafts.open(
            books,
            lengthy,
            settings.drafts_folder,
            home_id=home_id(settings.drafts_folder),
            segment_bytes=settings.journal.segment_bytes,
        )
        stack.callback(drafts.journal.close)
        object_ids = open_handles(settings.handles_file, lambda path: SharedObjectIds(path, ids_session))
        await stack.enter_async_context(background(books.run(), object_ids.run()))
        log = SharedLog(store, books, drafts, following)
        yield SharedServing(settings, member, store, log, looking, lengthy, object_ids)


async def _all_placed(connection: DatabaseConnection) -> None:
    """Wait until every receipt that is closed now has its place in the log, which takes no time where one sequences.

    Called before anything is locked, where requests go on, and again once none is closed any more: without a sequencer
    all of them would wait.
    """
    newest = await connection.fetchval("SELECT max(n) FROM waiting_receipts")
    if newest is None:
        return
    for _ in range(_LOOKS):
        if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM waiting_receipts WHERE n <= $1)", newest):
            return
        await asyncio.sleep(_LOOK_S)
    raise Unavailable(
        "Receipts wait for their places in the log.",
        hint="Try again when a gateway is its sequencer: trustgate doctor",
        headers={"retry-after": RETRY_AFTER_S},
    )


async def _close_all(*sessions: DatabaseSession) -> None:
    """Close them at once: a database that does not answer is waited for once."""
    await asyncio.gather(*(session.close() for session in sessions))


def _node_id(member: Member) -> str:
    if member.node_id is None:
        raise Unavailable("The gateway has lost its database.", headers={"retry-after": "2"})
    return member.node_id
