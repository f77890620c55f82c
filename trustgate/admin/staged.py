"""A copy of a home, to look at: what opening, recovering and checking write is written there, and thrown away.

Whatever reads a home that no server has open brings it up to date first (journal, checkpoint, receipts of payments that
a killed server left). An audit must leave things as they are, so it works on a copy. Archive files never change and are
read where they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from trustgate.admin.commands import Command, Feed, Write
from trustgate.admin.local import LocalAdmin, open_local_admin
from trustgate.admin.ownership import leave_to_owner
from trustgate.errors import HomeUnusable, TrustGateError
from trustgate.settings import Settings
from trustgate.store import hold_database

R = TypeVar("R")

_PREFIX, _SUFFIX = "audit-", ".tmp"
#: What backups and restores leave when they are killed; ``restore.tmp`` is made anew by the next.
_LEFT_BEHIND = ("backup-*.tmp", "checkpoint.new", "log.key.*.new", "archive/*.parquet.new")


class CopiedAdmin:
    """``Admin`` over a copy of a home. Closing it removes the copy."""

    def __init__(self, admin: LocalAdmin, stack: contextlib.AsyncExitStack, stage: Path, home: Path) -> None:
        """Use ``open_copy``."""
        self._admin = admin
        self._stack = stack
        self._places = stage, home

    async def execute(self, command: Command[R]) -> R:
        with _told_of(*self._places):
            return _of_home(await self._admin.execute(command), *map(str, self._places))

    async def feed(self, command: Feed[R], write: Write) -> R:
        with _told_of(*self._places):
            return _of_home(await self._admin.feed(command, write), *map(str, self._places))

    async def close(self) -> None:
        await self._stack.aclose()


async def open_copy(settings: Settings) -> CopiedAdmin:
    """Open a copy of the home, which has a database, as a command opens the home itself. The home stays as it is.

    The copy is made in the home folder, whose disk has to have room for it. Raises ``StoreLocked``, ``HomeUnusable``,
    and what ``open_local_admin`` raises.
    """
    async with contextlib.AsyncExitStack() as stack:
        stage = stack.enter_context(_folder(settings))
        staged = msgspec.structs.replace(settings, home=stage)
        if staged.socket.parent != stage:  # a folder of its own, made for a path that is too long
            stack.callback(shutil.rmtree, staged.socket.parent, ignore_errors=True)
        with _told_of(stage, settings.home), hold_database(settings.database):
            _copy(settings, stage)
            admin = await open_local_admin(staged)
        stack.push_async_callback(admin.close)
        return CopiedAdmin(admin, stack.pop_all(), stage, settings.home)
    raise AssertionError("the stack lets nothing pass")


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, suffix=_SUFFIX, dir=settings.home) as name:
            yield Path(name)
    except OSError as error:
        raise HomeUnusable(
            f"The home folder cannot be copied for an audit: {error.strerror or error}.",
            hint="Free some space on its disk, and check who owns its files.",
        ) from error


def _copy(settings: Settings, stage: Path) -> None:
    database = settings.database.name
    names = [database, *(f"{database}{ending}" for ending in (".wal", ".changes", ".mark"))]
    names += ["journal", "journal.mark", settings.log_key.name, settings.checkpoint.name]
    found = [str(settings.home / name) for name in names if (settings.home / name).exists()]
    free, needed = shutil.disk_usage(settings.home).free, settings.database.stat().st_size
    if free < needed * 2:
        raise HomeUnusable(
            f"The disk of {settings.home} has no room for a copy of the database ({needed // 2**20} MiB).",
            hint="Make room there, or audit while the server runs: that needs no copy.",
        )
    command = ["cp", "-R", "-p", "--", *found, str(stage)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - our paths
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition(": ")[2]
        raise HomeUnusable(f"The home folder cannot be copied for an audit: {reason or 'cp failed'}.")
    archive = settings.home / "archive"
    if archive.is_dir():
        (stage / "archive").symlink_to(archive.absolute())
    # Root may have copied for a service user; the copy is the auditor's.
    stage.chmod(0o700)


@contextlib.contextmanager
def _told_of(stage: Path, home: Path) -> Iterator[None]:
    """Errors speak of the home, not of its copy."""
    try:
        yield
    except TrustGateError as error:
        error.message = error.message.replace(str(stage), str(home))
        error.hint = None if error.hint is None else error.hint.replace(str(stage), str(home))
        raise


def _of_home(value: R, stage: str, home: str) -> R:
    """What was found in the copy, with the paths that it has in the home."""

    def changed(found: Any) -> Any:
        if isinstance(found, str):
            return found.replace(stage, home)
        if isinstance(found, tuple | list) and type(found) in (tuple, list):
            return type(found)(map(changed, found))
        if isinstance(found, msgspec.Struct):
            members = {name: getattr(found, name) for name in found.__struct_fields__}
            return msgspec.structs.replace(found, **{name: changed(member) for name, member in members.items()})
        return found

    return cast(R, changed(value))


def clean_up(home: Path) -> None:
    """Remove what commands that were killed have left. The caller holds the database's lock."""
    for pattern in _LEFT_BEHIND:
        for path in home.glob(pattern):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for stage in home.glob(f"{_PREFIX}*{_SUFFIX}"):
        if not _is_held(stage / "trustgate.duckdb.lock"):
            shutil.rmtree(stage, ignore_errors=True)
    leave_to_owner(home)


def _is_held(lock: Path) -> bool:
    """Returns whether an audit has the copy open. One that is still copying holds the database's own lock."""
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
