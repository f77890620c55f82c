"""The commands of archive files: ``archive`` moves old receipts out of the database, into Parquet files.

Owns which receipts may be moved: those whose place in the log is settled and which no limit counts any more. They are
in a signed checkpoint, and in an anchor where there are anchors; they are older than every running window; and none
before them waits to be mended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustgate.admin.background_work import ReportProgress
from trustgate.admin.backup import alone
from trustgate.admin.context import AdminContext
from trustgate.admin.log_commands import ArchiveFound, ArchiveList, ArchiveReceipts, ArchiveReport, ArchiveState
from trustgate.admin.ownership import give_to_owner
from trustgate.errors import InvalidRequest, Unavailable
from trustgate.ids import iso_us
from trustgate.store import ArchiveFile

_US = 1_000_000
#: Calendar weeks are the only windows that may begin before the month does.
_WEEK = timedelta(days=7)
#: A file has whole tiles of the log's tree.
_TILE_RECEIPTS = 256


async def archive_receipts(context: AdminContext, command: ArchiveReceipts) -> ArchiveState:
    async def work(report: ReportProgress) -> ArchiveReport:
        return await _archive(context, command, report)

    stage, done = await context.archiving.advance(command.order, work, "Bringing the log up to date")
    return ArchiveState(stage=stage, report=done)


async def archive_list(context: AdminContext, command: ArchiveList) -> tuple[ArchiveFound, ...]:
    store = context.store
    wrong = {found.file.name: found.problem for found in await store.archive_problems(deep=command.check)}
    return tuple(
        ArchiveFound(file=file, path=str(store.archive_path(file)), problem=wrong.get(file.name, ""))
        for file in store.archives
    )


async def _archive(context: AdminContext, command: ArchiveReceipts, report: ReportProgress) -> ArchiveReport:
    windows_us = _oldest_window_us(context)
    if command.before_us > windows_us:
        raise InvalidRequest(
            f"Receipts since {iso_us(windows_us)} count in running limits and budgets, so they stay in the database.",
            param="before",
            hint=f"Give an earlier time: --before {datetime.fromtimestamp(windows_us / _US, UTC):%Y-%m-%d}",
        )
    folder = _folder(command.to)
    log = await context.archive()
    await log.renewed()
    store, first = context.store, _last(context) + 1
    up_to, kept = await store.last_seq_before(command.before_us), ""
    async for most, why in _bounds(context, log.checkpoint_size):
        if most < up_to:
            up_to, kept = max(most, first - 1), why
    whole = up_to - up_to % _TILE_RECEIPTS
    if whole < up_to and not kept:
        kept = f"the last {up_to - whole}, which do not fill a tile of the log's tree ({_TILE_RECEIPTS} receipts)"
    if command.dry_run or whole < first:
        return ArchiveReport(receipts=max(0, whole - first + 1), last_seq=first - 1, kept=kept, dry_run=command.dry_run)
    about = {"origin": log.origin, "vkey": log.vkey, "checkpoint": log.checkpoint.decode()}
    before, files = store.info.size_bytes, list[ArchiveFile]()
    async with alone(context):
        while (made := await store.archive(whole, folder, about)) is not None:
            files.append(made)
            for path in (store.archive_path(made), store.archive_path(made).parent):
                give_to_owner(context.settings.home, path)
            report(f"Archived {made.last_seq - first + 1:,} of {whole - first + 1:,} receipts")
        report("Making the database smaller")
        try:
            await store.compact()
        except Unavailable as error:
            kept = "; ".join(filter(None, (kept, f"the unused space of the database: {error.message}")))
    return ArchiveReport(
        receipts=sum(file.last_seq - file.first_seq + 1 for file in files),
        last_seq=_last(context),
        files=tuple(files),
        kept=kept,
        before_bytes=before,
        after_bytes=store.info.size_bytes,
    )


def _last(context: AdminContext) -> int:
    return context.store.archives[-1].last_seq if context.store.archives else 0


def _folder(to: str | None) -> Path | None:
    if to is None:
        return None
    if not Path(to).is_absolute():
        raise InvalidRequest("The folder for archive files must be an absolute path.", param="to")
    return Path(to)


def _oldest_window_us(context: AdminContext) -> int:
    """Where the oldest window begins in which a receipt can still count: of a month, a week, or a rolling span."""
    now = datetime.now(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rolling = [timedelta(seconds=seconds) for seconds in _rolling_spans_s(context)]
    oldest = min(month, now - max([_WEEK, *rolling]))
    return max(0, int(oldest.timestamp()) * _US)


def _rolling_spans_s(context: AdminContext) -> Iterator[int]:
    for budget in context.directory.budgets():
        digits = budget.span.removesuffix("s")
        if digits.isdigit():
            yield int(digits)


async def _bounds(context: AdminContext, signed: int) -> AsyncIterator[tuple[int, str]]:
    """Yields how far receipts may be moved, and why no further."""
    yield signed, f"receipts after {signed:,}, which no checkpoint covers yet"
    anchor = context.settings.anchor
    anchors = await context.store.anchors()
    if anchors or anchor.every or anchor.after_receipts:
        size = max((found.tree_size for found in anchors if found.state == "anchored"), default=0)
        yield size, f"receipts after {size:,}, which are not anchored yet (trustgate anchor flush)"
    waiting = next((aside.entry.seq for aside in context.store.set_aside if not aside.accepted), None)
    if waiting is not None:
        yield waiting - 1, f"receipts from {waiting:,} on, which was set aside (trustgate receipt mend)"
