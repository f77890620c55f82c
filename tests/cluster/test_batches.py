"""Batches of rows that several processes write: what joins one while it waits, and what becomes of it when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.cluster.bookkeeping import (
    Bookkeeper,
    bookkeepers,
    bury,
    make_caller,
    shared_budget,
    stored_receipts,
)
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.processes import PATIENCE_S
from trustgate.access.quota import Ask
from trustgate.cluster import batches, lanes
from trustgate.cluster.batches import BatchWriter, RowsChanged
from trustgate.cluster.database import DatabaseAway
from trustgate.cluster.holds import SharedHold, Use
from trustgate.cluster.lanes import BatchLane
from trustgate.cluster.row_states import RowStates
from trustgate.errors import Unavailable
from trustgate.types import Limits

CALLER = make_caller(plan=Limits(requests_per_day=1_000, tokens_per_day=100_000))


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


async def open_one(keeper: Bookkeeper) -> SharedHold:
    hold = await keeper.ask(CALLER, Ask(10, 0))
    assert hold is not None
    return hold


@contextlib.asynccontextmanager
async def rows_held(keeper: Bookkeeper) -> AsyncIterator[Any]:
    """Another session has all rows locked, for the block; gives a call that waits until a statement waits for them."""
    async with keeper.own.use() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM shared_state FOR UPDATE")
        own: int = await connection.fetchval("SELECT pg_backend_pid()")

        async def another_waits() -> None:
            blocked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))"
            async with asyncio.timeout(PATIENCE_S):
                while not await connection.fetchval(blocked, own):
                    pass

        yield another_waits


async def contend(one: Bookkeeper, two: Bookkeeper) -> None:
    """Have both write the same rows in turns, until the first knows that another does."""
    for _ in range(3):
        for keeper in (one, two):
            await keeper.close(await open_one(keeper), Use(1, 0))
    assert one.books.closing.is_contended


async def test_what_comes_while_rows_are_waited_for_joins_the_batch(url: str) -> None:
    async with bookkeepers(url, 2) as [one, two]:
        await contend(one, two)
        hold = await open_one(one)
        before = one.books.closing.committed
        async with rows_held(two) as another_waits:
            first = asyncio.ensure_future(one.close(hold, Use(1, 0)))
            await another_waits()
            # Opens, too, while other processes write the rows.
            opening = [asyncio.ensure_future(open_one(one)) for _ in range(20)]
            await asyncio.sleep(0)
        holds = await asyncio.gather(*opening)
        assert await first is not None
        assert one.books.closing.committed == before + 1
        assert {hold.grant.number for hold in holds} == {0}
        receipts = await asyncio.gather(*(one.close(hold, Use(1, 0)) for hold in holds))
        assert None not in receipts
        used = one.counters.quota.used("ten_1", one.clock())["day"]
        assert (used["requests"], used["tokens"]) == (6 + 21, 6 + 21)


async def test_under_load_opens_are_in_one_batch_with_closes(url: str) -> None:
    async with bookkeepers(url, 1) as [keeper]:
        holds = [await open_one(keeper) for _ in range(8)]
        assert all(hold.grant.number for hold in holds)
        await asyncio.gather(*(keeper.close(hold, Use(1, 0)) for hold in holds))
        before = keeper.books.opening.committed, keeper.books.closing.committed
        holds = await asyncio.gather(*(open_one(keeper) for _ in range(8)))
        assert {hold.grant.number for hold in holds} == {0}
        assert (keeper.books.opening.committed, keeper.books.closing.committed) == (before[0], before[1] + 1)
        for hold in holds:
            await keeper.close(hold, Use(1, 0))
        # One at a time again: nothing waits for the disk before it is admitted.
        assert (await open_one(keeper)).grant.number == before[0] + 1


async def test_under_load_a_batch_begins_when_nothing_else_is_to_be_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three turns of the event loop have other work to do, and what comes in them joins; the fourth has none."""
    turns_s = [0.0, *(lanes._IDLE_TURN_S * 2 * turn for turn in range(1, 4)), lanes._IDLE_TURN_S * 6.5]

    class Turns:
        def monotonic(self) -> float:
            return turns_s.pop(0) if len(turns_s) > 1 else turns_s[0]

    async with bookkeepers(url, 1) as [keeper]:
        holds = [await open_one(keeper) for _ in range(12)]
        await asyncio.gather(*(keeper.close(hold, Use(1, 0)) for hold in holds[:8]))
        before = keeper.books.closing.committed
        keeper.books.closing._begun_s = 0.0
        monkeypatch.setattr(lanes, "time", Turns())
        closing = []
        for hold in holds[8:]:
            closing.append(asyncio.ensure_future(keeper.close(hold, Use(1, 0))))
            await asyncio.sleep(0)
        await asyncio.gather(*closing)
        assert turns_s == [lanes._IDLE_TURN_S * 6.5]
        assert keeper.books.closing.committed == before + 1


async def test_what_comes_after_a_commit_of_unknown_outcome_is_not_taken_for_committed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no batch that the database has: to take it for committed would lose its receipt."""
    async with bookkeepers(url, 1) as [keeper]:
        holds = [await open_one(keeper) for _ in range(10)]
        commit, committed, may_go_on = BatchLane._commit, asyncio.Event(), asyncio.Event()

        async def lost(lane: BatchLane, *batch: Any, grows: bool) -> Any:
            monkeypatch.setattr(BatchLane, "_commit", commit)
            await commit(lane, *batch, grows=grows)
            keeper.closing._drop()
            committed.set()
            await may_go_on.wait()
            raise DatabaseAway("cut")

        monkeypatch.setattr(BatchLane, "_commit", lost)
        first = asyncio.ensure_future(keeper.close(holds[0], Use(1, 0)))
        await asyncio.wait_for(committed.wait(), PATIENCE_S)
        others = [asyncio.ensure_future(keeper.close(hold, Use(1, 0))) for hold in holds[1:]]
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.wait_for(asyncio.gather(first, *others), PATIENCE_S)
        await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == list(range(1, 11))


async def test_opens_that_go_with_closes_are_refused_where_the_node_was_taken_for_dead(url: str) -> None:
    async with bookkeepers(url, 2) as [one, two]:
        await contend(one, two)
        hold = await open_one(one)
        await bury(two, one)
        async with rows_held(two) as another_waits:
            first = asyncio.ensure_future(one.close(hold, Use(1, 0)))
            await another_waits()
            opening = asyncio.ensure_future(open_one(one))
            await asyncio.sleep(0)
        with pytest.raises(Unavailable) as refused:
            await opening
        assert "retry-after" in refused.value.headers
        # What it had begun is closed all the same.
        assert await first is not None
        await two.close(await open_one(two), Use(1, 0))
        used = two.counters.quota.used("ten_1", two.clock())["day"]
        assert used["requests"] == 6 + 1 + 1


@pytest.mark.parametrize("others_write", [False, True])
@pytest.mark.parametrize("how", ["behind", "buried"])
async def test_nothing_is_put_on_record_by_what_was_known_before_a_change(
    how: str, others_write: bool, url: str
) -> None:
    """A budget that came while this process was away may have been counted from the receipts: without this one."""
    async with bookkeepers(url, 2, is_fenced=True) as [one, two]:
        if others_write:
            await contend(one, two)
        hold = await open_one(one)
        before = await stored_receipts(url)
        if how == "buried":
            await bury(two, one)
        else:
            async with two.own.use() as connection:
                await connection.execute("UPDATE nodes SET taken_in = taken_in + 1 WHERE node_id = $1", one.node_id)
        assert await asyncio.wait_for(one.close(hold, Use(1, 0)), PATIENCE_S) is None
        if how == "buried":
            one.node_id = ""
            # One that comes now waits, too.
            assert await asyncio.wait_for(one.close(hold, None), PATIENCE_S) is None
        assert await stored_receipts(url) == before
        budget = shared_budget("requests", 100)
        one.counters.budgets.put(budget)
        if how == "buried":
            await one.join()
        else:
            one.last_change += 1
        await asyncio.wait_for(one.books.closing.flush(), PATIENCE_S)
        assert one.books.closing.fault is None
        [standing] = one.counters.budgets.standings(one.clock())
        assert standing.used == 1
    [chain] = (await stored_receipts(url)).values()
    assert len(chain) == len(before.get("ten_1", ())) + 1


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_opens_that_are_refused_alone_leave_no_fault(
    lost: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of the closes is lost with opens alone: no receipt waits, and the next one is waited for."""
    async with bookkeepers(url, 1) as [keeper]:
        holds = [await open_one(keeper) for _ in range(8)]
        await asyncio.gather(*(keeper.close(hold, Use(1, 0)) for hold in holds))
        closing, commit = keeper.books.closing, BatchLane._commit

        async def losing(lane: BatchLane, *batch: Any, grows: bool) -> Any:
            monkeypatch.setattr(BatchLane, "_commit", commit)
            if lost == "after":
                await commit(lane, *batch, grows=grows)
            keeper.closing._drop()
            raise DatabaseAway("cut")

        monkeypatch.setattr(BatchLane, "_commit", losing)
        with pytest.raises(Unavailable):
            await open_one(keeper)
        await asyncio.wait_for(closing.flush(), PATIENCE_S)
        assert closing.fault is None
        assert await keeper.close(await open_one(keeper), Use(1, 0)) is not None
        used = keeper.counters.quota.used("ten_1", keeper.clock())["day"]
        assert (used["requests"], used["tokens"]) == (9, 9)


async def test_closes_whose_rows_change_with_each_attempt_are_carried_out_one_by_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bookkeepers(url, 1) as [keeper]:
        holds = [await open_one(keeper) for _ in range(8)]
        commit, sizes = BatchLane._commit, []

        async def changing(lane: BatchLane, batch: list[Any], *rest: Any, grows: bool) -> Any:
            sizes.append(len(batch))
            if len(batch) > 1:
                raise RowsChanged
            return await commit(lane, batch, *rest, grows=False)

        monkeypatch.setattr(BatchLane, "_commit", changing)
        await asyncio.wait_for(asyncio.gather(*(keeper.close(hold, Use(1, 0)) for hold in holds)), PATIENCE_S)
        assert max(sizes) > 1
        assert keeper.books.closing.fault is None
        used = keeper.counters.quota.used("ten_1", keeper.clock())["day"]
        assert (used["requests"], used["tokens"]) == (8, 8)
    [chain] = (await stored_receipts(url)).values()
    assert len(chain) == 8


@pytest.mark.parametrize("lost", ["before", "while", "after"])
async def test_opens_that_go_with_closes_hold_nothing_after_a_commit_of_unknown_outcome(
    lost: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost before anything is decided, before that is written, or after it is committed."""
    async with bookkeepers(url, 2) as [one, two]:
        await contend(one, two)
        hold = await open_one(one)
        write, commit, begun, may_go_on = batches._write, BatchLane._commit, asyncio.Event(), asyncio.Event()

        async def cut(*_: Any) -> None:
            monkeypatch.setattr(batches, "_write", write)
            raise ConnectionResetError("cut")

        async def losing(lane: BatchLane, *batch: Any, grows: bool) -> Any:
            begun.set()
            await may_go_on.wait()
            monkeypatch.setattr(BatchLane, "_commit", commit)
            if lost == "while":
                monkeypatch.setattr(batches, "_write", cut)
            if lost != "before":
                await commit(lane, *batch, grows=grows)
            one.closing._drop()
            raise DatabaseAway("cut")

        monkeypatch.setattr(BatchLane, "_commit", losing)
        first = asyncio.ensure_future(one.close(hold, Use(1, 0)))
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        opening = asyncio.ensure_future(open_one(one))
        await asyncio.sleep(0)
        may_go_on.set()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(opening, PATIENCE_S)
        assert await first is None
        await asyncio.wait_for(one.books.closing.flush(), PATIENCE_S)
        # Whatever was granted is given back, so that the receipts alone count.
        await one.close(await open_one(one), Use(1, 0))
        used = one.counters.quota.used("ten_1", one.clock())["day"]
        assert (used["requests"], used["tokens"]) == (6 + 2, 6 + 2)
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == list(range(1, 6 + 2 + 1))


async def test_rows_are_had_in_the_order_in_which_they_were_asked_for() -> None:
    states, order = RowStates(), list[str]()

    async def use(name: str, *keys: str) -> None:
        async with states.own(keys):
            order.append(name)
            await asyncio.sleep(0)

    async with states.own(("a", "b")):
        waiting = [asyncio.ensure_future(use(*each)) for each in (("1", "b", "c"), ("2", "c"), ("3", "a"), ("4", "d"))]
        await asyncio.sleep(0)
        waiting[2].cancel()
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["1", "2", "4"]
    # One that was cancelled as it came to its turn keeps nothing.
    async with states.own(("a",)):
        given_up = asyncio.ensure_future(use("5", "a"))
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), states.own(("a", "b", "c", "d")):
        pass


async def test_a_transaction_that_failed_is_ended_before_the_next(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bookkeepers(url, 2) as [one, two]:
        await contend(one, two)
        hold = await open_one(one)
        lock, failures = BatchWriter._lock_and_write, ["SELECT 1 / 0"]

        async def failing(writer: BatchWriter, connection: Any, *what: Any) -> Any:
            result = await lock(writer, connection, *what)
            while failures:
                await connection.execute(failures.pop())
            return result

        monkeypatch.setattr(BatchWriter, "_lock_and_write", failing)
        _ = await asyncio.wait_for(one.close(hold, Use(1, 0)), PATIENCE_S)
        await asyncio.wait_for(one.books.closing.flush(), PATIENCE_S)
        assert not failures
        assert await asyncio.wait_for(one.close(await open_one(one), Use(1, 0)), PATIENCE_S) is not None
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == list(range(1, 6 + 2 + 1))
