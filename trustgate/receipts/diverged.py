"""A journal that has receipts which its database lacks, while the database has gone on without it.

So it is where another machine took the database over before this one had brought all of its journal into it: receipts
of answers that ended while the database was away. Their places in the log, and in their tenants' chains, are taken by
other receipts by now. They are given new ones, at the end, each once: by its id it is seen whether the database has it.

Owns the folders ``journal.diverged-1`` and so on, in which such journals are kept until that is done.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from trustgate.receipts.journal import mark_path
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.receipts.segment import Segment, records, scan, segments_in
from trustgate.store import Store
from trustgate.types import Entry

_SUFFIX = ".diverged-"
#: The file in a journal that was put aside with the id under which it was written, where that is not the store's.
_ID_NAME = "id"

#: Returns those of the receipts that are to be appended, without what other receipts have of the same things.
Settle = Callable[[list[Entry]], Awaitable[list[Entry]]]

_logger = logging.getLogger("trustgate.receipts")


async def set_aside_diverged(journal: Path, store: Store) -> None:
    """Put the journal aside where its last entries do not continue what the database has.

    Call it before the journal is opened. Raises what the store raises, ``StoreDamaged`` and ``OSError``.
    """
    missing = await missing_of(journal, store)
    if not missing or await _continues(missing, store):
        return
    await asyncio.to_thread(_set_aside, journal)


def _set_aside(journal: Path) -> None:
    # The mark first: one without its journal would mean that the journal is lost.
    mark_path(journal).unlink(missing_ok=True)
    # There may be some of starts that were killed, the first ones of them removed already.
    last = max(map(_number, _put_aside(journal)), default=0)
    journal.rename(journal.with_name(f"{journal.name}{_SUFFIX}{last + 1}"))


async def append_diverged(journal: Path, store: Store, log: Log, settle: Settle | None = None) -> int:
    """Append the receipts of a journal that was put aside, and remove it.

    Args:
        journal: the folder that was put aside.
        store: has what was put on record since.
        log: of the process that serves alone.
        settle: given where the journal is of a process among several.

    Returns:
        How many they were.
    """
    count = 0
    asides = await asyncio.to_thread(_put_aside, journal)
    for aside in asides:
        missing = await missing_of(aside, store)
        await _append(missing if settle is None else await settle(missing), log)
        count += len(missing)
    for aside in asides:
        await asyncio.to_thread(shutil.rmtree, aside)
    if count:
        _logger.warning("%d receipts that this home's journal alone had are in the log now, at its end", count)
    return count


async def put_aside_left(journal: Path, store: Store) -> list[Entry]:
    """Put a journal aside that has what the database lacks, for a process among several, which goes on without it.

    Returns:
        What it lacks of all that are aside. ``remove_asides`` is to follow once it has them.
    """
    if await missing_of(journal, store):
        await asyncio.to_thread(_set_aside, journal)
    return await left_aside(journal, store)


def set_aside_drafts(drafts: Path, home_id: str) -> None:
    """Put aside the journal of a process among several whose id another process uses now.

    Args:
        drafts: The journal's folder; it may be missing.
        home_id: The id under which the journal was written.
    """
    if drafts.is_dir():
        (drafts / _ID_NAME).write_text(home_id)
        _set_aside(drafts)
    mark_path(drafts).unlink(missing_ok=True)


def has_asides(journal: Path) -> bool:
    """Returns whether there are journals that were put aside from this one's place."""
    return bool(_put_aside(journal))


async def left_aside(journal: Path, store: Store) -> list[Entry]:
    """Returns the entries of journals that were put aside which the database lacks."""
    return [entry for aside in _put_aside(journal) for entry in await missing_of(aside, store)]


async def remove_asides(journal: Path) -> None:
    """Remove the journals that were put aside: the database has what they have."""
    for aside in _put_aside(journal):
        await asyncio.to_thread(shutil.rmtree, aside)


async def append_drafts(
    drafts: Path, home_id: str, store: Store, log: Log, settle: Settle, *, keeps_journal: bool = False
) -> int:
    """Append what a process among several had in its journal alone, now that one process has the database.

    Args:
        drafts: its folder.
        home_id: the journal's.
        store: has everything that several processes had closed.
        log: of the process that serves alone.
        settle: leaves out what other processes have put on record of the same things.
        keeps_journal: whether the journal stays; else it is removed.

    Returns:
        How many they were.
    """
    missing = await missing_of(drafts, store, home_id)
    await _append(await settle(missing), log)
    if keeps_journal:
        return len(missing)
    # The mark first: one without its journal would mean that the journal is lost.
    mark_path(drafts).unlink(missing_ok=True)
    await asyncio.to_thread(shutil.rmtree, drafts)
    return len(missing)


async def _append(entries: list[Entry], log: Log) -> None:
    """Append receipts at the ends of the log and of their tenants' chains, and wait until the database has them."""
    for entry in entries:
        tseq, tprev = log.link(entry.receipt.tenant)
        log.append(msgspec.structs.replace(entry.receipt, tseq=tseq, tprev=tprev), entry.secret)
    await log.flush()


def _put_aside(journal: Path) -> list[Path]:
    return sorted(journal.parent.glob(f"{journal.name}{_SUFFIX}*"), key=_number)


def _number(aside: Path) -> int:
    """Returns the number of a journal that was put aside; 0 for a folder that is not named so."""
    digits = aside.name.rpartition(_SUFFIX)[2]
    return int(digits) if digits.isdecimal() else 0


def _segments(journal: Path) -> list[Segment]:
    return segments_in(journal) if journal.is_dir() else []


async def missing_of(journal: Path, store: Store, journal_id: str = "") -> list[Entry]:
    """Returns the entries at the journal's end that the database lacks. Entries come into it in order.

    ``journal_id``: the id under which the journal was written; "": the one in its file ``id``, else the store's.
    """
    if not journal_id and (journal / _ID_NAME).exists():
        journal_id = (journal / _ID_NAME).read_text()
    missing: list[Entry] = []
    for segment in reversed(await asyncio.to_thread(_segments, journal)):
        data = segment.path.read_bytes()
        found = scan(segment, data, journal_id or store.store_id)
        for entry in reversed([entry for entry, _ in records(segment, data, found.salt)]):
            if await store.entry(entry.receipt.id) is not None:
                return missing[::-1]
            missing.append(entry)
    return missing[::-1]


async def _continues(entries: list[Entry], store: Store) -> bool:
    """Returns whether the entries are the next ones of the log, and of their tenants' chains."""
    if entries[0].seq != await store.last_seq() + 1:
        return False
    heads = {head.tenant_id: head.entry.receipt for head in await store.load_heads()}
    for entry in entries:
        receipt, head = entry.receipt, heads.get(entry.receipt.tenant)
        link = (1, FIRST_TPREV) if head is None else (head.tseq + 1, leaf_hash(head).hex())
        if (receipt.tseq, receipt.tprev) != link:
            return False
        heads[receipt.tenant] = receipt
    return True
