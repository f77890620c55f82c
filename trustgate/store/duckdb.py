"""The ``Store`` on a DuckDB file: its verbs, and when what is written holds.

Owns the order of journal, commit and mark, and what becomes of a commit whose outcome is in doubt. The SQL is in
``entries``, ``sums``, ``ledger`` and ``records``: functions over the connection that the engine runs on its writer
thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from msgspec.structs import replace

from trustgate.errors import TrustGateError, Unavailable
from trustgate.ids import now_us
from trustgate.store.archives import FOLDER, Archives, ReadRange, unavailable
from trustgate.store.archiving import archive_next, last_before
from trustgate.store.aside import load_aside, mend_aside, put_aside, storable, unstorable
from trustgate.store.base import (
    ArchiveFile,
    ArchiveProblem,
    Balance,
    BudgetUse,
    BudgetUseFilter,
    Compacted,
    Copied,
    DamagedRow,
    EndUserUse,
    ExportFilter,
    Kept,
    Lines,
    NotificationChange,
    Notifications,
    PaymentFilter,
    ReceiptFilter,
    SetAside,
    State,
    StatementSpan,
    StoredTile,
    StoreInfo,
    TenantHead,
    UsageFilter,
    UsageRow,
    WindowUsage,
)
from trustgate.store.completeness import Completed, Completion, progress
from trustgate.store.copying import compact_database, copy_database
from trustgate.store.engine import Engine, in_transaction
from trustgate.store.entries import (
    append_rows,
    count_tiles,
    load_entry,
    load_heads,
    load_identity,
    load_tiles,
    made_us,
)
from trustgate.store.exports import first_and_last_us, receipt_lines, usage_lines
from trustgate.store.fitting import fitting
from trustgate.store.ledger import (
    CLAIM_SLACK_US,
    claim_payment,
    load_payment,
    load_payment_receipt,
    load_payments,
    move_payment,
    release_payment,
)
from trustgate.store.notifications import apply_notifications, load_notifications
from trustgate.store.reading import ReceiptReader
from trustgate.store.records import (
    apply_change,
    damaged_rows,
    load_credit_notes,
    load_everything,
    load_price_changes,
    load_readable,
    load_state,
    load_table,
)
from trustgate.store.rows import ANCHORS, LOG_NAMES, one_value
from trustgate.store.sums import (
    receipt_months,
    statement_span,
    sum_balances,
    sum_budget_use,
    sum_end_users,
    sum_usage,
    sum_windows,
)
from trustgate.types import Alias, Anchor, CreditNote, Entry, LogName, Payment, PaymentState, Plan, PriceChange

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger(__name__)


class DuckDBStore:
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
        self._engine = engine
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
        #: What table ``receipts`` does not have as it is, by its number; replaced as a whole.
        self._aside = aside
        self._archives = archives
        self._reader = ReceiptReader(engine, archives)
        #: The instance died in a commit of entries: whether they are in the database is to be looked up.
        self._in_doubt = False

    @classmethod
    async def open(cls, path: Path, *, accept_loss: bool = False) -> DuckDBStore:
        """Open the database at ``path``; create it if there is none, migrate it if it is old.

        Raises HomeUnusable, StoreLocked, StoreTooNew, StoreDamaged, StoreIncomplete (unless ``accept_loss``), or
        Unavailable (``storage_full``).
        """
        engine = await asyncio.to_thread(Engine.open, path)
        try:
            identity = await engine.run(load_identity)
            completed = await engine.run(_complete, path, identity[0], accept_loss)
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
            size_bytes=self._engine.size_bytes,
            path=str(self._engine.path),
            notes=self._notes,
        )

    async def load_state(self) -> State:
        return await self._engine.run(load_state)

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

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        return tuple(self._aside.values())

    async def mend_set_aside(self, *, accept: bool) -> tuple[SetAside, ...]:
        if self._aside:
            await self._engine.run(in_transaction, lambda connection: mend_aside(connection, accept=accept))
            self._aside = await self._engine.run(load_aside)
        return self.set_aside

    async def load_heads(self) -> list[TenantHead]:
        entries = self._as_journaled(await self._engine.run(load_heads))
        return [TenantHead(entry.receipt.tenant, entry) for entry in entries]

    async def window_usage(self, since_us: int, until_us: int | None = None) -> list[WindowUsage]:
        return await self._reader.read_sums(
            ReadRange(since_us, until_us),
            lambda connection, sources: sum_windows(connection, sources, since_us, until_us),
        )

    async def budget_use(self, query: BudgetUseFilter) -> list[BudgetUse]:
        return await self._reader.read_sums(
            ReadRange(query.since_us, query.until_us, until_seq=query.until_seq),
            lambda connection, sources: sum_budget_use(connection, sources, query),
            whole=not query.part_us,
        )

    async def end_users(
        self, tenant_id: str, since_us: int, limit: int, end_user: str | None = None
    ) -> list[EndUserUse]:
        return await self._reader.read(
            ReadRange(since_us),
            lambda connection, source: sum_end_users(connection, source, tenant_id, since_us, limit, end_user),
        )

    async def usage(self, query: UsageFilter) -> list[UsageRow]:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us, until_seq=query.until_seq),
            lambda connection, source: sum_usage(connection, source, query),
        )

    async def receipt_months(self, tenant_id: str) -> list[int]:
        return await self._reader.read(
            ReadRange(), lambda connection, source: receipt_months(connection, source, tenant_id)
        )

    async def statement_span(
        self, tenant_id: str, since_us: int, until_us: int, until_seq: int
    ) -> StatementSpan | None:
        return await self._reader.read(
            ReadRange(until_seq=until_seq),
            lambda connection, source: statement_span(connection, source, tenant_id, since_us, until_us, until_seq),
        )

    async def entries(self, query: ReceiptFilter) -> list[Entry]:
        return self._as_journaled(await self._reader.entries(query))

    async def entry(self, receipt_id: str) -> Entry | None:
        since_us = made_us(receipt_id)
        if since_us is None:
            return None
        found = await self._reader.read(
            ReadRange(since_us, since_us + 1000),
            lambda connection, source: load_entry(connection, source, receipt_id, since_us),
        )
        return self._one_as_journaled(found)

    async def tile_count(self, level: int) -> int:
        return await self._engine.run(count_tiles, level)

    async def tiles(self, level: int, positions: Sequence[int]) -> dict[int, bytes]:
        return await self._engine.run(load_tiles, level, positions)

    async def log_names(self) -> list[LogName]:
        names = await self._engine.run(load_table, LOG_NAMES)
        return sorted(names, key=lambda name: name.created_us)

    async def price_changes(self, price_hash: str | None = None, passport_id: str | None = None) -> list[PriceChange]:
        return await self._engine.run(load_price_changes, price_hash, passport_id)

    async def credit_notes(self, tenant_id: str) -> list[CreditNote]:
        return await self._engine.run(load_credit_notes, tenant_id)

    async def anchors(self) -> list[Anchor]:
        return await self._engine.run(load_readable, ANCHORS)

    async def damaged_rows(self) -> tuple[DamagedRow, ...]:
        return tuple(await self._engine.run(damaged_rows))

    async def export_receipts(self, query: ExportFilter, after_seq: int, up_to_seq: int) -> Lines:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us, after_seq, up_to_seq),
            lambda connection, source: receipt_lines(connection, source, query, after_seq, up_to_seq),
        )

    async def export_usage(self, query: ExportFilter) -> Lines:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us), lambda connection, source: usage_lines(connection, source, query)
        )

    async def first_and_last_us(self, query: ExportFilter) -> tuple[int, int] | None:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us),
            lambda connection, source: first_and_last_us(connection, source, query),
        )

    async def copy_to(self, path: Path) -> Copied:
        return await self._engine.run(copy_database, self._engine.path, path)

    async def compact(self) -> Compacted:
        return await self._engine.run_closed(compact_database)

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
        await self._engine.allow(folder or self._archives.folder)
        return await self._engine.run(self._archive, up_to_seq, folder, about)

    async def claim_payment(self, payment: Payment) -> Payment:
        payment = fitting(payment)
        return await self._engine.run_together(lambda connection: claim_payment(connection, payment))

    async def move_payment(self, payment: Payment, *, before: PaymentState) -> bool:
        payment = fitting(payment)
        return await self._engine.run_together(lambda connection: move_payment(connection, payment, before))

    async def release_payment(self, payment: Payment) -> None:
        await self._engine.run_together(lambda connection: release_payment(connection, payment))

    async def payment(self, payment_id: str) -> Payment | None:
        return await self._engine.run(load_payment, payment_id)

    async def payments(self, query: PaymentFilter) -> list[Payment]:
        return await self._engine.run(load_payments, query)

    async def payment_receipt(self, payment: Payment) -> Entry | None:
        found = await self._reader.read(
            ReadRange(payment.created_us - CLAIM_SLACK_US),
            lambda connection, source: load_payment_receipt(connection, source, payment),
        )
        return self._one_as_journaled(found)

    async def balances(self) -> list[Balance]:
        return await self._engine.run(sum_balances)

    async def load_notifications(self) -> Notifications:
        return await self._engine.run(load_notifications)

    async def change_notifications(self, change: NotificationChange) -> None:
        await self._engine.run(in_transaction, lambda connection: apply_notifications(connection, change))

    async def close(self) -> None:
        await self._engine.close()
        self._changes.close()
        self._mark.close()

    def _as_journaled(self, entries: list[Entry]) -> list[Entry]:
        aside = self._aside
        return [aside[entry.seq].entry if entry.seq in aside else entry for entry in entries] if aside else entries

    def _one_as_journaled(self, entry: Entry | None) -> Entry | None:
        return None if entry is None else self._as_journaled([entry])[0]

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
            if not isinstance(error, duckdb.FatalException):
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
        try:
            self._commit_entries(connection, entries, tiles)
        except duckdb.FatalException:
            # When the checkpoint that a commit set off runs out of space, the instance dies, the commit being durable.
            self._in_doubt = True
            raise
        if entries:
            self._last_seq = entries[-1].seq

    def _commit_entries(
        self, connection: DuckDBPyConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]
    ) -> None:
        """Commit them all. Where one does not fit, what fits of it, and the whole of it aside."""
        try:
            in_transaction(connection, lambda connection: append_rows(connection, entries, tiles))
            return
        except (duckdb.FatalException, duckdb.IOException):
            raise
        except (duckdb.Error, TrustGateError, ValueError, TypeError, OverflowError):
            reasons = unstorable(connection, entries)
            if not reasons:
                raise
        rows = [replace(entry, receipt=storable(entry.receipt)) if entry.seq in reasons else entry for entry in entries]

        def commit(connection: DuckDBPyConnection) -> None:
            put_aside(connection, entries, reasons, now_us())
            append_rows(connection, rows, tiles)

        in_transaction(connection, commit)
        self._aside = load_aside(connection)
        for seq, reason in reasons.items():
            logger.error("receipt %d is set aside, the database cannot hold it as it is: %s", seq, reason)

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


def _complete(connection: DuckDBPyConnection, path: Path, store_id: str, accept_loss: bool) -> Completed:
    return Completion(
        connection,
        path,
        store_id,
        apply=apply_change,
        everything=load_everything,
        in_transaction=in_transaction,
        accept_loss=accept_loss,
    ).run()


def _not_journaled(error: OSError) -> Unavailable:
    code = "storage_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "journal_failed"
    return Unavailable(
        f"The change cannot be written to the operators' journal: {error.strerror or error}.",
        code=code,
        hint="Make room on the disk of the home folder, and check who owns its files. Nothing has been changed.",
    )
