"""Books that several processes keep together: no limit is passed, and the holds of ended processes are given back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from tests.cluster.bookkeeping import (
    WAITING_FOR_ROWS,
    Bookkeeper,
    ask_all,
    bookkeepers,
    bury,
    drawer_of,
    make_caller,
    shared_budget,
    stored_receipts,
)
from tests.support.entries import make_receipt
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import PATIENCE_S
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller, Directory
from trustgate.access.quota import Ask, Quota
from trustgate.cluster import connections
from trustgate.cluster.holds import SharedHold, Use
from trustgate.cluster.rows import BudgetRow, look_at_budget
from trustgate.cluster.rows_anew import counted_anew, quotas_anew
from trustgate.errors import RateLimited, Unavailable
from trustgate.payment.credit import payment_members
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.settings import PostgresAddress
from trustgate.store import State
from trustgate.types import Budget, Limits


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


def of_node(keepers: list[Bookkeeper], node_id: str) -> Bookkeeper:
    """Returns the process that may end what it began."""
    return next(keeper for keeper in keepers if keeper.node_id == node_id)


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
    async with bookkeepers(url, 3, shared_budget(unit, amount)) as keepers:
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


async def test_balances_are_taken_in_of_one_tenant_or_of_all(url: str) -> None:
    async with bookkeepers(url, 2) as [one, two]:
        for number, tenant_id in enumerate(("ten_1", "ten_2"), 1):
            credit = make_receipt(number, tenant=tenant_id, v=2, finish="credited", credited_nano_usd=1_000)
            credit = msgspec.structs.replace(credit, charged_nano_usd=0, **payment_members(None))
            await one.books.close_late(credit, bytes(32), None, who=None, credit_nano_usd=1_000)
        balance = two.books.balances.balance
        await two.books.refresh_balances("ten_1")
        assert (balance("ten_1"), balance("ten_2")) == (1_000, 0)
        await two.books.refresh_balances()
        assert (balance("ten_1"), balance("ten_2")) == (1_000, 1_000)


class Changed:
    """A directory in which a caller is no longer what it was."""

    def __init__(self, owner: Caller | None) -> None:
        self._owner = owner

    def is_current(self, caller: Caller) -> bool:
        return False

    def owner(self, tenant_id: str, key_id: str) -> Caller | None:
        return self._owner


async def test_a_request_counts_what_limits_its_key_by_now_unless_that_is_gone(url: str) -> None:
    unlimited = make_caller()
    limits = Limits(requests_per_day=1_000)
    async with bookkeepers(url, 1) as [keeper]:
        for owner, counted in (
            (None, ()),
            (make_caller(key_id="another", plan=limits), ()),
            (make_caller(plan=limits, key=limits), ("ten_1", "key_of_ten_1")),
        ):
            keeper.books.directory = cast(Any, Changed(owner))
            hold = await keeper.ask(unlimited, Ask(10, 0))
            assert hold is not None
            assert hold.subjects == counted
            await keeper.close(hold, Use(10, 0))


async def test_a_refund_whose_receipt_two_processes_write_counts_once(url: str) -> None:
    refund = make_receipt(tenant="ten_1", v=2, finish="credited", credited_nano_usd=0, charged_nano_usd=400)
    refund = msgspec.structs.replace(refund, **payment_members(None))
    async with bookkeepers(url, 2) as keepers:
        await keepers[0].books.close(receipt=make_receipt(tenant="ten_1"), secret=bytes(32), credit_nano_usd=1_000)
        # A command takes it; the process before has left it in its journal.
        await keepers[0].books.close(receipt=refund, secret=bytes(32), credit_nano_usd=-400)
        for keeper in keepers:
            await keeper.books.close_late(refund, bytes(32), None, who=None)
        await keepers[1].books.refresh_balances("ten_1")
        assert keepers[1].books.balances.balance("ten_1") == 600
        assert [receipt.id for receipt in (await stored_receipts(url))["ten_1"]].count(refund.id) == 1


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
    async with bookkeepers(url, 3, shared_budget("tokens", 10_000)) as keepers:
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
    async with bookkeepers(url, 2, shared_budget("requests", 10)) as [living, dead]:
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


class _ReadBefore:
    """A connection whose answers were read a while ago."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self._rows = rows

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[_ReadBefore]:
        yield self

    async def fetch(self, *_: Any) -> list[dict[str, str]]:
        return self._rows


async def budget_figures(url: str, key: str) -> tuple[int, int]:
    """What the database has of a budget: used and held."""
    [[state]] = await asyncio.to_thread(run_sql, url, f"SELECT state::text FROM shared_state WHERE key = '{key}'")
    cells = json.loads(state)["figures"][0]
    return sum(used for _, used, _ in cells), sum(held for _, _, held in cells)


@pytest.mark.parametrize("by", ["a look", "rows written anew"])
async def test_what_is_used_counts_though_memory_has_seen_its_budget_without_it(by: str, url: str) -> None:
    """Usage is looked up while the first request of a budget's cell is opened; or a start took all for dead."""
    caller, shared = make_caller(), shared_budget("requests", 3)
    async with bookkeepers(url, 1, shared) as [keeper]:
        [counter] = keeper.counters.budgets.counters_of(drawer_of(caller), 0)
        row, before = BudgetRow(counter), BudgetRow(counter).content().decode()
        [first] = await ask_all([keeper], 1, caller)
        if by == "a look":
            keeper.books._looking = _ReadBefore([{"key": row.key, "state": before}])  # type: ignore[assignment]
            await keeper.books.refresh_counts()
        else:
            undo = f"UPDATE shared_state SET state = '{before}' WHERE key = '{row.key}'"
            await asyncio.to_thread(run_sql, url, undo)
        holds = [first, *await ask_all([keeper], 2, caller)]
        assert await budget_figures(url, row.key) == (0, 3 if by == "a look" else 2)
        for hold in holds:
            await keeper.close(hold, Use(0, 0))
        assert await keeper.ask(caller) is None
        assert (await budget_figures(url, row.key))[0] == 3


async def test_what_a_budget_holds_that_changes_its_models_and_back_is_given_back(url: str) -> None:
    caller, first = make_caller(), shared_budget("tokens", 100)
    async with bookkeepers(url, 1, first) as [keeper]:
        budgets = keeper.counters.budgets
        key = BudgetRow(budgets.counters_of(drawer_of(caller), 0)[0]).key
        hold = await keeper.ask(caller, Ask(60, 0))
        assert hold is not None and await budget_figures(url, key) == (0, 60)
        budgets.put(msgspec.structs.replace(first, models=("other",)))
        await keeper.close(hold, Use(10, 0))
        assert await budget_figures(url, key) == (0, 0), "the model is no longer the budget's"
        budgets.put(first)
        assert await keeper.ask(caller, Ask(101, 0)) is None
        assert await keeper.ask(caller, Ask(100, 0)) is not None


async def test_a_claim_on_a_plans_budget_that_its_tenant_has_left_holds_no_other_up(url: str) -> None:
    """The budget counted other models for a while: it has new counters, and the same row."""
    budget = Budget(id="bud_1", name="the plan's", unit="requests", amount=9, span="total", plans=("p",))
    leaves, stays = make_caller("ten_1"), make_caller("ten_2")
    async with bookkeepers(url, 1, budget) as [keeper]:
        budgets = keeper.counters.budgets
        holds = [await keeper.ask(leaves), await keeper.ask(stays)]
        budgets.put(msgspec.structs.replace(budget, models=("another",)))
        budgets.put(budget)
        budgets.move("ten_1", "q")
        ended = asyncio.gather(*(keeper.close(hold, Use(1, 1)) for hold in holds if hold is not None))
        assert [receipt.tseq for receipt in await asyncio.wait_for(ended, PATIENCE_S) if receipt] == [1, 1]
        (standing,) = budgets.standings(keeper.clock())
        assert (standing.used, standing.held) == (1, 0)


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


async def test_what_was_held_before_a_limit_came_is_not_given_back_in_its_row(url: str) -> None:
    """A request of before, and one of after, end in one batch: the row has what the second holds, and no more."""
    of_tenant = Limits(tokens_per_day=10_000, parallel_requests=10)
    caller = make_caller(plan=of_tenant)
    limited = make_caller(plan=of_tenant, key=Limits(tokens_per_day=1_000, parallel_requests=1))
    directory = Directory(
        State(plans=(caller.plan,), tenants=(caller.tenant,), keys=(caller.key,), passports=(), aliases=())
    )
    async with bookkeepers(url, 1) as [keeper]:
        keeper.books.directory = directory

        async def begin(caller: Caller) -> SharedHold:
            slot = await keeper.books.enter(caller)
            return await keeper.books.open(caller, drawer_of(caller), Ask(100, 10), slot)

        before = await begin(caller)
        directory.put(limited.key)
        # Its row is made of what receipts say, as the command does, or the first who misses it.
        keeper.counters.quota.forget(limited.key.account_id)
        after = await begin(limited)
        await asyncio.gather(
            keeper.books.close(hold=after, use=Use(7, 1)),
            keeper.books.close(hold=before, use=None),
        )
        used = keeper.counters.quota.used(limited.key.account_id, keeper.clock())["day"]
        assert (used["requests"], used["tokens"]) == (1, 7)
        # One at a time, as before.
        again = await begin(limited)
        with pytest.raises(RateLimited):
            await keeper.books.enter(limited)
        # The limit goes while one of before and one of after run, which end in one batch, and comes again.
        directory.put(caller.key)
        without = await begin(caller)
        await asyncio.gather(
            keeper.books.close(hold=without, use=None),
            keeper.books.close(hold=again, use=Use(5, 1)),
        )
        directory.put(limited.key)
        last = await begin(limited)
        used = keeper.counters.quota.used(limited.key.account_id, keeper.clock())["day"]
        assert (used["requests"], used["tokens"]) == (3, 7 + 5 + 100)
        with pytest.raises(RateLimited):
            await keeper.books.enter(limited)
        await keeper.close(last, None)
        assert await keeper.books.enter(limited) is not None


@pytest.mark.parametrize("of", ["plan", "budget"])
@pytest.mark.parametrize("was_held", [True, False])
async def test_a_limit_that_comes_while_a_close_waits_for_its_rows_counts_it(was_held: bool, of: str, url: str) -> None:
    """All are counted anew for a new limit; what had not locked its rows by then is not among the receipts.

    ``was_held``: False: work whose end is seen later, for which nothing is held.
    """
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
            late = keeper.books.late(caller, drawer_of(caller))
            receipt = make_receipt(tenant="ten_1", tseq=0, tprev="")
            ended: dict[str, Any] = {"hold": hold} if was_held else {"late": late}
            closing = keeper.books.close(**ended, use=Use(7, 0), receipt=receipt, secret=bytes(32))
            async with asyncio.timeout(PATIENCE_S):
                while not await connection.fetchval(WAITING_FOR_ROWS):
                    pass
            # Counted anew: nothing was used.
            if of == "plan":
                directory.put(msgspec.structs.replace(caller.plan, limits=Limits(tokens_per_day=1_000)))
                counted = quotas_anew(Quota(), ["ten_1"], {}, keeper.clock())
            else:
                keeper.counters.budgets.put(shared_budget("tokens", 1_000))
                budgets = Budgets(keeper.clock)
                budgets.put(shared_budget("tokens", 1_000))
                budgets.count(drawer_of(caller), 0, 0, keeper.clock())
                counted = counted_anew(budgets, {})
                assert counted
            for key, state in counted.items():
                await connection.execute("INSERT INTO shared_state VALUES ($1, $2::text::jsonb)", key, state)
        assert await closing is not None
        await keeper.books.refresh_counts("ten_1")
        standings = [(each.used, each.held) for each in keeper.counters.budgets.standings(keeper.clock())]
        assert standings == ([] if of == "plan" else [(7, 0)])
        # Counted in the row, not in memory alone.
        limited = make_caller(plan=Limits(tokens_per_day=1_000)) if of == "plan" else caller
        assert await keeper.ask(limited, Ask(994, 0)) is None
        assert await keeper.ask(limited, Ask(993, 0)) is not None
    await stranger.close()


async def test_requests_go_on_while_the_counts_of_very_many_are_taken_in(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = Budget(id="bud_1", name="each", unit="tokens", amount=9, span="total", everyone=True, each="tenant")
    async with bookkeepers(url, 1, each) as [keeper]:
        counted = Budgets(keeper.clock)
        counted.put(each)
        for number in range(1_000):
            counted.count(drawer_of(make_caller(f"ten_{number}")), 1, 0, keeper.clock())
        rows = [BudgetRow(counter) for counter in counted.counters()]
        async with keeper.own.use() as connection:
            await connection.execute(
                "INSERT INTO shared_state SELECT k, s::jsonb FROM unnest($1::text[], $2::text[]) AS u (k, s)",
                [row.key for row in rows],
                [row.content().decode() for row in rows],
            )
        turn, turns = 0, list[int]()

        async def others() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        def look(*row: Any) -> None:
            turns.append(turn)
            look_at_budget(*row)

        monkeypatch.setattr("trustgate.cluster.books.look_at_budget", look)
        running = asyncio.ensure_future(others())
        await keeper.books.refresh_counts()
        running.cancel()
        assert max(turns.count(each) for each in turns) < 250 and len(turns) == 1_000
        assert sum(each.used for each in keeper.counters.budgets.standings(keeper.clock())) == 1_000
