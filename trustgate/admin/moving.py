"""``trustgate migrate``: a home's database from its file to Postgres, and back.

Owns the order of the steps, so that a kill anywhere leaves one database that serves, and the command goes on when it is
given again:

    take in what the journal has → copy the receipts → compare the roots → copy everything else
    → close the old one for good → open the new one

While it is filled the new one cannot be served: Postgres has a row in table ``moves``, a file has another name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trustgate.admin.clustering import check_no_drafts
from trustgate.errors import Conflict, HomeUnusable, StoreDamaged
from trustgate.formats.durable import sync
from trustgate.ids import now_us
from trustgate.receipts.diverged import append_diverged, set_aside_diverged
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.tree import Tree
from trustgate.settings import PostgresAddress, Settings
from trustgate.store import Store, hold_database, postgres_store

if TYPE_CHECKING:
    from trustgate.store.duckdb import DuckDBStore

Report = Callable[[int, int], None]

#: The endings of a database file's companions, the file itself first.
_PARTS = ("", ".wal", ".changes", ".mark")


class MovedDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """What ``migrate`` has done."""

    place: str
    receipts: int
    #: Of the tree over them, hexadecimal: the same before and after.
    root: str
    #: The file that was the database, or "".
    kept: str = ""


async def move_to_postgres(settings: Settings, address: PostgresAddress, report: Report) -> MovedDatabase:
    """Move the home's database file to Postgres.

    Raises Conflict where the two are different logs or it is there already, HomeUnusable without a database,
    StoreDamaged where the roots differ, StoreLocked, and what opening either raises.
    """
    from trustgate.store.duckdb import DuckDBStore
    from trustgate.store.engine import MOVED

    path = settings.database
    kept = path.with_name(path.name + MOVED)
    target = await postgres_store().open(address, settings.home, moving=True)
    try:
        if path.exists():
            source = await DuckDBStore.open(path)
            try:
                await target.begin_arrival(source.store_id, str(path))
                await _copy(source, target, settings, report)
                await target.arrive(source.store_id)
            finally:
                await source.close()
            written = path.stat()
            with hold_database(path):
                if (path.stat().st_mtime_ns, path.stat().st_size) != (written.st_mtime_ns, written.st_size):
                    raise Conflict("The database file was changed meanwhile.", hint="Give the command again.")
                _rename(path, kept)
        elif not kept.exists() or not target.has_arrived:
            raise HomeUnusable(
                f"There is no database file in {settings.home} to move.",
                hint="It was moved before: name the database with store.url." if kept.exists() else "Name its --home.",
            )
        else:
            _rename(path, kept)  # what a kill has left of it
        tree = await Tree.open(target)
        await target.end_arrival()
        return MovedDatabase(place=str(address), receipts=tree.size, root=tree.root.hex(), kept=str(kept))
    finally:
        await target.close()


async def move_from_postgres(settings: Settings, address: PostgresAddress, report: Report) -> MovedDatabase:
    """Move the database from Postgres into a file in the home. Raises as ``move_to_postgres``."""
    from trustgate.store.duckdb import DuckDBStore

    path = settings.database
    new = path.with_name(path.name + ".moving")
    source = await postgres_store().open(address, settings.home, moving=True)
    try:
        await source.check_departure(str(path))
        if not source.has_departed:
            await check_no_drafts(settings, source)
        if path.exists() and not source.has_departed:
            raise Conflict(
                f"There is a database file in {settings.home} already.",
                hint=f"Move {path.name}* away, or name a new folder with --home.",
            )
        if not source.has_departed or not (path.exists() or new.exists()):
            target = await _open_new(new)
            try:
                await _copy(source, target, settings, report)
                await target.be(source.store_id)
            finally:
                await target.close()
            await source.depart(str(path))
        if not path.exists():
            for ending in (".changes", ".mark", ".lock"):
                new.with_name(new.name + ending).unlink(missing_ok=True)
            _put_aside_moved(path)
            _rename(new, path, (".wal", ""))
    finally:
        await source.close()
    store = await DuckDBStore.open(path)
    try:
        tree = await Tree.open(store)
        return MovedDatabase(place=str(path), receipts=tree.size, root=tree.root.hex())
    finally:
        await store.close()


async def _open_new(path: Path) -> DuckDBStore:
    """Open the file that is being filled."""
    from trustgate.store.duckdb import DuckDBStore

    try:
        return await DuckDBStore.open(path)
    except StoreDamaged:  # it has the id of the other one already, and what stands beside it has its own
        for ending in (".changes", ".mark"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return await DuckDBStore.open(path)


async def _copy(source: Any, target: Any, settings: Settings, report: Report) -> None:
    """Raises StoreDamaged where the target's root is another than the source's."""
    from trustgate.store.moving import copy_receipts, copy_tables

    tree = await _taken_in(source, settings)
    await copy_receipts(source, target, report)
    made = await Tree.open(target)
    if made.root != tree.root or await source.balances() != await target.balances():
        raise StoreDamaged(
            "The receipts in the database to move to are others than those of this log.",
            hint="Move to an empty database or schema. This one has not been changed.",
        )
    await copy_tables(source, target)


async def _taken_in(store: Store, settings: Settings) -> Tree:
    """Returns the tree of the store, which has what the journal has."""
    tree = await Tree.open(store)
    if not settings.journal_folder.exists():
        return tree
    await set_aside_diverged(settings.journal_folder, store)
    journal = Journal.open(
        settings.journal_folder,
        store_id=store.store_id,
        last_seq=await store.last_seq(),
        segment_bytes=settings.journal.segment_bytes,
    )
    with contextlib.closing(journal):
        log = await Log.recover(store, journal, tree)
        await append_diverged(settings.journal_folder, store, log)
    return tree


def _rename(path: Path, to: Path, endings: tuple[str, ...] = _PARTS) -> None:
    """What is missing has been renamed before. Going away, the file goes first: its companions are no database."""
    for ending in endings:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(to.with_name(to.name + ending))
    sync(path.parent)


def _put_aside_moved(path: Path) -> None:
    """An older file that went to Postgres is not where the next one that goes there would be kept."""
    from trustgate.store.engine import MOVED

    moved = path.with_name(path.name + MOVED)
    if moved.exists():
        _rename(moved, moved.with_name(f"{moved.name}-{now_us()}"))
