"""What the server of a home is doing, for commands that find its database taken and its socket silent.

A file in the home has the process's id and one word. It counts as long as that process has the database: what a killed
server has left behind does not.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from trustgate.errors import StoreLocked


class ServerStateFile:
    """What a server writes. A file that cannot be written is done without."""

    def __init__(self, home: Path) -> None:
        self._path = _path(home)

    def write(self, state: Literal["starting", "stopping"]) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        with contextlib.suppress(OSError):
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{os.getpid()} {state}")
            new.rename(self._path)

    def remove(self) -> None:
        """Remove it where it is this process's."""
        with contextlib.suppress(OSError, ValueError):
            if _read(self._path)[0] == str(os.getpid()):
                self._path.unlink()


def explain_lock(home: Path, error: StoreLocked) -> StoreLocked | None:
    """Returns the error for a database whose server is starting or stopping; None where it is doing neither.

    Args:
        home: The home folder.
        error: What opening the home's database raised.
    """
    try:
        pid, state = _read(_path(home))
    except (OSError, ValueError):
        return None
    if pid != str(error.pid):
        return None
    if state == "starting":
        return StoreLocked(
            f"The server of {home} is starting (process {pid}).",
            hint="Give the command again once the server has printed that it is ready.",
        )
    if state == "stopping":
        return StoreLocked(
            f"The server of {home} is stopping (process {pid}): running requests end first.",
            hint="Give the command again once the server has ended.",
        )
    return None


def _path(home: Path) -> Path:
    return home / "server.state"


def _read(path: Path) -> tuple[str, str]:
    """Raises OSError and ValueError."""
    pid, state = path.read_text().split()
    return pid, state
