"""Real processes in tests. Owns waiting for them, ending them and showing what they said when something fails."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import nursery

#: How long to wait for a process to do what it should do quickly, seconds. Generous: CI machines are slow.
PATIENCE_S = 60.0
#: How long between two looks at a process that does not tell when it is ready, seconds.
POLL_S = 0.02

_OURS = re.compile(r"^(TRUSTGATE_(?!TEST_)|OPENAI_|LITELLM_)|_PROXY$|_proxy$")


class Process:
    """A program that runs beside the test, its output in files."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        *,
        forked: bool = False,
    ) -> None:
        """``forked``: the command is what ``trustgate`` is to do, and its process comes out of the nursery."""
        self._name = name
        self.log_path = log
        self.stdout_path = log.with_suffix(".stdout")
        self._log_start = log.stat().st_size if log.exists() else 0
        self.started_at = time.monotonic()
        with log.open("ab") as stderr, self.stdout_path.open("wb") as stdout:
            parts = [str(part) for part in command]
            self._popen: subprocess.Popen[bytes] | nursery.Child
            if forked:
                self._popen = nursery.start(
                    parts, folder=folder, environment=environment, stdout=stdout, stderr=stderr, new_session=True
                )
            else:
                self._popen = subprocess.Popen(
                    parts,
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
                nursery.guard(self._popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._popen.poll()

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What this process wrote; the file also has what earlier ones did."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Look until it is ready. When it ends or takes too long: kills it, raises AssertionError with what it said."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.exit_code is not None:
                raise AssertionError(f"{self._name} ended with exit code {self.exit_code}\n{self.said()}")
            if time.monotonic() > deadline:
                self._kill()
                raise AssertionError(f"{self._name} was not ready within {timeout_s} s\n{self.said()}")
            time.sleep(POLL_S)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; gives the exit code. Raises AssertionError (and kills it) when it does not end."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._kill()
            raise AssertionError(f"{self._name} did not end within {timeout_s} s\n{self.said()}") from None

    def _kill(self) -> None:
        self._popen.kill()
        self._popen.wait(PATIENCE_S)

    def said(self) -> str:
        """The end of its output, for a failure message."""
        return f"--- stdout\n{self.stdout[-4000:]}\n--- stderr\n{self.stderr[-8000:]}"


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Look until it is so. Raises AssertionError, naming ``what`` was waited for, when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(POLL_S)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings, keys and proxies that would change what a program does."""
    kept = {name: value for name, value in os.environ.items() if not _OURS.search(name)}
    return {**kept, **(extra or {})}


def free_port() -> int:
    """A port without a listener just now, for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
