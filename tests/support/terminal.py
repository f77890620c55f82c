"""A program on a terminal of its own, typed at by a test."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import PATIENCE_S


class Terminal:
    """``with Terminal(command, environment, folder) as terminal``: types, and waits for what is shown.

    The program is ended by SIGKILL. ``before`` is what was shown up to the text that was last waited for.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> None:
        self._shown = ""
        self.before = ""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(folder)
                os.execvpe(str(command[0]), [str(part) for part in command], dict(environment))
            finally:
                os._exit(127)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Read until ``text`` is shown after what was last waited for. Raises AssertionError with what is shown."""
        deadline = time.monotonic() + timeout_s
        while text not in self._shown:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the terminal did not show {text!r}, but:\n{self._shown}"
            try:
                self._shown += os.read(self._terminal, 65536).decode(errors="replace")
            except OSError:  # the program has ended
                raise AssertionError(f"the program ended without showing {text!r}:\n{self._shown}") from None
        self.before, _, self._shown = self._shown.partition(text)

    def rest(self, timeout_s: float = PATIENCE_S) -> str:
        """What is shown from here on until the program has ended."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):  # it has ended
            while True:
                ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, f"the program did not end, but showed:\n{self._shown}"
                read = os.read(self._terminal, 65536)
                if not read:
                    break
                self._shown += read.decode(errors="replace")
        return self._shown
