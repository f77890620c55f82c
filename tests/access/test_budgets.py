"""Budgets: exact admission, holds that settle, every kind of span; by example, then against an independent model."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import BudgetEvent, Budgets, Claim
from trustgate.access.spans import CALENDAR, read_span
from trustgate.errors import InvalidRequest, RateLimited
from trustgate.types import Budget, EndUser

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * SECOND


NOON = at(2026, 5, 17, 12)  # a Sunday


def budget(amount: int, span: str = "day", unit: str = "requests", **members: Any) -> Budget:
    whom = {} if members.keys() & {"tenants", "keys", "plans", "everyone"} else {"tenants": ("ten_1",)}
    return Budget(**{"id": "budget_1", "name": "b", "unit": unit, "amount": amount, "span": span, **whom, **members})


def drawer(tenant: str = "ten_1", key: str = "key_1", **members: Any) -> Drawer:
    return Drawer(**{"tenant_id": tenant, "key_id": key, "plan": "pro", "models": ("gpt-4o",), **members})


def having(
    *records: Budget, clock: Callable[[], int] | None = None, events: list[BudgetEvent] | None = None
) -> Budgets:
    budgets = Budgets(clock or (lambda: NOON), None if events is None else events.append)
    for record in records:
        assert budgets.put(record)
    return budgets


def take(budgets: Budgets, who: Drawer | None = None, *, tokens: int = 1, cost: int = 1, now: int = NOON) -> Claim:
    claim = budgets.claim(who or drawer(), tokens, cost, now)
    claim.take()
    return claim


def used(budgets: Budgets, now: int = NOON) -> list[tuple[int, int]]:
    return [(standing.used, standing.held) for standing in budgets.standings(now)]


@pytest.mark.parametrize("span", [*CALENDAR, "total", "3600s"])
def test_of_a_thousand_exactly_the_budget_passes(span: str) -> None:
    budgets, passed = having(budget(100, span)), 0
    for _ in range(1_000):
        try:
            take(budgets)
            passed += 1
        except RateLimited:
            pass
    assert passed == 100


def test_a_refusal_names_the_budget_its_unit_and_when_there_is_room() -> None:
    budgets = having(budget(5_000_000_000, "month", "cost_nano_usd", name="team"))
    take(budgets, cost=4_900_000_000)
    with pytest.raises(RateLimited) as caught:
        take(budgets, cost=200_000_000)
    assert str(caught.value.message) == (
        "The budget 'team' is reached: USD per month, limit 5.00, left 0.10, this request needs 0.20. It has room "
        "again at 2026-06-01 00:00:00 UTC. Please try again in 1252800 s."
    )
    assert caught.value.headers == {"retry-after": str(14 * 86_400 + 12 * 3_600), "x-should-retry": "false"}
    assert caught.value.to_openai()["error"]["code"] == "insufficient_quota"


def test_a_claim_knows_what_is_left_of_the_tightest_budget_and_until_when() -> None:
    budgets = having(
        budget(100, "day", "tokens", id="budget_1"),
        budget(90, "month", "tokens", id="budget_2"),
        budget(90, "day", "tokens", id="budget_3"),
        budget(10, "day", "tokens", id="soft", hard=False),
        budget(20, "day", "tokens", id="of strangers", tenants=(), everyone=True),
        budget(30, "total", "tokens", id="never anew"),
        budget(7, "3600s", "requests", id="rolling"),
    )
    claim = take(budgets, tokens=8)
    noon_to_june = 14 * 86_400 + 12 * 3_600
    assert claim.rate("tokens", NOON) == (90, 82, noon_to_june), "the last to begin anew of two with equally much left"
    requests = claim.rate("requests", NOON)
    assert requests is not None and requests[:2] == (7, 6)
    assert claim.rate("cost_nano_usd", NOON) is None


def test_what_was_not_held_counts_though_the_budget_is_reached() -> None:
    budgets = having(budget(1))
    for _ in range(2):
        budgets.count(drawer(), 5, 5, NOON)
    assert used(budgets) == [(2, 0)]


def test_a_tenant_sees_the_budgets_that_any_of_its_keys_draws_on() -> None:
    budgets = having(
        budget(9, id="shared", tenants=(), plans=("pro",)),
        budget(8, id="of a key", tenants=(), keys=("key_2",), each="key"),
        budget(7, id="each", tenants=("ten_1", "ten_2"), each="tenant"),
        budget(6, "month", id="each unused", each="tenant", models=("other",)),
        budget(5, id="users", each="end_user"),
        budget(4, id="of another", tenants=("ten_9",)),
        budget(3, id="of another's key", tenants=(), keys=("key_9",)),
    )
    for who in (drawer(key="key_2"), drawer("ten_2")):
        take(budgets, who)

    def seen(tenant_id: str, *keys: str) -> list[tuple[str, str, int]]:
        found = budgets.standings_of(tenant_id, keys, "pro", NOON)
        return [(standing.budget, standing.subject, standing.held) for standing in found]

    assert seen("ten_1", "key_1", "key_2") == [
        ("shared", "", 2),
        ("of a key", "key_2", 1),
        ("each", "ten_1", 1),
        ("each unused", "ten_1", 0),
    ]
    assert seen("ten_2", "key_1") == [("shared", "", 2), ("each", "ten_2", 1)]
    of_key = budgets.standing_of(drawer(end_user="eu_1"), NOON)
    assert [(standing.budget, standing.held) for standing in of_key] == [
        ("shared", 2),
        ("each", 1),
        ("each unused", 0),
        ("users", 0),
    ]


def test_a_span_begins_with_what_receipts_have_of_it_where_the_clock_is_behind() -> None:
    now = [NOON - MINUTE]
    budgets = having(budget(5, "hour", "tokens"), clock=lambda: now[0])
    for _ in range(2):
        budgets.await_cell("budget_1", drawer(), (1, 2, 9), NOON)
    budgets.await_cell("budget_1", drawer("ten_2"), (1, 2, 9), NOON)
    budgets.await_cell("removed", drawer(), (1, 2, 9), NOON)
    take(budgets, tokens=5, now=now[0]).post(5, 0)
    now[0] = NOON
    with pytest.raises(RateLimited, match="left 1"):
        take(budgets, tokens=2, now=NOON)
    take(budgets, tokens=1, now=NOON)
    assert used(budgets) == [(4, 1)]
    assert used(budgets, NOON + HOUR) == [(0, 0)]


def test_of_a_budget_that_is_overdrawn_nothing_is_left() -> None:
    budgets = having(budget(10, unit="tokens"))
    over, under_way = take(budgets, tokens=3), take(budgets, tokens=4)
    assert [(each.used, each.held, each.left) for each in budgets.standings(NOON)] == [(0, 7, 3)]
    over.post(15, 0)
    assert [(each.used, each.held, each.left) for each in budgets.standings(NOON)] == [(15, 4, 0)]
    assert under_way.rate("tokens", NOON) == (10, 0, 12 * 3_600)
    with pytest.raises(RateLimited, match="left 0, this"):
        take(budgets, tokens=1)


def test_a_budget_that_is_removed_limits_nobody_and_one_that_changes_keeps_its_use() -> None:
    budgets = having(budget(1))
    take(budgets).post(1, 1)
    assert not budgets.put(budget(1, hard=False)), "nothing has to be rebuilt"
    take(budgets).post(1, 1)
    assert not budgets.put(budget(3))
    take(budgets)
    with pytest.raises(RateLimited):
        take(budgets)
    assert used(budgets) == [(2, 1)]
    assert not budgets.put(budget(3, removed_us=NOON))
    assert not take(budgets).draws() and budgets.find("budget_1") is None and budgets.standings(NOON) == []


def test_an_amount_that_grows_has_its_steps_told_again() -> None:
    events: list[BudgetEvent] = []
    budgets = having(budget(10, notice_at_percent=(50,)), events=events)
    for _ in range(6):
        take(budgets).post(1, 1)
    budgets.put(budget(14, notice_at_percent=(50,)))
    take(budgets).post(1, 1)
    assert [(event.standing.amount, event.standing.used) for event in events] == [(10, 5), (14, 7)]


def test_receipts_of_others_and_of_ended_spans_restore_nothing() -> None:
    budgets = having(budget(9, models=("gpt-4o",)), budget(9, "3600s", id="rolling"))
    use = (1, 5, 5)
    take(budgets).post(1, 1)
    for budget_id in ("budget_1", "rolling"):
        for who in (drawer("ten_2"), drawer("ten_2", models=("other",)), drawer()):
            budgets.restore(budget_id, who, use, NOON)
        budgets.restore(budget_id, drawer(), use, NOON - DAY if budget_id == "budget_1" else NOON - 5 * MINUTE)
    budgets.restore("budget_1", drawer(models=("other",)), use, NOON)
    budgets.restore("unknown", drawer(), use, NOON)
    assert used(budgets) == [(2, 0), (3, 0)]


def test_a_request_that_waited_counts_in_the_part_of_a_rolling_span_in_which_it_came() -> None:
    budgets = having(budget(9, "3600s"), clock=lambda: NOON + 10 * MINUTE)
    for seconds in (600, 120, 600, 300, 301, 120, 0):
        take(budgets, now=NOON + seconds * SECOND)
    [counter] = budgets.counters()
    counts = {0: 1, 120: 2, 300: 2, 600: 2}
    assert counter.state().cells == [(NOON + seconds * SECOND, 0, held) for seconds, held in counts.items()]


def test_what_others_counted_is_put_in_place_of_what_is_counted_here() -> None:
    budgets, others = having(budget(9, "minute", "tokens")), having(budget(9, "minute", "tokens"))
    early, late = take(others, tokens=3), take(others, tokens=2)
    early.post(1, 1)
    ended, lasting = take(budgets, tokens=4, now=NOON - MINUTE), take(budgets, tokens=2)
    [counter], [theirs] = budgets.counters(), others.counters()
    counter.take_in(theirs.state())
    assert counter.state() == theirs.state()
    assert used(budgets) == [(1, 2)]
    ended.post(4, 4)
    counter.let_go(NOON - MINUTE, 4)
    assert used(budgets) == [(1, 2)], "that span is over"
    lasting.post(3, 3)
    assert used(budgets) == [(4, 0)]
    assert counter.begun_at(NOON - MINUTE, NOON, budgets.clock) is None
    late.void()
    assert used(others) == [(1, 0)]


def test_a_cell_that_others_have_no_more_has_ended_and_one_that_is_missing_is_made_anew() -> None:
    budgets, others = having(budget(9, "3600s", "tokens")), having(budget(9, "3600s", "tokens"))
    earlier = take(budgets, tokens=4, now=NOON - 5 * MINUTE)
    take(others, tokens=1)
    [counter], [theirs] = budgets.counters(), others.counters()
    counter.take_in(theirs.state())
    earlier.post(3, 3)
    assert used(budgets) == [(0, 1)]
    cell = counter.begun_at(NOON - 5 * MINUTE, NOON, budgets.clock)
    assert cell is not None
    budgets.add_use(counter, cell, (1, 3, 3))
    assert counter.state().cells == [(NOON - 5 * MINUTE, 3, 0), (NOON, 0, 1)]
    [standing] = budgets.standings(NOON)
    assert (standing.used, standing.since_us, standing.resets_us) == (3, NOON - HOUR, NOON + 56 * MINUTE)


def test_a_total_does_not_begin_anew() -> None:
    budgets = having(budget(1, "total"))
    take(budgets)
    with pytest.raises(RateLimited, match="does not begin anew") as caught:
        take(budgets, now=NOON + 3_650 * DAY)
    assert "retry-after" not in caught.value.headers


def test_a_request_that_needs_none_of_the_unit_passes_a_used_up_budget() -> None:
    budgets = having(budget(10, unit="cost_nano_usd"))
    take(budgets, cost=10).post(5, 12)
    take(budgets, cost=0)
    with pytest.raises(RateLimited):
        take(budgets, cost=1)


def test_a_budget_of_some_models_leaves_the_others_alone() -> None:
    budgets = having(budget(1, models=("openai/*",)))
    take(budgets, drawer(models=("openai/gpt-4o", "gpt-4o")))
    with pytest.raises(RateLimited):
        take(budgets, drawer(models=("openai/gpt-4o", "gpt-4o")))
    take(budgets, drawer(models=("local",)))
    take(budgets, drawer(models=()))


def test_two_tenants_and_a_key_share_one_budget() -> None:
    budgets = having(budget(3, tenants=("ten_1", "ten_2"), keys=("key_9",)))
    take(budgets)
    take(budgets, drawer("ten_2", "key_2"))
    take(budgets, drawer("ten_3", "key_9"))
    for who in (drawer(), drawer("ten_2", "key_2"), drawer("ten_3", "key_9")):
        with pytest.raises(RateLimited):
            take(budgets, who)
    take(budgets, drawer("ten_3", "key_3"))


@pytest.mark.parametrize(
    ("each", "same", "other"),
    [
        ("tenant", drawer(key="key_2"), drawer("ten_2")),
        ("key", drawer(plan="free"), drawer(key="key_2")),
        ("end_user", drawer(key="key_2", end_user="eu_1"), drawer(end_user="eu_2")),
    ],
)
def test_each_has_a_budget_of_its_own(each: str, same: Drawer, other: Drawer) -> None:
    budgets = having(budget(1, everyone=True, each=each))
    take(budgets, drawer(end_user="eu_1"))
    with pytest.raises(RateLimited):
        take(budgets, same)
    take(budgets, other)


def test_leaving_out_the_end_user_is_no_way_around() -> None:
    budgets = having(budget(1, each="end_user"))
    take(budgets, drawer(end_user=""))
    with pytest.raises(RateLimited):
        take(budgets, drawer(end_user=""))
    take(budgets, drawer(end_user=None))


def test_an_end_user_may_have_another_amount() -> None:
    budgets = having(budget(1, each="end_user"))
    budgets.put_end_user(EndUser(id="eu_vip", tenant_id="ten_1", amounts={"budget_1": 2}))
    for _ in range(2):
        take(budgets, drawer(end_user="eu_vip"))
    with pytest.raises(RateLimited):
        take(budgets, drawer(end_user="eu_vip"))
    budgets.put_end_user(EndUser(id="eu_vip", tenant_id="ten_1"))
    assert [standing.amount for standing in budgets.standings(NOON)] == [1]


def test_more_end_users_than_are_counted_share_one_more() -> None:
    now = [NOON]
    budgets = Budgets(lambda: now[0], end_users_most=2)
    budgets.put(budget(1, each="end_user", everyone=True))
    for number in range(3):
        take(budgets, drawer(end_user=f"eu_{number}"))
    with pytest.raises(RateLimited):
        take(budgets, drawer(end_user="eu_9"))
    assert len(budgets.standings(NOON)) == 3
    now[0] += DAY
    take(budgets, drawer(end_user="eu_9"), now=NOON + DAY)
    assert [counter.subject for counter in budgets.counters()] == ["eu_9"], "who used nothing today is forgotten"
    take(budgets, drawer("ten_2", end_user="eu_a"), now=NOON + DAY)
    for end_user in ("eu_10", "eu_11", "eu_12"):
        with contextlib.suppress(RateLimited):
            take(budgets, drawer(end_user=end_user), now=NOON + DAY)
    assert [counter.subject for counter in budgets.counters()] == ["eu_9", "eu_a", "eu_10", "ten_1/others"]


def test_end_users_of_whom_nothing_counts_are_forgotten_some_hundred_at_a_time() -> None:
    now = [NOON]
    budgets = Budgets(lambda: now[0], end_users_most=1_000)
    budgets.put(budget(1, each="end_user", everyone=True))
    for number in range(1_000):
        budgets.count(drawer(end_user=f"eu_{number}"), 1, 1, NOON)
    now[0] += 2 * MINUTE
    awaiting = drawer("ten_2", end_user="eu_a")
    budgets.await_cell("budget_1", awaiting, (1, 0, 0), at(2026, 5, 19))
    assert len(budgets.counters()) == 1_001, "what is awaited is no time that has come"
    now[0] += DAY
    kept = [len(budgets.counters())]
    while len(kept) < 8:
        take(budgets, drawer(end_user=f"eu_new_{len(kept)}"), now=now[0])
        kept.append(len(budgets.counters()))
        assert kept[-2] - 256 < kept[-1], "in pieces of 256 at most"
    names = {counter.subject for counter in budgets.counters()}
    assert names == {"eu_a", *(f"eu_new_{number}" for number in range(1, 8))}
    for number in range(1_000 - 7):
        budgets.count(drawer(end_user=f"eu_{number}"), 1, 1, now[0])
    assert "ten_1/others" not in {counter.subject for counter in budgets.counters()}, "as many as before have their own"
    now[0] += DAY
    with pytest.raises(RateLimited):
        take(budgets, awaiting, now=at(2026, 5, 19, 12))


def test_end_users_are_forgotten_by_time_while_no_new_one_comes() -> None:
    now = [NOON]
    budgets = having(budget(1, each="end_user"), budget(5, "total", each="end_user", id="bud_2"), clock=lambda: now[0])
    for number in range(600):
        take(budgets, drawer(end_user=f"eu_{number}"), now=now[0])
    for days, kept in enumerate((1_200, 600)):
        now[0] = NOON + days * DAY
        while budgets.forget_some():
            pass
        assert len(budgets.counters()) == kept, "those of the total count for ever"


def test_where_rows_are_read_in_between_only_a_full_tenant_has_end_users_forgotten() -> None:
    now = [NOON]
    budgets = Budgets(lambda: now[0], end_users_most=2, forgets_early=False)
    budgets.put(budget(1, each="end_user", everyone=True))
    for days, end_user in enumerate(("eu_1", "eu_2", "eu_3")):
        now[0] = NOON + days * DAY
        take(budgets, drawer(end_user=end_user), now=now[0])
        assert len(budgets.counters()) == (1, 2, 1)[days]


def test_a_request_that_waited_over_midnight_finds_what_counted_when_it_came() -> None:
    now = [at(2026, 5, 17, 23, 58)]
    budgets = having(budget(1, each="end_user"), clock=lambda: now[0])
    take(budgets, drawer(end_user="eu_1"), now=now[0])
    now[0] = at(2026, 5, 18, 0, 0, 50)
    take(budgets, drawer(end_user="eu_2"), now=now[0])
    with pytest.raises(RateLimited):
        take(budgets, drawer(end_user="eu_1"), now=now[0] - 55 * SECOND)
    take(budgets, drawer(end_user="eu_1"), now=now[0])


def test_a_step_of_an_end_user_who_is_idle_is_told_once_a_span() -> None:
    now, events = [NOON], list[BudgetEvent]()
    budgets = having(budget(1, "3600s", each="end_user"), clock=lambda: now[0], events=events)
    stream = take(budgets, drawer(end_user="eu_1"), now=NOON)
    now[0] = NOON + 600 * SECOND
    stream.post(1, 1)
    for end_user in ("eu_2", "eu_1"):
        now[0] = NOON + 3_800 * SECOND
        take(budgets, drawer(end_user=end_user), now=now[0])
    budgets.count(drawer(end_user="eu_1"), 1, 1, now[0])
    assert [(event.standing.subject, event.at_us) for event in events] == [("eu_1", NOON + 600 * SECOND)]


@pytest.mark.parametrize("changes", [False, True])
def test_what_is_settled_after_its_end_user_was_forgotten_counts_nowhere(changes: bool) -> None:
    now, events = [NOON], list[BudgetEvent]()
    budgets = having(budget(1, each="end_user"), clock=lambda: now[0], events=events)
    stream = take(budgets, drawer(end_user="eu_1"), now=NOON)
    now[0] += DAY
    take(budgets, drawer(end_user="eu_2"), now=now[0]).void()
    if changes:
        budgets.move("ten_2", "pro")
    stream.post(1, 1)
    assert not events and not any(standing.used or standing.held for standing in budgets.standings(now[0]))


def test_what_was_held_together_with_others_is_settled_there() -> None:
    now = [NOON]
    budgets = Budgets(lambda: now[0], end_users_most=1)
    budgets.put(budget(9, "3600s", each="end_user", everyone=True))
    take(budgets, drawer(end_user="eu_1"), now=NOON).void()
    now[0] = NOON + 2_000 * SECOND
    stream = take(budgets, drawer(end_user="eu_2"), now=now[0])
    now[0] = NOON + 3_800 * SECOND
    budgets.move("ten_2", "pro")
    stream.post(1, 1)
    standings = [(standing.subject, standing.used, standing.held) for standing in budgets.standings(now[0])]
    assert [each for each in standings if any(each[1:])] == [("ten_1/others", 1, 0)]


def test_a_rolling_budget_at_its_edges() -> None:
    """A use counts for six hours at least, and for one cell of six minutes longer at most."""
    budgets = having(budget(1, "21600s"))
    first = NOON + 5 * MINUTE + 59 * SECOND
    take(budgets, now=first).post(1, 1)
    with pytest.raises(RateLimited) as caught:
        take(budgets, now=first + 6 * HOUR)
    assert int(caught.value.headers["retry-after"]) == 1
    with pytest.raises(RateLimited):
        take(budgets, now=NOON + 6 * HOUR + 6 * MINUTE - 1)
    take(budgets, now=NOON + 6 * HOUR + 6 * MINUTE)


def test_room_comes_back_part_by_part() -> None:
    budgets = having(budget(3, "3600s"))
    for minutes in (0, 10, 20):
        take(budgets, now=NOON + minutes * MINUTE).post(1, 1)
    with pytest.raises(RateLimited) as caught:
        take(budgets, now=NOON + 30 * MINUTE)
    assert int(caught.value.headers["retry-after"]) == 31 * 60
    take(budgets, now=NOON + 61 * MINUTE).post(1, 1)
    with pytest.raises(RateLimited):
        take(budgets, now=NOON + 61 * MINUTE)


def test_room_comes_where_neither_what_is_used_nor_what_is_held_takes_it() -> None:
    budgets = having(budget(3, "3600s", "tokens"))
    take(budgets).post(1, 1)
    take(budgets, tokens=2, now=NOON + 10 * MINUTE)
    with pytest.raises(RateLimited) as caught:
        take(budgets, tokens=2, now=NOON + 20 * MINUTE)
    assert int(caught.value.headers["retry-after"]) == 51 * 60


def test_a_soft_budget_refuses_nobody_and_each_step_is_told_once() -> None:
    events: list[BudgetEvent] = []
    now = [NOON]
    budgets = having(budget(10, hard=False), clock=lambda: now[0], events=events)
    for _ in range(15):
        take(budgets, now=now[0]).post(1, 1)
    assert [(event.percent, event.standing.used) for event in events] == [(50, 5), (80, 8), (100, 10)]
    now[0] += DAY
    for _ in range(5):
        take(budgets, now=now[0]).post(1, 1)
    assert [event.percent for event in events[3:]] == [50], "another day is another period"


def test_steps_that_are_passed_at_once_are_one_notice() -> None:
    events: list[BudgetEvent] = []
    budgets = having(budget(100, unit="tokens"), events=events)
    take(budgets, tokens=90).post(85, 1)
    assert [event.percent for event in events] == [80]
    for _ in range(2):
        with pytest.raises(RateLimited):
            take(budgets, tokens=20)
    assert [(event.percent, event.is_refused) for event in events[1:]] == [(100, True)]


def test_a_rolling_step_is_told_again_when_use_had_gone_below_it() -> None:
    events: list[BudgetEvent] = []
    now = [NOON]
    budgets = having(budget(2, "3600s", notice_at_percent=(50,)), clock=lambda: now[0], events=events)
    for minutes in (0, 30, 95, 200):
        now[0] = NOON + minutes * MINUTE
        take(budgets, now=now[0]).post(1, 1)
    assert [(event.at_us - NOON) // MINUTE for event in events] == [0, 95, 200]


def test_a_rolling_step_is_told_once_a_span_however_often_it_is_passed() -> None:
    events: list[BudgetEvent] = []
    now = [NOON]
    budgets = having(budget(2, "3600s", notice_at_percent=(100,)), clock=lambda: now[0], events=events)
    for minutes in (0, 50, 63, 140, 150):
        now[0] = NOON + minutes * MINUTE
        take(budgets, now=now[0]).post(1, 1)
    assert [(event.at_us - NOON) // MINUTE for event in events] == [50, 150], "at 63 it was there again, 13 min later"


def test_a_clock_that_ran_ahead_and_came_back_locks_nobody_out() -> None:
    for span, most in (("minute", MINUTE), ("month", 31 * DAY), ("3600s", HOUR + MINUTE)):
        now = [NOON]
        budgets = having(budget(2, span), clock=lambda now=now: now[0])  # type: ignore[misc]
        now[0] = NOON + 365 * DAY
        for _ in range(2):
            take(budgets, now=now[0]).post(1, 1)
        now[0] = NOON + MINUTE
        with pytest.raises(RateLimited) as caught:
            take(budgets, now=now[0])
        assert int(caught.value.headers["retry-after"]) * SECOND <= most, span
        now[0] += most
        take(budgets, now=now[0])


def test_a_request_that_waited_does_not_turn_a_budget_back() -> None:
    now = [NOON + MINUTE]
    budgets = having(budget(1, "minute"), clock=lambda: now[0])
    take(budgets, now=NOON + MINUTE)
    with pytest.raises(RateLimited):
        take(budgets, now=NOON + MINUTE - SECOND)


def test_a_request_that_waited_counts_in_the_span_that_runs() -> None:
    now = [NOON + MINUTE]
    budgets = having(budget(2, "minute"), clock=lambda: now[0])
    take(budgets, now=now[0])
    take(budgets, now=NOON + MINUTE - SECOND)
    with pytest.raises(RateLimited):
        take(budgets, now=now[0] + SECOND)


def test_what_is_held_is_settled_in_the_span_it_was_taken_in_or_nowhere() -> None:
    now = [NOON]
    budgets = having(budget(5, "minute", "tokens"), clock=lambda: now[0])
    hold = take(budgets, tokens=5)
    now[0] += MINUTE
    take(budgets, tokens=5, now=now[0]).post(1, 1)
    hold.post(5, 5)
    assert used(budgets, now[0]) == [(1, 0)]


def test_a_request_under_way_counts_in_a_budget_that_is_added_meanwhile() -> None:
    budgets = having(budget(10))
    first, second = take(budgets), take(budgets)
    budgets.put(budget(10, "week", id="budget_2"))
    first.post(7, 7)
    second.void()
    assert used(budgets) == [(1, 0), (1, 0)]
    changed = budget(10, "month")
    third = take(budgets)
    assert budgets.put(changed), "another span is counted anew"
    third.post(1, 1)
    assert used(budgets) == [(1, 0), (2, 0)]
    assert not budgets.put(budget(20, "month", name="x", hard=False)), "another amount is not"
    assert [standing.amount for standing in budgets.standings(NOON)] == [20, 10]


def test_work_that_goes_on_is_held_on_a_budget_that_comes_later() -> None:
    budgets = having(budget(10, unit="tokens"))
    work = budgets.claim_work(drawer(), 8, 0, NOON)
    work.take()
    budgets.put(budget(10, "week", "tokens", id="budget_2"))
    budgets.put(budget(10, "month", "tokens"))
    assert sorted(used(budgets)) == [(0, 8), (0, 8)]
    with pytest.raises(RateLimited):
        take(budgets, tokens=3)
    work.void()
    assert sorted(used(budgets)) == [(0, 0), (0, 0)]
    budgets.put(budget(10, "total", "tokens", id="budget_3"))
    assert sorted(used(budgets)) == [(0, 0)] * 3


@pytest.mark.parametrize("had_budget", [True, False])
def test_of_requests_under_way_a_budget_that_changes_lets_no_more_pass(had_budget: bool) -> None:
    budgets = having(*[budget(5, "total")] * had_budget)
    under_way = [take(budgets) for _ in range(3)]
    budgets.put(budget(4, "total", tenants=("ten_1", "ten_2")))
    assert used(budgets) == [(0, 3)]
    last = take(budgets, drawer("ten_2"))
    with pytest.raises(RateLimited):
        take(budgets, drawer("ten_2"))
    budgets.forget_counts("budget_1")
    assert used(budgets) == [(0, 4)]
    under_way.pop().void()
    for claim in (*under_way, last):
        claim.post(1, 1)
    assert used(budgets) == [(3, 0)] and not budgets.held


def test_what_was_admitted_before_midnight_counts_before_midnight() -> None:
    now = [at(2026, 5, 17, 23, 59, 59)]
    budgets = having(clock=lambda: now[0])
    claim = take(budgets, now=now[0])
    now[0] = at(2026, 5, 18)
    budgets.put(budget(5, "day"))
    claim.post(1, 1)
    assert used(budgets, now[0]) == [(0, 0)]


def test_what_was_settled_without_a_budget_counts_in_none_that_comes_later() -> None:
    budgets = Budgets(lambda: NOON)
    claim = take(budgets)
    claim.post(1, 1)
    budgets.put(budget(10))
    claim.post(1, 1)
    claim.void()
    assert used(budgets) == [(0, 0)]


def test_settling_twice_counts_once() -> None:
    budgets = having(budget(9, unit="tokens"))
    hold = take(budgets, tokens=4)
    hold.post(3, 0)
    hold.void()
    hold.post(3, 0)
    assert used(budgets) == [(3, 0)]


@pytest.mark.parametrize("span", ["", "year", "0s", "1s", "9999999999s", "1.5s", "-5s", "5 s", "total "])
def test_what_is_no_span_is_refused(span: str) -> None:
    with pytest.raises(InvalidRequest, match="not a budget's span"):
        read_span(span)


# against a model that knows dates and sums, and nothing of cells

moments = st.integers(at(2024, 1, 1), at(2027, 1, 1))


@pytest.mark.parametrize(
    ("text", "name"),
    [("month", "month"), ("total", "total"), ("21600s", "6h"), ("2592000s", "30d"), ("300s", "5m"), ("90s", "90s")],
)
def test_a_span_is_named_by_its_largest_unit(text: str, name: str) -> None:
    assert str(read_span(text)) == name


@pytest.mark.parametrize("name", ["2s", "3600s", "3601s", "minute", "month"])
@pytest.mark.parametrize("after_us", [0, 1, 29 * SECOND, 60 * SECOND - 1])
def test_a_budget_is_rebuilt_from_all_cells_that_count(name: str, after_us: int) -> None:
    span, moment = read_span(name), NOON + after_us
    cells = {span.start(NOON + seconds * SECOND) for seconds in range(-2 * 3_600, 61)}
    counting = [start for start in cells if start <= moment < span.end(start)]
    newest = max(counting)
    assert span.range(moment) == (min(counting), newest + span.cell_us if span.is_rolling else span.end(newest))


def _calendar_start(span: str, moment: datetime) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return {
        "minute": moment.replace(second=0, microsecond=0),
        "hour": moment.replace(minute=0, second=0, microsecond=0),
        "day": midnight,
        "week": midnight - timedelta(days=midnight.isoweekday() - 1),
        "month": midnight.replace(day=1),
        "total": EPOCH,
    }[span]


@given(st.sampled_from([*CALENDAR, "total"]), moments)
def test_calendar_spans_are_those_of_the_calendar(name: str, moment_us: int) -> None:
    span = read_span(name)
    start = span.start(moment_us)
    assert EPOCH + timedelta(microseconds=start) == _calendar_start(name, EPOCH + timedelta(microseconds=moment_us))
    if name != "total":
        end = EPOCH + timedelta(microseconds=span.end(start))
        assert _calendar_start(name, end) == end and span.start(span.end(start) - 1) == start


_SPANS = [*CALENDAR, "total", "7s", "61s", "90s", "3600s", "86400s"]
#: One request: seconds since the one before, tokens held, tokens used (None: it was not served).
_requests = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 20, 59, 61, 1_800, 3_599, 40_000, 90_000, 2_000_000]),
        st.integers(0, 60),
        st.none() | st.integers(0, 80),
    ),
    max_size=25,
)


@given(st.sampled_from(_SPANS), st.sampled_from(["requests", "tokens"]), st.integers(0, 150), _requests, moments)
def test_any_traffic_against_an_independent_model(
    name: str, unit: str, amount: int, requests: list[tuple[int, int, int | None]], began_us: int
) -> None:
    """Each is settled before the next comes, so what counts is known exactly; a rolling span to one cell."""
    now = [began_us]
    budgets = having(budget(amount, name, unit), clock=lambda: now[0])
    ledger: list[tuple[int, int]] = []
    cell_us = max(1, -(-int(name[:-1]) // 60)) * SECOND if name[-1] == "s" else 0

    def counted(slack_us: int) -> int:
        if not cell_us:
            start = _calendar_start(name, EPOCH + timedelta(microseconds=now[0]))
            return sum(use for when, use in ledger if EPOCH + timedelta(microseconds=when) >= start)
        return sum(use for when, use in ledger if when > now[0] - int(name[:-1]) * SECOND - slack_us)

    for gap_s, held, real in requests:
        now[0] += gap_s * SECOND
        need = 1 if unit == "requests" else held
        least, most = counted(0), counted(cell_us)
        try:
            claim = take(budgets, tokens=held, now=now[0])
        except RateLimited:
            assert need and most + need > amount
            continue
        assert not need or least + need <= amount, "a budget was passed"
        if real is None:
            claim.void()
        else:
            claim.post(real, 0)
            ledger.append((now[0], 1 if unit == "requests" else real))
    ((total, held_now),) = used(budgets, now[0]) or [(0, 0)]
    assert held_now == 0 and counted(0) <= total <= counted(cell_us)


#: One step: seconds since the one before, which end user, for how long its request has waited (seconds), tokens held,
#: tokens used (None: it was not served), after how many more steps it is settled, whether budgets change before it.
_crowd = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 8, 59, 61, 130, 3_700, 40_000, 90_000, 3_000_000]),
        st.integers(0, 5),
        st.sampled_from([0, 0, 1, 60]),
        st.integers(0, 60),
        st.none() | st.integers(0, 80),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=25,
)


@given(
    st.sampled_from(_SPANS),
    st.sampled_from(["requests", "tokens"]),
    st.integers(0, 100),
    _crowd,
    moments,
    st.booleans(),
)
def test_end_users_that_are_forgotten_change_nothing_that_counts(
    name: str,
    unit: str,
    amount: int,
    steps: list[tuple[int, int, int, int, int | None, int, bool]],
    began_us: int,
    at_midnight: bool,
) -> None:
    now = [began_us - began_us % DAY - 30 * SECOND if at_midnight else began_us]
    both = [Budgets(lambda: now[0], forgets_early=forgets) for forgets in (True, False)]
    for budgets in both:
        budgets.put(budget(amount, name, unit, each="end_user"))
    open_claims: list[tuple[int, int | None, list[Claim]]] = []

    def settle(until: int) -> None:
        for due, real, claims in open_claims:
            for claim in claims if due <= until else ():
                if real is None:
                    claim.void()
                else:
                    claim.post(real, 0)
        open_claims[:] = [each for each in open_claims if each[0] > until]

    for number, (gap_s, user, waited_s, held, real, more, changes) in enumerate(steps):
        now[0] += gap_s * SECOND
        settle(number)
        claims = []
        for budgets in both:
            if changes:
                budgets.move("ten_2", "pro")
            with contextlib.suppress(RateLimited):
                claims.append(take(budgets, drawer(end_user=f"eu_{user}"), tokens=held, now=now[0] - waited_s * SECOND))
        assert len(claims) in (0, 2), "one admits what the other refuses"
        open_claims.append((number + more, real, claims))
    settle(len(steps) + 4)
    counted = [
        {standing.subject: standing.used for standing in budgets.standings(now[0]) if standing.used or standing.held}
        for budgets in both
    ]
    assert counted[0] == counted[1]

    now[0] += 10_000_000 * SECOND
    take(both[0], drawer(end_user="eu_new"), now=now[0]) if amount else None
    dead = [counter.subject for counter in both[0].counters() if counter.subject != "eu_new"]
    assert name == "total" or not amount or not dead


@given(st.sampled_from(_SPANS), _requests, moments)
def test_what_is_rebuilt_from_receipts_is_what_was_counted(
    name: str, requests: list[tuple[int, int, int | None]], began_us: int
) -> None:
    now = [began_us]
    budgets = having(budget(10**9, name, "tokens"), clock=lambda: now[0])
    ledger: list[tuple[int, int]] = []
    for gap_s, held, real in requests:
        now[0] += gap_s * SECOND
        claim = take(budgets, tokens=held, now=now[0])
        if real is None:
            claim.void()
        else:
            claim.post(real, 0)
            ledger.append((now[0], real))
    rebuilt = having(budget(10**9, name, "tokens"), clock=lambda: now[0])
    since_us, until_us = read_span(name).range(now[0])
    for when, use in ledger:
        if since_us <= when < until_us:
            rebuilt.restore("budget_1", drawer(), (1, use, 0), when)
    later = now[0]
    for _ in range(3):
        assert used(rebuilt, later) == used(budgets, later)
        later += 40_000 * SECOND


@pytest.mark.parametrize("span", ["month", "total", "3600s"])
def test_a_subject_takes_little_memory(span: str) -> None:
    """An app may have hundreds of thousands of end users, each with a counter of its own."""
    budgets = having(budget(10**12, span, "tokens", each="end_user"))
    users = [drawer(end_user=f"eu_{number:024x}") for number in range(2_000)]
    tracemalloc.start()
    try:
        for number, user in enumerate(users):
            budgets.count(user, 10**6 + number, 0, NOON + number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(used(budgets)) == 2_000
    assert taken / 2_000 < 600, "bytes a subject"
