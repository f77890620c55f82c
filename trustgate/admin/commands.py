"""The verbs of the control plane, as data.

Each command is a frozen record whose tag is its name on the wire; ``Admin.execute`` takes one and gives
its result. ``local`` does the work on a store; ``remote`` encodes the command for the server's socket and
``routes`` decodes it there, so the command line works the same whether the server is running or not. A ``Feed`` is a
verb whose answer is too long for one record: a backup, an export.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import msgspec

from trustgate.models.passports import ImportedPassport, PassportFields
from trustgate.observe.live_stats import LiveStats, WorkerLoad
from trustgate.solana.reports import AnchorAudit, FlushOutcome
from trustgate.store import ArchiveFile, Compacted, UsageRow
from trustgate.store.base import UsageGroup
from trustgate.types import (
    Alias,
    Anchor,
    ApiKey,
    Finish,
    Limits,
    Passport,
    PaymentTerms,
    Plan,
    Receipt,
    Scope,
    Tenant,
)

R = TypeVar("R")


class Command(msgspec.Struct, Generic[R], frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One verb. ``result`` is the type ``execute`` gives back, for decoding it on the far side."""

    result: ClassVar[Any]
    #: How long a client waits for the server's answer, seconds. Adding up millions of receipts takes a while.
    timeout_s: ClassVar[float] = 120.0


class Feed(msgspec.Struct, Generic[R], frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A verb that is answered with bytes, as many as there are, and at their end with a ``result``."""

    result: ClassVar[Any]


#: Takes the bytes of a feed, piece by piece, at the pace of the receiver.
Write = Callable[[bytes], Awaitable[None]]


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key and its secret: the only moment the secret is shown."""

    key: ApiKey
    secret: str


class TenantWithKey(msgspec.Struct, frozen=True, kw_only=True):
    tenant: Tenant
    key: ApiKey
    secret: str


class TenantDetail(msgspec.Struct, frozen=True, kw_only=True):
    tenant: Tenant
    plan: Plan
    keys: tuple[ApiKey, ...]
    #: None: it has never had to pay.
    terms: PaymentTerms | None = None


class ReceiptDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt, where it stands in the log, and what opens its commitments."""

    seq: int
    receipt: Receipt
    #: 64 hexadecimal digits; present for callers that may open the commitments.
    secret: str | None = None
    leaf_hash: str


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    pid: int
    #: The public address, "" when the work is done without a server.
    address: str
    started_us: int
    store_id: str
    last_seq: int
    #: Entries in the journal that the database does not have yet.
    pending: int
    active_requests: int
    #: How late the event loop was in the last minute: 99 of 100 times at most, and at worst.
    loop_lag_p99_ms: int = 0
    loop_lag_worst_ms: int = 0
    #: Receipts that the database cannot hold as they are, and that the operator has not accepted yet.
    set_aside: int = 0
    #: What was missing or damaged at the start and could be mended.
    notes: tuple[str, ...] = ()
    targets: tuple[TargetStatus, ...] = ()
    #: Each worker, where there are several; ``pid`` is that of the one that answers, all figures are of all together.
    workers: tuple[WorkerLoad, ...] = ()
    #: How many workers the settings want; 0: one process serves by itself.
    workers_wanted: int = 0


class TargetStatus(msgspec.Struct, frozen=True, kw_only=True):
    base_url: str
    healthy: bool | None
    detail: str
    models: int


# tenants; TENANT is an id or a name everywhere


class TenantAdd(Command[TenantWithKey], frozen=True, kw_only=True, tag="tenant.add"):
    name: str
    plan: str = "pro"
    #: What it is billed of what models cost, millionths; None: its plan's factor.
    price_factor_ppm: int | None = None
    result = TenantWithKey


class TenantList(Command[tuple[Tenant, ...]], frozen=True, kw_only=True, tag="tenant.list"):
    removed: bool = False
    result = tuple[Tenant, ...]


class TenantShow(Command[TenantDetail], frozen=True, kw_only=True, tag="tenant.show"):
    tenant: str
    result = TenantDetail


class TenantSet(Command[Tenant], frozen=True, kw_only=True, tag="tenant.set"):
    tenant: str
    name: str | None = None
    plan: str | None = None
    price_factor_ppm: int | None = None
    #: It is billed by its plan's factor again.
    factor_by_plan: bool = False
    result = Tenant


class TenantSuspend(Command[Tenant], frozen=True, kw_only=True, tag="tenant.suspend"):
    tenant: str
    result = Tenant


class TenantResume(Command[Tenant], frozen=True, kw_only=True, tag="tenant.resume"):
    tenant: str
    result = Tenant


class TenantRemove(Command[Tenant], frozen=True, kw_only=True, tag="tenant.remove"):
    tenant: str
    result = Tenant


class TenantRestore(Command[TenantDetail], frozen=True, kw_only=True, tag="tenant.restore"):
    """Undo a removal: the keys that it revoked work again. ``name`` and ``plan``: where its own are taken or gone."""

    tenant: str
    name: str | None = None
    plan: str | None = None
    result = TenantDetail


# keys; KEY is an id, ``sha256:`` and the hash of its secret, or the secret's redacted form when only one key has it


class KeyCreate(Command[NewKey], frozen=True, kw_only=True, tag="key.create"):
    """``expires_in_s`` seconds from now, or at ``expires_us``; neither: it does not expire."""

    tenant: str
    name: str = "default"
    expires_in_s: int | None = None
    expires_us: int | None = None
    limits: Limits = Limits()
    scope: Scope = Scope()
    #: The id of the tenant's key that asks for it, where the tenant does and not the operator (admin.own_keys).
    by_key: str = ""
    result = NewKey


class KeyList(Command[tuple[ApiKey, ...]], frozen=True, kw_only=True, tag="key.list"):
    tenant: str | None = None
    revoked: bool = False
    result = tuple[ApiKey, ...]


class KeyShow(Command[ApiKey], frozen=True, kw_only=True, tag="key.show"):
    key: str
    result = ApiKey


class KeySet(Command[ApiKey], frozen=True, kw_only=True, tag="key.set"):
    """Change a key and keep its secret. What is not given stays."""

    key: str
    name: str | None = None
    #: Limits by field name; None lifts a limit.
    limits: dict[str, int | None] = {}
    #: Scope by field name: models, endpoints, features, parameters; ``*`` is what the plan allows.
    scope: dict[str, tuple[str, ...]] = {}
    expires_in_s: int | None = None
    expires_us: int | None = None
    #: It does not expire any more.
    never_expires: bool = False
    #: As of ``KeyCreate``.
    by_key: str = ""
    result = ApiKey


class KeyRevoke(Command[ApiKey], frozen=True, kw_only=True, tag="key.revoke"):
    """Revoke a key, and with it the keys that it has made."""

    key: str
    #: As of ``KeyCreate``.
    by_key: str = ""
    result = ApiKey


class KeyRotate(Command[NewKey], frozen=True, kw_only=True, tag="key.rotate"):
    """A new secret with the old key's rights; the old one ends after the grace, or at a time."""

    key: str
    grace_s: int = 0
    until_us: int | None = None
    result = NewKey


# plans


class PlanPut(Command[Plan], frozen=True, kw_only=True, tag="plan.put"):
    """Add a plan (``create``) or change one. What is not given stays, of a new one as it is in the plan ``like``."""

    name: str
    create: bool = False
    like: str | None = None
    #: Limits by field name; None lifts a limit.
    limits: dict[str, int | None] = {}
    #: Scope by field name: models, endpoints, features, parameters.
    scope: dict[str, tuple[str, ...]] = {}
    on_disconnect: Literal["abort", "drain"] | None = None
    #: Millionths; 1,000,000 bills what models cost.
    price_factor_ppm: int | None = None
    unpriced_models: Literal["refuse", "allow"] | None = None
    #: How many keys at once each tenant may make for itself; 0: none.
    own_keys: int | None = None
    result = Plan


class PlanList(Command[tuple[Plan, ...]], frozen=True, kw_only=True, tag="plan.list"):
    result = tuple[Plan, ...]


class PlanShow(Command[Plan], frozen=True, kw_only=True, tag="plan.show"):
    name: str
    result = Plan


class PlanRemove(Command[Plan], frozen=True, kw_only=True, tag="plan.remove"):
    name: str
    result = Plan


# passports; PASSPORT is an id or a slug


class PassportAdd(Command[Passport], frozen=True, kw_only=True, tag="passport.add"):
    slug: str
    fields: PassportFields
    result = Passport


class PassportSet(Command[Passport], frozen=True, kw_only=True, tag="passport.set"):
    """Change what is given. ``unset`` names optional members to set back to what a new passport has."""

    passport: str
    fields: PassportFields = PassportFields()
    unset: tuple[str, ...] = ()
    #: Prices by field name; the others stay. None for the cached price: cached tokens cost what others cost.
    prices: dict[str, int | None] = {}
    #: The prices given hold under these conditions alone: members of types.ConditionalRates that are no rates.
    conditions: dict[str, int | str] = {}
    #: Take away all prices that hold under a condition; before ``prices`` are set.
    clear_conditions: bool = False
    result = Passport


class PassportList(Command[tuple[Passport, ...]], frozen=True, kw_only=True, tag="passport.list"):
    revoked: bool = False
    result = tuple[Passport, ...]


class PassportShow(Command[Passport], frozen=True, kw_only=True, tag="passport.show"):
    passport: str
    result = Passport


class PassportStatus(Command[Passport], frozen=True, kw_only=True, tag="passport.status"):
    passport: str
    status: Literal["active", "deprecated", "revoked"]
    result = Passport


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: int


class PassportImport(Command[ImportResult], frozen=True, kw_only=True, tag="passport.import"):
    """Add what is new; of what exists, change what the file gives. ``only_existing`` adds nothing (a price table)."""

    passports: tuple[ImportedPassport, ...]
    only_existing: bool = False
    #: What prices come from, for people.
    source: str = "an import"
    result = ImportResult


class AliasSet(Command[Alias], frozen=True, kw_only=True, tag="alias.set"):
    name: str
    target: str
    result = Alias


class AliasList(Command[tuple[Alias, ...]], frozen=True, kw_only=True, tag="alias.list"):
    result = tuple[Alias, ...]


class AliasRemove(Command[Alias], frozen=True, kw_only=True, tag="alias.remove"):
    name: str
    result = Alias


# the books


class UsageShow(Command[tuple[UsageRow, ...]], frozen=True, kw_only=True, tag="usage.show"):
    by: UsageGroup = "day"
    tenant: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    result = tuple[UsageRow, ...]


class ReceiptList(Command[tuple[ReceiptDetail, ...]], frozen=True, kw_only=True, tag="receipt.list"):
    """``model`` is a shell glob, ``status`` the lowest and the highest; since <= created < until."""

    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    status: tuple[int, int] | None = None
    finish: Finish | None = None
    since_us: int | None = None
    until_us: int | None = None
    before_seq: int | None = None
    limit: int = 50
    result = tuple[ReceiptDetail, ...]


class ReceiptShow(Command[ReceiptDetail], frozen=True, kw_only=True, tag="receipt.show"):
    """``receipt``: its id, or the request id that the gateway gave the request (ids.receipt_of_request)."""

    receipt: str
    result = ReceiptDetail


class ReceiptExport(Command[str], frozen=True, kw_only=True, tag="receipt.export"):
    """A receipt with all that is needed to verify it: the text of a bundle (receipts.bundle).

    ``disclose``: which of the two commitments can be opened with the bundle. Its holder can then try to guess the
    content, too.
    """

    receipt: str
    disclose: tuple[Literal["request", "response"], ...] = ()
    result = str


class ReceiptAside(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt that the database cannot hold as it is; where it is added up, what does not fit counts as nothing."""

    seq: int
    id: str
    tenant: str
    reason: str
    set_aside_us: int
    accepted: bool


class ReceiptMend(Command[tuple[ReceiptAside, ...]], frozen=True, kw_only=True, tag="receipt.mend"):
    """Store what was set aside and fits by now; gives what does not. ``accept``: that is no fault any more."""

    accept: bool = False
    result = tuple[ReceiptAside, ...]


# anchors


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The log, its name and what of it stands on the chain of the settings."""

    origin: str
    #: Verifier key of the checkpoints (C2SP signed-note).
    vkey: str
    tree_size: int
    #: Root hash of that size, hexadecimal.
    root: str
    #: Who pays for anchors, base58; None while there is no such key.
    pubkey: str | None
    #: The largest state that is anchored, on any chain; 0 for none.
    anchored_size: int
    anchored_us: int
    #: Anchors that were begun and are not settled.
    planned: tuple[Anchor, ...] = ()
    #: The schedule, as a sentence, and why its last try failed, if it did.
    schedule: str = ""
    problem: str = ""


class FlushState(msgspec.Struct, frozen=True, kw_only=True):
    """A flush at work, or at its end: ``outcome`` is there then."""

    stage: str
    outcome: FlushOutcome | None = None


class AnchorFlush(Command[FlushState], frozen=True, kw_only=True, tag="anchor.flush"):
    """Begin an anchor of everything since the last one, or ask how it goes: answers within a second or so.

    Asking again with the same ``flush`` (an id of the caller's making) goes on with the same one, until there is an
    outcome. What is None is as the settings say.
    """

    flush: str
    rpc: str | None = None
    keypair: str | None = None
    commitment: Literal["confirmed", "finalized"] | None = None
    max_fee_lamports: int | None = None
    mainnet: bool = False
    dry_run: bool = False
    result = FlushState


class AnchorList(Command[tuple[Anchor, ...]], frozen=True, kw_only=True, tag="anchor.list"):
    result = tuple[Anchor, ...]


class AnchorStatus(Command[LogStatus], frozen=True, kw_only=True, tag="anchor.status"):
    result = LogStatus


class AnchorVerify(Command[AnchorAudit], frozen=True, kw_only=True, tag="anchor.verify"):
    """Check every anchor from chain data, and against the log."""

    rpc: str | None = None
    keypair: str | None = None
    result = AnchorAudit


class AnchorKey(msgspec.Struct, frozen=True, kw_only=True):
    pubkey: str
    path: str


class AnchorKeygen(Command[AnchorKey], frozen=True, kw_only=True, tag="anchor.keygen"):
    """Make the key that pays for anchors, a file as the Solana CLI writes it. Refuses to replace one."""

    keypair: str | None = None
    result = AnchorKey


# care


class BackupMade(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds: the log up to this receipt, under this name."""

    created_us: int
    store_id: str
    last_seq: int
    origin: str
    size_bytes: int
    #: Archive files in it, and those that it only names.
    archives: int = 0
    archives_left_out: int = 0


class Backup(Feed[BackupMade], frozen=True, kw_only=True, tag="backup"):
    """Everything that has to be kept, as one file (``admin.backupfile``). It holds a key: never over a network.

    ``archives``: the archive files are in it too; otherwise it names them.
    """

    archives: bool = True

    result = BackupMade


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    rows: int


class ReceiptsExport(Feed[Exported], frozen=True, kw_only=True, tag="receipts.export"):
    """Receipts as JSON lines (``Store.export_receipts``), in the log's order."""

    tenant: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    result = Exported


class UsageExport(Feed[Exported], frozen=True, kw_only=True, tag="usage.export"):
    """Usage as JSON lines (``Store.export_usage``), day by day."""

    tenant: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    result = Exported


class Compact(Command[Compacted], frozen=True, kw_only=True, tag="compact"):
    """Rewrite the database without what is unused in it. Receipts wait in the journal meanwhile."""

    result = Compacted
    timeout_s = 3600.0


class ArchiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved into archive files, or would be, and what stays in the database."""

    #: Receipts moved by this order, and receipts 1 to ``last_seq`` that are archived now.
    receipts: int
    last_seq: int
    files: tuple[ArchiveFile, ...] = ()
    #: Why receipts that were asked for stay, for people; "" where none does.
    kept: str = ""
    #: The size of the database before and after; 0 where nothing was moved.
    before_bytes: int = 0
    after_bytes: int = 0
    dry_run: bool = False


class ArchiveState(msgspec.Struct, frozen=True, kw_only=True):
    stage: str
    report: ArchiveReport | None = None


class ArchiveReceipts(Command[ArchiveState], frozen=True, kw_only=True, tag="archive.receipts"):
    """Move receipts of before a time into Parquet files, or ask how it goes: as ``AnchorFlush`` does."""

    order: str
    before_us: int
    #: A folder on the server's machine; None: the home's.
    to: str | None = None
    dry_run: bool = False
    result = ArchiveState


class ArchiveFound(msgspec.Struct, frozen=True, kw_only=True):
    """An archive file, where it is, and what is wrong with it ("" for nothing)."""

    file: ArchiveFile
    path: str
    problem: str = ""


class ArchiveList(Command[tuple[ArchiveFound, ...]], frozen=True, kw_only=True, tag="archive.list"):
    """The archive files; ``check``: their contents are read and compared with their hashes."""

    check: bool = False
    result = tuple[ArchiveFound, ...]


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the settings that have changed: those in effect from now on, and those that need a restart."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]
    #: Those in effect once every worker is replaced, one after the other; that begins now.
    replacing: tuple[str, ...] = ()


class Reload(Command[Reloaded], frozen=True, kw_only=True, tag="reload"):
    """Reload the settings of the running server. ``SettingsError`` for bad ones: the old ones stay."""

    result = Reloaded


class Look(Command[LiveStats], frozen=True, kw_only=True, tag="look"):
    """How a running server is doing just now."""

    result = LiveStats


class Status(Command[ServerStatus], frozen=True, kw_only=True, tag="status"):
    result = ServerStatus


class Admin(Protocol):
    """Carries out commands: locally or through a server."""

    async def execute(self, command: Command[R]) -> R:
        """Do it. Raises the ``TrustGateError`` of the failure: NotFound, Conflict, InvalidRequest …"""
        ...

    async def feed(self, command: Feed[R], write: Write) -> R:
        """Give ``write`` the bytes that the command is answered with. Raises as ``execute``, in the middle too."""
        ...

    async def close(self) -> None: ...
