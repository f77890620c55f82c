"""A flush ordered by a command: started once, then polled."""

from __future__ import annotations

from functools import partial

from trustgate.admin.background_work import Watched
from trustgate.admin.log_commands import FlushState
from trustgate.errors import Conflict
from trustgate.solana.anchoring import Anchoring, FlushOrder
from trustgate.solana.reports import FlushOutcome


class Flushing:
    """The flush that was ordered by command, if there is one. What one did whose caller went away is in the anchors."""

    def __init__(self, anchoring: Anchoring) -> None:
        self._anchoring = anchoring
        self._watched: Watched[FlushOutcome] = Watched(
            lambda: Conflict(
                "Another flush is running.", hint="See its result: trustgate anchor status", code="flush_running"
            )
        )

    async def advance(self, flush: str, order: FlushOrder) -> FlushState:
        """Begin the flush, or see how it stands. Raises what it ended with, ``Conflict`` while another is at work."""
        stage, outcome = await self._watched.advance(
            flush, partial(self._anchoring.flush, order), "Waiting for another flush to finish"
        )
        return FlushState(stage=stage, outcome=outcome)

    async def end(self) -> None:
        """Break the flush off, if there is one; the next goes on where it was."""
        await self._watched.end()
