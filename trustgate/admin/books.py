"""The commands that read the books: usage, receipts, the server's state."""

from __future__ import annotations

import os

from trustgate import __version__
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
from trustgate.admin.desk import Desk
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.receipts.pulse import Pulse
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
    return tuple(_detail(entry, with_secret=False) for entry in entries)


async def receipt_show(desk: Desk, command: ReceiptShow) -> ReceiptDetail:
    await desk.flush()
    entry = await desk.store.entry(command.receipt)
    if entry is None:
        raise _no_receipt(command.receipt)
    return _detail(entry, with_secret=True)


async def receipt_export(desk: Desk, command: ReceiptExport) -> str:
    archive = await desk.archive()
    entry = await desk.store.entry(command.receipt)
    if entry is None:
        raise _no_receipt(command.receipt)
    return (await archive.bundle(entry, command.disclose)).decode()


def _no_receipt(receipt_id: str) -> NotFound:
    return NotFound(f"There is no receipt {receipt_id!r}.", hint="trustgate receipt list", code="receipt_not_found")


def _detail(entry: Entry, *, with_secret: bool) -> ReceiptDetail:
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
