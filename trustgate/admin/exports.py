"""The commands that export rows: receipts and usage, as JSON lines.

Owns the pace: a page at a time, never more in memory, and the store is free for others between two pages.
"""

from __future__ import annotations

from trustgate.admin.commands import Write
from trustgate.admin.context import AdminContext
from trustgate.admin.log_commands import Exported, ReceiptsExport, UsageExport
from trustgate.store import ExportFilter

#: Receipts a page, some 500 kB of text. To sort them and put them together takes the database 8 to 16 MB, and it may
#: have 64 MB in all, of which receipts that no checkpoint has written yet take their part.
_PAGE_RECEIPTS = 500
_DAY_US = 86_400_000_000


async def receipts_export(context: AdminContext, command: ReceiptsExport, write: Write) -> Exported:
    query = _filter(context, command)
    await context.flush()
    last_seq = await context.store.last_seq()
    rows = 0
    for after_seq in range(0, last_seq, _PAGE_RECEIPTS):
        page = await context.store.export_receipts(query, after_seq, min(after_seq + _PAGE_RECEIPTS, last_seq))
        rows += page.rows
        await write(page.text)
    return Exported(rows=rows)


async def usage_export(context: AdminContext, command: UsageExport, write: Write) -> Exported:
    query = _filter(context, command)
    await context.flush()
    span = await context.store.first_and_last_us(query)
    rows = 0
    if span is not None:
        for day_us in range(span[0] - span[0] % _DAY_US, span[1] + 1, _DAY_US):
            day = ExportFilter(
                tenant_id=query.tenant_id,
                since_us=max(day_us, span[0]),
                until_us=min(day_us + _DAY_US, span[1] + 1),
            )
            for part in await context.store.usage_pages(day):
                page = await context.store.export_usage(part)
                rows += page.rows
                await write(page.text)
    return Exported(rows=rows)


def _filter(context: AdminContext, command: ReceiptsExport | UsageExport) -> ExportFilter:
    """Raises ``NotFound`` for a tenant that is none."""
    tenant_id = None if command.tenant is None else context.tenant(command.tenant).id
    return ExportFilter(tenant_id=tenant_id, since_us=command.since_us, until_us=command.until_us)
