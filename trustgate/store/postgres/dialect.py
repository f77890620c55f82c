"""Postgres's words where they differ from DuckDB's, and its connection as the shared SQL is run over it."""

from __future__ import annotations

import re
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import asyncpg

from trustgate.errors import StoreDamaged
from trustgate.store.postgres.connecting import is_away
from trustgate.store.sql import SqlDialect

#: DuckDB's names of types as Postgres's. Text is compared byte by byte, as DuckDB and Python do it, and an index on it
#: does not depend on the version of the server's C library.
_TYPES = {"VARCHAR": 'TEXT COLLATE "C"', "BLOB": "BYTEA", "HUGEINT": "NUMERIC(39)"}
_TYPE = re.compile(rf"\b({'|'.join(_TYPES)})\b")
_IS_QUERY = re.compile(r"\s*(SELECT|WITH|SHOW)\b", re.IGNORECASE)
_IS_SCHEMA = re.compile(r"\s*(CREATE|ALTER)\b", re.IGNORECASE)


#: Fewer rows are quicker inserted: COPY costs two round trips, and as much CPU as three rows.
_COPY_FROM_ROWS = 8


@lru_cache(maxsize=64)
def _insertion(table: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    marks = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - names


class PostgresDialect(SqlDialect):
    wide = "NUMERIC(39)"
    trial = "pg_temp.trial"
    name = "Postgres"
    appends_whole = True

    def per(self, column: str, size: int) -> str:
        return f"{column} / {size}"

    def month(self, column: str) -> str:
        return f"date_trunc('month', to_timestamp({column} / 1000000) AT TIME ZONE 'UTC')"

    def day(self, column: str) -> str:
        return f"to_char(to_timestamp({column} / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"

    def glob(self, column: str, pattern: str | None) -> tuple[str, str | None]:
        return f"{column} ~ ?", None if pattern is None else _expression(pattern)

    def hexadecimal(self, column: str) -> str:
        return f"encode({column}, 'hex')"

    def json_item(self, column: str, index: int) -> str:
        return f"({column}::json ->> {index})"

    def json_object(self, members: Mapping[str, str]) -> str:
        # json_build_object takes 50 members at most, and writes blanks.
        inside = ", ".join(f'{sql} AS "{name}"' for name, sql in members.items())
        return f"(SELECT row_to_json(o)::text FROM (SELECT {inside}) AS o)"  # noqa: S608 - columns

    def upsert(self, table: str, columns: Sequence[str], identity: str, rows: int) -> str:
        marks = f"({', '.join('?' * len(columns))})"
        others = [column for column in columns if column.strip('"') != identity.strip('"')]
        changes = ", ".join(f"{column} = excluded.{column}" for column in others)
        return f"""INSERT INTO {table} ({", ".join(columns)}) VALUES {", ".join([marks] * rows)}
            ON CONFLICT ({identity}) DO UPDATE SET {changes}"""  # noqa: S608 - constants

    def append(self, connection: Any, table: str, columns: Sequence[str], rows: Sequence[Callable[[], Any]]) -> None:
        made = [make() for make in rows]
        if len(made) > _COPY_FROM_ROWS:
            connection.copy(table, columns, made)
        else:
            connection.insert(_insertion(table, tuple(columns)), made)

    def try_row(self, connection: Any, columns: Sequence[str], row: Sequence[Any]) -> None:
        if not connection.in_transaction:
            connection.copy("trial", columns, [row])
            return
        connection.execute("SAVEPOINT trial")
        try:
            connection.copy("trial", columns, [row])
        except BaseException:
            connection.execute("ROLLBACK TO SAVEPOINT trial")
            raise
        connection.execute("RELEASE SAVEPOINT trial")

    def make_trial(self, connection: Any) -> None:
        connection.execute("DROP TABLE IF EXISTS pg_temp.trial")
        connection.execute("CREATE TEMP TABLE trial (LIKE receipts)")

    def why_unfit(self, row: Sequence[Any]) -> str | None:
        """A NUL does not fit TEXT; in JSON it does, but nothing reads it out again."""
        return "a NUL character" if any(isinstance(value, str) and "\\u0000" in value for value in row) else None

    def fitting(self, row: Sequence[Any]) -> Sequence[Any]:
        """A NUL becomes U+FFFD."""
        return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row]

    def take_turns(self, connection: Any, names: Sequence[str]) -> None:
        # In one order, so that no two transactions wait for each other.
        for name in sorted(names):
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' ' || ?, 1))", [name]
            )

    def foreign(self) -> StoreDamaged:
        return StoreDamaged(
            "The database has tables of another program where TrustGate's should be.",
            hint='Give TrustGate a database or a schema of its own: store.url = "postgresql://…?search_path=NAME"',
        )

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return (asyncpg.PostgresError, asyncpg.DataError)


POSTGRES = PostgresDialect()


def _expression(pattern: str) -> str:
    """Returns a shell glob (``*``, ``?``, ``[…]``) as a regular expression of Postgres's for the whole text."""
    parts, at = [], 0
    while at < len(pattern):
        end = pattern.find("]", at + 2) if pattern[at] == "[" else -1
        if end > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            parts.append(f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]")
            at = end
        elif pattern[at] in "*?":
            parts.append(".*" if pattern[at] == "*" else ".")
        else:
            parts.append(re.escape(pattern[at]))
        at += 1
    return f"^(?:{''.join(parts)})$"


@lru_cache(maxsize=1024)
def numbered(query: str) -> str:
    """Returns SQL with ``$1, $2 …`` in place of each ``?`` outside quotes."""
    numbers = count(1)
    pieces = query.split("'")
    pieces[::2] = [re.sub(r"\?", lambda _: f"${next(numbers)}", outside) for outside in pieces[::2]]
    return "'".join(pieces)


class _Rows:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows
        self._at = 0

    def fetchone(self) -> Any:
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int = 1) -> list[Any]:
        self._at += size
        return self._rows[self._at - size : self._at]

    def fetchall(self) -> list[Any]:
        return self.fetchmany(len(self._rows))


class PostgresConnection:
    """A connection of asyncpg whose event loop runs on this thread, and only while a statement does."""

    dialect = POSTGRES

    def __init__(self, loop: AbstractEventLoop, connection: Any) -> None:
        self._loop = loop
        self._connection = connection
        self.in_transaction = False
        #: How long a statement may take; None: for ever. A network that is cut raises no error.
        self.timeout_s: float | None = None
        #: A statement is under way after whose failure it is not known whether it was carried out.
        self.in_doubt = False
        #: Transactions that were committed, and statements outside of one that may have changed something.
        self.committed = 0

    @property
    def is_closed(self) -> bool:
        closed: bool = self._connection.is_closed()
        return closed

    def execute(self, query: Any, parameters: object = None) -> _Rows:
        values: Sequence[Any] = POSTGRES.fitting(parameters) if isinstance(parameters, list | tuple) else ()
        if _IS_QUERY.match(query):
            rows = self._run(self._connection.fetch(numbered(query), *values, timeout=self.timeout_s))
            return _Rows([tuple(row) for row in rows])
        if _IS_SCHEMA.match(query):
            query = _TYPE.sub(lambda found: _TYPES[found[1]], query)
        status = self._changing(self._connection.execute(numbered(query), *values, timeout=self.timeout_s))
        words = status.split()
        return _Rows([(int(words[-1]),)] if words and words[-1].isdigit() else [])

    def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows by COPY."""
        self._changing(
            self._connection.copy_records_to_table(table, records=rows, columns=list(columns), timeout=self.timeout_s)
        )

    def insert(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows by INSERT, all of them or none."""
        if len(rows) == 1:
            self._changing(self._connection.execute(statement, *rows[0], timeout=self.timeout_s))
        else:
            self._changing(self._connection.executemany(statement, rows, timeout=self.timeout_s))

    def begin(self) -> None:
        self._run(self._connection.execute("BEGIN", timeout=self.timeout_s))
        self.in_transaction = True

    def commit(self) -> None:
        self.in_transaction = False
        self._changing(self._connection.execute("COMMIT", timeout=self.timeout_s))

    def rollback(self) -> None:
        self.in_transaction = False
        if not self.is_closed:
            self._run(self._connection.execute("ROLLBACK", timeout=self.timeout_s))

    def close(self) -> None:
        if not self.is_closed:
            self._run(self._connection.close(timeout=5))

    def terminate(self) -> None:
        """Let go of it without a word to the server."""
        self._connection.terminate()

    def _changing(self, statement: Any) -> Any:
        if self.in_transaction:
            return self._run(statement)
        self.in_doubt = True
        try:
            result = self._run(statement)
        except asyncpg.PostgresError as error:
            self.in_doubt = is_away(error)
            raise
        self.in_doubt = False
        self.committed += 1
        return result

    def _run(self, statement: Any) -> Any:
        try:
            return self._loop.run_until_complete(statement)
        except TimeoutError:
            # The next statement, such as a rollback, would wait until this one ends.
            self._connection.terminate()
            raise
