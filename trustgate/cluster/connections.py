"""The connections of the processes that serve one database.

Owns what each is set to. A process that is stopped in the middle of a transaction must not keep its rows and locks: the
database ends a transaction that is idle for too long.
"""

from __future__ import annotations

from trustgate.cluster.database import Connect, DatabaseConnection, DatabaseSession
from trustgate.settings import PostgresAddress, Settings
from trustgate.store.postgres import connecting

#: How long one batch may take before the database counts as away, seconds.
_TIMEOUT_S = 10.0
#: How long some thousands of receipts may take to get their places, seconds.
_COMMAND_TIMEOUT_S = 60.0
#: How long it may take to read all receipts at the first process's start, or to look at all books, seconds.
LENGTHY_S = 600.0
#: How long all others wait for a process that is stopped in a transaction of such a session, seconds.
_STOPPED_S = 5.0


def database_address(settings: Settings) -> PostgresAddress:
    """Returns where the database is. ``settings`` name a Postgres database."""
    address = settings.postgres()
    assert address is not None, "the database is a file"
    return address


def opener(address: PostgresAddress, role: str, idle_s: float, **more: str) -> Connect:
    """Returns what opens a connection.

    Args:
        address: of the database.
        role: what it is for, in the connection's name.
        idle_s: after so long without a statement the database ends its transaction, seconds.
        more: settings of the session, by their names in Postgres.
    """
    idle_ms = str(int(idle_s * 1_000))

    async def open_connection() -> DatabaseConnection:
        opened: DatabaseConnection = await connecting.connect(
            address, role, idle_in_transaction_session_timeout=idle_ms, **more
        )
        return opened

    return open_connection


def opening_session(address: PostgresAddress, lease_s: float) -> DatabaseSession:
    """Returns what opens go over: a commit does not wait for the disk, since what is used is in receipts.

    ``lease_s``: a node's, seconds.
    """
    return _session(address, "opens", "off", lease_s)


def closing_session(address: PostgresAddress, lease_s: float) -> DatabaseSession:
    """Returns what closes go over: what is committed outlives a crash of the database.

    ``lease_s``: a node's, seconds.
    """
    return _session(address, "closes", "on", lease_s)


def looking_session(address: PostgresAddress) -> DatabaseSession:
    """Returns the session over which requests and commands read what other processes have counted and answered."""
    statement_ms = str(int(_TIMEOUT_S * 1_000))
    return DatabaseSession(opener(address, "books", _TIMEOUT_S, statement_timeout=statement_ms), timeout_s=_TIMEOUT_S)


def command_session(address: PostgresAddress) -> DatabaseSession:
    """Returns the session of a command that is carried out without a server: it may give receipts their places."""
    return DatabaseSession(opener(address, "command", _COMMAND_TIMEOUT_S), timeout_s=_COMMAND_TIMEOUT_S)


def lengthy_session(address: PostgresAddress) -> DatabaseSession:
    """Returns the session for what takes long: a start that reads the receipts, a look at all books.

    What works in a transaction of it and leaves the connection alone is in ``database.at_work``.
    """
    return DatabaseSession(opener(address, "start", _STOPPED_S), timeout_s=LENGTHY_S)


def _session(address: PostgresAddress, role: str, synchronous_commit: str, lease_s: float) -> DatabaseSession:
    # A statement that waits for a stranger's lock is given up here, and a new connection opened: it must end there,
    # too, or they become more and more.
    statement_ms = str(int(_TIMEOUT_S * 1_000))
    connect = opener(address, role, lease_s / 2, synchronous_commit=synchronous_commit, statement_timeout=statement_ms)
    return DatabaseSession(connect, timeout_s=_TIMEOUT_S)
