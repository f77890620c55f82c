"""Ending tasks that run for ever, to their end: one that was cancelled once may go on all the same.

A task can lose the one ``CancelledError`` that it gets: an error of a connection, raised while a transaction is rolled
back for it, takes its place and is handled as any other; and ``asyncio.wait_for`` of Python 3.11 returns normally where
what it waits for has just come (bpo-37658). Who then waits for its end waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

#: How long a task gets to end before it is cancelled again, seconds.
AGAIN_S = 1.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks until they have ended. What they end with is theirs: nothing is raised."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)


async def wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, or for ``timeout_s`` seconds. Unlike ``asyncio.wait_for`` it loses no cancellation."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
