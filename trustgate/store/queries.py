"""What is asked of the store and what it answers: filters, rows and sums, and what it keeps of notices and files.

Values alone; the verbs that take and give them are those of ``store.base``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

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
