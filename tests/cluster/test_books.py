"""Books that several processes keep together: no limit is passed, and the holds of ended processes are given back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from asyncpg import InsufficientPrivilegeError, ReadOnlySQLTransactionError

from tests.cluster.bookkeeping import (
    ASK_NOTHING,
    Bookkeeper,
    bookkeepers,
    bury,
    drawer_of,
    make_caller,
    stored_receipts,
)
from tests.support.entries import make_receipt
from tests.support.links import Link
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import PATIENCE_S, wait_until
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Ask, Quota
from trustgate.cluster import batches, connections, lanes
from trustgate.cluster.batches import BatchWriter
from trustgate.cluster.database import DatabaseAway
from trustgate.cluster.lanes import BatchLane
from trustgate.cluster.operations import SharedHold, Use
from trustgate.cluster.rows import counted_anew, quotas_anew
from trustgate.errors import Conflict, RateLimited, Unavailable
from trustgate.payment.credit import payment_members
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.settings import PostgresAddress
from trustgate.store import State
from trustgate.types import Budget, Limits

MANY = make_caller(plan=Limits(requests_per_day=10**9))


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


def budget(unit: Any, amount: int, **members: Any) -> Budget:
    return Budget(id="bud_1", name="shared", unit=unit, amount=amount, span="total", everyone=True, **members)


def of_node(keepers: list[Bookkeeper], node_id: str) -> Bookkeeper:
    """Returns the process that may end what it began."""
    return next(keeper for keeper in keepers if keeper.node_id == node_id)


async def ask_all(keepers: list[Bookkeeper], asks: int, caller: Any, ask: Ask = ASK_NOTHING) -> list[SharedHold]:
    """Ask all at once, of each in turn. Gives what was admitted."""
    found = await asyncio.gather(*(keepers[number % len(keepers)].ask(caller, ask) for number in range(asks)))
    return [hold for hold in found if hold is not None]


# no limit is passed


@pytest.mark.parametrize(
    ("limits", "ask"),
    [
        pytest.param(Limits(requests_per_day=100), Ask(0, 0), id="requests"),
        pytest.param(Limits(tokens_per_month=100 * 70 + 69), Ask(70, 0), id="tokens"),
        pytest.param(Limits(cost_nano_usd_per_month=100 * 12_345), Ask(1, 12_345), id="money"),
    ],
)
@pytest.mark.parametrize("of", ["plan", "key"])
async def test_of_a_thousand_at_once_over_three_exactly_the_quota_passes(
    limits: Limits, ask: Ask, of: str, url: str
) -> None:
    caller = make_caller(plan=limits) if of == "plan" else make_caller(key=limits)
    async with bookkeepers(url, 3) as keepers:
        assert len(await ask_all(keepers, 1_000, caller, ask)) == 100


@pytest.mark.parametrize(
    ("unit", "ask"), [("requests", Ask(0, 0)), ("tokens", Ask(70, 0)), ("cost_nano_usd", Ask(0, 12_345))]
)
async def test_a_budget_that_tenants_share_is_not_passed(unit: Any, ask: Ask, url: str) -> None:
    amount = 100 * max(ask.tokens, ask.cost_nano_usd, 1)
    async with bookkeepers(url, 3, budget(unit, amount)) as keepers:
        found = await asyncio.gather(*(ask_all(keepers, 250, make_caller(f"ten_{number}"), ask) for number in range(4)))
        assert sum(len(holds) for holds in found) == 100
        for holds in found:
            await asyncio.gather(*(of_node(keepers, hold.grant.node_id).close(hold, None) for hold in holds))
        assert len(await ask_all(keepers, 150, make_caller("ten_9"), ask)) == 100


async def test_a_balance_is_not_spent_twice(url: str) -> None:
    async with bookkeepers(url, 3) as keepers:
        credit = make_receipt(tenant="ten_1", v=2, credited_nano_usd=1_000)
        await keepers[0].books.close(receipt=credit, secret=bytes(32), credit_nano_usd=1_000)
        found = await asyncio.gather(*(keepers[n % 3].books.hold_money("ten_1", 10) for n in range(400)))
        holds = [money for money in found if money is not None]
        assert len(holds) == 100
        receipts = await asyncio.gather(
            *(
                of_node(keepers, money.grant.node_id).books.close(
                    money=money,
                    use=Use(0, 0, 7),
                    receipt=make_receipt(n, tenant="ten_1", v=2),
                    secret=bytes(32),
                )
                for n, money in enumerate(holds)
            )
        )
        assert [receipt and receipt.charged_nano_usd for receipt in receipts] == [7] * 100
        assert sum([await keepers[1].books.hold_money("ten_1", 10) is not None for _ in range(40)]) == 30


async def test_a_credit_whose_receipt_two_processes_write_counts_once(url: str) -> None:
    """One was killed with it in its journal; another found that it lacked."""
    credit = make_receipt(tenant="ten_1", v=2, finish="credited", credited_nano_usd=1_000, charged_nano_usd=0)
    credit = msgspec.structs.replace(credit, **payment_members(None))
    async with bookkeepers(url, 2) as keepers:
        for keeper in (*keepers, keepers[0]):
            await keeper.books.close_late(credit, bytes(32), None, who=None, credit_nano_usd=1_000)
        await keepers[1].books.refresh_balances("ten_1")
        assert keepers[1].books.balances.balance("ten_1") == 1_000
        assert [receipt.id for receipt in (await stored_receipts(url))["ten_1"]] == [credit.id]


async def test_parallel_requests_are_counted_over_all(url: str) -> None:
    caller = make_caller(key=Limits(parallel_requests=5))

    async def enter(keeper: Bookkeeper) -> Any:
        try:
            return await keeper.books.enter(caller)
        except RateLimited:
            return None

    async with bookkeepers(url, 3) as keepers:
        for _ in range(3):
            found = await asyncio.gather(*(enter(keepers[number % 3]) for number in range(60)))
            slots = [slot for slot in found if slot is not None]
            assert len(slots) == 5
            for number, slot in enumerate(slots):
                keeper = of_node(keepers, slot.grant.node_id)
                if number % 2:
                    await keeper.books.close(slot=slot)
                else:  # opened, it ends with the request
                    await keeper.close(await keeper.books.open(caller, drawer_of(caller), Ask(1, 1), slot), Use(1, 1))


@pytest.mark.slow
async def test_of_a_thousand_asks_of_three_processes_exactly_the_quota_passes(url: str) -> None:
    limits, tokens = {"requests_per_day": 100, "tokens_per_day": 10**9}, {"tokens_per_day": 7_000}
    orders: list[tuple[dict[str, Any], int]] = [
        ({"tenant": "ten_1", "limits": limits, "tokens": 7, "cost": 5, "asks": 334}, 100),
        ({"tenant": "ten_2", "limits": tokens, "tokens": 70, "cost": 0, "asks": 334}, 100),
        ({"tenant": "ten_3", "limits": {"cost_nano_usd_per_day": 999}, "tokens": 0, "cost": 10, "asks": 334}, 99),
    ]
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.cluster.bookkeeping", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]

    async def answer(process: asyncio.subprocess.Process, order: dict[str, Any] | None = None) -> dict[str, Any]:
        assert process.stdin and process.stdout
        if order is not None:
            process.stdin.write(json.dumps(order).encode() + b"\n")
        answered: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
        return answered

    try:
        await asyncio.gather(*(answer(process) for process in processes))
        for order, admitted in orders:
            found = await asyncio.gather(*(answer(process, order) for process in processes))
            assert sum(each["admitted"] for each in found) == admitted
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
    chains = await stored_receipts(url)
    assert {tenant: len(chain) for tenant, chain in chains.items()} == {"ten_1": 100, "ten_2": 100, "ten_3": 99}


# what is used


async def test_what_was_held_becomes_what_was_used(url: str) -> None:
    caller = make_caller(plan=Limits(tokens_per_day=1_000), key=Limits(requests_per_day=50))
    async with bookkeepers(url, 3, budget("tokens", 10_000)) as keepers:
        holds = await ask_all(keepers, 20, caller, Ask(100, 9))
        assert len(holds) == 10
        for number, hold in enumerate(holds):
            await of_node(keepers, hold.grant.node_id).close(hold, None if number == 0 else Use(10, 1))
        assert len(await ask_all(keepers, 20, caller, Ask(100, 9))) == 9
        at_us = keepers[0].clock()
        await keepers[0].ask(caller, Ask(1, 0))
        used = keepers[0].counters.quota.used("ten_1", at_us)["day"]
        assert used == {"requests": 9 + 9 + 1, "tokens": 90 + 900 + 1, "cost_nano_usd": 9 + 81}
        [standing] = keepers[0].counters.budgets.standings(at_us)
        assert (standing.used, standing.held) == (90, 901)


async def test_each_tenants_receipts_are_one_chain(url: str) -> None:
    async with bookkeepers(url, 3) as keepers:

        async def one(number: int) -> None:
            keeper = keepers[number % 3]
            hold = await keeper.ask(make_caller(f"ten_{number % 4}", plan=Limits(requests_per_day=1_000)))
            assert hold is not None
            receipt = await keeper.close(hold, Use(1, 1))
            assert receipt is not None and receipt.tseq > 0

        await asyncio.gather(*(one(number) for number in range(400)))
        assert all(keeper.books.closing.repeated == keeper.books.opening.repeated == 0 for keeper in keepers)
    chains = await stored_receipts(url)
    assert len(chains) == 4
    for chain in chains.values():
        assert [receipt.tseq for receipt in chain] == list(range(1, 101))
        assert [receipt.tprev for receipt in chain] == [FIRST_TPREV, *(leaf_hash(each).hex() for each in chain[:-1])]
        assert len({receipt.id for receipt in chain}) == 100


async def test_who_has_no_limit_waits_for_no_database(url: str) -> None:
    async with bookkeepers(url, 1) as [keeper]:

        def away() -> str:
            raise Unavailable("The database was asked.")

        keeper.opening.use = away  # type: ignore[assignment, method-assign]
        assert await keeper.books.enter(make_caller()) is None
        hold = await keeper.ask(make_caller(), Ask(5, 5))
        assert hold is not None
        assert await keeper.close(hold, Use(1, 1)) is not None


# the dead and the lost


async def test_what_a_dead_node_held_comes_back_once(url: str) -> None:
    caller = make_caller(plan=Limits(tokens_per_day=1_000, parallel_requests=3))
    async with bookkeepers(url, 2, budget("requests", 10)) as [living, dead]:
        credit = make_receipt(tenant="ten_1", v=2, credited_nano_usd=100)
        await living.books.close(receipt=credit, secret=bytes(32), credit_nano_usd=100)
        # What it gave back itself does not come back again.
        slot = await dead.books.enter(caller)
        money = await dead.books.hold_money("ten_1", 60)
        opened = await dead.books.open(caller, drawer_of(caller), Ask(100, 0), slot)
        await dead.books.close(hold=opened, money=money, use=None)
        slots = [await keeper.books.enter(caller) for keeper in (living, dead, dead)]
        holds = [
            await keeper.books.open(caller, drawer_of(caller), Ask(300, 0), slot)
            for keeper, slot in zip((living, dead, dead), slots, strict=True)
        ]
        money = await dead.books.hold_money("ten_1", 60)
        assert await living.books.hold_money("ten_1", 60) is None
        with pytest.raises(RateLimited):
            await living.books.enter(caller)

        await bury(living, dead)
        with pytest.raises(Unavailable) as refused:
            await dead.books.open(caller, drawer_of(caller), Ask(1, 0))
        assert "retry-after" in refused.value.headers
        dead.node_id = ""
        with pytest.raises(Unavailable):
            await dead.books.open(caller, drawer_of(caller), Ask(1, 0))
        # It was taken for dead, and was not: what it used is charged, and nothing given back a second time.
        await dead.books.close(hold=holds[1], money=money, use=Use(10, 0, 5), receipt=credit, secret=bytes(32))
        await dead.join()

        again = [await keeper.books.enter(caller) for keeper in (living, dead)]
        assert None not in again
        with pytest.raises(RateLimited):
            await living.books.enter(caller)
        assert (await living.books.hold_money("ten_1", 60)) is not None
        assert len(await ask_all([living, dead], 5, caller, Ask(345, 0))) == 2
        await dead.close(holds[2], None)
        await living.close(holds[0], Use(20, 0))
        assert await living.ask(caller, Ask(1_000 - 10 - 20 - 690 + 1, 0)) is None
        assert await living.ask(caller, Ask(1_000 - 10 - 20 - 690, 0)) is not None
        assert [await living.books.hold_money("ten_1", amount) is not None for amount in (36, 35)] == [False, True]
        [standing] = living.counters.budgets.standings(living.clock())
        assert (standing.used, standing.held) == (2, 3)


async def test_what_was_granted_to_a_request_that_is_gone_comes_back(url: str) -> None:
    caller = make_caller(plan=Limits(requests_per_day=3))
    async with bookkeepers(url, 1) as [keeper]:
        asked = [asyncio.ensure_future(keeper.ask(caller)) for _ in range(3)]
        await asyncio.sleep(0)
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await keeper.ask(make_caller("ten_2", plan=Limits(requests_per_day=3)))
        await keeper.books.closing.flush()
        assert len(await ask_all([keeper], 5, caller)) == 3


@pytest.mark.parametrize("side", ["opening", "closing"])
async def test_connections_that_are_cut_lose_and_double_nothing(side: str, url: str) -> None:
    """Cut in the middle of transactions, again and again: who was refused holds nothing, what was used counts once."""
    caller = make_caller(plan=Limits(requests_per_day=10**6, tokens_per_day=10**9))
    closed = 0
    async with bookkeepers(url, 3, budget("tokens", 10**9)) as keepers:
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
                raise ConnectionRefusedError("nobody listens")
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
    async with bookkeepers(url, 1, budget("tokens", 10_000)) as [keeper]:
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
    """A network that is mended delivers what it held back, to a server that takes it for new."""
    monkeypatch.setattr(connections, "_TIMEOUT_S", 1.0)
    parts = urlsplit(url)
    assert parts.port is not None
    caller = make_caller(plan=Limits(tokens_per_day=1_000))
    with Link(parts.port) as link:
        through = url.replace(f":{parts.port}/", f":{link.port}/")
        async with bookkeepers(through, 1) as [keeper]:
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
    """Its rollback, too, would wait for an answer."""
    monkeypatch.setattr(connections, "_TIMEOUT_S", 1.0)
    parts = urlsplit(url)
    assert parts.port is not None
    with Link(parts.port) as link:
        address = PostgresAddress(url.replace(f":{parts.port}/", f":{link.port}/"))
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
    """Connections of this process to the database, without the one that asks."""
    own = f"application_name LIKE 'trustgate % {os.getpid()} %' AND pid <> pg_backend_pid()"
    [[found]] = run_sql(url, f"SELECT count(*) FROM pg_stat_activity WHERE {own}")
    return int(found)


async def test_rows_that_one_process_alone_writes_are_written_in_one_statement_and_others_are_seen(url: str) -> None:
    caller, use = make_caller(plan=Limits(tokens_per_day=1_000)), Use(7, 0)
    async with bookkeepers(url, 2) as [one, two]:
        for keeper, times in ((one, 5), (two, 1), (one, 5)):
            for _ in range(times):
                hold = await keeper.ask(caller, Ask(100, 0))
                assert hold is not None
                assert await keeper.close(hold, use) is not None
        lanes_of_one = (one.books.opening, one.books.closing)
        # Not the first, which has nothing to go by, nor that after the other's, nor the one that waits after that.
        assert [lane.swapped for lane in lanes_of_one] == [4 + 3, 4 + 3]
        assert await two.ask(caller, Ask(1_000 - 11 * 7 + 1, 0)) is None
        assert await two.ask(caller, Ask(1_000 - 11 * 7, 0)) is not None
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == list(range(1, 12))
    assert [receipt.tprev for receipt in chain] == [FIRST_TPREV, *(leaf_hash(each).hex() for each in chain[:-1])]


async def test_a_close_is_not_given_up_for_a_failure_that_passes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was given up would be in the journal alone, and those after it not."""
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


_WAITING_FOR_ROWS = """SELECT count(*) FROM pg_sleep(0.02), pg_locks
    WHERE NOT granted AND relation = 'shared_state'::regclass"""


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
            while await connection.fetchval(_WAITING_FOR_ROWS):
                pass
    await stranger.close()


async def test_a_limit_that_comes_while_a_close_waits_for_its_rows_counts_it(url: str) -> None:
    """All are counted anew for a new limit; what had not locked its rows by then is not among the receipts."""
    caller = make_caller()
    directory = Directory(
        State(plans=(caller.plan,), tenants=(caller.tenant,), keys=(caller.key,), passports=(), aliases=())
    )
    stranger = connections.lengthy_session(PostgresAddress(url))
    async with bookkeepers(url, 1) as [keeper]:
        keeper.books.directory = directory
        hold = await keeper.ask(caller, Ask(100, 0))
        assert hold is not None
        async with stranger.use() as connection, connection.transaction():
            await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
            closing = asyncio.ensure_future(keeper.close(hold, Use(7, 0)))
            async with asyncio.timeout(PATIENCE_S):
                while not await connection.fetchval(_WAITING_FOR_ROWS):
                    pass
            directory.put(msgspec.structs.replace(caller.plan, limits=Limits(tokens_per_day=1_000)))
            keeper.counters.budgets.put(budget("tokens", 1_000))
            # Counted anew: nothing was used.
            at_us, budgets = keeper.clock(), Budgets(keeper.clock)
            budgets.put(budget("tokens", 1_000))
            counted = quotas_anew(Quota(), ["ten_1"], {}, at_us) | counted_anew(budgets, {})
            for key, state in counted.items():
                await connection.execute("INSERT INTO shared_state VALUES ($1, $2::text::jsonb)", key, state)
        assert await closing is not None
        await keeper.books.refresh_counts("ten_1")
        assert keeper.counters.quota.used("ten_1", keeper.clock())["day"]["tokens"] == 7
        [standing] = keeper.counters.budgets.standings(keeper.clock())
        assert (standing.used, standing.held) == (7, 0)
    await stranger.close()
