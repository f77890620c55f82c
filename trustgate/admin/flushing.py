"""A flush that was ordered by command, seen from outside: begun once, asked about as often as one likes."""

from __future__ import annotations

import asyncio
import contextlib

from trustgate.admin.commands import FlushState
from trustgate.errors import Conflict, TrustGateError
from trustgate.solana.anchoring import Anchoring, Order
from trustgate.solana.reports import FlushOutcome

#: How long one command watches a flush before it tells how it stands, seconds.
_WATCH_S = 0.5


class Flushing:
    """The flush that was ordered by command, if there is one."""

    def __init__(self, anchoring: Anchoring) -> None:
        self._anchoring = anchoring
        self._id = ""
        self._task: asyncio.Task[FlushOutcome] | None = None
        self._stage = ""

    async def advance(self, flush: str, order: Order) -> FlushState:
        """Begin the flush, or see how it stands. Raises what it ended with, ``Conflict`` while another is at work."""
        task = self._task
        if task is not None and self._id != flush:
            if not task.done():
                raise Conflict(
                    "Another flush is at work.", hint="See how it ends: trustgate anchor status", code="flush_running"
                )
            # Whoever ordered it went away before it ended; what it did is in the list of anchors.
            with contextlib.suppress(TrustGateError, asyncio.CancelledError):
                task.result()
            task = None
        if task is None:
            self._id, self._stage = flush, "Waiting for another flush to end"
            task = self._task = asyncio.ensure_future(self._anchoring.flush(order, self._tell))
        done, _ = await asyncio.wait([task], timeout=_WATCH_S)
        if not done:
            return FlushState(stage=self._stage)
        self._task = None
        return FlushState(stage=self._stage, outcome=task.result())

    def _tell(self, stage: str) -> None:
        self._stage = stage
