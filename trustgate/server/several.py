"""One of several processes that serve a database: its part in the log, in changes, and in what one does for all.

    join the nodes → find the log's key → follow the log → (memory is filled) → take changes in → take roles → serve

Owns which connections that takes, and which work is a role: sequencing, anchoring, looking payments up, notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING

from trustgate.admin.taking_in import SharedMemory, TakenIn
from trustgate.cluster.connections import database_address, opener
from trustgate.cluster.database import Connect, DatabaseAway, DatabaseConnection, DatabaseSession
from trustgate.cluster.drafts import Drafts, home_id, part_from_copy
from trustgate.cluster.following import CHANNEL, Follower, identify, one_at_a_time
from trustgate.cluster.member import Member
from trustgate.cluster.roles import Role, RoleLost, Tenure
from trustgate.cluster.rows import HomeTaken
from trustgate.cluster.sequencer import Sequencer, Signing
from trustgate.cluster.shared_log import SharedLog
from trustgate.errors import HomeUnusable, StoreDamaged, Unavailable
from trustgate.ids import new_id, now_us
from trustgate.notify.notifier import Notifier
from trustgate.observe.workers import WorkerMetrics
from trustgate.receipts.archive import Archive
from trustgate.server.count_notes import Counted
from trustgate.server.membership import membership
from trustgate.server.notice_passing import NoticePassing
from trustgate.server.parts import Server
from trustgate.server.process import background
from trustgate.server.shared import SharedServing, shared_books
from trustgate.settings import Settings
from trustgate.store import Kept, Store
from trustgate.tasks import end_tasks
from trustgate.types import Budget

if TYPE_CHECKING:
    from trustgate.store.postgres.store import PostgresStore

_logger = logging.getLogger("trustgate.cluster")

#: How long one read of the log, or one batch of the sequencer, may take.
_LOG_TIMEOUT_S = 10.0
#: How long a command waits for another process's, and takes itself, at most. One that was stopped in the middle of a
#: command keeps the others waiting for as long.
_COMMAND_TIMEOUT_S = 120.0
#: How long the connection of the process before is waited for: the database notices in time that its machine is gone.
_CLAIM_PATIENCE_S, _CLAIM_PAUSE_S = 2.0, 0.1
_CLAIM = "SELECT pg_try_advisory_lock(hashtextextended('trustgate home ' || $1, 0))"
#: How long a stop waits for the places of its last receipts, which are on record, and get them at any time; seconds.
_PLACES_S = 5.0
#: How often a process looks for receipts that another one has set aside, seconds.
_SET_ASIDE_EVERY_S = 2.0
#: How often it is looked for commands that have ended too early, seconds.
_COMMANDS_EVERY_S = 2.0
#: How often rows that can no longer matter are removed, seconds.
_REMOVE_EVERY_S = 3600.0
#: So that a machine that went down does not keep its home's lock.
_KEEPALIVES = {"tcp_keepalives_idle": "3", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3"}


class Together:
    """This process among those that serve the database."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        memory: SharedMemory,
        member: Member,
        follower: Follower,
        books: SharedServing,
        home: _Home,
    ) -> None:
        """Use ``serving_together``."""
        self._home = home
        self._settings = settings
        self._store = store
        self._memory = memory
        self.member = member
        self.follower = follower
        self.books = books
        self.archive = Archive(store, follower.tree, follower)
        self._notes = _session(settings, "notes", _LOG_TIMEOUT_S, _LOG_TIMEOUT_S)
        self._jobs: list[asyncio.Future[None]] = []
        self._server: Server | None = None
        self._commands = _session(settings, "commands", _COMMAND_TIMEOUT_S, _COMMAND_TIMEOUT_S)
        #: The notes of commands before the one under way, which have left something to be counted anew.
        self._left_notes: frozenset[str] = frozenset()

    # of commands (admin.context.OtherProcesses)

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Let no other process carry out a command meanwhile, and have their changes in memory.

        Raises:
            Unavailable: others' commands took too long, or this one.
            DatabaseAway: the database cannot be reached.
        """
        has_begun = is_over = False
        failed: Exception | None = None
        try:
            async with one_at_a_time(self._commands, "command"):
                await self.member.take_in_now()
                # That may have to wait, and a key is to be revoked at once.
                self._left_notes = await self.books.count_notes()
                has_begun = True
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised below: it is none of this connection's
                    failed = error
                is_over = True
        except DatabaseAway as error:
            if not has_begun:
                raise
            if not is_over:
                raise Unavailable(
                    f"The command did not end in {_COMMAND_TIMEOUT_S:g} s, and was broken off.",
                    hint="See what it has done before you repeat it.",
                ) from error
            # The command is carried out; that others could begin meanwhile is all that was lost.
            _logger.warning("%s", error.why)
        if failed is not None:
            raise failed

    @property
    def _postgres(self) -> PostgresStore:
        from trustgate.store.postgres.store import PostgresStore

        assert isinstance(self._store, PostgresStore), "several processes have no file"
        return self._store

    async def settle(self) -> None:
        """Take every change into memory, and wait until all processes have, or serve no more. Raises Unavailable."""
        await self.member.settle()

    async def note_count(self) -> str:
        """See ``OtherProcesses``."""
        note = new_id("count", now_us())
        await self.books.note_count(note)
        return note

    async def put_noted(self, note: str, *records: Kept) -> None:
        """See ``OtherProcesses``."""
        await self._postgres.put_noted(note, *records)

    async def count_anew(self, budgets: Sequence[Budget], subjects: Collection[str], note: str) -> None:
        """See ``OtherProcesses``."""
        if self._server is None:
            return
        directory = self._server.directory
        notes = Counted(note)
        # A command that counts nothing leaves all to the keeper of the books.
        if self._left_notes and (budgets or subjects):
            budgets, subjects = directory.budgets(), directory.limited()
            notes = Counted(note, self._left_notes, self.member.taken_in)
        try:
            await self.books.count_anew(budgets, subjects, directory, self._server.catalog, notes)
        except Unavailable as error:
            raise DatabaseAway(
                f"The change is made, but what was used before is not counted yet: {error.message}",
                hint="A process counts it once every receipt has its place in the log. See: trustgate doctor",
            ) from error

    async def _finish_count(self) -> None:
        """Count everything anew where a command has ended before it did. No command runs meanwhile."""
        if self._server is None or not self._left_notes:
            return
        _logger.info("a command has ended before its change was counted: everything is counted anew")
        await self.settle()
        directory, notes = self._server.directory, Counted("", self._left_notes, self.member.taken_in)
        await self.books.count_anew(directory.budgets(), directory.limited(), directory, self._server.catalog, notes)

    async def _keep_books(self) -> None:
        """For ever: finish what a command of a process that has ended has left undone, and remove old rows."""
        remove_at_s = time.monotonic()
        while True:
            await asyncio.sleep(_COMMANDS_EVERY_S)
            try:
                if await self.books.count_notes():
                    # Once the command that has made the note is over, if it still runs.
                    async with self.exclusive():
                        await self._finish_count()
                if self._server is not None and time.monotonic() >= remove_at_s:
                    remove_at_s = time.monotonic() + _REMOVE_EVERY_S
                    await self.books.remove_old(self._server.directory)
            except Unavailable as error:
                _logger.warning("%s", error.message)

    # its life

    async def begin(self, server: Server) -> None:
        """Take part, with a server's memory that was filled after this process had joined."""
        self._attach(server)
        await self.books.begin(server.directory, server.catalog)
        await server.background.take_up()
        self._take_roles(server)

    def _attach(self, server: Server) -> None:
        from trustgate.store.postgres.anchors import SharedAnchorBook

        anchors: set[asyncio.Task[None]] = set()

        def on_anchor() -> None:
            task = asyncio.ensure_future(server.anchoring.load())
            anchors.add(task)
            task.add_done_callback(anchors.discard)

        self._memory.attach(
            TakenIn(
                directory=server.directory,
                catalog=server.catalog,
                subscribers=server.subscribers,
                budgets=server.budgets,
                cut=server.running.cut_keys,
                pass_on=self.books.log.books.closing.pass_on,
                on_anchor=on_anchor,
            )
        )
        if self._settings.worker:
            shown = WorkerMetrics(
                self._settings.worker_folder.parent,
                self._settings.worker,
                server.metrics.collect,
                server.gateway_status.worker_pulse,
            )
            server.metrics.merge = shown.merged
            server.gateway_status.whole_pulse = shown.live
            self._jobs.append(asyncio.ensure_future(shown.run()))
        self._server = server
        self._jobs.append(asyncio.ensure_future(self._look_at_set_aside()))
        server.anchoring.book = SharedAnchorBook(self._postgres)
        server.member = self.member
        server.accounting.check_serving = self.member.check_serving
        server.gateway_status.may_serve = self.member.may_serve
        server.online.shared = self.books
        server.admin.join(self)

    def _take_roles(self, server: Server) -> None:
        """Compete for what one process does for all."""
        identity = self.follower.identity
        if identity.key is None:
            self.member.cannot_hold(Role.SEQUENCER, identity.unfit)
            self.member.cannot_hold(Role.ANCHORER, identity.unfit)
        else:
            signing = Signing(
                identity.key, self._settings.seen_checkpoint, lambda: server.settings.receipts.checkpoint_every_s
            )
            self.member.while_holding(Role.SEQUENCER, lambda tenure: self._sequence(tenure, signing))
            self.member.while_holding(Role.ANCHORER, lambda _: server.anchoring.run())
        payment = self._settings.payment
        self.member.while_holding(Role.RECONCILER, lambda _: server.payments.reconciler.run(payment.reconcile_every_s))
        interval_s = self._settings.upstream.background_interval_s
        self.member.while_holding(Role.BOOKKEEPER, lambda _: self._keep_books())
        self.member.while_holding(Role.BATCH_KEEPER, lambda _: server.background.run(lambda: interval_s))
        notices = NoticePassing(
            server.notices,
            self._store.store_id,
            self._notes,
            _opener(self._settings, "notices", _LOG_TIMEOUT_S),
            lambda: self.member.tenure(Role.NOTIFIER) is not None,
        )
        self._jobs.append(asyncio.ensure_future(notices.pass_on()))
        self.member.while_holding(Role.NOTIFIER, lambda _: _notify(server.notifier, notices))

    async def _sequence(self, tenure: Tenure, signing: Signing) -> None:
        session = _session(self._settings, "sequencer", _LOG_TIMEOUT_S, self._settings.store.lease_s / 2)
        wakeup = asyncio.Event()
        session.on_note(CHANNEL, wakeup.set)
        try:
            with self.books.log.books.closing.linked.wanted() as linked:
                sequencer = await Sequencer.begin(session, self._store, tenure, signing, linked)
                sequencer.wakeup = wakeup
                await sequencer.run()
        except RoleLost as error:
            _logger.info("%s", error.message)
        except StoreDamaged as error:
            self.member.cannot_hold(Role.SEQUENCER, error.message)
        finally:
            with contextlib.suppress(DatabaseAway):
                await session.close()

    async def _look_at_set_aside(self) -> None:
        """For ever: read what the sequencer has set aside, which proofs of those receipts are made of."""
        while True:
            try:
                await self._store.look_at_set_aside()
            except Unavailable:
                pass
            except Exception:
                _logger.exception("what was set aside is not known")
            await asyncio.sleep(_SET_ASIDE_EVERY_S)

    async def leave_nothing(self) -> None:
        """Wait until what this process has on record has its place, where a process gives places; for some seconds."""
        if self._home.taken is not None:
            return
        try:
            async with asyncio.timeout(_PLACES_S):
                await self.follower.flush()
                await self.follower.renew()
        except Unavailable as error:
            _logger.warning("%s", error.message)
        except TimeoutError:
            _logger.warning("The last receipts get their places in the log later: no process gives them in time.")

    def check_home(self) -> None:
        """Raise HomeTaken if this process has stopped because another one has used a copy of its home."""
        if self._home.taken is not None:
            raise self._home.taken

    async def close(self) -> None:
        """Close the connections of commands and notices."""
        await end_tasks(self._jobs)
        await asyncio.gather(self._commands.close(), self._notes.close())


async def _notify(notifier: Notifier, notices: NoticePassing) -> None:
    """Send the notices of all processes, for ever."""
    notifier.skip_published()
    async with background(notices.receive()):
        await notifier.run()


@contextlib.asynccontextmanager
async def serving_together(
    settings: Settings, store: Store, address: str, stop: asyncio.Event
) -> AsyncIterator[Together]:
    """Be one of the processes that serve the database, for the block.

    Args:
        settings: of the server; they name a Postgres database.
        store: open beside other processes.
        address: under which the server is reached.
        stop: set where this process can serve no more.

    Raises:
        OperatorError: the database cannot be reached, or the log is not what this home has seen of it.
    """
    memory = SharedMemory(store)
    home = _Home(settings, stop)
    looking = DatabaseSession(home.open_claimed, timeout_s=_LOG_TIMEOUT_S)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(looking.close)
        await home.be_its_own()
        async with one_at_a_time(looking, "log name"):
            identity = await identify(store, settings.log_key, settings.receipts.origin)
        member = await stack.enter_async_context(membership(settings, address, stop, memory=memory))
        follower = await Follower.open(
            looking,
            store,
            identity,
            checkpoint_file=settings.seen_checkpoint,
            seen_files=(settings.checkpoint,),
            lease_s=settings.store.lease_s,
        )
        books = await stack.enter_async_context(shared_books(settings, member, store, follower))
        home.guard(books.log)
        together = Together(settings, store, memory, member, follower, books, home)
        stack.push_async_callback(together.close)
        yield together


class _Home:
    """The home of this process, which no other process may serve with, nor with a copy of it.

    The database has, by the journal's id, how far the journal is closed: of two processes with one id, each would take
    receipts of its own for closed because the other has closed as many. While this process is connected, it alone has
    the id. A process that starts in a copy while this one is cut off ends the home's life here (``cluster.drafts``):
    then this process closes nothing more, and stops.
    """

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        """``stop`` is set when another process has used a copy of the home."""
        self._settings = settings
        self._stop = stop
        self._open = _opener(settings, "log", settings.store.lease_s / 2, **_KEEPALIVES)
        self._drafts: Drafts | None = None
        #: Why this process has to stop.
        self.taken: HomeTaken | None = None

    async def be_its_own(self) -> None:
        """Take a new id if another process has used a copy of the home. Called first. Raises ``Unavailable``."""
        connection = await self._open()
        try:
            await part_from_copy(connection, self._settings.drafts_folder)
        finally:
            connection.terminate()

    def guard(self, log: SharedLog) -> None:
        """Have this process stop when its receipts cannot be closed any more."""
        self._drafts = log.drafts
        log.books.closing.on_taken = self._be_taken

    async def open_claimed(self) -> DatabaseConnection:
        """Returns a connection that holds the home while it lasts. Raises HomeUnusable where another process has it."""
        connection = await self._open()
        try:
            if self._drafts is not None:
                await self._drafts.check_life(connection)
            await _claim_home(connection, self._settings)
        except HomeTaken:
            connection.terminate()
            raise self._be_taken() from None
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _be_taken(self) -> HomeTaken:
        if self.taken is None:
            folder = self._settings.worker_folder
            self.taken = HomeTaken(
                f"Another process has gone on with a copy of the home folder {folder} while this one did not reach "
                "the database: this one stops, and keeps its last receipts in its journal.",
                hint="Start it again: it goes on as a home of its own, and puts those receipts on record. To add a "
                "process, give it a new home with log.key alone.",
            )
            _logger.error("%s", self.taken.message)
            self._stop.set()
        return self.taken


async def _claim_home(connection: DatabaseConnection, settings: Settings) -> None:
    """Be the only process with this journal's id, for as long as the connection lasts.

    Raises HomeUnusable: another process has it.
    """
    until_s = time.monotonic() + _CLAIM_PATIENCE_S
    while not await connection.fetchval(_CLAIM, home_id(settings.drafts_folder)):
        if time.monotonic() > until_s:
            folder = settings.worker_folder
            raise HomeUnusable(
                f"Another process serves with the home folder {folder}, or with a copy of it.",
                hint="Give each process a home of its own, with log.key alone from the other one. If this is a copy, "
                f"remove {folder / 'drafts.life'}: it goes on as a home of its own then.",
            )
        await asyncio.sleep(_CLAIM_PAUSE_S)


def _session(settings: Settings, role: str, timeout_s: float, idle_s: float) -> DatabaseSession:
    """Returns a connection that keeps no lock for longer than ``idle_s`` where its process is stopped."""
    return DatabaseSession(_opener(settings, role, idle_s), timeout_s=timeout_s)


def _opener(settings: Settings, role: str, idle_s: float, **more: str) -> Connect:
    return opener(database_address(settings), role, idle_s, synchronous_commit="on", **more)
