"""Files that root makes in the home of a service user belong to that user, who could not open them otherwise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def give_to_owner(home: Path, path: Path) -> None:
    """Give one file or folder of root's, which may lie elsewhere, to the owner of the home. Does nothing for others."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        owner, found = home.stat(), path.lstat()
        if owner.st_uid != 0 and found.st_uid == 0 and path.parent != path:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def leave_to_owner(home: Path) -> None:
    """Give what is root's in the home folder to the home's owner. Does nothing for other users."""
    if os.geteuid() != 0 or not home.is_dir():
        return
    owner = home.stat()
    if owner.st_uid == 0:
        return
    for path in home.rglob("*"):
        with contextlib.suppress(OSError):  # the server removes segments meanwhile
            if path.lstat().st_uid == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
