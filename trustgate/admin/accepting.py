"""Going on without what is missing: the way out where the database, or its journal, lacks what was acknowledged.

Owns what is given up and what is kept. Nothing is deleted: files that no longer belong to the home are put aside under
another name. What was accepted is written into the operators' journal, with its time, and stays there.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from trustgate.admin.ownership import leave_to_owner
from trustgate.errors import HomeUnusable, StoreIncomplete
from trustgate.ids import now_us
from trustgate.receipts.checkpoint import reopen_checkpoint
from trustgate.receipts.diverged import set_aside_diverged
from trustgate.receipts.journal import Journal, mark_path
from trustgate.receipts.log import Log
from trustgate.receipts.logkey import create_log_key, load_log_key
from trustgate.receipts.tree import Tree
from trustgate.settings import Settings
from trustgate.store import Store, open_store
from trustgate.types import LogName


async def accept_loss(settings: Settings) -> list[str]:
    """Open the home's database and journal, take as lost what is missing; gives what that was, for people.

    Raises HomeUnusable where there is no database, StoreLocked, StoreDamaged for what cannot be read at all.
    """
    if not settings.may_have_database:
        raise _no_database(settings)
    store = await open_store(settings.database, settings.postgres(), accept_loss=True)
    try:
        said = list(store.info.notes)
        journal, notes = await _open_journal(store, settings)
        said += notes
        try:
            log = await Log.recover(store, journal, await Tree.open(store))
        finally:
            journal.close()
        said += await _renamed(settings, store, log.last_seq)
    finally:
        await store.close()
        leave_to_owner(settings.home)
    return said


async def missing(settings: Settings) -> list[str]:
    """Returns what is missing, as a start would tell it; nothing of it is accepted. Raises as ``accept_loss`` does."""
    if not settings.may_have_database:
        raise _no_database(settings)
    try:
        store = await open_store(settings.database, settings.postgres())
    except StoreIncomplete as error:
        return [error.message]
    try:
        last_seq = await store.last_seq()
        if settings.store.url:
            await set_aside_diverged(settings.journal_folder, store)
        journal = Journal.open(
            settings.journal_folder,
            store_id=store.store_id,
            last_seq=last_seq,
            segment_bytes=settings.journal.segment_bytes,
        )
        last_seq = max(last_seq, journal.last_seq)
        journal.close()
    except StoreIncomplete as error:
        return [error.message]
    finally:
        await store.close()
    signed = _signed(settings)
    return [f"The log has signed {signed} receipts, and has {last_seq}."] if signed > last_seq else []


def _no_database(settings: Settings) -> HomeUnusable:
    return HomeUnusable(f"There is no database in {settings.home}.", hint="Restore a backup: trustgate restore FILE")


async def _open_journal(store: Store, settings: Settings) -> tuple[Journal, list[str]]:
    folder, last_seq = settings.journal_folder, await store.last_seq()
    if settings.store.url:
        await set_aside_diverged(folder, store)

    def opened() -> Journal:
        return Journal.open(
            folder,
            store_id=store.store_id,
            last_seq=last_seq,
            segment_bytes=settings.journal.segment_bytes,
            accept_loss=True,
        )

    try:
        journal = opened()
    except StoreIncomplete as error:
        # What is between the database and the journal is gone, and a log has no gaps: nothing after it can be kept.
        aside = _put_aside(folder)
        mark_path(folder).unlink(missing_ok=True)
        return opened(), [f"Accepted as lost: {error.message} The journal is kept as {aside.name}."]
    return journal, list(journal.notes)


async def _renamed(settings: Settings, store: Store, last_seq: int) -> list[str]:
    """A log that has signed more than there is cannot go on under its name: its key and checkpoint are put aside.

    Where several processes may serve, none of them makes a key for a log that has one: it is made here.
    """
    signed = _signed(settings)
    if signed <= last_seq:
        return []
    kept = [_put_aside(path).name for path in (settings.log_key, settings.checkpoint)]
    what = f"The log had signed {signed} receipts and has {last_seq}: it goes on under another name."
    said = [f"{what} What was proven under the old one stays proven; its files are kept as {' and '.join(kept)}."]
    if settings.store.url:
        key = create_log_key(settings.log_key, f"trustgate-{secrets.token_hex(8)}")
        await store.put(LogName(vkey=str(key.verifier), created_us=now_us()))
        said.append(f"That name is {key.name}: copy {settings.log_key} to every home that is to sign the log, too.")
    return said


def _signed(settings: Settings) -> int:
    """Returns how many receipts the last checkpoint covers; 0 where there is none."""
    if not settings.checkpoint.exists() or not settings.log_key.exists():
        return 0
    return reopen_checkpoint(settings.checkpoint.read_bytes(), load_log_key(settings.log_key)).size


def _put_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    path.rename(aside)
    return aside
