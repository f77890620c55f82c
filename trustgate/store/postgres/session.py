"""Connections to Postgres that the store's work runs over, each on a thread of its own.

Owns that a connection which was lost is opened anew, and what is done again then: work that has committed nothing and
is not in doubt. One process has the database to itself, by an advisory lock of the session that writes: a process that
loses the session writes nothing more before it has the lock again. Several that count together in the database share
that lock, so that none which counts in memory comes among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from trustgate.errors import StoreLocked, Unavailable
from trustgate.ids import now_us
from trustgate.settings import PostgresAddress
from trustgate.store.postgres.connecting import FAILURES, SERIALIZATION, connect, is_away, place, translate
from trustgate.store.postgres.dialect import PostgresConnection
from trustgate.store.postgres.migrations import comes_beside, is_latest, migrate_postgres
from trustgate.store.sql import one_value
from trustgate.store.worker import Worker

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

#: How often work is done again that another transaction was in the way of, or whose connection was lost.
_ATTEMPTS = 5
#: How long one statement may take before the connection counts as lost, seconds: a cut network raises no error.
_TIMEOUT_S = 30.0
#: The same for statements that read all receipts, seconds.
_LENGTHY_S = 600.0
#: How long a close waits for the database before what it was asked last is broken off, and after that, seconds.
_CLOSE_S = 3.0
#: A failure that took longer comes from a database that does not answer, not from a connection that it ended; seconds.
_LONG_S = 2.0
#: The server notices within milliseconds that a process has died; its lock goes with its session.
_LOCK_PATIENCE_S = 1.0
_LOCK_KEY = "hashtextextended('trustgate ' || current_schema(), 0)"
_SCHEMA_KEY = "hashtextextended('trustgate schema ' || current_schema(), 0)"
#: How long a step of the schema may wait for a table while others serve.
_SCHEMA_LOCK_S = 3
#: Numbers of the server's processes are given again, after its restart above all; with its start it is one session.
_SESSION = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_HOLDER = f"""SELECT a.application_name, a.pid, a.backend_start::text
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND ((l.classid::bigint << 32) | l.objid::bigint) = {_LOCK_KEY}
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""  # noqa: S608 - constants


class PostgresSession(Worker[PostgresConnection]):
    """A connection and its thread."""

    def __init__(self, address: PostgresAddress, role: str) -> None:
        self._address = address
        self._role = role
        self._loop = asyncio.new_event_loop()
        self._connection: PostgresConnection | None = None
        self._was_connected = False
        #: When the session last gave up a database that did not answer (``time.monotonic``); inf: for
        #: ever, at the end.
        self._given_up_s = float("-inf")
        self._connecting: asyncio.Task[Any] | None = None
        super().__init__(f"trustgate-{role}")

    async def _submit(self, work: Callable[[], R]) -> R:
        submitted_s = time.monotonic()

        def in_turn() -> R:
            if submitted_s < self._given_up_s:
                # It has waited for as long as the work before it, and would wait as long again.
                raise translate(TimeoutError())
            return work()

        return await super()._submit(in_turn)

    def _attempt(self, work: Callable[Concatenate[PostgresConnection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        attempt = 0
        while True:
            attempt += 1
            began_s = time.monotonic()
            if self._connection is None or self._connection.is_closed:
                try:
                    self._connection = self._connect()
                except Unavailable as error:
                    self._give_up(began_s)
                    if not self._was_connected:
                        raise
                    logger.warning("%s", error.message)
                    # The database's address is for the operator alone.
                    raise translate(OSError()) from error
            connection = self._connection
            connection.in_doubt = False
            before = connection.committed
            try:
                return work(connection, *args, **kwargs)
            except FAILURES as error:
                again = attempt < _ATTEMPTS and connection.committed == before
                if is_away(error):
                    logger.warning("The connection to the database was lost: %s", type(error).__name__)
                    connection.terminate()
                    self._give_up(began_s)
                    again = again and attempt == 1 and not connection.in_doubt
                elif not isinstance(error, SERIALIZATION):
                    again = False
                if not again:
                    raise translate(error) from error

    def _give_up(self, began_s: float) -> None:
        now_s = time.monotonic()
        if now_s - began_s > _LONG_S:
            self._given_up_s = max(self._given_up_s, now_s)

    def _connect(self, **settings: str) -> PostgresConnection:
        if self._given_up_s == float("inf"):
            raise translate(TimeoutError())
        self._connecting = self._loop.create_task(connect(self._address, self._role, **settings))
        try:
            opened = self._loop.run_until_complete(self._connecting)
        except asyncio.CancelledError:
            raise translate(TimeoutError()) from None
        finally:
            self._connecting = None
        connection = PostgresConnection(self._loop, opened)
        connection.timeout_s = _TIMEOUT_S
        self._was_connected = True
        return connection

    def _join(self) -> None:
        """Wait for the thread's end, but not for a database that does not answer: nothing waits for its work."""
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            return
        logger.warning("The database server does not answer: what it was asked last is given up.")
        with contextlib.suppress(RuntimeError):  # it has ended meanwhile
            self._loop.call_soon_threadsafe(self._break_off)
        self._thread.join(_CLOSE_S)

    def _break_off(self) -> None:
        """On the thread, while it waits: end what it waits for, and what waits behind that."""
        self._given_up_s = float("inf")
        if self._connection is not None and not self._connection.is_closed:
            self._connection.terminate()
        elif self._connecting is not None:
            self._connecting.cancel()

    def _end(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*FAILURES):
                self._connection.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def lengthy(work: Callable[Concatenate[PostgresConnection, P], R]) -> Callable[Concatenate[PostgresConnection, P], R]:
    """Returns work whose statements may take ``_LENGTHY_S``: it reads all receipts."""

    def at_length(connection: PostgresConnection, /, *args: P.args, **kwargs: P.kwargs) -> R:
        before_s, connection.timeout_s = connection.timeout_s, _LENGTHY_S
        try:
            return work(connection, *args, **kwargs)
        finally:
            connection.timeout_s = before_s

    return at_length


class Writer(PostgresSession):
    """The session that holds the database's lock and brings its schema up to date when it is opened."""

    def __init__(self, address: PostgresAddress, *, several: bool = False) -> None:
        """``several``: the lock is shared with other processes that open the database so."""
        self._several = several
        #: The last session (``_SESSION``), which a network that was cut may have left with the lock.
        self.last_session: tuple[int, str] | None = None
        self._is_migrated = False
        super().__init__(address, "writer")

    def _connect(self, **settings: str) -> PostgresConnection:
        # A process that is stopped in the middle of a transaction, or cut off, lets go of its rows and of its lock.
        settings = {"idle_in_transaction_session_timeout": "5s", "tcp_keepalives_idle": "10"}
        settings |= {"tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
        connection = super()._connect(**settings)
        # Migrations rewrite tables.
        connection.timeout_s = None
        try:
            session = connection.execute(_SESSION).fetchone()
            self._lock(connection)
            # What is acknowledged must be on the disk, whatever the server's default is.
            if connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
                connection.execute("SET synchronous_commit = on")
            if not self._is_migrated:
                migrate_postgres(connection, now_us())
                self._is_migrated = True
        except FAILURES as error:
            connection.terminate()
            raise translate(error) from error
        except BaseException:
            connection.close()
            raise
        self.last_session = session
        connection.timeout_s = _TIMEOUT_S
        return connection

    def _lock(self, connection: PostgresConnection) -> None:
        """Raises StoreLocked, naming who has it."""
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while not (self._share(connection) if self._several else self._try_lock(connection)):
            holders = connection.execute(_HOLDER).fetchall()
            if self.last_session is not None and self.last_session in [holder[1:] for holder in holders]:
                connection.execute("SELECT pg_terminate_backend(?)", [self.last_session[0]])
            elif time.monotonic() > deadline:
                # Known only now: one process at a time is refused for the lock, whatever the schema is.
                is_upgrade = self._several and not self._is_migrated and not comes_beside(connection)
                raise locked(self._address, holders[0][0] if holders else "", is_upgrade=is_upgrade)
            time.sleep(0.02)

    def _try_lock(self, connection: PostgresConnection) -> bool:
        return bool(one_value(connection.execute(f"SELECT pg_try_advisory_lock({_LOCK_KEY})")))

    def _share(self, connection: PostgresConnection) -> bool:
        """Take a share of the lock, having brought the schema up to date alone. Returns False where it is taken."""
        if not self._is_migrated and not comes_beside(connection):
            if not self._try_lock(connection):
                return False
            migrate_postgres(connection, now_us())
            connection.execute(f"SELECT pg_advisory_lock_shared({_LOCK_KEY})")
            connection.execute(f"SELECT pg_advisory_unlock({_LOCK_KEY})")
            return True
        if not one_value(connection.execute(f"SELECT pg_try_advisory_lock_shared({_LOCK_KEY})")):
            return False
        if not self._is_migrated and not is_latest(connection):
            self._migrate_beside(connection)
        return True

    def _migrate_beside(self, connection: PostgresConnection) -> None:
        """Bring the schema up to date while programs serve that survive that; one process at a time.

        Waits at most ``_SCHEMA_LOCK_S`` for a table that a lengthy query reads: other work would wait behind it.
        """
        connection.execute(f"SET lock_timeout = '{_SCHEMA_LOCK_S}s'")
        connection.execute(f"SELECT pg_advisory_lock({_SCHEMA_KEY})")
        try:
            migrate_postgres(connection, now_us())
        finally:
            if not connection.is_closed:
                connection.execute(f"SELECT pg_advisory_unlock({_SCHEMA_KEY})")
                connection.execute("RESET lock_timeout")


def locked(address: PostgresAddress, holder: str, *, is_upgrade: bool = False) -> StoreLocked:
    """Returns the error that another process has the database.

    Args:
        holder: Its application_name.
        is_upgrade: Whether the schema of the database is older than this program's, so that all others have to end.
    """
    words = holder.split()
    is_ours = len(words) == 4 and words[0] == "trustgate"
    by = f"process {words[2]} on {words[3]}" if is_ours else "another process"
    if is_upgrade:
        return StoreLocked(
            f"The schema of {place(address)} is older than this version's, and {by} is using it.",
            hint="Stop every `trustgate serve` of this database, then start this version: it renews the schema.",
        )
    return StoreLocked(
        f"The database {place(address)} is in use by {by}.",
        hint="If that is `trustgate serve`, leave it running and give commands the same --home: they go through it. "
        "Otherwise stop it and try again.",
        pid=int(words[2]) if is_ours and words[3] == socket.gethostname() and words[2].isdigit() else None,
    )
