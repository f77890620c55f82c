"""The stop of a server: each thing that is waited for has a bounded time, and so has the whole stop.

A stop must end. A process that is ended with things undone is as one that was killed: nothing that a client has the end
of is lost, for its receipt is in the journal, and the next start goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from trustgate.errors import Unavailable
from trustgate.stderr import write_stderr

_logger = logging.getLogger("trustgate.server")

#: How long a stop may take beyond the time that requests get to end, seconds.
LAST_S = 30.0
#: How long a stop waits for receipts on their way into the database, and for anything else to be closed; seconds.
RECEIPTS_S = 10.0
CLOSE_S = 5.0
#: How long threads have to end once everything is closed, seconds.
_THREADS_S = 3.0
#: What has been waited for this long is logged, seconds.
_LOGGED_AFTER_S = 2.5


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
        #: Since when and until when that is waited for, and whether it was logged.
        self._since_s, self._step_until_s = 0.0, math.inf
        self._is_logged = False
        self._exit_code = 1
        self._until_s = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to count the time. Calls after the first change nothing."""
        if not self._ends_process or self._thread is not None:
            return
        self._since_s = time.monotonic()
        self._until_s = self._since_s + self.within_s
        # A daemon: the end of the process does not wait for it.
        self._thread = threading.Thread(target=self._watch, name="trustgate-stop", daemon=True)
        self._thread.start()

    def name_step(self, what: str, within_s: float | None = None) -> None:
        """Note what is waited for from now on. It is logged once it has taken ``_LOGGED_AFTER_S``.

        Args:
            what: for the log, as the end of "waiting for …".
            within_s: for how long, seconds; None: as long as the whole stop may take.
        """
        with self._changed:
            self._what, self._is_logged = what, False
            self._since_s = time.monotonic()
            self._step_until_s = math.inf if within_s is None else self._since_s + within_s
            self._changed.notify()

    @contextlib.asynccontextmanager
    async def step(self, what: str, within_s: float | None = None) -> AsyncIterator[None]:
        """Note what the block waits for, and end the block after a time, or where it fails, with a line in the log.

        The next steps are taken all the same: what a full disk keeps out of the database is in the journal.

        Args:
            what: for the log, as the end of "waiting for …".
            within_s: the time, seconds; None: as long as the whole stop may take.
        """
        self.name_step(what, within_s)
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
            self._what, self._exit_code, self._is_logged = "threads that do not end", 0, True
            self._until_s = min(self._until_s, time.monotonic() + _THREADS_S)
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                waits_for = self._waits_for()
                left_s = self._until_s - time.monotonic()
                if left_s <= 0:
                    break
                if not waits_for:
                    look_s = math.inf if self._is_logged else self._since_s + _LOGGED_AFTER_S - time.monotonic()
                    self._changed.wait(min(left_s, look_s))
            if waits_for:
                _logger.info("stopping: waiting for %s", waits_for)
        ours = (threading.main_thread(), threading.current_thread())
        threads = ", ".join(each.name for each in threading.enumerate() if each not in ours)
        write_stderr(
            f"Stopped without waiting any longer for: {self._what}{f' (threads: {threads})' if threads else ''}. "
            "Receipts of all answers that have ended are in the database or in the journal.\n".encode()
        )
        os._exit(self._exit_code)

    def _waits_for(self) -> str:
        """Returns what is waited for and for how long yet, once it is to be logged; else ""."""
        now_s = time.monotonic()
        if self._is_logged or now_s < self._since_s + _LOGGED_AFTER_S:
            return ""
        self._is_logged = True
        left_s = max(0.0, min(self._until_s, self._step_until_s) - now_s)
        return f"{self._what}, for {left_s:.0f} s at most"
