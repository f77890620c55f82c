"""A server on a stream of bytes in a test's own event loop, which leaves no connection to be collected later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, *, backlog: int = 100) -> AsyncIterator[int]:
    """Serve for the length of the block; gives the port on 127.0.0.1.

    Args:
        answer: Called for each connection, which ends with it. Cancelled at the end of the block.
        backlog: How many connections wait to be accepted at most.
    """
    under_way: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            under_way.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=backlog)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)  # what was accepted last gets its task
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await asyncio.sleep(0)  # a transport ends a turn after it was closed


class LoopTurns:
    """How many turns of the event loop there were."""

    number = 0


@asynccontextmanager
async def counting_turns() -> AsyncIterator[LoopTurns]:
    """Count the turns of the event loop while the block runs."""
    turns = LoopTurns()
    is_over = False

    async def count() -> None:
        while not is_over:
            turns.number += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    try:
        yield turns
    finally:
        is_over = True
        await counting
