"""Connections to Postgres, and what becomes of its failures.

Owns what every connection is set to, and the errors of asyncpg as ours. Postgres's own texts may quote values, so they
go no further than ``__cause__``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import asyncpg

from trustgate.errors import (
    OperatorError,
    SettingsError,
    StoreDamaged,
    StoreLocked,
    StoreUnusable,
    TrustGateError,
    Unavailable,
)
from trustgate.settings import PostgresAddress

#: What ``INSERT … ON CONFLICT``, ``unnest`` and the views that are read here need is there since long; older versions
#: than this are not tested.
LEAST_VERSION = 15
CONNECT_TIMEOUT_S = 10.0
#: How often it is looked whether a pooler mixes sessions; one look finds it unless others are busy at the pooler.
_POOLER_PROBES = 3
#: A server that is stopped, starting, or cut off; asking again may help.
AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    # "Another operation is in progress": of a connection that the server ended while it stood idle.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.TimeoutError,
)
#: What asyncpg raises where the server or the connection fails.
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
#: After these nothing of a transaction is kept, and it can be done again.
SERIALIZATION = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


def is_away(error: BaseException) -> bool:
    """Returns whether the connection is of no more use."""
    return isinstance(error, AWAY) and not isinstance(error, asyncpg.DataError)


async def connect(address: PostgresAddress, role: str, **settings: str) -> asyncpg.Connection[Any]:
    """Open a connection. ``role`` is its name in pg_stat_activity; ``settings`` are the server's.

    Raises Unavailable (``store_unreachable``) where the server does not answer, StoreUnusable where it refuses.
    """
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            address.url,
            password=address.password,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": application_name(role), "timezone": "UTC"},
        )
    except (*FAILURES, ValueError) as error:
        raise connect_failure(address, error) from error
    try:
        found = connection.get_server_version()
        if found.major < LEAST_VERSION:
            raise StoreUnusable(
                f"The database server {place(address)} is Postgres {found.major}; {LEAST_VERSION} or newer is needed.",
                hint="Use a newer server.",
            )
        about = await connection.fetchrow("SELECT current_schema(), getdatabaseencoding(), pg_backend_pid()")
        assert about is not None
        schema, encoding, process_id = about
        if schema is None:
            raise StoreUnusable(
                f"The schema that {place(address)} names does not exist.",
                hint="Create it (CREATE SCHEMA …), or take search_path out of store.url.",
            )
        if encoding != "UTF8":
            raise StoreUnusable(
                f"The database {place(address)} keeps text as {encoding}; it has to be UTF8.",
                hint="Create another: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0.",
            )
        if process_id != connection.get_server_pid():
            await _check_pooler(address, connection)
        # Not as parameters of the start, which poolers refuse.
        for name, value in settings.items():
            await connection.execute(f"SET {name} = '{value}'")
    except FAILURES as error:
        connection.terminate()
        # A pooler's refusal is the cause of the error that the end of the connection raises.
        for refusal in (error, error.__cause__):
            if isinstance(refusal, asyncpg.ProtocolViolationError):
                raise _refused_by_pooler(place(address), refusal) from error
        raise translate(error) from error
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _check_pooler(address: PostgresAddress, connection: asyncpg.Connection[Any]) -> None:
    """Check that a pooler gives this connection one session of the server's, as long as it is open.

    Where it gives one to each transaction, a session's lock keeps no other process out, and outlives its taker.
    """
    other = await asyncpg.connect(
        address.url, password=address.password, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0
    )
    try:
        for _ in range(_POOLER_PROBES):
            first = await connection.fetchval("SELECT pg_backend_pid()")
            async with other.transaction():
                others = await other.fetchval("SELECT pg_backend_pid()")
                last = await connection.fetchval("SELECT pg_backend_pid()")
            if not first == last != others:
                raise _mixes_sessions()
    finally:
        other.terminate()


def application_name(role: str) -> str:
    """Returns what names this process in pg_stat_activity (63 bytes): who waits for a lock reads it there."""
    return f"trustgate {role} {os.getpid()} {socket.gethostname()}"[:63]


def place(address: PostgresAddress) -> str:
    """Returns the address without its query, for people."""
    return address.url.partition("?")[0]


def connect_failure(address: PostgresAddress, error: Exception) -> TrustGateError:
    """Returns what it means that no connection could be opened."""
    where = place(address)
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return StoreUnusable(
            f"The database server has no database of the name in {where}.",
            hint="Create it: createdb NAME, or CREATE DATABASE NAME.",
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return StoreUnusable(
            f"The database server does not let {where} in: the user or the password is wrong.",
            hint="Name the password's variable with store.password_env, its file with store.password_file, or put it "
            "into ~/.pgpass.",
        )
    if isinstance(error, asyncpg.UndefinedObjectError | asyncpg.InvalidParameterValueError):
        # Such as a misspelt sslmode; its text has the name alone, or what store.url sets it to.
        return SettingsError(
            f"The database server does not take what store.url sets: {error}.",
            hint="After the ? stand sslmode, and settings of the server such as search_path.",
        )
    if isinstance(error, ValueError | asyncpg.ClientConfigurationError):
        return SettingsError(f"store.url cannot be used: {error}.", hint="It looks like postgresql://user@host/name")
    if isinstance(error, asyncpg.ProtocolViolationError):
        return _refused_by_pooler(where, error)
    if is_away(error):
        return Unavailable(
            f"The database server {where} does not answer ({_why(error)}).",
            code="store_unreachable",
            hint="Start it, or correct store.url.",
            headers={"retry-after": "2"},
        )
    return translate(error)


def _refused_by_pooler(where: str, error: asyncpg.ProtocolViolationError) -> TrustGateError:
    """Returns the error for a pooler's refusal, by its text (PgBouncer's)."""
    text = str(error)
    if "pooling mode" in text:
        return _mixes_sessions()
    if "startup parameter" in text:
        return StoreUnusable(
            f"The pooler at {where} refuses: {text}.",
            hint="Set it for the user instead (ALTER ROLE name SET search_path = name), or name the server itself.",
        )
    return Unavailable(
        f"The pooler at {where} gives no connection: {text}.",
        code="store_unreachable",
        hint="Let it have connections for all processes (PgBouncer: default_pool_size and max_client_conn); each "
        "process holds up to 12.",
        headers={"retry-after": "2"},
    )


def _why(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return str(error).rstrip(".")
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    strerror = getattr(error, "strerror", None)
    if type(error) is ConnectionError:  # asyncpg's own, such as that the server has no TLS
        return str(error).rstrip(".")
    return strerror or type(error).__name__


def translate(error: BaseException) -> TrustGateError:
    """Returns the error that a failure of Postgres in the middle of work is to the caller."""
    if isinstance(error, TrustGateError):
        return error
    if isinstance(error, asyncpg.DuplicatePreparedStatementError | asyncpg.InvalidSQLStatementNameError):
        return _mixes_sessions()
    if isinstance(error, asyncpg.DiskFullError):
        return Unavailable(
            "The disk of the database server is full: nothing more can be recorded.",
            code="storage_full",
            hint="Free some space there; nothing recorded is lost and no restart is needed.",
            headers={"retry-after": "30"},
        )
    retry = {"retry-after": "2"}
    if is_away(error):
        return Unavailable(
            "The database server does not answer.", code="store_unreachable", hint="See the log.", headers=retry
        )
    if isinstance(error, asyncpg.LockNotAvailableError):
        return StoreLocked(
            "A table of the database is in use by a query that takes long.", hint="Try again when it has ended."
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return _refused("the user may not do this", "Make the user the owner of its database or schema.")
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return _refused("it only reads: it is a standby", "Let store.url name the primary.")
    if isinstance(error, asyncpg.DataCorruptedError | asyncpg.IndexCorruptedError):
        return StoreDamaged(
            "Postgres reports that the database is damaged.", hint="See its server's log; restore a backup."
        )
    return Unavailable(
        f"The database failed ({type(error).__name__}).", code="store_failed", hint="See the log.", headers=retry
    )


def _mixes_sessions() -> OperatorError:
    return _refused(
        "a pooler gives each transaction another session, and locks need one for themselves",
        "Let store.url name the server itself, or pool by session (PgBouncer: pool_mode = session).",
    )


def _refused(why: str, hint: str) -> OperatorError:
    return StoreUnusable(f"The database server refuses: {why}.", hint=hint)
