"""The ``Store`` protocol: a dozen domain verbs, no SQL, no connection.

The logic makes ids and times, the store keeps what it is given. Every verb is a coroutine that may take
milliseconds or, over millions of receipts, a second; nothing on the request path awaits one. Verbs that read receipts
raise Unavailable (``archive_unavailable``) where those lie in an archive file that is missing or damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from trustgate.types import (
    Alias,
    Anchor,
    ApiKey,
    Budget,
    CreditNote,
    EndUser,
    Entry,
    Finish,
    LogName,
    Passport,
    Payment,
    PaymentState,
    PaymentTerms,
    Plan,
    PriceChange,
    PriceList,
    Profile,
    PseudonymKey,
    Receipt,
    Record,
    Subscriber,
    Tenant,
)

#: What ``Store.put`` keeps: what operators set up, and what the log of receipts has to remember of itself.
Kept = Record | Anchor | LogName | PriceList | PriceChange | PseudonymKey | CreditNote

UsageGroup = Literal["day", "hour", "model", "key", "tenant", "end_user"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator has set up, revoked and removed records included."""

    tenants: tuple[Tenant, ...]
    keys: tuple[ApiKey, ...]
    plans: tuple[Plan, ...]
    passports: tuple[Passport, ...]
    aliases: tuple[Alias, ...]
    payment_terms: tuple[PaymentTerms, ...] = ()
    #: The oldest first.
    price_lists: tuple[PriceList, ...] = ()
    #: Removed ones included.
    budgets: tuple[Budget, ...] = ()
    end_users: tuple[EndUser, ...] = ()
    #: None: none was wanted yet.
    pseudonym_key: PseudonymKey | None = None
    #: Removed ones included.
    subscribers: tuple[Subscriber, ...] = ()
    #: Those without rules included.
    profiles: tuple[Profile, ...] = ()


class TenantHead(msgspec.Struct, frozen=True):
    """The last entry of one tenant: where its chain of receipts goes on."""

    tenant_id: str
    entry: Entry


class WindowUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one key used since a moment: what quotas are rebuilt from. Counted endings only (types.COUNTED)."""

    tenant_id: str
    key_id: str
    requests: int
    tokens: int
    #: As billed.
    cost_nano_usd: int


class BudgetUse(NamedTuple):
    """What was used of budgets by one key, for one model and end user, in one part of the time that was asked for."""

    tenant_id: str
    key_id: str
    #: As asked for; "" where models were not told apart.
    model: str
    #: None: of a receipt that names no end user, or where they were not told apart.
    end_user: str | None
    #: Where the part begins, microseconds UTC.
    from_us: int
    requests: int
    tokens: int
    #: As billed.
    cost_nano_usd: int


class BudgetUseFilter(NamedTuple):
    """Which receipts to add up for budgets, and what to tell apart. Times: ``since_us`` <= created < ``until_us``."""

    since_us: int
    until_us: int
    #: The time is divided into parts of this length, aligned to the epoch; 0: it is one part, from ``since_us`` on.
    part_us: int = 0
    by_model: bool = False
    by_end_user: bool = False
    #: Only receipts up to this place in the log.
    until_seq: int | None = None


class EndUserUse(NamedTuple):
    """What one end user of a tenant has used; counted endings only, but for ``last_us``."""

    end_user: str
    requests: int
    tokens: int
    cost_nano_usd: int
    first_us: int
    last_us: int


class UsageFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which receipts to add up, and by what. Times are microseconds UTC: since <= created < until."""

    by: UsageGroup = "day"
    tenant_id: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    #: Only receipts up to this place in the log.
    until_seq: int | None = None


#: Sums in the store's answers end here: the largest integer that every reader of its rows can hold (SQL BIGINT).
SUM_MOST = 2**63 - 1


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over one group, each at most ``SUM_MOST``.

    ``group`` is a day (2026-01-31), an hour (2026-01-31 23:00), a model as asked for, a key id, a tenant id or
    an end user's pseudonym.
    """

    group: str
    #: Answered requests (types.COUNTED), then those that were refused or that the upstream failed.
    requests: int
    refused: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int
    #: How many of the requests were metered by an estimate.
    estimated: int
    #: As billed: the cost times the factor of the tenant's plan.
    billed_nano_usd: int = 0
    #: How many of the requests were for a model without a price: their cost is not known and counts as nothing.
    unpriced: int = 0


class ReceiptFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which entries to list: newest first, or with ``oldest_first`` in the log's order.

    ``before_seq`` and ``after_seq`` go on where the last page ended; ``until_seq`` is the last that is wanted, which
    makes a page of a long log quick.
    """

    tenant_id: str | None = None
    key_id: str | None = None
    #: A shell glob over the model as asked for.
    model: str | None = None
    #: The lowest and the highest HTTP status.
    status: tuple[int, int] | None = None
    finish: Finish | None = None
    #: since <= created < until.
    since_us: int | None = None
    until_us: int | None = None
    before_seq: int | None = None
    after_seq: int | None = None
    until_seq: int | None = None
    oldest_first: bool = False
    limit: int = 50


class PaymentFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which payments to list: of a tenant, in one of some states. Newest first, or with ``oldest_first`` the other way.

    ``before_id`` and ``after_id`` go on where the last page ended: ids are in the order of time.
    """

    tenant_id: str | None = None
    states: tuple[PaymentState, ...] = ()
    before_id: str | None = None
    after_id: str | None = None
    oldest_first: bool = False
    limit: int | None = 50


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """What the receipts of one tenant say was credited and charged, nano-USD."""

    tenant_id: str
    credited_nano_usd: int
    charged_nano_usd: int


class StatementSpan(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the log that a statement is about: from one receipt of the tenant to another, by ``seq``.

    All receipts of the period, with the tenant's one before the first and the one after the last, where there are such;
    without any in the period the two that it lies between.
    """

    first_seq: int
    last_seq: int
    #: What was credited less what was charged by the receipts created before the period.
    opening_nano_usd: int


class StoredTile(NamedTuple):
    """A full tile of the tree over the receipts: its place (C2SP tlog-tiles) and its 256 hashes, one after another."""

    level: int
    position: int
    hashes: bytes


class ExportFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which receipts to export. Times are microseconds UTC: since <= created < until."""

    tenant_id: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    #: A page of them by tenant and key, in the database's order of both: what comes after these, up to those.
    after: tuple[str, str] | None = None
    up_to: tuple[str, str] | None = None


class Lines(NamedTuple):
    """Rows as JSON, one a line, each line with its end."""

    rows: int
    text: bytes


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of the database: the last receipt in it, and its size."""

    last_seq: int
    size_bytes: int


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """What a rewrite of the database file made of its size."""

    before_bytes: int
    after_bytes: int


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What ``doctor`` wants to know. ``size_bytes`` is all that the store takes up on disk."""

    schema_version: int
    size_bytes: int
    path: str
    #: What was amiss when it was opened and could be mended, for people.
    notes: tuple[str, ...] = ()


class DamagedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of records that cannot be read: its table, which one it is, and why."""

    table: str
    row: str
    problem: str


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt that the database could not hold as it is (``store.aside``)."""

    #: As it was journaled; the log, its proofs and its tenant's chain go by this.
    entry: Entry
    #: Which of its members do not fit.
    reason: str
    set_aside_us: int
    #: The operator has seen it: it is no fault any more.
    accepted: bool
    #: What stands in its place where receipts are added up: what does not fit counts as nothing.
    counted: Receipt


class ArchiveFile(msgspec.Struct, frozen=True):
    """A Parquet file with receipts of the log that are in the database no more (``store.archives``)."""

    name: str
    #: Where it was put; "" for the home's own folder.
    folder: str
    #: Numbers of its receipts, each of them in it, and the first and the last of their times, microseconds UTC.
    first_seq: int
    last_seq: int
    first_us: int
    last_us: int
    size_bytes: int
    sha256: str
    #: Columns of table ``receipts`` when it was written.
    columns: tuple[str, ...]
    archived_us: int


class ArchiveProblem(msgspec.Struct, frozen=True, kw_only=True):
    """An archive file that cannot be read as it was written: where it should be, and what is wrong with it."""

    file: ArchiveFile
    path: str
    problem: str


class OpenCondition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that subscribers were told of and that is not over."""

    identity: str
    #: JSON of the notice that told of it.
    notice: str


class NoticeDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """One notice on its way to one subscriber, or at its end. Times are microseconds since the epoch."""

    #: Stable over all attempts, so that a receiver knows a repetition.
    id: str
    subscriber_id: str
    #: What is sent, byte for byte, in every attempt.
    body: str
    message: str
    state: Literal["waiting", "delivered", "failed"] = "waiting"
    attempts: int = 0
    #: What came of the last attempt.
    detail: str = ""
    created_us: int
    #: When the next attempt is due.
    next_us: int
    updated_us: int = 0


class Notifications(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of notices between runs."""

    conditions: tuple[OpenCondition, ...] = ()
    #: The oldest first.
    deliveries: tuple[NoticeDelivery, ...] = ()


class NotificationChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changes at once: conditions and deliveries that are kept, and those, by identity or id, that go."""

    conditions: tuple[OpenCondition, ...] = ()
    over: tuple[str, ...] = ()
    deliveries: tuple[NoticeDelivery, ...] = ()
    forgotten: tuple[str, ...] = ()


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

        A file has whole tiles of 256 receipts. ``folder``: None for the home's; ``about`` is kept in the file. Writing
        waits meanwhile. Raises HomeUnusable, StoreDamaged, or Unavailable with code ``storage_full``; nothing is moved
        then.
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
