"""Work ordered by a command that takes longer than a command may: started once, then polled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from trustgate.errors import Conflict, TrustGateError

R = TypeVar("R")

#: Receives the progress of the work.
ReportProgress = Callable[[str], None]

#: How long one command watches before it reports progress, seconds.
_WATCH_S = 0.5


class Watched(Generic[R]):
    """The work of one kind that was ordered, if there is any; one at a time."""

    def __init__(self, busy: Callable[[], Conflict]) -> None:
        """``busy`` makes the refusal of a second order while one is under way."""
        self._busy = busy
        self._id = ""
        self._task: asyncio.Task[R] | None = None
        self._stage = ""

    async def advance(
        self, order: str, work: Callable[[ReportProgress], Awaitable[R]], first: str
    ) -> tuple[str, R | None]:
        """Begin the work of this order (an id), or see how it stands: its stage, and what came of it once it is done.

        ``work`` takes what it has to tell its stages to, of which ``first`` is the first. Raises what the work ended
        with, and ``Conflict`` while another order's is under way.
        """
        task = self._task
        if task is not None and self._id != order:
            if not task.done():
                raise self._busy()
            # The caller went away before it ended.
            with contextlib.suppress(TrustGateError, asyncio.CancelledError):
                task.result()
            task = None
        if task is None:
            self._id, self._stage = order, first
            task = self._task = asyncio.ensure_future(work(self._report))
        done, _ = await asyncio.wait([task], timeout=_WATCH_S)
        if not done:
            return self._stage, None
        self._task = None
        return self._stage, task.result()

    async def end(self) -> None:
        """Break the work off, if there is any."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _report(self, stage: str) -> None:
        self._stage = stage
