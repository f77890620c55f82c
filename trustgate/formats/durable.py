"""Files that are whole or not there: written beside their place, brought to the disk, then given their name.

After a crash there is the old file or the new one, never a part of it. Owns the order of these steps: write, sync,
rename, sync the folder (a name is not on the disk before its folder is). Every file is its owner's alone (mode 0600).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Final

#: The errors that mean that a file system has no hard links.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_MODE: Final = 0o600


def write_durably(path: Path, data: bytes) -> None:
    """Put a file in the place of what is there. Raises ``OSError``; then what was there stays."""
    new = path.with_name(path.name + ".new")
    try:
        _write(new, data, os.O_TRUNC)
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync(path.parent)


def create_durably(path: Path, data: bytes) -> None:
    """Make a file that must not be there yet. Raises ``FileExistsError`` rather than replace one, and ``OSError``."""
    with contextlib.suppress(FileNotFoundError):
        path.with_name(path.name + ".new").unlink()  # left by a crash
    # A name that no other process chooses at the same time.
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        _write(new, data, os.O_EXCL)
        _publish(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, flag: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, _MODE)  # whatever the umask took away, or an older file had
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _publish(new: Path, path: Path) -> None:
    """Give the file its name. Raises ``FileExistsError`` rather than take the name away from another file."""
    try:
        os.link(new, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it exists", str(path)) from None
        new.rename(path)
