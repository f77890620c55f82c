"""The ``Store`` protocol: a dozen domain verbs, no SQL, no connection.

The logic makes ids and times, the store keeps what it is given. Every verb is a coroutine that may take
milliseconds or, over millions of receipts, a second; nothing on the request path awaits one. Verbs that read receipts
raise Unavailable (``archive_unavailable``) where those lie in an archive file that is missing or damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trustgate.store.queries import (
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
from trustgate.types import (
    Alias,
    Anchor,
    CreditNote,
    Entry,
    LogName,
    Payment,
    PaymentState,
    Plan,
    PriceChange,
)


class Store(Protocol):
    @property
    def store_id(self) -> str:
        """An id made with the database; the journal carries it too, so that the two cannot be mixed up."""
        ...

    @property
    def info(self) -> StoreInfo: ...

    async def load_state(self) -> State: ...

    async def put(self, *records: Kept) -> None:
        """Keep the records durably, replacing older ones of the same identity: all of them or none."""
        ...

    async def remove(self, *records: Plan | Alias) -> None:
        """Forget plans and aliases. Tenants, keys and passports are never forgotten: receipts name them."""
        ...

    async def last_seq(self) -> int:
        """Returns the highest ``seq`` committed; 0 for an empty log."""
        ...

    async def append_entries(self, entries: Sequence[Entry], tiles: Sequence[StoredTile] = ()) -> None:
        """Commit the entries and the tiles they complete, durably, in one transaction.

        The entries must continue ``last_seq`` without a gap; there may be none, where only tiles are missing. One that
        does not fit its columns is set aside (``set_aside``) and stops no other.

        Raises Unavailable with code ``storage_full`` on a full disk. After any failure ``last_seq`` is what has been
        committed: all of the entries or none.
        """
        ...

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        """The receipts that the database could not hold as they are, in the log's order. Read from memory."""
        ...

    async def look_at_set_aside(self) -> None:
        """Read into memory what other processes of the database have set aside, stored or accepted since."""
        ...

    async def mend_set_aside(self, *, accept: bool) -> tuple[SetAside, ...]:
        """Store what was set aside and fits by now, with ``accept`` mark the rest as seen; gives that rest."""
        ...

    async def load_heads(self) -> list[TenantHead]:
        """Returns the last entry of every tenant that has any."""
        ...

    async def window_usage(self, since_us: int, until_us: int | None = None) -> list[WindowUsage]:
        """Returns what each key used in that time; receipts of ``until_us`` and later are left out."""
        ...

    async def latest_ahead(self, since_us: int, at_us: int) -> int:
        """Returns when the latest receipt was made that a clock ahead of ``at_us`` has dated since ``since_us``.

        0 for none: of receipts that were dated so before ``since_us`` it is nothing.
        """
        ...

    async def budget_use(self, query: BudgetUseFilter) -> list[BudgetUse]:
        """Returns what was used, as budgets are rebuilt from it. Counted endings only (types.COUNTED)."""
        ...

    async def end_users(
        self, tenant_id: str, since_us: int, limit: int, end_user: str | None = None
    ) -> list[EndUserUse]:
        """Returns the end users that a tenant's receipts since then name, the dearest first; or just this one."""
        ...

    async def usage(self, query: UsageFilter) -> list[UsageRow]: ...

    async def receipt_months(self, tenant_id: str) -> list[int]:
        """Returns the months (UTC) in which the tenant's receipts were created, the newest first: a moment of each."""
        ...

    async def statement_span(
        self, tenant_id: str, since_us: int, until_us: int, until_seq: int
    ) -> StatementSpan | None:
        """Returns where the tenant's receipts of that period are, among the first ``until_seq``.

        None where it has none at all.
        """
        ...

    async def entries(self, query: ReceiptFilter) -> list[Entry]: ...

    async def entry(self, receipt_id: str) -> Entry | None: ...

    async def tile_count(self, level: int) -> int:
        """Returns how many tiles of this level there are; they are numbered from 0."""
        ...

    async def tiles(self, level: int, positions: Sequence[int]) -> dict[int, bytes]:
        """Returns the hashes of those tiles that there are."""
        ...

    async def log_names(self) -> list[LogName]:
        """Returns the names the log has had, the oldest first."""
        ...

    async def price_changes(self, price_hash: str | None = None, passport_id: str | None = None) -> list[PriceChange]:
        """When which passport got these prices, or this passport any: the oldest first."""
        ...

    async def credit_notes(self, tenant_id: str) -> list[CreditNote]:
        """Returns the notes of a tenant's credits, the oldest first."""
        ...

    async def anchors(self) -> list[Anchor]:
        """Every anchor that can be read, planned ones included, the oldest first."""
        ...

    async def damaged_rows(self) -> tuple[DamagedRow, ...]:
        """Returns the rows of records, the ledger's included, that cannot be read. Reads every one."""
        ...

    async def export_receipts(self, query: ExportFilter, after_seq: int, up_to_seq: int) -> Lines:
        """Returns the receipts with ``after_seq < seq <= up_to_seq`` that the filter lets through, in the log's order.

        ``types.Receipt`` with ``seq`` before it; hashes in hexadecimal. Without the secrets.
        """
        ...

    async def export_usage(self, query: ExportFilter) -> Lines:
        """Returns what was used, in the finest groups (``store.exports.USAGE_COLUMNS``).

        Wants a filter of some days, of many tenants or keys a page of ``usage_pages``.
        """
        ...

    async def usage_pages(self, query: ExportFilter) -> list[ExportFilter]:
        """Returns the filter cut into pages, in order, each with as many groups as fit into memory."""
        ...

    async def first_and_last_us(self, query: ExportFilter) -> tuple[int, int] | None:
        """When the first and the last of those receipts were made; None where there are none."""
        ...

    async def copy_to(self, path: Path) -> Copied:
        """Copy the database, consistent, to a new file. Writing waits meanwhile. Returns what the copy holds.

        Raises Unavailable, with code ``storage_full`` on a full disk.
        """
        ...

    async def compact(self) -> Compacted:
        """Rewrite the database without what is unused in it. Everything else waits meanwhile; raises as ``copy_to``."""
        ...

    # archive files

    @property
    def archives(self) -> tuple[ArchiveFile, ...]:
        """The files with the oldest receipts, in the log's order. Read from memory."""
        ...

    def archive_path(self, file: ArchiveFile) -> Path:
        """Returns where the file is."""
        ...

    async def archive_problems(self, *, deep: bool) -> tuple[ArchiveProblem, ...]:
        """Returns what is wrong with any of them: missing, of another size; ``deep``: or of other content."""
        ...

    async def last_seq_before(self, before_us: int) -> int:
        """Returns the last receipt of the beginning of the log that was made before then altogether; 0 for none."""
        ...

    async def archive(self, up_to_seq: int, folder: Path | None, about: Mapping[str, str]) -> ArchiveFile | None:
        """Move the next receipts, at most 65,536 and none after ``up_to_seq``, into a file. None: there are no more.

        Where these take more memory than the database has, it is a file of fewer. A file has whole tiles of 256
        receipts. ``folder``: None for the home's; ``about`` is kept in the file. Writing waits meanwhile. Raises
        HomeUnusable, StoreDamaged, or Unavailable with code ``storage_full``; nothing is moved then.
        """
        ...

    # payments

    async def claim_payment(self, payment: Payment) -> Payment:
        """Keep a payment unless one with its key, or an unfailed one with its tenant's identifier, is there.

        Atomic and durable. Gives back the one that stands: ``payment`` itself where it is new.
        """
        ...

    async def move_payment(self, payment: Payment, *, before: PaymentState) -> bool:
        """Replace the payment of this key where its state is still ``before``; False, and no change, where not."""
        ...

    async def release_payment(self, payment: Payment) -> None:
        """Forget a payment that is still ``reserved``: no facilitator was asked. It may be claimed again."""
        ...

    async def payment(self, payment_id: str) -> Payment | None: ...

    async def payments(self, query: PaymentFilter) -> list[Payment]: ...

    async def payment_receipt(self, payment: Payment) -> Entry | None:
        """Returns the entry whose receipt names this payment."""
        ...

    async def balances(self) -> list[Balance]:
        """Of every tenant with receipts of version 2."""
        ...

    # notices

    async def load_notifications(self) -> Notifications: ...

    async def change_notifications(self, change: NotificationChange) -> None:
        """Make the change durable, all of it or none."""
        ...

    async def close(self) -> None: ...
