"""Copying everything that one store has into another, of whichever kinds the two are.

Receipts go first, in the log's order, each page a transaction: begun again, it goes on after the last one. Everything
else is small, and is put in the place of what the other has. The tree is not copied: the other makes its own of its
receipts, so that two equal roots mean equal receipts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from trustgate.errors import StoreDamaged
from trustgate.store.base import Store
from trustgate.store.migrations import columns_of
from trustgate.store.queries import ReceiptFilter
from trustgate.store.sql import SqlConnection, dialect_of, in_transaction, one_value

#: Receipts, and rows, that are copied together.
_RECEIPTS = 2_000
_ROWS = 5_000
#: Tables of the database itself, and those that hold receipts. What only one of the two has is made by its own code.
_LEFT_OUT = frozenset(
    (
        *("meta", "progress", "receipts", "tiles", "set_aside", "archives", "archived_sums", "archived_heads"),
        *("changes", "moves", "postgres_schema"),
    )
)


class SqlStore(Store, Protocol):
    """A store whose tables can be reached."""

    async def on_writer(self, work: Callable[..., Any], *args: Any) -> Any:
        """Returns ``work(connection, …)``, done on the thread that writes."""
        ...


async def copy_receipts(source: SqlStore, target: SqlStore, report: Callable[[int, int], None]) -> None:
    """Append what the target lacks. ``report`` is told how many there are, of how many."""
    last, end = await target.last_seq(), await source.last_seq()
    if last > end:
        raise StoreDamaged(
            f"The database to move to has {last} receipts, and the one to move from {end}: they are two logs.",
            hint="Move to an empty database or schema.",
        )
    while last < end:
        wanted = ReceiptFilter(after_seq=last, until_seq=last + _RECEIPTS, oldest_first=True, limit=_RECEIPTS)
        page = await source.entries(wanted)
        await target.append_entries(page)
        last = page[-1].seq
        report(last, end)


async def copy_tables(source: SqlStore, target: SqlStore) -> int:
    """Put the rows of every other table in the place of the target's. Returns how many there are."""
    ours, theirs = await source.on_writer(columns_of), await target.on_writer(columns_of)
    copied = 0
    for table in sorted(ours.keys() & theirs.keys() - _LEFT_OUT):
        columns = [column for column in ours[table] if column in theirs[table]]
        # By itself: DuckDB does not take a key again in the transaction that has deleted it.
        await target.on_writer(_clear, table)
        offset = 0
        while rows := await source.on_writer(_page, table, columns, offset):
            await target.on_writer(_append, table, columns, rows)
            offset += len(rows)
        if await target.on_writer(_count, table) != offset:
            raise StoreDamaged(f"Table {table} of the database to move to does not have the rows that it was given.")
        copied += offset
    accepted = [aside.entry.seq for aside in source.set_aside if aside.accepted]
    await target.on_writer(_accept, accepted)
    return copied


def take_identity(connection: SqlConnection, store_id: str) -> None:
    """The database is that store from now on, without changes of its own. The caller's transaction."""
    connection.execute("UPDATE meta SET store_id = ?", [store_id])
    connection.execute("UPDATE progress SET changes = 0, payments = 0, at_us = 0")


def _clear(connection: SqlConnection, table: str) -> None:
    connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a table's name


def _page(connection: SqlConnection, table: str, columns: list[str], offset: int) -> list[Any]:
    names = ", ".join(f'"{column}"' for column in columns)
    order = ", ".join(str(number) for number in range(1, len(columns) + 1))
    return connection.execute(
        f"SELECT {names} FROM {table} ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608 - names
        [_ROWS, offset],
    ).fetchall()


def _append(connection: SqlConnection, table: str, columns: list[str], rows: list[Any]) -> None:
    dialect = dialect_of(connection)

    def append(connection: SqlConnection) -> None:
        dialect.append(connection, table, columns, [partial(dialect.fitting, row) for row in rows])

    in_transaction(connection, append)


def _count(connection: SqlConnection, table: str) -> int:
    return int(one_value(connection.execute(f"SELECT count(*) FROM {table}")))  # noqa: S608 - a table's name


def _accept(connection: SqlConnection, seqs: list[int]) -> None:
    for seq in seqs:
        connection.execute("UPDATE set_aside SET accepted = true WHERE seq = ?", [seq])
