"""The ``Store`` on Postgres: when what is written holds. Other verbs: ``store.verbs``.

One session writes and holds the database's lock, another reads. Copies, rewriting and archive files are left to
Postgres's own tools: those verbs raise an error that names them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from trustgate.errors import HomeUnusable, OperatorError, TrustGateError, Unavailable
from trustgate.settings import PostgresAddress
from trustgate.store.archives import ReadRange
from trustgate.store.aside import commit_entries, load_aside
from trustgate.store.entries import load_entries, load_heads, load_identity
from trustgate.store.fitting import fitting
from trustgate.store.marks import Mark
from trustgate.store.postgres.changes import apply_next_change, broken_changes, check_noted, open_mark
from trustgate.store.postgres.connecting import AWAY, place
from trustgate.store.postgres.dialect import PostgresConnection
from trustgate.store.postgres.moves import (
    Move,
    arrive,
    begin_arrival,
    check_idle,
    check_serves,
    depart,
    end_arrival,
    load_move,
)
from trustgate.store.postgres.session import PostgresSession, Writer, lengthy
from trustgate.store.queries import (
    ArchiveFile,
    ArchiveProblem,
    Balance,
    Compacted,
    Copied,
    DamagedRow,
    Kept,
    ReceiptFilter,
    StoredTile,
    StoreInfo,
    TenantHead,
)
from trustgate.store.records import damaged_rows
from trustgate.store.sql import SqlConnection, in_transaction, one_value
from trustgate.store.sums import Sources, sum_balances
from trustgate.store.verbs import Verbs
from trustgate.types import Alias, Entry, Plan

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: The size of all tables is asked for again after so long; in between receipts are taken to be of this size.
_SIZE_EVERY_S = 30.0
_RECEIPT_BYTES = 700
_SIZE_SQL = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::BIGINT FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'"""


class PostgresStore(Verbs[PostgresConnection]):
    """See ``store.base.Store``. Made by ``open``; must be closed."""

    def __init__(
        self,
        address: PostgresAddress,
        writer: Writer,
        reading: PostgresSession,
        opened: _Opened,
        *,
        several: bool = False,
    ) -> None:
        super().__init__(writer, reading, _TableReader(reading), opened.aside)
        self._address = address
        self._mark = opened.mark
        self._notes = tuple(opened.notes)
        self._store_id, self._schema_version, self._last_seq = opened.identity
        self._size_bytes = opened.size_bytes
        self._sized_at_s = time.monotonic()
        self._move = opened.move
        #: The connection was lost in a commit of entries: whether they are in the database is to be looked up.
        self._in_doubt = False
        #: Other processes append, too: where the log ends is looked up each time.
        self._several = several

    @classmethod
    async def open(
        cls,
        address: PostgresAddress,
        home: Path,
        *,
        file: Path | None = None,
        accept_loss: bool = False,
        moving: bool = False,
        several: bool = False,
    ) -> PostgresStore:
        """Open the database; fill it if it is empty, migrate it if it is old. ``home``: where its mark lies.

        ``file``: must not exist: it would be the home's other database, and forgotten. ``moving``: also where it is on
        its way from or to a file (``postgres.moves``). ``several``: beside other processes that have it open so.

        Raises Unavailable (``store_unreachable``), StoreUnusable, StoreLocked, StoreTooNew, StoreDamaged,
        StoreIncomplete (unless ``accept_loss``), HomeUnusable.
        """
        writer = Writer(address, several=several)
        reading = PostgresSession(address, "reader")
        try:
            move = await writer.run(load_move)
            if not moving:
                check_serves(move, place(address))
            if file is not None:
                await asyncio.to_thread(_check_no_file, file)
            opened = await writer.run(_Opened, home, accept_loss or move is not None)
            opened.move = move
            for note in opened.notes:
                logger.warning("%s", note)
            return cls(address, writer, reading, opened, several=several)
        except BaseException:
            await asyncio.gather(writer.close(), reading.close())
            raise

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def info(self) -> StoreInfo:
        return StoreInfo(
            schema_version=self._schema_version,
            size_bytes=self._size_bytes,
            path=place(self._address),
            notes=self._notes,
        )

    async def put(self, *records: Kept) -> None:
        if records:
            await self._change([fitting(record) for record in records], ())

    async def put_noted(self, note: str, *records: Kept) -> None:
        """As ``put``, while a note says that what they limit is to be counted anew.

        Raises ``Conflict`` where that is gone.
        """
        await self._change([fitting(record) for record in records], (), note)

    async def remove(self, *records: Plan | Alias) -> None:
        if records:
            await self._change((), records)

    async def last_seq(self) -> int:
        return await (self._reading if self._several else self._engine).run(self._known_last_seq)

    async def append_entries(self, entries: Sequence[Entry], tiles: Sequence[StoredTile] = ()) -> None:
        if not entries and not tiles:
            return
        try:
            await self._engine.run(self._append, entries, tiles)
        except Unavailable:
            if not self._in_doubt or self._several:  # its caller looks up what is there now
                raise
            await self._engine.run(self._append, entries, tiles)

    async def damaged_rows(self) -> tuple[DamagedRow, ...]:
        def look(connection: PostgresConnection) -> tuple[DamagedRow, ...]:
            return (*damaged_rows(connection), *broken_changes(connection))

        return await self._reading.run(lengthy(look))

    async def load_heads(self) -> list[TenantHead]:
        entries = await self._reading.run(lengthy(load_heads))
        return [TenantHead(entry.receipt.tenant, entry) for entry in self._as_journaled(entries)]

    async def balances(self) -> list[Balance]:
        return await self._reading.run(lengthy(sum_balances))

    async def close(self) -> None:
        await asyncio.gather(self._engine.close(), self._reading.close())
        self._mark.close()

    # on its way from a file, or to one

    async def begin_arrival(self, store_id: str, place: str) -> None:
        """See ``postgres.moves.begin_arrival``."""
        await self._engine.run(begin_arrival, store_id, place)

    async def arrive(self, store_id: str) -> None:
        """Take the other store's id, having got all that it has (``store.moving``)."""
        await self._engine.run(arrive, store_id)
        self._mark.path.unlink(missing_ok=True)  # of the id that the empty database had
        self._store_id = store_id

    @property
    def has_arrived(self) -> bool:
        """When it was opened, all was there, and the file perhaps not closed yet."""
        return self._move is not None and self._move.state == "arrived"

    async def end_arrival(self) -> None:
        """Serve from now on."""
        await self._engine.run(end_arrival)

    async def check_departure(self, place: str) -> None:
        """Raises StoreUnusable where the database is not whole, or was moved somewhere else.

        Raises Conflict where other gateways serve it, or have not written all that they have acknowledged.
        """
        if self._move is not None and self._move[::2] != ("departed", place):
            check_serves(self._move, self.info.path)
        await self._engine.run(check_idle)

    @property
    def has_departed(self) -> bool:
        """When it was opened, it had been moved into a file."""
        return self._move is not None and self._move.state == "departed"

    async def depart(self, place: str) -> None:
        """Close the database for good: the file at ``place`` is served in its place."""
        await self._engine.run(depart, self._store_id, place)

    # what Postgres has means of its own for

    async def copy_to(self, path: Path) -> Copied:
        raise _by_itself(
            "A backup of the database is made",
            f"pg_dump --format=custom --file=FILE {self._shown}; and copy log.key, checkpoint and journal/ of the home",
        )

    async def compact(self) -> Compacted:
        raise _by_itself("Unused space is given back", f"psql {self._shown} -c 'VACUUM (ANALYZE)'")

    @property
    def archives(self) -> tuple[ArchiveFile, ...]:
        return ()

    def archive_path(self, file: ArchiveFile) -> Path:
        return Path(file.name)

    async def archive_problems(self, *, deep: bool) -> tuple[ArchiveProblem, ...]:
        return ()

    async def last_seq_before(self, before_us: int) -> int:
        raise _no_archives()

    async def archive(self, up_to_seq: int, folder: Path | None, about: Mapping[str, str]) -> ArchiveFile | None:
        raise _no_archives()

    @property
    def _shown(self) -> str:
        return f"'{place(self._address)}'"

    async def _change(self, put: Sequence[Kept], removed: Sequence[Plan | Alias], note: str = "") -> None:
        def change(connection: SqlConnection) -> int:
            number = apply_next_change(connection, put, removed)
            if note:
                check_noted(connection, note)
            return number

        number = await self._engine.run(in_transaction, change)
        try:
            self._mark.write(number)
        except OSError as error:
            logger.error("the mark %s cannot be written: %s", self._mark.path.name, error.strerror)

    # On the writer thread: what these change needs no lock.

    def _known_last_seq(self, connection: PostgresConnection) -> int:
        if self._in_doubt or self._several:
            self._last_seq = one_value(connection.execute("SELECT coalesce(max(seq), 0) FROM receipts"))
            self._in_doubt = False
        return self._last_seq

    def _append(self, connection: PostgresConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]) -> None:
        if self._in_doubt or self._several:
            last_seq = self._known_last_seq(connection)
            if not self._several and entries and last_seq == entries[-1].seq:
                return
        for expected, entry in enumerate(entries, start=self._last_seq + 1):
            if entry.seq != expected:
                raise TrustGateError(f"Entry {entry.seq} does not continue the log: {expected} is next.")
        try:
            if commit_entries(connection, entries, tiles, fatal=AWAY):
                self._aside = load_aside(connection)
        except BaseException:
            self._in_doubt = connection.in_doubt
            raise
        if entries:
            self._last_seq = entries[-1].seq
        self._size_bytes += len(entries) * _RECEIPT_BYTES
        if time.monotonic() - self._sized_at_s > _SIZE_EVERY_S:
            self._size_bytes = one_value(connection.execute(_SIZE_SQL))
            self._sized_at_s = time.monotonic()


class _Opened:
    """What a store begins with."""

    def __init__(self, connection: PostgresConnection, home: Path, accept_loss: bool) -> None:
        self.identity = load_identity(connection)
        self.aside = load_aside(connection)
        self.size_bytes: int = one_value(connection.execute(_SIZE_SQL))
        self.move: Move | None = None
        self.mark: Mark
        self.mark, self.notes = open_mark(connection, home, self.identity[0], accept_loss=accept_loss)


class _TableReader:
    """Receipts are all in one table. See ``store.verbs.ReceiptSource``."""

    def __init__(self, session: PostgresSession) -> None:
        self._session = session

    async def read(self, span: ReadRange, work: Callable[[PostgresConnection, str], R]) -> R:
        return await self._session.run(lambda connection: work(connection, "receipts"))

    async def read_sums(
        self, span: ReadRange, work: Callable[[PostgresConnection, Sources], R], *, whole: bool = True
    ) -> R:
        return await self._session.run(lengthy(lambda connection: work(connection, Sources("receipts"))))

    async def entries(self, query: ReceiptFilter) -> list[Entry]:
        return await self._session.run(load_entries, "receipts", query)


def _check_no_file(path: Path) -> None:
    if path.exists():
        raise HomeUnusable(
            f"The home has a database file, {path}, and store.url names another database.",
            hint="To move the file to it: take store.url out of the settings, then: trustgate migrate --to URL. To "
            f"begin anew: choose another --home, or move {path.name}* and the journal away.",
        )


def _by_itself(what: str, command: str) -> OperatorError:
    return OperatorError(
        f"{what} with Postgres's own means.", hint=f"For example: {command}", code="postgres_has_its_own"
    )


def _no_archives() -> OperatorError:
    return OperatorError(
        "Archive files are made of the database file alone; on Postgres receipts stay in their table.",
        hint="Export them: trustgate export receipts --output receipts.parquet",
        code="postgres_has_its_own",
    )
