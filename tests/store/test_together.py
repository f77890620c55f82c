"""Work that shares a transaction: done in order, each with a result of its own, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import duckdb
import pytest

from trustgate.store.engine import Engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    opened = Engine.open(tmp_path / "trustgate.duckdb")
    await opened.run(lambda connection: connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
    yield opened
    await opened.close()


def add(number: int, times: list[int]) -> Callable[[duckdb.DuckDBPyConnection], int]:
    """Adds a number, notes that it did, and gives it back doubled."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        times.append(number)
        connection.execute("INSERT INTO numbers VALUES (?)", [number])
        return 2 * number

    return work


async def numbers(engine: Engine) -> list[int]:
    found = await engine.run(lambda connection: connection.execute("SELECT n FROM numbers ORDER BY n").fetchall())
    return [number for (number,) in found]


def hold(engine: Engine) -> tuple[asyncio.Task[None], threading.Event]:
    """Keep the engine's thread busy until the event is set, so that what is asked for meanwhile comes together."""
    event = threading.Event()

    def wait(_: duckdb.DuckDBPyConnection) -> None:
        assert event.wait(30)

    return asyncio.ensure_future(engine.run(wait)), event


async def test_what_comes_together_is_done_once_and_in_order(engine: Engine) -> None:
    held, event = hold(engine)
    await asyncio.sleep(0)
    times: list[int] = []
    commits: list[int] = []

    def count(connection: duckdb.DuckDBPyConnection) -> int:
        found = connection.execute("SELECT txid_current()").fetchall()
        commits.append(found[0][0])
        return add(len(commits), times)(connection)

    working = [asyncio.ensure_future(engine.run_together(count)) for _ in range(8)]
    await asyncio.sleep(0)
    event.set()
    await held

    assert await asyncio.gather(*working) == [2 * number for number in range(1, 9)]
    assert times == list(range(1, 9))
    assert len(set(commits)) == 1, "one transaction"
    assert await numbers(engine) == times


async def test_one_that_fails_takes_nobody_along(engine: Engine) -> None:
    await engine.run_together(add(5, []))
    held, event = hold(engine)
    await asyncio.sleep(0)
    times: list[int] = []
    working = [asyncio.ensure_future(engine.run_together(add(number, times))) for number in (4, 5, 6)]
    await asyncio.sleep(0)
    event.set()
    await held

    first, second, third = await asyncio.gather(*working, return_exceptions=True)

    assert (first, third) == (8, 12)
    assert isinstance(second, Exception)
    assert await numbers(engine) == [4, 5, 6]


async def test_a_caller_that_is_cancelled_takes_nobody_along(engine: Engine) -> None:
    held, event = hold(engine)
    await asyncio.sleep(0)
    gone = asyncio.ensure_future(engine.run_together(add(1, [])))
    stays = asyncio.ensure_future(engine.run_together(add(2, [])))
    await asyncio.sleep(0)
    gone.cancel()
    event.set()
    await held

    assert await stays == 4
    assert gone.cancelled()
    assert await numbers(engine) == [1, 2]


async def test_what_is_asked_for_before_the_close_is_done(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "trustgate.duckdb")
    await engine.run(lambda connection: connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
    working = [asyncio.ensure_future(engine.run_together(add(number, []))) for number in range(20)]
    await asyncio.sleep(0)

    await engine.close()

    assert await asyncio.gather(*working) == [2 * number for number in range(20)]
