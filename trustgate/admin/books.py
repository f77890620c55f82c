"""The commands that read the books: usage, receipts, the audit, the server's state."""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec.structs import replace

from trustgate import __version__
from trustgate.access.budget_counter import BudgetStanding
from trustgate.admin.audit import BooksAuditor, BooksSnapshot
from trustgate.admin.background_work import ReportProgress
from trustgate.admin.budget_counts import budget_differences
from trustgate.admin.commands import Look, Reload, Reloaded, ServerStatus, Status
from trustgate.admin.context import AdminContext
from trustgate.admin.log_commands import (
    ReceiptAside,
    ReceiptDetail,
    ReceiptExport,
    ReceiptList,
    ReceiptMend,
    ReceiptShow,
    UsageShow,
)
from trustgate.admin.money import AuditState, BooksAudit, BooksReport, Difference
from trustgate.errors import Conflict, InvalidRequest, NotFound, StoreDamaged
from trustgate.ids import now_us, receipt_of_request
from trustgate.observe.live_stats import LiveStats
from trustgate.receipts.receipt import leaf_hash
from trustgate.store import ReceiptFilter, UsageFilter, UsageRow
from trustgate.types import Entry

_RECEIPTS_MOST = 10_000


async def usage_show(context: AdminContext, command: UsageShow) -> tuple[UsageRow, ...]:
    tenant_id = None if command.tenant is None else context.tenant(command.tenant).id
    await context.flush()
    return tuple(
        await context.store.usage(
            UsageFilter(by=command.by, tenant_id=tenant_id, since_us=command.since_us, until_us=command.until_us)
        )
    )


async def receipt_list(context: AdminContext, command: ReceiptList) -> tuple[ReceiptDetail, ...]:
    if not 1 <= command.limit <= _RECEIPTS_MOST:
        raise InvalidRequest(f"limit must lie between 1 and {_RECEIPTS_MOST}.", param="limit")
    tenant_id = None if command.tenant is None else context.tenant(command.tenant).id
    await context.flush()
    entries = await context.store.entries(
        ReceiptFilter(
            tenant_id=tenant_id,
            key_id=None if command.key is None else context.directory.key(command.key).id,
            model=command.model,
            status=command.status,
            finish=command.finish,
            since_us=command.since_us,
            until_us=command.until_us,
            before_seq=command.before_seq,
            limit=command.limit,
        )
    )
    return tuple(receipt_detail(entry) for entry in entries)


async def receipt_show(context: AdminContext, command: ReceiptShow) -> ReceiptDetail:
    await context.flush()
    entry = await context.store.entry(receipt_of_request(command.receipt) or command.receipt)
    if entry is None:
        raise _no_receipt(command.receipt)
    return receipt_detail(entry, with_secret=True)


async def receipt_export(context: AdminContext, command: ReceiptExport) -> str:
    archive = await context.archive()
    entry = await context.store.entry(receipt_of_request(command.receipt) or command.receipt)
    if entry is None:
        raise _no_receipt(command.receipt)
    return (await archive.bundle(entry, command.disclose)).decode()


async def receipt_mend(context: AdminContext, command: ReceiptMend) -> tuple[ReceiptAside, ...]:
    await context.flush()
    return tuple(
        ReceiptAside(
            seq=aside.entry.seq,
            id=aside.entry.receipt.id,
            tenant=aside.entry.receipt.tenant,
            reason=aside.reason,
            set_aside_us=aside.set_aside_us,
            accepted=aside.accepted,
        )
        for aside in await context.store.mend_set_aside(accept=command.accept)
    )


def _no_receipt(receipt_id: str) -> NotFound:
    if receipt_id.startswith("rcpt_"):
        return NotFound(f"There is no receipt {receipt_id!r}.", hint="trustgate receipt list", code="receipt_not_found")
    return NotFound(
        f"There is no receipt of {receipt_id!r}.",
        hint="Request ids that the gateway gives begin with req_; a client's own id is in the request log alone, with "
        "the receipt's id beside it.",
        code="receipt_not_found",
    )


def receipt_detail(entry: Entry, *, with_secret: bool = False) -> ReceiptDetail:
    return ReceiptDetail(
        seq=entry.seq,
        receipt=entry.receipt,
        secret=entry.secret.hex() if with_secret else None,
        leaf_hash=leaf_hash(entry.receipt).hex(),
    )


async def look(context: AdminContext, command: Look) -> LiveStats:
    if context.pulse is None:
        raise Conflict(
            "No server runs on this home folder, so there are no live statistics.",
            hint="trustgate serve",
            code="no_server",
        )
    return await context.pulse()


async def reload(context: AdminContext, command: Reload) -> Reloaded:
    if context.reload is None:
        raise Conflict(
            "No server runs on this home folder, so there is nothing to reload.",
            hint="trustgate serve",
            code="no_server",
        )
    return await context.reload()


async def books_audit(context: AdminContext, command: BooksAudit) -> AuditState:
    async def work(report: ReportProgress) -> BooksReport:
        return await _audit(context, report)

    stage, report = await context.auditing.advance(command.audit, work, "Bringing the books up to date")
    return AuditState(stage=stage, report=report)


async def _audit(context: AdminContext, report_progress: ReportProgress) -> BooksReport:
    """Returns every difference between the books, and whether the log is the one that was signed for."""
    tree, problem = await context.books.tree(), None
    try:
        payment_service = await context.books.payment_service()
    except StoreDamaged as error:
        # Of a log that has signed for more, or for other receipts: what there is can be compared all the same.
        problem = Difference(record="log", detail=error.message)
        balances, last_seq = await context.books.balances(), await context.store.last_seq()
    else:
        balances, last_seq = payment_service.balances, payment_service.log.last_seq
    at_us = now_us()
    shared = await context.books.counted(context.directory)
    standings: Sequence[BudgetStanding] = ()
    if shared is not None:
        moment, standings, at_us = shared, shared.standings, shared.at_us
    else:
        moment = BooksSnapshot.take(last_seq, balances, context.quota, context.directory.keys())
        if moment.quota is not None and context.budgets is not None:
            standings = context.budgets.standings(at_us)
    await context.flush()
    if problem is None:
        try:
            await context.archive()
        except StoreDamaged as error:
            problem = Difference(record="log", detail=error.message)
    report = await BooksAuditor(context.store, tree, moment, report_progress).run()
    found = [] if problem is None else [problem]
    found += [
        Difference(record=name, detail=detail)
        for name, detail in await budget_differences(
            standings,
            store=context.store,
            directory=context.directory,
            catalog=context.catalog,
            at_us=at_us,
            until_seq=moment.last_seq,
        )
    ]
    count = report.difference_count + len(found)
    return replace(report, differences=(*found, *report.differences), difference_count=count)


async def status(context: AdminContext, command: Status) -> ServerStatus:
    """Returns the running server's, or, where the command line works on the file itself, that there is none."""
    if context.status is not None:
        return await context.status()
    return ServerStatus(
        version=__version__,
        pid=os.getpid(),
        address="",
        started_us=0,
        store_id=context.store.store_id,
        last_seq=await context.store.last_seq(),
        pending=0,
        active_requests=0,
        notes=context.store.info.notes,
        set_aside=sum(not aside.accepted for aside in context.store.set_aside),
    )
