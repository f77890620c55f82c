"""A database that is being filled from a file, or that was moved into one: no gateway serves it.

Owns table ``moves``:

    (no row) ──► arriving ──► arrived ──► (no row)     from a file: filled; all there and compared; the file is closed
    (no row) ──► departed                              into a file, which serves from then on
    departed ──► arriving                              and back again
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from trustgate.errors import Conflict, StoreUnusable
from trustgate.store.completeness import progress
from trustgate.store.migrations import seeds
from trustgate.store.moving import take_identity
from trustgate.store.postgres.changes import apply_next_change
from trustgate.store.records import load_everything, load_state
from trustgate.store.sql import SqlConnection, in_transaction, one_value


class Move(NamedTuple):
    state: Literal["arriving", "arrived", "departed"]
    store_id: str
    #: The database file, at the other end.
    place: str


def load_move(connection: SqlConnection) -> Move | None:
    rows = connection.execute("SELECT state, store_id, place FROM moves").fetchall()
    return Move(*rows[0]) if rows else None


def check_serves(move: Move | None, place: str) -> None:
    """Raises StoreUnusable where the database is not the one that serves."""
    if move is None:
        return
    if move.state == "departed":
        raise StoreUnusable(
            f"The database {place} was moved into the file {move.place}.",
            hint="Take store.url out of the settings of that home, or move it back: trustgate migrate --to URL",
        )
    raise StoreUnusable(
        f"Moving the file {move.place} to {place} has not come to its end.",
        hint="Give the command again: trustgate migrate --to URL",
    )


def check_idle(connection: SqlConnection) -> None:
    """Raises Conflict where a process serves the database, or receipts wait for their place in the log."""
    nodes = connection.execute("SELECT host, pid FROM nodes WHERE lease_until > now() ORDER BY host, pid").fetchall()
    if nodes:
        names = ", ".join(f"{pid} on {host}" for host, pid in nodes)
        raise Conflict(f"Gateways serve the database: process {names}.", hint="Stop them first.")
    if one_value(connection.execute("SELECT count(*) FROM waiting_receipts")):
        raise Conflict(
            "Receipts wait for their place in the log.", hint="Start a gateway on the database, and stop it again."
        )


def begin_arrival(connection: SqlConnection, store_id: str, place: str) -> None:
    """Let the database be filled from that file. Raises Conflict where it is another log's."""
    move = load_move(connection)
    kept = one_value(connection.execute("SELECT store_id FROM meta"))
    if (move.store_id if move is not None else kept) != store_id and not (move is None and _is_new(connection)):
        raise Conflict(
            "The database to move to holds another log.",
            hint="Move to an empty database or schema: CREATE SCHEMA name, and ?search_path=name in the URL.",
            code="other_log",
        )
    if move is None and kept == store_id:
        raise Conflict("The database to move to is this log's, and in use.", hint="Name it with store.url.")
    in_transaction(connection, lambda connection: _set(connection, Move("arriving", store_id, place)))


def _is_new(connection: SqlConnection) -> bool:
    """Nothing was ever put into it."""
    receipts = one_value(connection.execute("SELECT count(*) FROM receipts"))
    state = load_state(connection)
    return progress(connection).changes == receipts == len(state.tenants) == 0 and len(state.plans) <= len(seeds(0))


def arrive(connection: SqlConnection, store_id: str) -> None:
    """Everything is there: the database takes the id, and its changes begin with all that operators have decided."""

    def work(connection: SqlConnection) -> None:
        take_identity(connection, store_id)
        connection.execute("DELETE FROM changes")
        connection.execute("DELETE FROM shared_state")  # of a time before it was moved into a file: it is made anew
        apply_next_change(connection, load_everything(connection), ())
        connection.execute("UPDATE moves SET state = 'arrived'")

    in_transaction(connection, work)


def end_arrival(connection: SqlConnection) -> None:
    connection.execute("DELETE FROM moves")


def depart(connection: SqlConnection, store_id: str, place: str) -> None:
    in_transaction(connection, lambda connection: _set(connection, Move("departed", store_id, place)))


def _set(connection: SqlConnection, move: Move) -> None:
    connection.execute("DELETE FROM moves")
    connection.execute("INSERT INTO moves VALUES (?, ?, ?)", list(move))
