"""The commands that read the books: usage, receipts, the audit, the server's state."""

from __future__ import annotations

import os

from msgspec.structs import replace

from trustgate import __version__
from trustgate.admin.audit import Audit, Moment
from trustgate.admin.background_work import Tell
from trustgate.admin.commands import (
    Look,
    ReceiptDetail,
    ReceiptExport,
    ReceiptList,
    ReceiptShow,
    Reload,
    Reloaded,
    ServerStatus,
    Status,
    UsageShow,
)
from trustgate.admin.context import Desk
from trustgate.admin.money import AuditState, BooksAudit, BooksReport, Difference
from trustgate.errors import Conflict, InvalidRequest, NotFound, StoreDamaged
from trustgate.observe.live_stats import Pulse
from trustgate.receipts.receipt import leaf_hash
from trustgate.store import ReceiptFilter, UsageFilter, UsageRow
from trustgate.types import Entry

_RECEIPTS_MOST = 10_000


async def usage_show(desk: Desk, command: UsageShow) -> tuple[UsageRow, ...]:
    tenant_id = None if command.tenant is None else desk.tenant(command.tenant).id
    await desk.flush()
    return tuple(
        await desk.store.usage(
            UsageFilter(by=command.by, tenant_id=tenant_id, since_us=command.since_us, until_us=command.until_us)
        )
    )


async def receipt_list(desk: Desk, command: ReceiptList) -> tuple[ReceiptDetail, ...]:
    if not 1 <= command.limit <= _RECEIPTS_MOST:
        raise InvalidRequest(f"limit must lie between 1 and {_RECEIPTS_MOST}.", param="limit")
    tenant_id = None if command.tenant is None else desk.tenant(command.tenant).id
    await desk.flush()
    entries = await desk.store.entries(
        ReceiptFilter(
            tenant_id=tenant_id, since_us=command.since_us, before_seq=command.before_seq, limit=command.limit
        )
    )
    return tuple(receipt_detail(entry) for entry in entries)


async def receipt_show(desk: Desk, command: ReceiptShow) -> ReceiptDetail:
    await desk.flush()
    entry = await desk.store.entry(command.receipt)
    if entry is None:
        raise _no_receipt(command.receipt)
    return receipt_detail(entry, with_secret=True)


async def receipt_export(desk: Desk, command: ReceiptExport) -> str:
    archive = await desk.archive()
    entry = await desk.store.entry(command.receipt)
    if entry is None:
        raise _no_receipt(command.receipt)
    return (await archive.bundle(entry, command.disclose)).decode()


def _no_receipt(receipt_id: str) -> NotFound:
    return NotFound(f"There is no receipt {receipt_id!r}.", hint="trustgate receipt list", code="receipt_not_found")


def receipt_detail(entry: Entry, *, with_secret: bool = False) -> ReceiptDetail:
    return ReceiptDetail(
        seq=entry.seq,
        receipt=entry.receipt,
        secret=entry.secret.hex() if with_secret else None,
        leaf_hash=leaf_hash(entry.receipt).hex(),
    )


async def look(desk: Desk, command: Look) -> Pulse:
    if desk.pulse is None:
        raise Conflict(
            "No server runs on this home folder; there is nothing to look at.", hint="trustgate serve", code="no_server"
        )
    return desk.pulse()


async def reload(desk: Desk, command: Reload) -> Reloaded:
    if desk.reload is None:
        raise Conflict(
            "No server runs on this home folder; there is nothing to reload.", hint="trustgate serve", code="no_server"
        )
    changed, restart = await desk.reload()
    return Reloaded(changed=tuple(changed), restart=tuple(restart))


async def books_audit(desk: Desk, command: BooksAudit) -> AuditState:
    async def work(tell: Tell) -> BooksReport:
        return await _audit(desk, tell)

    stage, report = await desk.auditing.advance(command.audit, work, "Bringing the books up to date")
    return AuditState(stage=stage, report=report)


async def _audit(desk: Desk, tell: Tell) -> BooksReport:
    """Every difference between the books, and whether the log is the one that was signed for."""
    tree = await desk.books.tree()
    house, problem = await desk.books.house(), None
    moment = Moment.take(house.log.last_seq, house.balances, desk.quota)
    await desk.flush()
    try:
        await desk.archive()
    except StoreDamaged as error:
        problem = Difference(record="log", detail=error.message)
    report = await Audit(desk.store, tree, moment, tell).run()
    if problem is None:
        return report
    return replace(report, differences=(problem, *report.differences), difference_count=report.difference_count + 1)


async def status(desk: Desk, command: Status) -> ServerStatus:
    """The running server's, or, where the command line works on the file itself, that there is none."""
    if desk.status is not None:
        return desk.status()
    return ServerStatus(
        version=__version__,
        pid=os.getpid(),
        address="",
        started_us=0,
        store_id=desk.store.store_id,
        last_seq=await desk.store.last_seq(),
        pending=0,
        active_requests=0,
    )
