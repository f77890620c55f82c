"""Books that several processes keep together, while connections, the database and the network fail."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from asyncpg import InsufficientPrivilegeError, ReadOnlySQLTransactionError

from tests.cluster.bookkeeping import (
    WAITING_FOR_ROWS,
    Bookkeeper,
    ask_all,
    bookkeepers,
    drawer_of,
    make_caller,
    shared_budget,
    stored_receipts,
)
from tests.support.entries import make_receipt
from tests.support.links import Link
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import PATIENCE_S, wait_until
from trustgate.access.quota import Ask
from trustgate.cluster import batches, connections, lanes
from trustgate.cluster.batches import BatchWriter
from trustgate.cluster.database import DatabaseAway
from trustgate.cluster.holds import Use
from trustgate.cluster.lanes import BatchLane
from trustgate.errors import Conflict, Unavailable
from trustgate.settings import PostgresAddress
from trustgate.types import Limits

MANY = make_caller(plan=Limits(requests_per_day=10**9))


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


@pytest.mark.parametrize("side", ["opening", "closing"])
async def test_connections_that_are_cut_lose_and_double_nothing(side: str, url: str) -> None:
    """Cut in the middle of transactions, again and again: a refused one holds nothing, what was used counts once."""
    caller = make_caller(plan=Limits(requests_per_day=10**6, tokens_per_day=10**9))
    closed = 0
    async with bookkeepers(url, 3, shared_budget("tokens", 10**9)) as keepers:
        over, ended = asyncio.Event(), asyncio.Semaphore(0)

        async def work(keeper: Bookkeeper) -> None:
            nonlocal closed
            while not over.is_set():
                try:
                    hold = await keeper.books.open(caller, drawer_of(caller), Ask(100, 10))
                except Unavailable:
                    continue
                closed += 1
                await keeper.close(hold, Use(7, 3))
                ended.release()

        workers = [asyncio.ensure_future(work(keepers[number % 3])) for number in range(12)]
        for number in range(30):
            for _ in range(5):
                await asyncio.wait_for(ended.acquire(), PATIENCE_S)
            session = getattr(keepers[number % 3], side)
            if session._connection is not None:
                session._connection.terminate()
        over.set()
        await asyncio.gather(*workers)
        for keeper in keepers:
            await asyncio.wait_for(keeper.books.opening.flush(), PATIENCE_S)
            await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
        try:
            last = await keepers[0].ask(caller, Ask(1, 1))
        except Unavailable:  # its connection was cut, and it has asked nothing since
            last = await keepers[0].ask(caller, Ask(1, 1))
        assert last is not None
        used = keepers[0].counters.quota.used("ten_1", keepers[0].clock())["day"]
        assert used == {"requests": closed + 1, "tokens": 7 * closed + 1, "cost_nano_usd": 3 * closed + 1}
        [standing] = keepers[0].counters.budgets.standings(keepers[0].clock())
        assert (standing.used, standing.held) == (7 * closed, 1)
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == list(range(1, closed + 1))
    assert len({receipt.id for receipt in chain}) == closed


async def test_while_the_database_is_away_answers_end_and_nothing_is_admitted(url: str) -> None:
    async with bookkeepers(url, 1) as [keeper]:
        holds = await ask_all([keeper], 3, MANY, Ask(10, 0))
        there = keeper.opening._connect
        back = asyncio.Event()

        async def away() -> Any:
            if not back.is_set():
                raise ConnectionRefusedError("nothing listens there")
            return await there()

        for session in (keeper.opening, keeper.closing):
            session._connect = away
            session._drop()
        closing = asyncio.gather(*(keeper.close(hold, Use(4, 0)) for hold in holds))
        assert await asyncio.wait_for(closing, PATIENCE_S) == [None] * 3
        with pytest.raises(Unavailable):
            await keeper.books.open(MANY, drawer_of(MANY), Ask(1, 0))
        back.set()
        await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
        assert await keeper.ask(MANY, Ask(1, 0)) is not None
        assert keeper.counters.quota.used("ten_1", keeper.clock())["day"]["tokens"] == 13
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == [1, 2, 3]


async def test_what_a_crash_of_the_database_forgets_is_charged_once(url: str) -> None:
    """Opens do not wait for the disk: the last of them may be gone after a crash, while their requests run on."""
    caller = make_caller(plan=Limits(tokens_per_day=1_000, parallel_requests=3))
    async with bookkeepers(url, 1, shared_budget("tokens", 10_000)) as [keeper]:
        credit = make_receipt(tenant="ten_1", v=2, credited_nano_usd=100)
        await keeper.books.close(receipt=credit, secret=bytes(32), credit_nano_usd=100)

        async def begin() -> Any:
            slot = await keeper.books.enter(caller)
            money = await keeper.books.hold_money("ten_1", 30)
            return await keeper.books.open(caller, drawer_of(caller), Ask(200, 0), slot), money

        async def end(begun: Any, tokens: int) -> None:
            receipt = make_receipt(tenant="ten_1", v=2)
            await keeper.books.close(
                hold=begun[0], money=begun[1], use=Use(tokens, 0, 5), receipt=receipt, secret=bytes(32)
            )

        first = await begin()
        async with keeper.own.use() as connection:
            kept = await connection.fetch("SELECT key, state::text AS state FROM shared_state")
            second = await begin()
            for row in kept:
                await connection.execute(
                    "UPDATE shared_state SET state = $2::text::jsonb WHERE key = $1", row["key"], row["state"]
                )
        for session in (keeper.opening, keeper.closing):
            session._drop()
        await end(second, 7)
        await end(first, 11)
        third = await begin()
        assert await keeper.ask(caller, Ask(1_000 - 7 - 11 - 200 + 1, 0)) is None
        await end(third, 13)
        assert await keeper.ask(caller, Ask(1_000 - 7 - 11 - 13, 0)) is not None
        for _ in range(3):
            assert await keeper.books.enter(caller) is not None
        assert [await keeper.books.hold_money("ten_1", amount) is not None for amount in (86, 85)] == [False, True]
        [standing] = keeper.counters.budgets.standings(keeper.clock())
        assert (standing.used, standing.held) == (31, 969)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("is_cut_again", [True, False])
async def test_opens_of_unknown_outcome_hold_nothing_whatever_comes_after(
    committed: bool, is_cut_again: bool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while they commit: they were refused, whether they are in the database or not."""
    caller = make_caller(plan=Limits(tokens_per_day=1_000))
    async with bookkeepers(url, 1) as [keeper]:
        assert await keeper.ask(caller, Ask(1, 0)) is not None
        write, swap = batches._write, BatchWriter._swap
        commit, greet = BatchLane._commit, BatchLane._greet

        async def found_out_in_vain(lane: BatchLane, connection: Any) -> None:
            uncertain, on_lost = lane._uncertain, lane._on_lost
            lane._on_lost = None
            await greet(lane, connection)
            lane._uncertain, lane._on_lost = uncertain, on_lost
            raise ConnectionResetError("cut")

        async def lost_before(*_: Any) -> None:
            raise ConnectionResetError("cut")

        async def never(*_: Any) -> None:
            """Nothing is written in one statement."""

        async def lost_after(lane: BatchLane, *batch: Any, grows: bool) -> Any:
            await commit(lane, *batch, grows=grows)
            keeper.opening._drop()
            raise DatabaseAway("cut")

        if committed:
            monkeypatch.setattr(BatchLane, "_commit", lost_after)
        else:
            monkeypatch.setattr(BatchWriter, "_swap", never)
            monkeypatch.setattr(batches, "_write", lost_before)
        with pytest.raises(Unavailable):
            await keeper.ask(caller, Ask(100, 0))
        monkeypatch.setattr(BatchLane, "_commit", commit)
        monkeypatch.setattr(BatchWriter, "_swap", swap)
        monkeypatch.setattr(batches, "_write", write)
        if is_cut_again:
            # As it is found out, too; and what that found is found out once more.
            monkeypatch.setattr(BatchLane, "_greet", found_out_in_vain)
            with pytest.raises(Unavailable):
                await keeper.ask(caller, Ask(100, 0))
            monkeypatch.setattr(BatchLane, "_greet", greet)
        # One that comes after it is committed before it is known what became of the first.
        assert await keeper.ask(caller, Ask(10, 0)) is not None
        await asyncio.wait_for(keeper.books.opening.flush(), PATIENCE_S)
        await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
        assert await keeper.ask(caller, Ask(1_000 - 11 + 1, 0)) is None
        assert await keeper.ask(caller, Ask(1_000 - 11, 0)) is not None


async def test_a_statement_that_arrives_when_it_was_given_up_holds_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is mended delivers what it held back, and the server carries it out."""
    monkeypatch.setattr(connections, "_TIMEOUT_S", 1.0)
    caller = make_caller(plan=Limits(tokens_per_day=1_000))
    with Link.to(url) as link:
        async with bookkeepers(link.over(url), 1) as [keeper]:
            for _ in range(2):  # the second in one statement, as the next
                assert await keeper.ask(caller, Ask(1, 0)) is not None
            link.swallow("there", lets_new_through=True)
            with pytest.raises(Unavailable):
                await keeper.ask(caller, Ask(100, 0))
            assert link.swallowed > 0
            await asyncio.wait_for(keeper.books.opening.flush(), PATIENCE_S)
            link.mend()
            await keeper.own.close()
            # The server has taken what was late once the session that it came over has ended.
            await asyncio.to_thread(wait_until, lambda: _sessions(url) <= 2, "the session to end")
            assert await keeper.ask(caller, Ask(1_000 - 2 + 1, 0)) is None
            assert await keeper.ask(caller, Ask(1_000 - 2, 0)) is not None


async def test_a_transaction_in_a_network_that_swallows_everything_is_given_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a timeout of its own its rollback would wait for an answer, too."""
    monkeypatch.setattr(connections, "_TIMEOUT_S", 1.0)
    with Link.to(url) as link:
        address = PostgresAddress(link.over(url))
        session = connections.closing_session(address, 5.0)

        async def work() -> None:
            async with session.use() as connection, connection.transaction():
                await connection.fetchval("SELECT 1")
                link.swallow()
                await connection.fetchval("SELECT 2")

        async def wait() -> None:
            async with session.use():
                """It never has the connection, or another one that does not answer."""

        found = asyncio.gather(work(), wait(), wait(), return_exceptions=True)
        assert [type(each) for each in await asyncio.wait_for(found, PATIENCE_S / 2)] == [DatabaseAway] * 3
        link.mend()
        async with session.use() as connection:
            assert await connection.fetchval("SELECT 3") == 3
        await session.close()


def _sessions(url: str) -> int:
    """Returns how many connections this process has to the database, without the one that counts."""
    own = f"application_name LIKE 'trustgate % {os.getpid()} %' AND pid <> pg_backend_pid()"
    [[found]] = run_sql(url, f"SELECT count(*) FROM pg_stat_activity WHERE {own}")
    return int(found)


async def test_a_close_is_not_given_up_for_a_failure_that_passes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close that was given up would be in the journal alone, and those after it would not."""
    caller = make_caller(plan=Limits(tokens_per_day=1_000))
    monkeypatch.setattr(lanes, "_AWAY_FIRST_S", 0.001)
    monkeypatch.setattr(lanes, "_AWAY_LAST_S", 0.001)
    async with bookkeepers(url, 1) as [keeper]:
        hold = await keeper.ask(caller, Ask(100, 0))
        assert hold is not None
        # A managed database whose disk is full only reads; an operator has taken rights back, for longer than a while.
        lasting = [error("not now") for error in (ReadOnlySQLTransactionError, InsufficientPrivilegeError)] * 25
        connect, failures = keeper.closing._connect, iter([RuntimeError("new"), Conflict("refused"), *lasting])

        async def failing() -> Any:
            for failure in failures:
                raise failure
            return await connect()

        await keeper.closing.close()
        monkeypatch.setattr(keeper.closing, "_connect", failing)
        # Its answer ends without waiting for it.
        assert await keeper.close(hold, Use(7, 0)) is None
        await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
        assert keeper.books.closing.fault is None
    [chain] = (await stored_receipts(url)).values()
    assert len(chain) == 1


async def test_a_statement_that_waits_for_a_strangers_lock_ends_with_its_connection(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that are given up and wait on would use up those that the database has."""
    monkeypatch.setattr(connections, "_TIMEOUT_S", 0.3)
    address = PostgresAddress(url)
    stranger, given_up = connections.lengthy_session(address), connections.closing_session(address, 5.0)
    async with stranger.use() as connection, connection.transaction():
        await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
        with pytest.raises(DatabaseAway):
            async with given_up.use() as waiting:
                await waiting.execute("UPDATE shared_state SET state = state")
        async with asyncio.timeout(PATIENCE_S):
            while await connection.fetchval(WAITING_FOR_ROWS):
                pass
    await stranger.close()
