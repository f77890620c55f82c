"""A home's database that another process has: what its server is doing, and for how long to wait.

A file in the home has the server's id and one word. It counts as long as that process has the database: what a killed
server has left behind does not.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from trustgate.errors import StoreLocked
from trustgate.settings import Settings

LOCK_POLL_S = 0.05

#: How long to wait for one process that has the database, for a server that starts or stops, and for many that take
#: turns.
_LOCK_TIMEOUT_S = 3.0
_CHANGE_TIMEOUT_S = 30.0
_TURNS_TIMEOUT_S = 60.0
#: What is waited for is printed after this time.
_PATIENCE_S = 1.5
_SOCKET_TIMEOUT_S = 2.0


class ServerStateFile:
    """What a server writes. A file that cannot be written is done without."""

    def __init__(self, home: Path) -> None:
        self._path = _path(home)

    def write(self, state: Literal["starting", "stopping"]) -> None:
        """Write what this server does; where another one is not yet through with starting or stopping, that stays."""
        if self._is_another_ones():
            return
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

    def _is_another_ones(self) -> bool:
        try:
            pid = int(_read(self._path)[0])
            os.kill(pid, 0)
        except PermissionError:
            return True
        except (OSError, ValueError, OverflowError):
            return False
        return pid != os.getpid()


def socket_answers(settings: Settings) -> bool:
    """Returns whether a server accepts connections on the admin socket. Raises ``HomeUnusable`` where others could."""
    settings.check_socket_folder()
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(probe):
        probe.settimeout(_SOCKET_TIMEOUT_S)
        try:
            probe.connect(str(settings.socket))
        except OSError:
            return False
    return True


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


class LockPatience:
    """For how long to wait for a home's database, which is tried every ``LOCK_POLL_S``.

    Args:
        home: the home folder.
        say: is given what is waited for, once, after a moment.
    """

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self._home = home
        self._say = say
        self._began = time.monotonic()
        self._deadline, self._holder, self._told = self._began + _LOCK_TIMEOUT_S, "", False

    def check(self, error: StoreLocked) -> None:
        """Raises StoreLocked where it has taken too long. ``error``: what opening the database raised."""
        now = time.monotonic()
        changing = explain_lock(self._home, error)
        problem = changing or error
        if problem.message != self._holder:  # commands take turns: this is another one, which ends soon, too
            least_s = _LOCK_TIMEOUT_S if changing is None else _CHANGE_TIMEOUT_S
            self._holder, self._deadline = problem.message, min(now + least_s, self._began + _TURNS_TIMEOUT_S)
        if now > self._deadline:
            raise problem from error
        if now > self._began + _PATIENCE_S and not self._told:
            self._told = True
            self._say(problem.message)


def _path(home: Path) -> Path:
    return home / "server.state"


def _read(path: Path) -> tuple[str, str]:
    """Raises OSError and ValueError."""
    pid, state = path.read_text().split()
    return pid, state
