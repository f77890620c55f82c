"""The stop of a server: each thing that is waited for has a bounded time, and so has the whole stop.

A stop must end. A process that is ended with things undone is as one that was killed: nothing that a client has the end
of is lost, for its receipt is in the journal, and the next start goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from trustgate.errors import Unavailable

_logger = logging.getLogger("trustgate.server")

#: How long a stop may take beyond the time that requests get to end, seconds.
LAST_S = 30.0
#: How long threads have to end once everything is closed, seconds.
_THREADS_S = 3.0
#: What a pipe takes in whole where it has room (POSIX, PIPE_BUF).
_MOST_BYTES = 512


class Stopping:
    """The stop of one server, and what it waits for at the moment."""

    def __init__(self, grace_s: float, *, ends_process: bool = False, last_s: float = LAST_S) -> None:
        """
        Args:
            grace_s: how long requests get to end (``serve.shutdown_grace_s``).
            ends_process: whether ``begin`` starts a thread that ends the process after ``within_s`` seconds.
            last_s: how long the stop may take beyond that.
        """
        #: How long the whole stop takes at most, seconds.
        self.within_s = grace_s + last_s
        self._ends_process = ends_process
        self._what = "requests"
        self._exit_code = 1
        self._until_s = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to count the time. Calls after the first change nothing."""
        if not self._ends_process or self._thread is not None:
            return
        self._until_s = time.monotonic() + self.within_s
        # A daemon: the end of the process does not wait for it.
        self._thread = threading.Thread(target=self._watch, name="trustgate-stop", daemon=True)
        self._thread.start()

    def name_step(self, what: str) -> None:
        """Note what is waited for from now on, as long as the whole stop may take. ``what``: in words for people."""
        self._what = what

    @contextlib.asynccontextmanager
    async def step(self, what: str, within_s: float | None = None) -> AsyncIterator[None]:
        """Note what the block waits for, and end the block after a time, or where it fails, with a line in the log.

        The next steps are taken all the same: what a full disk keeps out of the database is in the journal.

        Args:
            what: in words for people.
            within_s: the time, seconds; None: as long as the whole stop may take.
        """
        self.name_step(what)
        try:
            async with asyncio.timeout(within_s) as limit:
                yield
        except (Unavailable, OSError) as error:
            if isinstance(error, TimeoutError) and limit.expired():
                _logger.warning("stopping: %s did not end in %g s, and is not waited for any more", what, within_s)
                return
            why = error.message if isinstance(error, Unavailable) else error.strerror or type(error).__name__
            _logger.error("stopping: %s: %s", what, why)

    async def close(self, what: str, within_s: float | None, close: Callable[[], Awaitable[object]]) -> None:
        """Call ``close`` as a ``step``."""
        async with self.step(what, within_s):
            await close()

    def closed(self) -> None:
        """Note that everything is closed: threads that still run get ``_THREADS_S``, and the exit code is 0."""
        with self._changed:
            self._what, self._exit_code = "threads that do not end", 0
            self._until_s = min(self._until_s, time.monotonic() + _THREADS_S)
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while (left_s := self._until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
        ours = (threading.main_thread(), threading.current_thread())
        threads = ", ".join(each.name for each in threading.enumerate() if each not in ours)
        _say(
            f"Stopped without waiting any longer for: {self._what}{f' (threads: {threads})' if threads else ''}. "
            "Receipts of all answers that have ended are in the database or in the journal.\n"
        )
        os._exit(self._exit_code)


def _say(text: str) -> None:
    """Write to stderr, unless that would block: what reads it may have stopped."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode()[-_MOST_BYTES:])
