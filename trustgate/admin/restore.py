"""Restoring a backup into a home folder, without forking the log.

A log that went on from an older copy would contradict what it has signed and what its tenants hold. So what is restored
must continue everything that this home is known to have had: its database, its journal, its last checkpoint. Where the
backup is older but the home's journal reaches back to it, the journal fills the rest in, and nothing is lost. Otherwise
the backup is refused, unless it is to be the beginning of a log of another name.

Owns the order of it: unpack beside, look at the home, open what is to be restored and check it as a server would at its
start, and only then change places. What was there is put aside, never deleted.
"""

from __future__ import annotations

import contextlib
import filecmp
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from trustgate.admin.backupfile import ARCHIVES, CHECKPOINT, CONFIG, DATABASE, HANDLES, LOG_KEY, Manifest, unpack
from trustgate.admin.local import open_local_admin
from trustgate.admin.log_commands import AnchorStatus, ArchiveFound, ArchiveList, LogStatus
from trustgate.admin.ownership import leave_to_owner
from trustgate.errors import Conflict, OperatorError, SettingsError, StoreDamaged, VerificationFailed
from trustgate.formats.durable import sync
from trustgate.receipts.checkpoint import open_checkpoint
from trustgate.receipts.journal import mark_path
from trustgate.receipts.logkey import load_log_key
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.segment import scan, segments_in
from trustgate.settings import Settings
from trustgate.store import hold_database, open_store
from trustgate.store.marks import Mark

_STAGE = "restore.tmp"
_ELSEWHERE = "Restore it into an empty folder instead: trustgate --home DIR restore FILE"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored, or would be."""

    created_us: int
    #: Receipts in the backup, and in what was restored: the journal may have added some.
    backup_seq: int
    last_seq: int
    origin: str
    vkey: str
    #: Where what was there before is now; "" where there was nothing.
    replaced: str = ""
    dry_run: bool = False
    #: Archive files that the restored log needs and that are neither in the backup nor here.
    archives_missing: tuple[str, ...] = ()


class _Opened(NamedTuple):
    """What is to be restored, as it was when it was opened."""

    log: LogStatus
    archives: tuple[ArchiveFound, ...]


class _HomeState(NamedTuple):
    """What a home is known to have had."""

    #: The last receipt by its database, its journal and its checkpoint.
    last_seq: int = 0
    #: From which receipt on the journal has every one; None: it has none.
    journal_from: int | None = None
    journal_last: int = 0


async def restore(
    settings: Settings, backup: Path, *, new_log: bool, dry_run: bool, report: Callable[[int, int], None]
) -> Restored:
    """Restore the backup into the home of the settings. ``report`` receives the bytes unpacked and in all.

    ``new_log``: go on from the backup as a log of another name, whatever the old one has said. Raises ``Conflict``
    where the log would fork or the home is another log's, ``StoreDamaged`` for a bad backup, ``StoreLocked``,
    ``HomeUnusable``.
    """
    if settings.store.url:
        raise OperatorError(
            "The database of this home is on Postgres: a backup of it is restored by Postgres's own means.",
            hint="pg_restore --clean --dbname=… FILE, with log.key, checkpoint and the folder journal of that time. To "
            "restore into a file, take store.url out of the settings.",
            code="postgres_has_its_own",
        )
    settings.make_home()
    stage = settings.home / _STAGE
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o700)
    try:
        manifest = unpack(backup, stage, report)
        state = await _look(settings, manifest)
        with hold_database(settings.database):
            _check(settings, manifest, state, new_log=new_log)
            opened = await _open(settings, stage, state, new_log=new_log)
            status, missing = opened.log, _missing_archives(settings, stage, opened.archives)
            replaced = "" if dry_run else _change_places(settings, stage, new_log=new_log)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        leave_to_owner(settings.home)
    return Restored(
        created_us=manifest.created_us,
        backup_seq=manifest.last_seq,
        last_seq=status.tree_size,
        origin=status.origin,
        vkey=status.vkey,
        replaced=replaced,
        dry_run=dry_run,
        archives_missing=missing,
    )


# what the home has had


async def _look(settings: Settings, manifest: Manifest) -> _HomeState:
    """Raises ``Conflict`` where the home is another log's."""
    store_id, last_seq = await _database(settings)
    if store_id not in (None, manifest.store_id):
        raise Conflict(
            f"This home holds another database ({store_id}) than the backup ({manifest.store_id}).",
            hint=_ELSEWHERE,
            code="other_log",
        )
    signed = _signed(settings, manifest)
    first, journal_last = _journal(settings, manifest)
    return _HomeState(max(last_seq, journal_last, signed), first, journal_last)


async def _database(settings: Settings) -> tuple[str | None, int]:
    """Returns the id and the last receipt of the home's database; None where it holds nothing, or cannot be opened."""
    if not settings.database.exists():
        return None, 0
    try:
        store = await open_store(settings.database)
    except StoreDamaged:
        return None, 0  # which may be why there is something to restore
    try:
        last_seq = await store.last_seq()
        return (store.store_id, last_seq) if last_seq else (None, 0)
    finally:
        await store.close()


def _journal(settings: Settings, manifest: Manifest) -> tuple[int | None, int]:
    """Returns the first and the last receipt that the home's journal is sure about. Raises ``StoreDamaged``."""
    folder = settings.journal_folder
    segments = segments_in(folder) if folder.is_dir() else []
    last_seq = 0
    for segment in segments:
        data = segment.path.read_bytes()
        if data.strip(b"\0"):
            last_seq = max(last_seq, scan(segment, data, manifest.store_id).last_seq)
    return (segments[0].base if segments else None), last_seq


def _signed(settings: Settings, manifest: Manifest) -> int:
    """Returns the size of the last checkpoint. Raises ``Conflict`` for a log of another name."""
    vkey = VerifierKey.parse(manifest.vkey)
    if settings.log_key.exists():
        own = load_log_key(settings.log_key).verifier
        if own != vkey:
            raise Conflict(
                f"This home's log is {own.name}, signed with another key than the backup's ({vkey.name}).",
                hint=f"{_ELSEWHERE}. To give this home to the backup's log, move log.key and checkpoint away first.",
                code="other_log",
            )
    if not settings.checkpoint.exists():
        return 0
    try:
        return open_checkpoint(settings.checkpoint.read_bytes(), vkey).size
    except VerificationFailed as error:
        raise Conflict(
            f"This home has a checkpoint that the backup's log has not signed: {error.message}",
            hint=_ELSEWHERE,
            code="other_log",
        ) from None


def _check(settings: Settings, manifest: Manifest, state: _HomeState, *, new_log: bool) -> None:
    if new_log:
        if settings.receipts.origin == manifest.origin:
            raise SettingsError(
                f"receipts.origin is still {manifest.origin}, the name of the log that must not continue.",
                hint="Set another name in trustgate.toml, or remove the setting, and restore again.",
            )
        return
    missing = state.last_seq - manifest.last_seq
    if missing > 0 and not _journal_fills_in(manifest, state):
        raise Conflict(
            f"The backup ends at receipt {manifest.last_seq:,}, but this home's log has {state.last_seq:,}: going "
            f"on from the backup would fork the log and lose {missing:,} receipts.",
            hint="Keep this home, or use a newer backup. If those receipts are lost for good, continue as a log of "
            "another name: trustgate restore --new-log FILE",
            code="log_would_fork",
        )


def _journal_fills_in(manifest: Manifest, state: _HomeState) -> bool:
    return (
        state.journal_from is not None
        and state.journal_from <= manifest.last_seq + 1
        and state.journal_last >= state.last_seq
    )


# what is to be restored


async def _open(settings: Settings, stage: Path, state: _HomeState, *, new_log: bool) -> _Opened:
    """Open what is in the stage as a server would: recover, check the log against what it has signed."""
    signed = [(stage / CHECKPOINT).read_bytes()]
    if new_log:
        signed = [b""]
        for name in (LOG_KEY, CHECKPOINT):
            (stage / name).unlink()
    else:
        if state.journal_from is not None:
            shutil.copytree(settings.journal_folder, stage / "journal", ignore=shutil.ignore_patterns("*.new"))
        if settings.checkpoint.exists():
            signed.append(settings.checkpoint.read_bytes())
    staged = msgspec.structs.replace(settings, home=stage)
    _begin_beside(settings, stage)
    try:
        for note in signed:  # it must continue the one and the other
            if note:
                (stage / CHECKPOINT).write_bytes(note)
            opened = await _look_into(staged)
        if not (stage / "journal").exists():
            with contextlib.closing(Mark(mark_path(stage / "journal"))) as mark:
                mark.write(opened.log.tree_size)
        return opened
    finally:
        if staged.socket.parent != stage:  # a folder of its own, made for a path that is too long
            shutil.rmtree(staged.socket.parent, ignore_errors=True)


def _begin_beside(settings: Settings, stage: Path) -> None:
    """What stands beside the database in the stage: the home's journal of changes, so that none is undone; no marks.

    The marks tell of the database that is replaced. What the restored one has is the beginning of new ones.
    """
    changes = settings.database.with_name(f"{DATABASE}.changes")
    if changes.exists():
        shutil.copyfile(changes, stage / changes.name)


async def _look_into(settings: Settings) -> _Opened:
    admin = await open_local_admin(settings, accept_loss=True, is_copy=True)
    try:
        return _Opened(await admin.execute(AnchorStatus()), await admin.execute(ArchiveList()))
    finally:
        await admin.close()


def _missing_archives(settings: Settings, stage: Path, archives: tuple[ArchiveFound, ...]) -> tuple[str, ...]:
    places = (stage / ARCHIVES, settings.home / ARCHIVES)
    return tuple(
        found.file.name
        for found in archives
        if not any((place / found.file.name).exists() for place in (*places, Path(found.path).parent))
    )


def _put_archives(home: Path, stage: Path, aside: Path) -> None:
    """Files of that name that hold something else go aside; those that hold the same stay."""
    (home / ARCHIVES).mkdir(mode=0o700, exist_ok=True)
    for path in sorted((stage / ARCHIVES).iterdir()):
        own = home / ARCHIVES / path.name
        if own.exists() and not filecmp.cmp(own, path, shallow=False):
            (aside / ARCHIVES).mkdir(mode=0o700, parents=True, exist_ok=True)
            own.rename(aside / ARCHIVES / path.name)
        if not own.exists():
            sync(path)
            path.rename(own)
    sync(home / ARCHIVES)


def _change_places(settings: Settings, stage: Path, *, new_log: bool) -> str:
    """Put the staged files into the home; what they replace goes aside. Gives that folder, "" where it is not needed.

    At every moment the home has either a whole log or one whose checkpoint knows that something is missing, which no
    server would go on from.
    """
    home = settings.home
    aside = home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    beside = [f"{DATABASE}.changes", f"{DATABASE}.mark", "journal.mark"]
    moved = [DATABASE, f"{DATABASE}.wal", *beside, "journal"]
    kept = [LOG_KEY, CHECKPOINT]
    if any((home / name).exists() for name in (*moved, *kept)):
        aside.mkdir(mode=0o700)
    if (stage / ARCHIVES).exists():
        _put_archives(home, stage, aside)
    for name in kept:
        if (home / name).exists():
            shutil.copy2(home / name, aside / name)
        (stage / name).replace(home / name)
    for name in moved:
        if (home / name).exists():
            (home / name).rename(aside / name)
    if (stage / "journal").exists():
        (stage / "journal").rename(home / "journal")
    for name in (HANDLES, CONFIG):
        # The home's own are newer than the backup's.
        if (stage / name).exists() and not (home / name).exists():
            (stage / name).rename(home / name)
    for name in beside:
        if (stage / name).exists():
            (stage / name).rename(home / name)
    sync(stage / DATABASE)
    (stage / DATABASE).rename(home / DATABASE)
    sync(home)
    return str(aside) if aside.exists() else ""
