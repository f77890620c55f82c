"""The books that a server keeps with others on one Postgres: opened, begun, and closed with it.

    the first process   → receipts that wait get their places; all rows are written anew
    every process       → what the process before left in this journal is closed

Owns when rows are written anew from the receipts: whenever no other process has a lease, and where they are not at the
ends of the tenants' chains. So what adds receipts by itself (a server alone, a command, a move) leaves rows alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from trustgate.access.budgets import Budgets, Drawer
from trustgate.access.directory import Caller, Directory
from trustgate.access.quota import Quota
from trustgate.admin.audit import BooksSnapshot
from trustgate.admin.budget_counts import count_anew
from trustgate.admin.budget_counts import load as load_budgets
from trustgate.cluster import roles
from trustgate.cluster.batches import DatabaseClock
from trustgate.cluster.books import Books, give_back
from trustgate.cluster.connections import (
    closing_session,
    database_address,
    lengthy_session,
    looking_session,
    opening_session,
)
from trustgate.cluster.database import RETRY_AFTER_S, DatabaseConnection, DatabaseSession, at_work
from trustgate.cluster.drafts import Drafts, home_id, part_from_copy
from trustgate.cluster.holds import SharedCounters
from trustgate.cluster.lasting_work import EndedWork
from trustgate.cluster.member import Member
from trustgate.cluster.nodes import bury
from trustgate.cluster.old_rows import remove_old_rows
from trustgate.cluster.roles import Role
from trustgate.cluster.rows import BalanceRow, QuotaRow, look_at_budget
from trustgate.cluster.rows_anew import balances_anew, counted_anew, heads_anew, quotas_anew, written_anew
from trustgate.cluster.sequencer import Sequencer
from trustgate.cluster.shared_answers import SharedAnswers
from trustgate.cluster.shared_balances import SharedBalances
from trustgate.cluster.shared_log import Following, SharedLog
from trustgate.errors import Unavailable
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.models.catalog import Catalog
from trustgate.payment.balance import Balances
from trustgate.payment.paid_answers import Answers
from trustgate.receipts.diverged import has_asides, left_aside, put_aside_left, remove_asides
from trustgate.receipts.receipt import balance_change, leaf_hash
from trustgate.server import count_notes
from trustgate.server.count_notes import Counted
from trustgate.server.counts import restore_counts, restore_quotas
from trustgate.server.handles import open_handles
from trustgate.server.missing_rows import FindOwner, MissingRows, waiting_receipts
from trustgate.server.process import background
from trustgate.settings import Settings
from trustgate.store import Store
from trustgate.types import Budget, Entry, Payment, Receipt

_logger = logging.getLogger("trustgate.server")

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' books', 0))"
_OTHERS = "SELECT EXISTS (SELECT 1 FROM nodes WHERE node_id <> $1 AND lease_until > clock_timestamp())"
_HEADS = "SELECT key, state::text AS state FROM shared_state WHERE key >= 'head/' AND key < 'head0'"
_COUNTED = (
    "SELECT key, state::text AS state FROM shared_state WHERE key >= 'balance/' AND key < 'balance0'"
    " OR key >= 'quota/' AND key < 'quota0' OR key >= 'budget/' AND key < 'budget0'"
)
_LIMITED = (
    "SELECT key, state::text AS state FROM shared_state"
    " WHERE key >= 'budget/' AND key < 'budget0' OR key >= 'quota/' AND key < 'quota0'"
)
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM receipts"
_CLOSED = "SELECT receipt_id FROM waiting_receipts WHERE receipt_id = ANY($1::text[])"
#: How often, and after how many seconds each time, it is looked whether all receipts have their places.
_LOOKS, _LOOK_S = 100, 0.05
#: What a request may take beyond its deadline, seconds.
_GRACE_S = 60.0
#: All but how far the drafts of each home are closed, which of them were put on record late, which payments are
#: credited, and which work is charged.
_FORGET = (
    "DELETE FROM shared_state WHERE key !~ '^done/.*/drafts$' AND key !~ '^(credited|recorded)/'"
    " AND NOT (key ~ '^work/' AND state @> '{\"settled\": true}')"
)
_FORGET_HEADS = "DELETE FROM shared_state WHERE key >= 'head/' AND key < 'head0'"
_REPLACE = (
    "INSERT INTO shared_state (key, state) SELECT * FROM unnest($1::text[], $2::text[]::jsonb[])"
    " ON CONFLICT (key) DO UPDATE SET state = excluded.state"
)

#: By tenant, the number and the leaf hash (hex) of its last receipt.
Heads = dict[str, tuple[int, str]]


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

        def who(receipt: Receipt) -> tuple[Caller, Drawer] | None:
            return _who(receipt, directory, catalog)

        node_id = self.node_id()
        async with self._lengthy.use() as connection, connection.transaction():
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
                await self._write_anew(connection, heads, directory, catalog, is_alone=is_alone)
        self.log.books.directory = directory
        self.log.books.restore = MissingRows(
            self._store, directory, catalog, self.log.books.quota, self.log.books.budgets.clock, who
        ).restore
        await self.log.drafts.recover(who)
        await self._take_in_journal(who)
        await self._take_in_drafts(who)
        await self.object_ids.begin()
        await self._lengthy.close()

    async def _take_in_journal(self, who: FindOwner) -> None:
        """Close what a process that served alone has left in this home's journal."""
        journal = self._settings.journal_folder
        await self._close_left(await put_aside_left(journal, self._store), journal, who)
        # Of a home that another process has gone on with, in a copy of it.
        drafts = self._settings.drafts_folder
        await self._close_left(await left_aside(drafts, self._store), drafts, who, are_drafts=True)

    async def _close_left(self, left: list[Entry], journal: Path, who: FindOwner, *, are_drafts: bool = False) -> None:
        """Close the receipts that journals have which were put aside, and remove those journals."""
        async with self._lengthy.use() as connection:
            # Closed by a start that was killed.
            ids = [entry.receipt.id for entry in left]
            closed = {row["receipt_id"] for row in await connection.fetch(_CLOSED, ids)}
        entries = [entry for entry in left if entry.receipt.id not in closed]
        done = [
            self.log.books.close_late(
                entry.receipt,
                entry.secret,
                None,
                who=who(entry.receipt),
                credit_nano_usd=balance_change(entry.receipt)[1],
                work=EndedWork.of_mark(entry.receipt.tprev) if are_drafts else None,
            )
            for entry in entries
        ]
        for each in done:
            await each
        if self.log.books.closing.fault is not None:
            raise Unavailable("The database is away.", code="store_unreachable", hint="Start again when it is back.")
        await remove_asides(journal)
        if entries:
            _logger.info("closed %d receipts that a journal that was put aside had left", len(entries))

    async def _take_in_drafts(self, who: FindOwner) -> None:
        """Close what processes of this home have left that this start does not have: it was one with other workers."""
        settings = self._settings
        if settings.worker > 1:
            return
        for folder in _drafts_of_others(settings):
            with contextlib.suppress(BlockingIOError), (folder.parent / "node").open("a") as node:
                # Its process is gone. The home's own is where there are workers: their supervisor has the file.
                if folder.parent != settings.home:
                    fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
                async with self._lengthy.use() as connection:
                    await part_from_copy(connection, folder)
                await self._close_left(await left_aside(folder, self._store), folder, who, are_drafts=True)
                if not folder.is_dir():
                    continue
                drafts = await Drafts.open(
                    self.log.books,
                    self._lengthy,
                    folder,
                    home_id=home_id(folder),
                    segment_bytes=settings.journal.segment_bytes,
                )
                try:
                    await drafts.recover(who)
                finally:
                    drafts.journal.close()

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
            rows = await connection.fetch(_COUNTED)
            at_us: int = await connection.fetchval(_NOW)
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
            at_us: int = await connection.fetchval(_NOW)
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
            await connection.execute(_REPLACE, list(rows), list(rows.values()))
            await count_notes.strike_out(connection, notes)

    async def remove_old(self, directory: Directory) -> None:
        """Remove rows and ids that can no longer matter (``cluster.old_rows``). Raises Unavailable."""
        async with self._lengthy.use() as connection:
            at_us: int = await connection.fetchval(_NOW)
            count = await remove_old_rows(connection, directory.budgets(), directory.removed_budgets(), at_us)
        if count:
            _logger.info("removed %d rows of the books that can no longer matter", count)
        await self.object_ids.remove_old()

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
        directory: Directory,
        catalog: Catalog,
        *,
        is_alone: bool,
    ) -> None:
        """Write all rows anew from the receipts. Nothing is held in them but by other processes that serve."""
        async with at_work(connection):
            counted = SharedCounters(Quota(), Budgets(), Balances(await self._store.balances()))
            load_budgets(counted.budgets, directory, directory.budgets())
            await restore_counts(self._store, directory, catalog, counted.quota, counted.budgets)
        if is_alone:
            rows = written_anew(counted.quota, counted.budgets, counted.balances, heads, directory.limited())
            await connection.execute(_FORGET)
        else:
            at_us: int = await connection.fetchval(_NOW)
            found = {row["key"]: row["state"] for row in await connection.fetch(_COUNTED)}
            rows = quotas_anew(counted.quota, directory.limited(), found, at_us)
            await connection.execute(_FORGET_HEADS)
            rows |= counted_anew(counted.budgets, found) | balances_anew(counted.balances, found) | heads_anew(heads)
        await connection.execute(_REPLACE, list(rows), list(rows.values()))
        self.log.books.forget_rows()
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
    counters = SharedCounters(Quota(clock), Budgets(clock), Balances())

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


async def _close_all(*sessions: DatabaseSession) -> None:
    """Close them at once: a database that does not answer is waited for once."""
    await asyncio.gather(*(session.close() for session in sessions))


def _node_id(member: Member) -> str:
    if member.node_id is None:
        raise Unavailable("The gateway has lost its database.", headers={"retry-after": "2"})
    return member.node_id


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


def _who(receipt: Receipt, directory: Directory, catalog: Catalog) -> tuple[Caller, Drawer] | None:
    """Returns whose a receipt is; None where tenant or key are gone."""
    owner = directory.owner(receipt.tenant, receipt.key)
    if owner is None:
        return None
    resolved = catalog.resolve(receipt.model, owner.profile) if receipt.model else None
    models = () if resolved is None else resolved.all_names(receipt.model)
    end_user: Any = None if receipt.end_user is UNSET else receipt.end_user
    return owner, Drawer(owner.tenant.id, owner.key.account_id, owner.plan.name, models, end_user)
