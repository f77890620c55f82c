"""The verbs on what is on record, as data: usage, receipts, anchors, backups, exports, archives."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustgate.admin.commands import Command, Feed
from trustgate.solana.reports import AnchorAudit, FlushOutcome
from trustgate.store import ArchiveFile, Compacted, UsageRow
from trustgate.store.queries import UsageGroup
from trustgate.types import (
    Anchor,
    Finish,
    Receipt,
)


class ReceiptDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt, where it stands in the log, and what opens its commitments."""

    seq: int
    receipt: Receipt
    #: 64 hexadecimal digits; present for callers that may open the commitments.
    secret: str | None = None
    leaf_hash: str


# the books

_Status = Annotated[int, msgspec.Meta(ge=0, le=999)]


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
    status: tuple[_Status, _Status] | None = None
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
    """Begin an anchor of everything since the last one, or look how far it is: answers within a second or so.

    Sent again with the same ``flush`` (an id of the caller's making) it goes on with the same one, until there is an
    outcome. What is None is as the settings have it.
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
    #: A long history is read page by page, from nodes that limit the rate.
    timeout_s = 3600.0


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
    """Move receipts of before a time into Parquet files, or look how far that is: as ``AnchorFlush`` does."""

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
