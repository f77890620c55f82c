"""The database as this room sees it: a connection's few methods, and one connection that is made anew when it is lost.

Owns which failures mean that the database is away (``is_away``) and which that a transaction is to be tried again
(``is_retried``): both are read from SQLSTATE, so no driver is imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from trustgate.errors import TrustGateError, Unavailable
from trustgate.tasks import wait_at_most

#: Classes of SQLSTATE (PostgreSQL, appendix A): connection exceptions, out of resources, operator intervention, errors
#: of the server's system, such as of its disk.
_AWAY = frozenset(("08", "53", "57", "58"))
#: It only reads: it is a standby now, or managed, and its disk is full. Another connection may find one that writes.
_READ_ONLY = "25006"
#: Classes of SQLSTATE that are of the values which a statement was given: it fails in the same way again.
_OF_VALUES = frozenset(("22", "23"))
#: What the driver raises of its own where the server ends a connection while it is being used, or opened.
_LOST = frozenset(("InternalClientError", "ConnectionDoesNotExistError", "InterfaceError"))
#: What writing to a file fails with; a connection never does.
_OF_FILES = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO))
#: Serialization failure and deadlock.
_RETRIED = frozenset(("40001", "40P01"))


class DatabaseConnection(Protocol):
    """A connection to Postgres; parameters are ``$1``, ``$2``, …"""

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]: ...

    async def fetchrow(self, query: str, *args: Any) -> Mapping[str, Any] | None: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...

    async def execute(self, query: str, *args: Any) -> str: ...

    def transaction(self) -> AbstractAsyncContextManager[Any]: ...

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    def is_closed(self) -> bool: ...

    async def close(self) -> None: ...

    def terminate(self) -> None: ...


#: Opens a connection.
Connect = Callable[[], Awaitable[DatabaseConnection]]


#: How often a process shows that it is at work, seconds.
_SHOWN_EVERY_S = 1.0
#: How long closing a connection may take, seconds: the server notices its end all the same.
_CLOSE_S = 1.0
#: ``Retry-After`` of what is refused while the database is away, seconds.
RETRY_AFTER_S = "2"


class DatabaseAway(Unavailable):
    """The database cannot be reached, or did not answer in time."""

    def __init__(self, message: str, *, hint: str | None = None, why: str = "", timed_out: bool = False) -> None:
        """
        Args:
            message: what is wrong.
            hint: the next thing to do.
            why: the same for the operator. It may name the server, which clients are not shown.
            timed_out: whether time ran out, while nothing else is known to be wrong.
        """
        super().__init__(message, hint=hint, headers={"retry-after": RETRY_AFTER_S}, code="store_unreachable")
        self.why = why or message
        self.timed_out = timed_out


def is_away(error: BaseException) -> bool:
    """Returns whether the error means that the database is away, rather than that a statement is wrong."""
    if isinstance(error, OSError | Unavailable | EOFError):  # TimeoutError is an OSError
        return True
    if type(error).__name__ in _LOST:
        return True
    state = _sqlstate(error)
    return state[:2] in _AWAY or state == _READ_ONLY


def may_pass(error: BaseException) -> bool:
    """Returns whether what failed may succeed once the database is in order, such as when it has its rights again."""
    state = _sqlstate(error)
    return bool(state) and state[:2] not in _OF_VALUES


def is_retried(error: BaseException) -> bool:
    """Returns whether the transaction that failed is to be tried again: it met another (40001, 40P01)."""
    return _sqlstate(error) in _RETRIED


def _is_of_block(error: BaseException) -> bool:
    """Returns whether an error that was raised while a connection was used is of something else, by its own sentence.

    An LLM server or a facilitator that is away is no database that is away, and neither is a file's full disk.
    """
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in _OF_FILES
    return isinstance(error, TrustGateError) and not isinstance(error, DatabaseAway)


def _sqlstate(error: BaseException) -> str:
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else ""


def _sentence(error: BaseException) -> str:
    """Returns what is wrong, as a sentence for operators."""
    if isinstance(error, TrustGateError):
        return error.message
    if isinstance(error, TimeoutError):
        return "The database did not answer in time."
    return f"The connection to the database was lost: {(str(error) or type(error).__name__).rstrip('.')}."


@contextlib.asynccontextmanager
async def at_work(connection: DatabaseConnection) -> AsyncIterator[None]:
    """Show the database that this process is at work in a transaction, for the block, which leaves the connection
    alone.

    So a transaction may take long, and be ended soon by the database (``idle_in_transaction_session_timeout``) where
    its process was stopped: others wait for what it has locked.
    """
    is_over = asyncio.Event()

    async def show() -> None:
        # None is cancelled: the transaction would fail.
        while not is_over.is_set():
            await wait_at_most(is_over, _SHOWN_EVERY_S)
            await connection.fetchval("SELECT 1")

    showing = asyncio.ensure_future(show())
    try:
        yield
    finally:
        is_over.set()
        await showing


class DatabaseSession:
    """One connection, for one user at a time, opened when it is wanted and opened anew after it was lost."""

    def __init__(self, connect: Connect, *, timeout_s: float) -> None:
        """``timeout_s``: how long one use may take, the opening of the connection included."""
        self._connect = connect
        self.timeout_s = timeout_s
        self._connection: DatabaseConnection | None = None
        self._in_use = asyncio.Lock()
        #: By channel, what is called at each note; taken up again on a new connection.
        self._listeners: dict[str, Callable[[], None]] = {}

    def on_note(self, channel: str, call: Callable[[], None]) -> None:
        """Call ``call`` at every NOTIFY on the channel, and whenever a connection is new: notes may have been missed.

        To be given before the first use.
        """
        self._listeners[channel] = call

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[DatabaseConnection]:
        """The connection, for the block.

        Raises:
            DatabaseAway: it cannot be reached, was lost, or this block or those that it waited for took longer than
                ``timeout_s``. What the block did may have been committed all the same.

        Errors of the block that are not of the connection are raised as they are, other ``Unavailable`` among them.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        cancelling = 0 if task is None else task.cancelling()
        try:
            if self._in_use.locked():
                async with asyncio.timeout(self.timeout_s):
                    await self._in_use.acquire()
            else:
                await self._in_use.acquire()  # at once
        except TimeoutError:
            raise DatabaseAway(
                "The database is away.", why="The database did not answer earlier requests in time."
            ) from None
        connection: DatabaseConnection | None = None
        ending: asyncio.TimerHandle | None = None
        until_s = loop.time() + self.timeout_s
        try:
            async with asyncio.timeout_at(until_s):
                connection = await self._opened()
                # Else the rollback after the timeout would wait for an answer, with no timeout of its own.
                ending = loop.call_at(until_s, connection.terminate)
                yield connection
        except Exception as error:
            if task is not None and task.cancelling() > cancelling:
                # An error of the rollback has taken its place: who waits for the task's end would wait for ever.
                self._drop()
                raise asyncio.CancelledError from error
            if connection is not None and _is_of_block(error):
                if connection.is_closed():
                    self._drop()
                raise
            # A connection that its server ended while it stood idle may fail with an error of the driver's own.
            is_lost = is_away(error) or (connection is not None and connection.is_closed())
            if not is_lost:
                raise
            self._drop()
            if isinstance(error, DatabaseAway):
                raise
            # The connection is ended when time runs out, which may be noticed first.
            timed_out = isinstance(error, TimeoutError) or loop.time() >= until_s
            why = _sentence(TimeoutError() if timed_out else error)
            raise DatabaseAway("The database is away.", why=why, timed_out=timed_out) from error
        except BaseException:
            # Cancelled in the middle of a statement: what the connection would answer next is another's.
            self._drop()
            raise
        finally:
            if ending is not None:
                ending.cancel()
            self._in_use.release()

    async def _opened(self) -> DatabaseConnection:
        if self._connection is not None and self._connection.is_closed():
            self._connection = None
        if self._connection is None:
            connection = await self._connect()
            try:
                for channel, call in self._listeners.items():
                    await connection.add_listener(channel, lambda *_, call=call: call())
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
            for call in self._listeners.values():
                call()
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection. The next use would open another."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(min(self.timeout_s, _CLOSE_S)):
                await connection.close()
        except Exception as error:
            connection.terminate()
            if not is_away(error):
                raise
