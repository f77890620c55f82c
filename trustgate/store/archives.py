"""Receipts that were moved out of the database, and where receipts are read from.

The oldest receipts of the log may lie in Parquet files (``store.archiving`` makes them): receipts 1 to N, in the order
of the log, each file going on where the one before ends. The database has the rest, and of every file the name, the
range of numbers and times, the hash, and what has to be known without it: the last receipt of each tenant and the sums.
So a server starts, serves and proves without any of these files; what reads old receipts needs them.

Owns which files a query needs, where they lie, and that each is what it was when it was written: its SHA-256 is checked
when a process first reads it, and again when the file has changed. DuckDB itself reads damaged pages as other values.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from trustgate.errors import StoreDamaged, Unavailable
from trustgate.ids import iso_us
from trustgate.store.queries import ArchiveFile, ArchiveProblem, ReceiptFilter
from trustgate.store.sql import SqlConnection

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: In the home folder; where files are that were not put elsewhere, and where they are looked for if they are not there.
FOLDER = "archive"

_FILES_SQL = """SELECT name, folder, first_seq, last_seq, first_us, last_us, size_bytes, sha256, columns, archived_us
    FROM archives ORDER BY first_seq"""


class ReadRange(NamedTuple):
    """Which receipts a query can find; None for no bound. Microseconds UTC: since <= created < until."""

    since_us: int | None = None
    until_us: int | None = None
    after_seq: int | None = None
    #: The last one.
    until_seq: int | None = None

    @classmethod
    def of(cls, query: ReceiptFilter) -> ReadRange:
        until = query.until_seq
        if query.before_seq is not None:
            until = query.before_seq - 1 if until is None else min(until, query.before_seq - 1)
        return cls(since_us=query.since_us, until_us=query.until_us, after_seq=query.after_seq, until_seq=until)

    def may_have(self, file: ArchiveFile) -> bool:
        """Returns whether a receipt of the file can be among them."""
        return not (
            (self.since_us is not None and file.last_us < self.since_us)
            or (self.until_us is not None and file.first_us >= self.until_us)
            or (self.after_seq is not None and file.last_seq <= self.after_seq)
            or (self.until_seq is not None and file.first_seq > self.until_seq)
        )

    def has_all(self, file: ArchiveFile) -> bool:
        """Returns whether every receipt of the file is among them."""
        return (
            (self.since_us is None or file.first_us >= self.since_us)
            and (self.until_us is None or file.last_us < self.until_us)
            and (self.after_seq is None or file.first_seq > self.after_seq)
            and (self.until_seq is None or file.last_seq <= self.until_seq)
        )


class Archives:
    """The archive files of one database. Changed on the writer thread; ``check`` may run in any."""

    def __init__(self, folder: Path, columns: Mapping[str, str], files: Sequence[ArchiveFile]) -> None:
        """Use ``load``. ``columns``: of table ``receipts``, each with the value, in SQL, where a file does not have
        it."""
        self.folder = folder
        self.columns = columns
        self.files = tuple(files)
        #: By name: the state of the file (inode, size, time of change) whose hash was found right.
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._checking = threading.Lock()

    @classmethod
    def load(cls, connection: DuckDBPyConnection, folder: Path) -> Archives:
        """Raises StoreDamaged where the files do not follow each other."""
        rows = connection.execute(
            """SELECT column_name, data_type, column_default FROM duckdb_columns()
               WHERE table_name = 'receipts' AND database_name = current_database() ORDER BY column_index"""
        ).fetchall()
        columns = {name: f'CAST({default or "NULL"} AS {kind}) AS "{name}"' for name, kind, default in rows}
        return cls(folder, columns, _load_files(connection))

    def reload(self, connection: DuckDBPyConnection) -> None:
        self.files = tuple(_load_files(connection))

    @property
    def last_seq(self) -> int:
        """The last receipt that is archived; 0 for none."""
        return self.files[-1].last_seq if self.files else 0

    def path_of(self, file: ArchiveFile) -> Path:
        """Returns where the file is: where it was put, or else in the home's folder, into which a restore puts it."""
        own = self.folder / file.name
        elsewhere = Path(file.folder) / file.name if file.folder else own
        return own if file.folder and not elsewhere.exists() and own.exists() else elsewhere

    def within(self, span: ReadRange) -> list[ArchiveFile]:
        return [file for file in self.files if span.may_have(file)]

    # what a query reads

    def source(self, span: ReadRange) -> str:
        """Returns what stands after FROM, named ``receipts``: the table, with the files that the span needs."""
        return self.source_of(self.within(span))

    def source_of(self, files: Iterable[ArchiveFile], *, live: bool = True) -> str:
        """Returns the same for these files, without the table where that is not ``live``."""
        names = ", ".join(f'"{name}"' for name in self.columns)
        parts = [f"SELECT {names} FROM receipts"] if live else []  # noqa: S608 - constants
        for has, group in groupby(files, key=lambda file: file.columns):
            members = ", ".join(f'"{name}"' if name in has else sql for name, sql in self.columns.items())
            paths = ", ".join(quoted(self.path_of(file)) for file in group)
            parts.append(f"SELECT {members} FROM read_parquet([{paths}])")  # noqa: S608 - quoted
        return "receipts" if live and len(parts) == 1 else f"({' UNION ALL '.join(parts)}) AS receipts"

    # whether the files are what they were

    async def check(self, files: Sequence[ArchiveFile]) -> None:
        """Raises Unavailable (``archive_unavailable``), naming the first that is missing or damaged."""
        if not all(self._is_checked(file) for file in files):
            problem = await asyncio.to_thread(lambda: next(self._problems(files, deep=True), None))
            if problem is not None:
                raise unavailable(problem)

    def _is_checked(self, file: ArchiveFile) -> bool:
        state = self._checked.get(file.name)
        return state is not None and state == _state(self.path_of(file))

    def problems(self, *, deep: bool) -> list[ArchiveProblem]:
        """Returns what is wrong with any of the files; ``deep``: their content too, which takes a second a gigabyte."""
        return list(self._problems(self.files, deep=deep))

    def note_written(self, file: ArchiveFile) -> None:
        """Take up a file that this process has written and read back."""
        self.files = (*self.files, file)
        state = _state(self.path_of(file))
        if state is not None:
            self._checked[file.name] = state

    def _problems(self, files: Iterable[ArchiveFile], *, deep: bool) -> Iterator[ArchiveProblem]:
        for file in files:
            problem = self._problem(file, deep=deep)
            if problem:
                yield ArchiveProblem(file=file, path=str(self.path_of(file)), problem=problem)

    def _problem(self, file: ArchiveFile, *, deep: bool) -> str:
        path = self.path_of(file)
        try:
            state = _state(path)
            if state is None:
                return "missing"
            if state[1] != file.size_bytes:
                return f"damaged: it has {state[1]} bytes instead of {file.size_bytes}"
            if deep and self._checked.get(file.name) != state:
                with self._checking, path.open("rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                        return "damaged: its content is not what was written"
                self._checked[file.name] = state
        except OSError as error:
            return f"unreadable: {error.strerror or error}"
        return ""


def unavailable(problem: ArchiveProblem) -> Unavailable:
    file = problem.file
    return Unavailable(
        f"The archive file {file.name} (receipts {file.first_seq:,} to {file.last_seq:,}, from {iso_us(file.first_us)} "
        f"to {iso_us(file.last_us)}) is {problem.problem}.",
        code="archive_unavailable",
        hint=f"Put a copy of it at {problem.path}, for instance out of a backup. Other receipts are found meanwhile.",
    )


def archived_last_seq(connection: SqlConnection) -> int:
    """Returns the last receipt that is archived; 0 for none.

    Raises StoreDamaged where the files do not follow each other.
    """
    files = _load_files(connection)
    return files[-1].last_seq if files else 0


def _load_files(connection: SqlConnection) -> list[ArchiveFile]:
    try:
        files = [_file(*row) for row in connection.execute(_FILES_SQL).fetchall()]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(f"a row cannot be read: {error}") from error
    expected = 1
    for file in files:
        if file.first_seq != expected or file.last_seq < expected:
            raise _damaged(f"receipts {expected} to {file.first_seq - 1} are in none of them")
        expected = file.last_seq + 1
    return files


def _file(*values: Any) -> ArchiveFile:
    *told, columns, archived_us = values
    return ArchiveFile(*told, msgspec.json.decode(columns, type=tuple[str, ...]), archived_us)  # type: ignore[call-arg]


def _damaged(what: str) -> StoreDamaged:
    return StoreDamaged(f"The table of archive files is damaged: {what}.", hint="Put back a copy of the database.")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def quoted(path: Path) -> str:
    """Returns a path as text in SQL."""
    return "'" + str(path).replace("'", "''") + "'"
