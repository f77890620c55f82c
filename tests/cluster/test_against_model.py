"""Books that several processes keep, step by step against one process's counters: they decide and count the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.bookkeeping import Bookkeeper, bookkeepers, drawer_of, make_caller
from tests.support.postgres import GivenPostgres, Postgres
from trustgate.access.budgets import Budgets
from trustgate.access.quota import Ask, Hold, Quota
from trustgate.cluster.holds import SharedHold, Use
from trustgate.errors import RateLimited
from trustgate.types import Budget, Limits

CALLERS = (
    make_caller("ten_1", plan=Limits(requests_per_day=6, tokens_per_month=40)),
    make_caller(
        "ten_1", key_id="key_2", plan=Limits(requests_per_day=6, tokens_per_month=40), key=Limits(parallel_requests=2)
    ),
    make_caller("ten_2", key=Limits(cost_nano_usd_per_day=30)),
    make_caller("ten_3"),
)
BUDGETS = (
    Budget(id="bud_1", name="all", unit="tokens", amount=90, span="total", everyone=True),
    Budget(id="bud_2", name="each", unit="requests", amount=5, span="month", tenants=("ten_2", "ten_3"), each="tenant"),
    Budget(id="bud_3", name="some", unit="cost_nano_usd", amount=40, span="2592000s", everyone=True, models=("m",)),
    Budget(id="bud_4", name="users", unit="requests", amount=2, span="day", everyone=True, each="end_user"),
)
AMOUNT = st.integers(0, 15)
#: A request of one of the callers, or the end of one that is under way, by how many have begun before it.
OPEN = st.tuples(
    st.integers(0, 2), st.sampled_from(range(len(CALLERS))), AMOUNT, AMOUNT, st.sampled_from((None, "eu_1", "eu_2"))
)
CLOSE = st.tuples(st.integers(0, 20), st.none() | st.tuples(AMOUNT, AMOUNT))
STEPS = st.lists(OPEN | CLOSE, min_size=1, max_size=30)


class Model:
    """One process: the counters alone."""

    def __init__(self, clock: Any) -> None:
        self.quota, self.budgets = Quota(clock), Budgets(clock)
        for budget in BUDGETS:
            self.budgets.put(budget)

    def open(self, caller: Any, ask: Ask, end_user: str | None, at_us: int) -> Hold | None:
        try:
            slot = self.quota.enter(caller.tenant, caller.plan, caller.key)
        except RateLimited:
            return None
        try:
            claim = self.budgets.claim(drawer_of(caller, end_user), ask.tokens, ask.cost_nano_usd, at_us)
            return self.quota.reserve(caller.tenant, caller.plan, caller.key, ask, at_us, slot, claim)
        except RateLimited:
            slot.release()
            return None

    def close(self, hold: Hold, use: tuple[int, int] | None) -> None:
        if use is None:
            self.quota.void(hold)
        else:
            self.quota.post(hold, *use)


async def open_shared(keeper: Bookkeeper, caller: Any, ask: Ask, end_user: str | None) -> SharedHold | None:
    try:
        slot = await keeper.books.enter(caller)
    except RateLimited:
        return None
    try:
        return await keeper.books.open(caller, drawer_of(caller, end_user), ask, slot)
    except RateLimited:
        if slot is not None:
            await keeper.books.close(slot=slot)
        return None


async def follow(keepers: list[Bookkeeper], steps: list[Any]) -> None:
    model = Model(keepers[0].clock)
    begun: list[tuple[Bookkeeper, SharedHold, Hold]] = []
    for step in steps:
        if len(step) == 2:
            if begun:
                keeper, shared, hold = begun.pop(step[0] % len(begun))
                await keeper.close(shared, None if step[1] is None else Use(*step[1]))
                model.close(hold, step[1])
            continue
        keeper, caller, ask = keepers[step[0]], CALLERS[step[1]], Ask(step[2], step[3])
        found = await open_shared(keeper, caller, ask, step[4])
        expected = model.open(caller, ask, step[4], keeper.clock())
        assert (found is None) == (expected is None), step
        if found is not None and expected is not None:
            # Of a caller without limits nothing is shared; what is left of it is another figure in each process.
            if found.subjects:
                assert [rate and rate.remaining for rate in found.hold.rates] == [
                    rate and rate.remaining for rate in expected.rates
                ], step
            begun.append((keeper, found, expected))
    for keeper, shared, hold in begun:
        await keeper.close(shared, Use(1, 1))
        model.close(hold, (1, 1))


@pytest.fixture(scope="module")
def server(postgres: Postgres | GivenPostgres) -> Postgres | GivenPostgres:
    return postgres


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_three_processes_decide_as_one(steps: list[Any], server: Postgres | GivenPostgres) -> None:
    url = server.clean()

    async def run() -> None:
        async with bookkeepers(url, 3, *BUDGETS) as keepers:
            await follow(keepers, steps)

    asyncio.run(run())
