"""Operations on rows that several processes count in, in batches: one transaction each (``cluster.batches``).

What comes while a transaction is under way forms the next batch, and what comes while the event loop has other work to
do joins it, so a busy gateway makes few commits and an idle one waits for none. One that meets another (40001, 40P01)
is done again.

Owns that an operation is carried out once. Where the connection is lost the outcome of a commit is unknown: the number
of each batch is written with it, in a row of its lane, and read before it is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableSequence
from typing import Any

from trustgate.cluster.batches import (
    BatchWriter,
    DatabaseClock,
    MemoryBehind,
    NotAlive,
    Operation,
    Restore,
    RowsChanged,
    unreachable,
)
from trustgate.cluster.changes import KnownChanges
from trustgate.cluster.database import DatabaseAway, DatabaseConnection, DatabaseSession, is_retried, may_pass
from trustgate.cluster.linked_receipts import LinkedReceipts
from trustgate.cluster.row_states import RowStates
from trustgate.cluster.rows import DoneRow, HomeTaken
from trustgate.errors import TrustGateError
from trustgate.tasks import Deferred

_logger = logging.getLogger("trustgate.cluster")

#: Operations of one batch at most.
_MOST = 256
#: So many operations in a batch are several.
_SEVERAL = 4
#: How long after the last one began a batch waits for others to join, and how short a turn of the event loop is that
#: had nothing else to do, seconds.
_GATHERED_S = 0.004
_IDLE_TURN_S = 0.000_05
#: How often a transaction that met another is done again before its operations fail.
_ATTEMPTS = 20
_AWAY_FIRST_S = 0.05
_AWAY_LAST_S = 2.0
#: A failure that took longer comes from a database that does not answer, not from a connection that it ended; seconds.
_LONG_S = 2.0

_LAST = "SELECT state::text FROM shared_state WHERE key = $1 FOR UPDATE"
_RENUMBER = "UPDATE shared_state SET state = $2::text::jsonb WHERE key = $1"


class _Waiting(Deferred[Any]):
    """An operation that was submitted, and what becomes of it."""

    __slots__ = ("on_commit", "operation", "persists")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        operation: Operation,
        on_commit: Callable[[], None] | None,
        persists: bool,
    ) -> None:
        """See ``BatchLane.submit``."""
        super().__init__(loop)
        self.operation = operation
        self.on_commit = on_commit
        self.persists = persists


_NO_QUEUE: deque[_Waiting] = deque()


class _Pauses:
    """Pauses between attempts: the first is short, and each is twice as long as the one before, up to a bound."""

    def __init__(self) -> None:
        self._next_s = _AWAY_FIRST_S

    async def wait(self) -> None:
        await asyncio.sleep(self._next_s)
        self._next_s = min(2 * self._next_s, _AWAY_LAST_S)


class _Gathering:
    """A batch, and the queue from which others join it."""

    def __init__(self, batch: list[_Waiting], queue: deque[_Waiting]) -> None:
        self.batch = batch
        self._queue = queue

    def needs_live_node(self) -> bool:
        return not all(waiting.persists for waiting in self.batch)

    def join(self, rows: Mapping[str, Any], *, is_alive: bool) -> list[Operation]:
        needed = dict(rows)
        while rows and self._queue and len(self.batch) < _MOST:
            following = self._queue[0]
            if not (is_alive or following.persists):
                break
            following.operation.add_rows(needed)
            if len(needed) > len(rows):
                break
            self.batch.append(self._queue.popleft())
        return [waiting.operation for waiting in self.batch]

    def has_followers(self) -> bool:
        return bool(self._queue)


class BatchLane:
    """The operations of one kind, over one connection, in the order in which they come."""

    def __init__(
        self,
        name: str,
        session: DatabaseSession,
        node_id: Callable[[], str],
        clock: DatabaseClock,
        *,
        persists: bool,
        on_lost: Callable[[Any], None] | None = None,
        on_connect: Callable[[DatabaseConnection], Awaitable[None]] | None = None,
        restore: Restore | None = None,
        states: RowStates | None = None,
        known_changes: Callable[[], KnownChanges | None] | None = None,
    ) -> None:
        """
        Args:
            name: of the row that has the number of its last committed batch.
            session: a connection for this lane alone.
            node_id: the node as it is now. Raises TrustGateError where it is none.
            clock: is set by every transaction.
            persists: whether operations are tried until they are carried out, while the database is away, too, and
                whether the node is alive or not; otherwise they fail. A crash of the database loses nothing that such
                a lane has committed.
            on_connect: is called with every new connection, before it is used.
            restore: brings into memory what rows are to have that are missing; None: memory has it.
            states: what this process wrote last; one for all of its lanes. None: the lane has its own.
            known_changes: see ``BatchWriter``.
            on_lost: is called with each result of a batch that was committed, though its operations may have failed.
        """
        self.name = name
        self._session = session
        self._node_id = node_id
        self._persists = persists
        self._on_lost = on_lost
        self._on_connect = on_connect
        self._writer = BatchWriter(
            clock, states or RowStates(), is_durable=persists, restore=restore, known_changes=known_changes
        )
        self._connection: DatabaseConnection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: When the last batch began (``time.monotonic``).
        self._begun_s = 0.0
        #: Whether many are submitted at once: the last batch had several operations.
        self.is_loaded = False
        #: The number of the last batch that was committed.
        self.committed = 0
        self._queue: deque[_Waiting] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        #: Of the batch under way, or of the last one.
        self._number = 0
        #: The batch whose outcome is unknown: the key of its row, its number, what it granted.
        self._uncertain: tuple[str, int, list[Any]] | None = None
        #: Called when nothing of this home may be committed any more (``HomeTaken``).
        self.on_taken: Callable[[], object] = lambda: None
        #: Done when the attempt at a batch that is under way has ended.
        self._attempt: asyncio.Future[None] | None = None
        #: Why nothing is committed, while that lasts.
        self.fault: str | None = None
        #: Transactions that met another and were done again.
        self.repeated = 0

    def submit(
        self, operation: Operation, on_commit: Callable[[], None] | None = None, *, persists: bool | None = None
    ) -> Deferred[Any]:
        """Have an operation carried out, after those that were submitted before.

        Args:
            operation: it.
            on_commit: is called once it is committed, however long that takes.
            persists: whether it is tried until it is carried out; None: as the lane's operations are.

        Returns:
            What will have its result, or its refusal; None where the database is away and it is done later.
        """
        persists = self._persists if persists is None else persists
        waiting = _Waiting(self._running_loop(), operation, on_commit, persists)
        self._queue.append(waiting)
        self._idle.clear()
        self._work.set()
        return waiting

    def forget_rows(self) -> None:
        """Forget which rows there are, and what was in them: they were removed."""
        self._writer.forget_rows()

    @property
    def is_contended(self) -> bool:
        """Whether other processes write the same rows."""
        return self._writer.is_contended

    @property
    def is_busy(self) -> bool:
        """Whether a batch is under way."""
        return not self._idle.is_set()

    @property
    def swapped(self) -> int:
        """Batches that were written in one statement."""
        return self._writer.swapped

    @property
    def linked(self) -> LinkedReceipts:
        """Receipts that it has linked and committed."""
        return self._writer.linked

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    async def pass_on(self) -> None:
        """Wait for the attempt under way, so that all that is written later is decided from memory as it is now."""
        if self._attempt is not None:
            await asyncio.shield(self._attempt)

    async def flush(self) -> None:
        """Wait until nothing is to be done any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Carry out what is submitted, for ever."""
        pauses = _Pauses()
        while True:
            if self._uncertain is not None and not self._queue:
                await pauses.wait()
                if not self._queue:
                    await self._settle_uncertain()
            else:
                await self._work.wait()
                pauses = _Pauses()
            if self.is_loaded:
                await self._gather()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST))]
            if batch:
                self._begun_s = time.monotonic()
                await self._carry_out(batch)
                self.is_loaded = len(batch) >= _SEVERAL
            if not self._queue and self._uncertain is None:
                self._work.clear()
                self._idle.set()

    async def _gather(self) -> None:
        """Wait for others to join while the event loop has other work to do: a batch costs as much as some receipts."""
        until_s = self._begun_s + _GATHERED_S
        # The loop's own time is to the millisecond (uvloop).
        turn_s = time.monotonic()
        while turn_s < until_s:
            began_s = turn_s
            await asyncio.sleep(0)
            turn_s = time.monotonic()
            if turn_s - began_s < _IDLE_TURN_S:
                return

    async def _carry_out(self, batch: list[_Waiting], *, may_grow: bool = True) -> None:
        """Carry out a batch. ``may_grow``: whether others may join it."""
        self._number += 1
        try:
            node_id = self._node_id()
        except TrustGateError as error:
            if receipts := sum(waiting.persists for waiting in batch):
                _logger.warning("%d receipts wait in the journal: %s", receipts, error)
            _fail(batch, error)
            return
        row = DoneRow(node_id, self.name)
        pauses, attempts = _Pauses(), 0
        while batch:
            began_s = self._running_loop().time()
            try:
                # It keeps the number of its first attempt, which may have been committed without what joined later.
                grows, may_grow = may_grow, False
                results = await self._try(batch, row, grows=grows)
            except NotAlive:
                _refuse(batch)
            except MemoryBehind:
                # It is a node again soon, and has loaded everything then.
                self.fault = "this process's lease was over, and it has not loaded the operators' changes yet"
                self._on_away(batch)
                if batch:
                    await pauses.wait()
            except DatabaseAway as error:
                self.fault = error.why
                if self._writer.granted:
                    self._uncertain = row.key, self._number, self._writer.granted
                self._on_away(batch)
                self._refuse_waiting(began_s)
                if batch:
                    await pauses.wait()
            except Exception as error:  # noqa: BLE001 - raised in each that waits
                attempts += 1
                if (isinstance(error, RowsChanged) or is_retried(error)) and (self._persists or attempts < _ATTEMPTS):
                    self.repeated += 1
                    if attempts < _ATTEMPTS:
                        continue
                    # Maybe one of them keeps the rows of the others changing: alone, those go through.
                    if len(batch) > 1:
                        await self._carry_out_alone(batch)
                        return
                    self.fault = "an operation's rows change each time it is carried out"
                    await pauses.wait()
                    continue
                if self._persists and (attempts < _ATTEMPTS or isinstance(error, TrustGateError) or may_pass(error)):
                    # What is given up is in the journal alone, and those after it are not: so not for what may pass.
                    # A TrustGateError is of the connection: an operation's own refusal is its result.
                    if isinstance(error, HomeTaken):
                        self.on_taken()
                    self.fault = str(error) if isinstance(error, TrustGateError) else type(error).__name__
                    self._on_away(batch)
                    await pauses.wait()
                    continue
                await self._fail_alone(batch, error)
                return
            else:
                self.fault, self.committed = None, self._number
                for waiting, result in zip(batch, results, strict=True):
                    _resolve(waiting, result)
                    if waiting.on_commit is not None:
                        waiting.on_commit()
                return
        # All of it was refused: nothing waits for the database any more.
        self.fault = None

    async def _carry_out_alone(self, batch: list[_Waiting]) -> None:
        """Carry out each operation by itself, in their order, so that one that cannot be does not stop the others."""
        for waiting in batch:
            await self._carry_out([waiting], may_grow=False)

    async def _fail_alone(self, batch: list[_Waiting], error: Exception) -> None:
        """Fail an operation; of several, those that cannot be carried out by themselves."""
        if len(batch) > 1 and not isinstance(error, TrustGateError):
            await self._carry_out_alone(batch)
            return
        if not isinstance(error, TrustGateError):
            _logger.error("an operation of the %s failed", self.name, exc_info=error)
            self.fault = f"an operation failed ({type(error).__name__})"
            error = TrustGateError("The gateway failed. The error is in its log.")
        _fail(batch, error)

    def _refuse_waiting(self, began_s: float) -> None:
        """Refuse what came during a long wait for a database that is away: it would wait as long again."""
        if self._running_loop().time() - began_s > _LONG_S:
            _refuse(self._queue)

    def _on_away(self, batch: list[_Waiting]) -> None:
        """Keep no request waiting for a database that is away: refuse it, or carry it out when it is back."""
        _refuse(batch)
        if self._persists:
            _refuse(self._queue)
            for waiting in (*batch, *self._queue):
                waiting.succeed(None)

    async def _try(self, batch: list[_Waiting], done: DoneRow, *, grows: bool) -> list[Any]:
        """Returns each operation's result or refusal."""
        self._attempt = attempt = self._running_loop().create_future()
        try:
            return await self._commit(batch, done, grows=grows)
        finally:
            attempt.set_result(None)

    async def _commit(self, batch: list[_Waiting], done: DoneRow, *, grows: bool) -> list[Any]:
        self._writer.granted = []
        async with self._session.use() as connection:
            await self._greet(connection)
            return await self._writer.write(
                connection, _Gathering(batch, self._queue if grows else _NO_QUEUE), done, self._number
            )

    async def _greet(self, connection: DatabaseConnection) -> None:
        """Read over a new connection whether the batch that was under way over the last one was committed."""
        if connection is self._connection:
            return
        if self._on_connect is not None:
            await self._on_connect(connection)
        if self._uncertain is not None:
            key, number, granted = self._uncertain
            async with connection.transaction():
                # Its transaction had the row locked when it was to commit: this waits until it has, or has not.
                found = await connection.fetchval(_LAST, key)
                last = 0 if found is None else int(found)
                if found is not None and last < number and last != -number:
                    # A network may hold a statement back and deliver it after its sender has given up: a swap then
                    # finds another number here, and writes nothing. A number below zero: that batch was not committed.
                    await connection.execute(_RENUMBER, key, str(-number))
            if last >= number and self._on_lost is not None:
                for each in granted:
                    self._on_lost(each)
            self._uncertain = None
        self._connection = connection

    async def _settle_uncertain(self) -> None:
        """Read whether the last batch was committed, where no other batch follows that would."""
        began_s = self._running_loop().time()
        try:
            async with self._session.use() as connection:
                await self._greet(connection)
            self.fault = None
        except TrustGateError as error:
            self.fault = error.message
            self._refuse_waiting(began_s)


def _resolve(waiting: _Waiting, result: Any) -> None:
    if isinstance(result, TrustGateError):
        waiting.fail(result)
    else:
        waiting.succeed(result)


def _fail(batch: Iterable[_Waiting], error: TrustGateError) -> None:
    for waiting in batch:
        waiting.fail(error)


def _refuse(queue: MutableSequence[_Waiting]) -> None:
    """Refuse those that are not tried until they are carried out, and take them out of the queue."""
    kept = [waiting for waiting in queue if waiting.persists]
    if len(kept) < len(queue):
        _fail((waiting for waiting in queue if not waiting.persists), unreachable())
        queue.clear()
        queue.extend(kept)
