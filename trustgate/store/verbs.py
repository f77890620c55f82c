"""The verbs of a store that are the same on every database: they read, or move payments and notices.

Owns which receipts a verb reads and over which thread; the SQL is in ``entries``, ``sums``, ``ledger`` and ``records``.
What is left to a store of its own: opening, appending, changes of operators, copies and archives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from trustgate.store.archives import ReadRange
from trustgate.store.aside import load_aside, load_changed_aside, mend_aside
from trustgate.store.entries import count_tiles, load_entry, load_heads, load_tiles, made_us
from trustgate.store.exports import first_and_last_us, receipt_lines, usage_lines, usage_pages
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
from trustgate.store.queries import (
    Balance,
    BudgetUse,
    BudgetUseFilter,
    DamagedRow,
    EndUserUse,
    ExportFilter,
    Lines,
    NotificationChange,
    Notifications,
    PaymentFilter,
    ReceiptFilter,
    SetAside,
    State,
    StatementSpan,
    TenantHead,
    UsageFilter,
    UsageRow,
    WindowUsage,
)
from trustgate.store.records import (
    damaged_rows,
    load_credit_notes,
    load_price_changes,
    load_readable,
    load_state,
    load_table,
)
from trustgate.store.rows import ANCHORS, LOG_NAMES
from trustgate.store.sql import SqlConnection, in_transaction
from trustgate.store.sums import (
    Sources,
    latest_ahead,
    receipt_months,
    statement_span,
    sum_balances,
    sum_budget_use,
    sum_end_users,
    sum_usage,
    sum_windows,
)
from trustgate.store.worker import Worker
from trustgate.types import Anchor, CreditNote, Entry, LogName, Payment, PaymentState, PriceChange

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=SqlConnection)


class ReceiptSource(Protocol):
    """Where receipts are read from. See ``store.reading.ReceiptReader``."""

    async def read(self, span: ReadRange, work: Callable[[Any, str], R]) -> R: ...

    async def read_sums(self, span: ReadRange, work: Callable[[Any, Sources], R], *, whole: bool = True) -> R: ...

    async def entries(self, query: ReceiptFilter) -> list[Entry]: ...


class Verbs(Generic[C]):
    """Part of a ``store.base.Store``."""

    def __init__(
        self, engine: Worker[C], reading: Worker[C], reader: ReceiptSource, aside: dict[int, SetAside]
    ) -> None:
        """``engine``: the thread that writes; ``reading``: the one that reads what is no receipt, maybe the same."""
        self._engine = engine
        self._reading = reading
        self._reader = reader
        #: What table ``receipts`` does not have as it is, by its number; replaced as a whole.
        self._aside = aside

    async def on_writer(self, work: Callable[Concatenate[C, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``work(connection, …)`` on the thread that writes."""
        return await self._engine.run(work, *args, **kwargs)

    async def load_state(self) -> State:
        return await self._reading.run(load_state)

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        return tuple(self._aside.values())

    async def look_at_set_aside(self) -> None:
        known = [(seq, aside.accepted) for seq, aside in self._aside.items()]
        found = await self._reading.run(load_changed_aside, known)
        if found is not None:
            self._aside = found

    async def mend_set_aside(self, *, accept: bool) -> tuple[SetAside, ...]:
        await self.look_at_set_aside()
        if self._aside:
            await self._engine.run(in_transaction, lambda connection: mend_aside(connection, accept=accept))
            self._aside = await self._engine.run(load_aside)
        return self.set_aside

    async def load_heads(self) -> list[TenantHead]:
        entries = self._as_journaled(await self._reading.run(load_heads))
        return [TenantHead(entry.receipt.tenant, entry) for entry in entries]

    async def window_usage(self, since_us: int, until_us: int | None = None) -> list[WindowUsage]:
        return await self._reader.read_sums(
            ReadRange(since_us, until_us),
            lambda connection, sources: sum_windows(connection, sources, since_us, until_us),
        )

    async def latest_ahead(self, since_us: int, at_us: int) -> int:
        return await self._reading.run(latest_ahead, since_us, at_us)

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
        return await self._reading.run(count_tiles, level)

    async def tiles(self, level: int, positions: Sequence[int]) -> dict[int, bytes]:
        return await self._reading.run(load_tiles, level, positions)

    async def log_names(self) -> list[LogName]:
        names = await self._reading.run(load_table, LOG_NAMES)
        return sorted(names, key=lambda name: name.created_us)

    async def price_changes(self, price_hash: str | None = None, passport_id: str | None = None) -> list[PriceChange]:
        return await self._reading.run(load_price_changes, price_hash, passport_id)

    async def credit_notes(self, tenant_id: str) -> list[CreditNote]:
        return await self._reading.run(load_credit_notes, tenant_id)

    async def anchors(self) -> list[Anchor]:
        return await self._reading.run(load_readable, ANCHORS)

    async def damaged_rows(self) -> tuple[DamagedRow, ...]:
        return tuple(await self._reading.run(damaged_rows))

    async def export_receipts(self, query: ExportFilter, after_seq: int, up_to_seq: int) -> Lines:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us, after_seq, up_to_seq),
            lambda connection, source: receipt_lines(connection, source, query, after_seq, up_to_seq),
        )

    async def export_usage(self, query: ExportFilter) -> Lines:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us), lambda connection, source: usage_lines(connection, source, query)
        )

    async def usage_pages(self, query: ExportFilter) -> list[ExportFilter]:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us), lambda connection, source: usage_pages(connection, source, query)
        )

    async def first_and_last_us(self, query: ExportFilter) -> tuple[int, int] | None:
        return await self._reader.read(
            ReadRange(query.since_us, query.until_us),
            lambda connection, source: first_and_last_us(connection, source, query),
        )

    async def claim_payment(self, payment: Payment) -> Payment:
        payment = fitting(payment)
        return await self._engine.run_together(lambda connection: claim_payment(connection, payment))

    async def move_payment(self, payment: Payment, *, before: PaymentState) -> bool:
        payment = fitting(payment)
        return await self._engine.run_together(lambda connection: move_payment(connection, payment, before))

    async def release_payment(self, payment: Payment) -> None:
        await self._engine.run_together(lambda connection: release_payment(connection, payment))

    async def payment(self, payment_id: str) -> Payment | None:
        return await self._reading.run(load_payment, payment_id)

    async def payments(self, query: PaymentFilter) -> list[Payment]:
        return await self._reading.run(load_payments, query)

    async def payment_receipt(self, payment: Payment) -> Entry | None:
        found = await self._reader.read(
            ReadRange(payment.created_us - CLAIM_SLACK_US),
            lambda connection, source: load_payment_receipt(connection, source, payment),
        )
        return self._one_as_journaled(found)

    async def balances(self) -> list[Balance]:
        return await self._reading.run(sum_balances)

    async def load_notifications(self) -> Notifications:
        return await self._reading.run(load_notifications)

    async def change_notifications(self, change: NotificationChange) -> None:
        await self._engine.run(in_transaction, lambda connection: apply_notifications(connection, change))

    def _as_journaled(self, entries: list[Entry]) -> list[Entry]:
        aside = self._aside
        return [aside[entry.seq].entry if entry.seq in aside else entry for entry in entries] if aside else entries

    def _one_as_journaled(self, entry: Entry | None) -> Entry | None:
        return None if entry is None else self._as_journaled([entry])[0]
