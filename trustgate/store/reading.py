"""Reading receipts wherever they are: in the database, in archive files, or in both.

Which of them a query needs is decided on the writer thread, so that no receipt is missed or met twice when some are
moved meanwhile. Files are checked in another thread beforehand: payments must not wait for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from trustgate.store.archives import Archives, ReadRange
from trustgate.store.engine import Engine
from trustgate.store.entries import load_entries
from trustgate.store.queries import ArchiveFile, ReceiptFilter
from trustgate.store.sums import Sources
from trustgate.types import Entry

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

R = TypeVar("R")


class ReceiptReader:
    """Every method raises Unavailable (``archive_unavailable``) where a file that it needs is missing or damaged."""

    def __init__(self, engine: Engine, archives: Archives) -> None:
        self._engine = engine
        self._archives = archives

    async def read(self, span: ReadRange, work: Callable[[DuckDBPyConnection, str], R]) -> R:
        """``work(connection, source)`` on the writer thread: the source has all receipts of the span."""
        await self._archives.check(self._archives.within(span))
        return await self._engine.run(lambda connection: work(connection, self._archives.source(span)))

    async def read_sums(
        self, span: ReadRange, work: Callable[[DuckDBPyConnection, Sources], R], *, whole: bool = True
    ) -> R:
        """Run ``work(connection, sources)`` for sums, on the writer thread. Returns what it returns.

        ``whole``: of a file that lies within the span altogether, the database's sums are used.
        """
        files = self._archives.within(span)
        await self._archives.check([file for file in files if not (whole and span.has_all(file))])
        return await self._engine.run(lambda connection: work(connection, Sources.of(self._archives, span, whole)))

    async def entries(self, query: ReceiptFilter) -> list[Entry]:
        """Returns entries, read a file at a time and from no more files than the page needs."""
        return await (self._oldest_first(query) if query.oldest_first else self._newest_first(query))

    async def _oldest_first(self, query: ReceiptFilter) -> list[Entry]:
        span, found, done = ReadRange.of(query), list[Entry](), query.after_seq or 0

        def rest(connection: DuckDBPyConnection) -> list[Entry] | ArchiveFile:
            file = next((file for file in self._archives.within(span) if file.last_seq > done), None)
            left = replace(query, after_seq=done, limit=query.limit - len(found))
            return load_entries(connection, "receipts", left) if file is None else file

        while len(found) < query.limit:
            step = await self._engine.run(rest)
            if not isinstance(step, ArchiveFile):
                return found + step
            found += await self._of_file(step, replace(query, limit=query.limit - len(found)))
            done = step.last_seq
        return found

    async def _newest_first(self, query: ReceiptFilter) -> list[Entry]:
        span = ReadRange.of(query)

        def newest(connection: DuckDBPyConnection) -> tuple[list[Entry], list[ArchiveFile]]:
            return load_entries(connection, "receipts", query), self._archives.within(span)

        found, files = await self._engine.run(newest)
        for file in reversed(files):
            if len(found) >= query.limit:
                break
            found += await self._of_file(file, replace(query, limit=query.limit - len(found)))
        return found

    async def _of_file(self, file: ArchiveFile, query: ReceiptFilter) -> list[Entry]:
        await self._archives.check([file])
        source = self._archives.source_of([file], live=False)
        return await self._engine.run(load_entries, source, query)
