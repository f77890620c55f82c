"""What the SQL of the store is written against: a connection with ``execute``, and a dialect for what differs.

The functions of this room (``entries``, ``records``, ``sums``, ``ledger`` …) are the same on every database. Their SQL
is what DuckDB and Postgres have in common, with ``?`` for a bound value; where the two differ a ``SqlDialect`` has the
words.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from trustgate.errors import StoreDamaged

R = TypeVar("R")
C = TypeVar("C", bound="SqlConnection")

#: DuckDB's appender holds the interpreter for about 6 µs a row; between slices the event loop gets its turn.
_SLICE_ROWS = 16
#: What an INSERT of columns reads from.
_STAGED = "staged_rows"


class Rows(Protocol):
    """What a statement has given. Of one that changes rows: one row with their number."""

    def fetchone(self) -> Any: ...

    def fetchmany(self, size: int = 1) -> list[Any]: ...

    def fetchall(self) -> list[Any]: ...


class SqlConnection(Protocol):
    """An open database, as one thread uses it."""

    def execute(self, query: Any, parameters: object = None) -> Rows: ...

    def begin(self) -> Any: ...

    def commit(self) -> Any: ...

    def rollback(self) -> Any: ...


class SqlDialect(ABC):
    """How one database says what the other says differently. Columns and tables are given as they stand in SQL."""

    #: An integer that holds any sum of BIGINT.
    wide: ClassVar[str]
    #: A table that ends with the session, made by ``make_trial``.
    trial: ClassVar[str]
    #: ``append`` outside a transaction adds all of its rows or none, and commits them.
    appends_whole: ClassVar[bool] = False
    #: What a person calls the database.
    name: ClassVar[str]

    def part(self, column: str, parts: int, number: int) -> str:
        """Returns a condition that each value of a text column meets for one number alone, from 0 to ``parts`` - 1.

        Raises NotImplementedError where ``too_little_memory`` names no error.
        """
        raise NotImplementedError

    @property
    def too_little_memory(self) -> tuple[type[Exception], ...]:
        """The errors of a statement whose groups do not fit into memory: it is done in parts then (``part``)."""
        return ()

    @abstractmethod
    def per(self, column: str, size: int) -> str:
        """Returns the whole quotient of an integer that is not negative."""

    @abstractmethod
    def month(self, column: str) -> str:
        """Returns the month (UTC) of a column of microseconds, for GROUP BY."""

    @abstractmethod
    def day(self, column: str) -> str:
        """Returns the day (UTC) of a column of microseconds, as text: 2026-01-31."""

    @abstractmethod
    def glob(self, column: str, pattern: str | None) -> tuple[str, str | None]:
        """Returns a condition that a column matches a shell glob, and the value to bind; None for no pattern."""

    @abstractmethod
    def hexadecimal(self, column: str) -> str:
        """Returns a column of bytes as lower-case text."""

    @abstractmethod
    def json_item(self, column: str, index: int) -> str:
        """Returns an item of a JSON list as text; null where the column is."""

    @abstractmethod
    def json_object(self, members: Mapping[str, str]) -> str:
        """Returns a JSON object without blanks, as text."""

    @abstractmethod
    def upsert(self, table: str, columns: Sequence[str], identity: str, rows: int) -> str:
        """Returns the statement that puts as many rows, no two of one identity, in the place of older ones."""

    @abstractmethod
    def append(self, connection: Any, table: str, columns: Sequence[str], rows: Sequence[Callable[[], Any]]) -> None:
        """Add rows, each made by a call, in the caller's transaction. Whatever is amiss with one is raised."""

    def append_columns(
        self, connection: Any, table: str, columns: tuple[str, ...], slices: Iterable[Sequence[Sequence[Any]]]
    ) -> bool:
        """Add many rows, given as ``store.columns.columns_of`` has them, in the caller's transaction.

        Returns whether they were added. False: this database does not take columns, or not these values; ``append``
        does, or finds out what is amiss.
        """
        return False

    @abstractmethod
    def try_row(self, connection: Any, columns: Sequence[str], row: Sequence[Any]) -> None:
        """Add a row to ``trial``. Whatever is amiss with it is raised; the caller's transaction goes on."""

    @abstractmethod
    def make_trial(self, connection: Any) -> None:
        """Make ``trial``, empty, with the columns of ``receipts``."""

    @abstractmethod
    def why_unfit(self, row: Sequence[Any]) -> str | None:
        """Returns why a row of ``receipts`` must be set aside though its columns would take it; None where not."""

    @abstractmethod
    def fitting(self, row: Sequence[Any]) -> Sequence[Any]:
        """Returns a row of another database of ours as this one takes it."""

    @abstractmethod
    def take_turns(self, connection: Any, names: Sequence[str]) -> None:
        """Let no other transaction that takes one of these names go on before the caller's has ended."""

    @abstractmethod
    def foreign(self) -> StoreDamaged:
        """Returns the error that another program's tables are where ours should be."""

    @property
    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """What the database raises for a statement or a value that it does not take."""


class DuckDBDialect(SqlDialect):
    wide = "HUGEINT"
    trial = "temp.trial"
    name = "DuckDB"

    def __init__(self) -> None:
        #: The types of columns that were appended to, by table and columns: a schema only changes before.
        self._types: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}

    def part(self, column: str, parts: int, number: int) -> str:
        return f"hash({column}) % {parts} = {number}"

    @property
    def too_little_memory(self) -> tuple[type[Exception], ...]:
        import duckdb

        return (duckdb.OutOfMemoryException,)

    def per(self, column: str, size: int) -> str:
        return f"{column} // {size}"

    def month(self, column: str) -> str:
        return f"date_trunc('month', make_timestamp({column}))"

    def day(self, column: str) -> str:
        return f"strftime(make_timestamp({column}), '%Y-%m-%d')"

    def glob(self, column: str, pattern: str | None) -> tuple[str, str | None]:
        return f"{column} GLOB ?", pattern

    def hexadecimal(self, column: str) -> str:
        return f"lower(hex({column}))"

    def json_item(self, column: str, index: int) -> str:
        return f"json_extract_string({column}, '$[{index}]')"

    def json_object(self, members: Mapping[str, str]) -> str:
        inside = ", ".join(f"'{name}': {sql}" for name, sql in members.items())
        return f"to_json({{{inside}}})::VARCHAR"

    def upsert(self, table: str, columns: Sequence[str], identity: str, rows: int) -> str:
        marks = f"({', '.join('?' * len(columns))})"
        return f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES {', '.join([marks] * rows)}"  # noqa: S608

    def append(self, connection: Any, table: str, columns: Sequence[str], rows: Sequence[Callable[[], Any]]) -> None:
        appender = connection.appender(table, columns=list(columns))
        try:
            for start in range(0, len(rows), _SLICE_ROWS):
                appender.append_rows([make() for make in rows[start : start + _SLICE_ROWS]])
                time.sleep(0)
            appender.flush()
        except BaseException:
            appender.clear()  # what it still buffers would otherwise be committed on its own, after the rollback
            raise

    def append_columns(
        self, connection: Any, table: str, columns: tuple[str, ...], slices: Iterable[Sequence[Sequence[Any]]]
    ) -> bool:
        from trustgate.store.columns import columns_of

        names = ", ".join(f'"{column}"' for column in columns)
        types = self._types.get((table, columns))
        if types is None:
            described = connection.execute(f"SELECT {names} FROM {table} LIMIT 0").description  # noqa: S608 - ours
            types = self._types[table, columns] = tuple(str(kind) for _, kind, *_ in described)
        try:
            staged = columns_of(columns, types, slices)
        except (KeyError, ValueError, TypeError, OverflowError):
            return False
        connection.register(_STAGED, staged)
        # When it fails, the end of the transaction undoes what was registered.
        connection.execute(f"INSERT INTO {table} ({names}) SELECT * FROM {_STAGED}")  # noqa: S608 - ours
        connection.unregister(_STAGED)
        return True

    def try_row(self, connection: Any, columns: Sequence[str], row: Sequence[Any]) -> None:
        self.append(connection, "trial", columns, [lambda: row])

    def make_trial(self, connection: Any) -> None:
        connection.execute("CREATE OR REPLACE TEMP TABLE trial AS SELECT * FROM receipts LIMIT 0")

    def why_unfit(self, row: Sequence[Any]) -> str | None:
        return None

    def fitting(self, row: Sequence[Any]) -> Sequence[Any]:
        return row

    def take_turns(self, connection: Any, names: Sequence[str]) -> None:
        """One process has the file, and one thread writes."""

    def foreign(self) -> StoreDamaged:
        return StoreDamaged(
            "The database file is a DuckDB database, but not one of TrustGate's.",
            hint="Choose another folder with --home, or move that file away.",
        )

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        import duckdb

        return (duckdb.Error,)


DUCKDB = DuckDBDialect()


def dialect_of(connection: object) -> SqlDialect:
    """Returns a connection's ``dialect``; a connection of the ``duckdb`` package itself has none."""
    dialect: SqlDialect = getattr(connection, "dialect", DUCKDB)
    return dialect


def in_transaction(connection: C, work: Callable[[C], R]) -> R:
    """Run ``work`` in a transaction. Returns what it returns.

    Always rolls back on an exception: a later commit would say OK and drop the rows.
    """
    connection.begin()
    try:
        result = work(connection)
        connection.commit()
    except BaseException:
        with contextlib.suppress(Exception):  # a failed commit has rolled back; a dead instance has nothing to
            connection.rollback()
        raise
    return result


def where_clause(*conditions: tuple[str, Any]) -> tuple[str, list[Any]]:
    """Returns a WHERE clause of the conditions whose value is given, and those values."""
    given = [(sql, value) for sql, value in conditions if value is not None]
    return ("WHERE " + " AND ".join(sql for sql, _ in given) if given else ""), [value for _, value in given]


def one_value(result: Rows) -> Any:
    row = result.fetchone()
    if row is None:
        raise StoreDamaged("The database has lost a row that is always there.", hint="Put back a copy of the database.")
    return row[0]
