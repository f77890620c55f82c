"""The lock on the database file: an flock on a file beside it, which names the process that holds it.

DuckDB's own is a POSIX lock, which a process loses when anything in it opens and closes the database file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO, NamedTuple

from trustgate.errors import StoreLocked
from trustgate.store.files import beside, unusable


class LockHolder(NamedTuple):
    """The process that holds the lock, as far as it is known."""

    pid: int | None
    program: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        return f"process {self.pid}" + (f" ({self.program})" if self.program else "")


@contextlib.contextmanager
def hold_database(path: Path) -> Iterator[None]:
    """Keep every process from opening the database, which need not exist, for as long as the block runs.

    Raises StoreLocked (the message names the process) or HomeUnusable.
    """
    with contextlib.closing(lock_database(path)):
        yield


def lock_database(path: Path) -> IO[str]:
    """Take the lock beside the database and write our process id into it. Raises StoreLocked, HomeUnusable."""
    sidecar = beside(path, ".lock")
    try:
        lock = os.fdopen(os.open(sidecar, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8")
    except OSError as error:
        raise unusable(path.parent, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    except BlockingIOError as error:
        written = lock.read().strip()
        lock.close()
        raise locked_error(path, int(written) if written.isdigit() else None) from error
    except OSError as error:
        with contextlib.suppress(OSError):  # closing tries once more to write what could not be written
            lock.close()
        raise unusable(path.parent, error) from error
    return lock


def locked_error(path: Path, pid: int | None) -> StoreLocked:
    """Returns the error for a database that a process holds; its id is None where it is not known."""
    holder = LockHolder(pid, None if pid is None else _program(pid))
    return StoreLocked(
        f"The database {path} is in use by {holder}.",
        hint="If that is `trustgate serve`, leave it running and give commands the same --home: they go through it. "
        "Otherwise stop it and try again.",
        pid=pid,
    )


def _program(pid: int) -> str | None:
    """Returns the first words of a process's command line, folders left out; None where that cannot be read."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    shown = [PurePath(word.decode(errors="replace")).name[:40] for word in words[:3] if word]
    return " ".join(shown) or None
