"""Commands that add up, typed again because there was no answer: they count once.

Each has a reference, and what has a reference counts once (``admin.crediting``). Where the operator gives none, one is
made, and kept in a file of the home folder until the answer is out: a command that was killed, or lost its server,
leaves the file. The same command, typed within a day, goes by that file's reference.

    with repeatable(context, TenantCredit(tenant="acme", add_nano_usd=5)) as (command, typed_before):
        show(execute(context, command))
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import typer

from trustgate.admin.commands import Command
from trustgate.admin.money import BalanceChange
from trustgate.admin.ownership import give_to_owner
from trustgate.cli import render
from trustgate.cli.context import session
from trustgate.errors import HomeUnusable, TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.settings import Settings, remote_server

C = TypeVar("C", bound=Command[Any])

_FOLDER = "unanswered"
#: For how long a command that had no answer is taken for the same when it is typed again.
_REMEMBERED_US = 24 * 3600 * MICROSECONDS_PER_SECOND


class _Typed(msgspec.Struct, frozen=True):
    """A file's content: what the command was given as its reference, and when it was typed, microseconds UTC."""

    reference: str
    typed_us: int


@contextlib.contextmanager
def repeatable(context: typer.Context, command: C) -> Iterator[tuple[C, str]]:
    """Give a command the reference under which it counts once, for the block that carries it out and shows the answer.

    Args:
        context: of the command line.
        command: with a member ``reference``; one that is not "" is the operator's, and stays.

    Yields:
        The command with its reference; and when it was typed first where that had no answer, else "".
    """
    if getattr(command, "reference"):  # noqa: B009 - not every command has it
        yield command, ""
        return
    settings = session(context).settings()
    kept = _Kept.of(settings, command)
    try:
        yield msgspec.structs.replace(command, reference=kept.typed.reference), kept.before
        sys.stdout.flush()
    except TrustGateError as error:
        if error.status < 500 and error.code != "server_broke_off":
            kept.remove()  # it was refused
        elif kept.path is not None:
            error.hint = f"{error.hint or ''} Typed again within a day, it counts once.".strip()
        raise
    except Exception:
        kept.note_reference()
        raise
    else:
        kept.remove()
    finally:
        kept.close()


def repeated_note(typed_before: str) -> str:
    """Returns the note on a command that was carried out before. ``typed_before``: as ``repeatable`` yields it."""
    if not typed_before:
        return "That reference was used before, for the same amount: nothing was changed now."
    return (
        f"It was typed before, at {typed_before}, and its answer was lost: it was carried out then, and nothing was "
        "changed now. To do it once more, type it again."
    )


def note_in_json(change: BalanceChange, typed_before: str) -> None:
    """Where a command is answered by JSON, whose ``repeated`` has no reason: give it on stderr.

    A script that adds the same amount every day may meet what it did not hear of the day before.
    """
    if change.repeated and typed_before:
        render.say(repeated_note(typed_before), to_stderr=True)


class _Kept:
    """The file of one command, locked while its process runs; ``path`` None: none could be written."""

    def __init__(self, typed: _Typed, path: Path | None, descriptor: int = -1, *, before: str = "") -> None:
        self.typed = typed
        self.path = path
        #: When the command was typed that went without an answer, and is repeated now; "": it is a new one.
        self.before = before
        self._descriptor = descriptor

    @classmethod
    def of(cls, settings: Settings, command: Command[Any]) -> _Kept:
        """Returns the file that the same command left when it had no answer, else a new one."""
        typed = _Typed(f"typed {secrets.token_hex(8)}", now_us())
        remote = remote_server()
        if remote is None and not settings.store.url and not settings.home.exists():
            return cls(typed, None)  # there is nothing yet that it could change
        try:
            settings.make_home()
            folder = settings.home / _FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            give_to_owner(settings.home, folder)
            where = (settings.store.url or "") if remote is None else remote.url
            digest = hashlib.sha256(where.encode() + b"\0" + msgspec.json.encode(command)).hexdigest()[:32]
            return cls._left(folder, digest, typed.typed_us) or cls._new(settings.home, folder, digest, typed)
        except (OSError, HomeUnusable):
            kept = cls(typed, None)
            kept.note_reference()
            return kept

    @classmethod
    def _left(cls, folder: Path, digest: str, at_us: int) -> _Kept | None:
        """Returns the file of a process that has ended without an answer; removes those that are too old."""
        for path in sorted(folder.glob(f"{digest}.*")):
            descriptor = _locked(path)
            if descriptor < 0:
                continue  # its process still runs
            try:
                typed = msgspec.json.decode(os.read(descriptor, 4096), type=_Typed)
            except msgspec.DecodeError:
                typed = None
            if typed is not None and at_us - typed.typed_us < _REMEMBERED_US:
                return cls(typed, path, descriptor, before=render.instant_utc(typed.typed_us))
            path.unlink(missing_ok=True)
            os.close(descriptor)
        return None

    @classmethod
    def _new(cls, home: Path, folder: Path, digest: str, typed: _Typed) -> _Kept:
        path = folder / f"{digest}.{secrets.token_hex(4)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, msgspec.json.encode(typed))
        os.fsync(descriptor)
        give_to_owner(home, path)
        return cls(typed, path, descriptor)

    def note_reference(self) -> None:
        """Show the reference by which the command can be repeated, where no file has it."""
        if self.path is None:
            render.say(f"To repeat this safely, add: --reference '{self.typed.reference}'", to_stderr=True)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _locked(path: Path) -> int:
    """Lock a file that no running process has locked. Returns its descriptor; -1: one has, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.stat()
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor
