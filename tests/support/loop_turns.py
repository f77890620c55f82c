"""How often the event loop goes round while something is awaited: what other requests get of it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def turns_until(work: Coroutine[Any, Any, T]) -> tuple[T, int]:
    """Returns the result of ``work``, and how many turns of the loop others have had until it was there."""
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    return await task, turns
