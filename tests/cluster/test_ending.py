"""Tasks are ended to their end, whatever they were in the middle of."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.cluster.members import session
from tests.support.links import Link
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.processes import PATIENCE_S
from trustgate.cluster.database import DatabaseAway
from trustgate.tasks import end_tasks, wait_at_most


async def test_a_cancellation_is_not_lost_to_the_error_of_a_rollback(postgres: Postgres | GivenPostgres) -> None:
    """Taken for a lost connection, it would have jobs go on for ever that a stop waits for."""
    with Link.to(postgres.url) as link:
        over = session(link.over(postgres.url), timeout_s=PATIENCE_S)
        begun = asyncio.Event()

        async def job() -> str:
            with contextlib.suppress(DatabaseAway):
                async with over.use() as connection, connection.transaction():
                    begun.set()
                    await asyncio.Event().wait()
            return "went on"

        task = asyncio.ensure_future(job())
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            link.swallow()
            task.cancel()
            while not link.swallowed:  # the rollback  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.01)
            link.reset()
            await asyncio.wait([task])
        assert task.cancelled()
        await over.close()


async def test_a_task_that_has_lost_a_cancellation_is_cancelled_again() -> None:
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await end_tasks([task])
    assert task.cancelled()


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_at_the_moment_of_an_event_is_not_lost(turns: int) -> None:
    event = asyncio.Event()

    async def job() -> None:
        while True:
            await wait_at_most(event, PATIENCE_S)
            event.clear()

    task = asyncio.ensure_future(job())
    for _ in range(3):
        await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert task.cancelled()
