"""The ``Store`` on a DuckDB file: when what is written holds, copies and archives. Other verbs: ``store.verbs``.

Owns the order of journal, commit and mark, and what becomes of a commit whose outcome is in doubt.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from trustgate.errors import TrustGateError, Unavailable
from trustgate.ids import now_us
from trustgate.store.archives import FOLDER, Archives, unavailable
from trustgate.store.archiving import archive_next, last_before
from trustgate.store.aside import commit_entries, load_aside
from trustgate.store.completeness import Completed, Completion, progress
from trustgate.store.copying import compact_database, copy_database
from trustgate.store.engine import Engine
from trustgate.store.entries import (
    load_identity,
)
from trustgate.store.faults import is_fatal
from trustgate.store.fitting import fitting
from trustgate.store.moving import take_identity
from trustgate.store.queries import (
    ArchiveFile,
    ArchiveProblem,
    Compacted,
    Copied,
    Kept,
    SetAside,
    StoredTile,
    StoreInfo,
)
from trustgate.store.reading import ReceiptReader
from trustgate.store.records import (
    apply_change,
    load_everything,
)
from trustgate.store.sql import in_transaction, one_value
from trustgate.store.verbs import Verbs
from trustgate.types import Alias, Entry, Plan

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger(__name__)


class DuckDBStore(Verbs[duckdb.DuckDBPyConnection]):
    """See ``store.base.Store``. Made by ``open``; must be closed."""

    def __init__(
        self,
        engine: Engine,
        completed: Completed,
        store_id: str,
        schema_version: int,
        last_seq: int,
        aside: dict[int, SetAside],
        archives: Archives,
    ) -> None:
        super().__init__(engine, engine, ReceiptReader(engine, archives), aside)
        self._database = engine
        self._changes = completed.journal
        self._mark = completed.mark
        self._notes = completed.notes
        self._payments = completed.payments
        #: The last change is in the journal, and whether it is in the database is to be looked up.
        self._change_in_doubt = False
        engine.count_together = self._count_payments
        self._store_id = store_id
        self._schema_version = schema_version
        self._last_seq = last_seq
        self._archives = archives
        #: The instance died in a commit of entries: whether they are in the database is to be looked up.
        self._in_doubt = False

    @classmethod
    async def open(cls, path: Path, *, accept_loss: bool = False, is_copy: bool = False) -> DuckDBStore:
        """Open the database at ``path``; create it if there is none, migrate it if it is old.

        ``is_copy``: as ``open_store`` has it.

        Raises HomeUnusable, StoreLocked, StoreTooNew, StoreDamaged, StoreIncomplete (unless ``accept_loss``), or
        Unavailable (``storage_full``).
        """
        engine = await asyncio.to_thread(Engine.open, path)
        try:
            identity = await engine.run(load_identity)
            completed = await engine.run(_complete, path, identity[0], accept_loss, is_copy)
            engine.forget_log()
            for note in completed.notes:
                logger.warning("%s", note)
            archives = await engine.run(Archives.load, path.parent / FOLDER)
            for problem in archives.problems(deep=False):
                logger.warning("%s", unavailable(problem).message)
            return cls(engine, completed, *identity, await engine.run(load_aside), archives)
        except BaseException:
            await engine.close()
            raise

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def info(self) -> StoreInfo:
        return StoreInfo(
            schema_version=self._schema_version,
            size_bytes=self._database.size_bytes,
            path=str(self._database.path),
            notes=self._notes,
        )

    async def put(self, *records: Kept) -> None:
        if records:
            await self._engine.run(self._change, [fitting(record) for record in records], ())

    async def remove(self, *records: Plan | Alias) -> None:
        if records:
            await self._engine.run(self._change, (), records)

    async def last_seq(self) -> int:
        if self._in_doubt:
            await self._engine.run(self._resolve_doubt)
        return self._last_seq

    async def append_entries(self, entries: Sequence[Entry], tiles: Sequence[StoredTile] = ()) -> None:
        if not entries and not tiles:
            return
        try:
            await self._engine.run(self._append, entries, tiles)
        except Unavailable:
            if not self._in_doubt:
                raise
            await self._engine.run(self._append, entries, tiles)

    async def copy_to(self, path: Path) -> Copied:
        return await self._engine.run(copy_database, self._database.path, path)

    async def compact(self) -> Compacted:
        return await self._database.run_closed(compact_database)

    @property
    def archives(self) -> tuple[ArchiveFile, ...]:
        return self._archives.files

    def archive_path(self, file: ArchiveFile) -> Path:
        return self._archives.path_of(file)

    async def archive_problems(self, *, deep: bool) -> tuple[ArchiveProblem, ...]:
        return tuple(await asyncio.to_thread(lambda: self._archives.problems(deep=deep)))

    async def last_seq_before(self, before_us: int) -> int:
        return await self._engine.run(last_before, before_us)

    async def archive(self, up_to_seq: int, folder: Path | None, about: Mapping[str, str]) -> ArchiveFile | None:
        await self._database.allow(folder or self._archives.folder)
        return await self._engine.run(self._archive, up_to_seq, folder, about)

    async def be(self, store_id: str) -> None:
        """Take another store's id, having got all that it has (``store.moving``)."""
        await self._database.run(in_transaction, lambda connection: take_identity(connection, store_id))
        self._store_id = store_id

    async def close(self) -> None:
        await self._engine.close()
        self._changes.close()
        self._mark.close()

    # On the writer thread: what these change needs no lock.

    def _change(self, connection: DuckDBPyConnection, put: Sequence[Kept], removed: Sequence[Plan | Alias]) -> None:
        """Journal the change, commit it, mark it. Where it is not committed the journal takes it back."""
        if self._change_in_doubt:
            self._settle_change(connection)
        try:
            change = self._changes.append(put, removed)
        except OSError as error:
            raise _not_journaled(error) from error
        try:
            in_transaction(connection, lambda connection: apply_change(connection, change, False))
        except BaseException as error:
            self._change_in_doubt = True
            if not is_fatal(error):
                self._settle_change(connection)
            raise
        self._write_mark(change.number, self._payments)

    def _settle_change(self, connection: DuckDBPyConnection) -> None:
        if progress(connection).changes < self._changes.number:
            try:
                self._changes.undo()
            except OSError as error:
                raise _not_journaled(error) from error
        self._change_in_doubt = False

    def _count_payments(self, connection: DuckDBPyConnection) -> Callable[[], None]:
        connection.execute("UPDATE progress SET payments = payments + 1, at_us = ?", [now_us()])
        count = int(one_value(connection.execute("SELECT payments FROM progress")))

        def committed() -> None:
            self._payments = count
            self._write_mark(self._changes.number, count)

        return committed

    def _write_mark(self, changes: int, payments: int) -> None:
        try:
            self._mark.write(changes, payments)
        except OSError as error:
            logger.error("the mark beside the database cannot be written: %s", error.strerror)

    def _append(self, connection: DuckDBPyConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]) -> None:
        if self._in_doubt:
            self._resolve_doubt(connection)
            if entries and self._last_seq == entries[-1].seq:
                return
        for expected, entry in enumerate(entries, start=self._last_seq + 1):
            if entry.seq != expected:
                raise TrustGateError(f"Entry {entry.seq} does not continue the log: {expected} is next.")
        self._database.close_row_group(len(entries))
        try:
            if commit_entries(connection, entries, tiles, fatal=(duckdb.FatalException, duckdb.IOException)):
                self._aside = load_aside(connection)
        except duckdb.Error as error:
            # The checkpoint that a commit set off has run out of space: the commit may be durable.
            self._in_doubt = is_fatal(error)
            raise
        if entries:
            self._last_seq = entries[-1].seq

    def _archive(
        self, connection: DuckDBPyConnection, up_to_seq: int, folder: Path | None, about: Mapping[str, str]
    ) -> ArchiveFile | None:
        self._archives.reload(connection)  # the instance may have died in the last one's commit
        made = archive_next(connection, self._archives, self._store_id, up_to_seq, folder, about)
        if made is not None:
            self._archives.note_written(made)
        return made

    def _resolve_doubt(self, connection: DuckDBPyConnection) -> None:
        self._last_seq = load_identity(connection)[2]
        self._in_doubt = False


def _complete(connection: DuckDBPyConnection, path: Path, store_id: str, accept_loss: bool, is_copy: bool) -> Completed:
    return Completion(
        connection,
        path,
        store_id,
        apply=apply_change,
        everything=load_everything,
        in_transaction=in_transaction,
        accept_loss=accept_loss,
        is_copy=is_copy,
    ).run()


def _not_journaled(error: OSError) -> Unavailable:
    code = "storage_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "journal_failed"
    return Unavailable(
        f"The change cannot be written to the operators' journal: {error.strerror or error}.",
        code=code,
        hint="Make room on the disk of the home folder, and check who owns its files. Nothing has been changed.",
    )
