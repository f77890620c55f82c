"""Quotas: exact admission, holds that settle, calendar windows; first by example, then by a state machine."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from msgspec.structs import replace

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.quota import Ask, Hold, LimitReached, Quota
from trustgate.access.windows import Windows
from trustgate.errors import RateLimited
from trustgate.types import ApiKey, Budget, Limits, Plan, Tenant

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * SECOND


NOON = at(2026, 5, 17, 12)
TENANT = Tenant(id="ten_1", name="acme", plan="p")


def plan(**limits: int) -> Plan:
    return Plan(name="p", limits=Limits(**limits))


def key(**limits: int) -> ApiKey:
    return ApiKey(id="key_1", tenant_id="ten_1", name="k", secret_sha256="", redacted="", limits=Limits(**limits))


def reserve(
    quota: Quota, plan_: Plan, key_: ApiKey | None = None, *, tokens: int = 0, cost: int = 0, now: int = NOON
) -> Hold:
    return quota.reserve(TENANT, plan_, key_ or key(), Ask(tokens, cost), now)


def test_exactly_the_limit_is_admitted() -> None:
    quota = Quota()
    admitted = 0
    for _ in range(1_000):
        try:
            reserve(quota, plan(requests_per_day=100))
            admitted += 1
        except RateLimited:
            pass
    assert admitted == 100


def test_the_refusal_says_when_to_come_back() -> None:
    quota = Quota()
    limited = plan(requests_per_minute=1)
    now = NOON + 18 * SECOND
    reserve(quota, limited, now=now)
    with pytest.raises(RateLimited) as caught:
        reserve(quota, limited, now=now)
    assert caught.value.status == 429
    assert caught.value.headers == {"retry-after": "42", "x-should-retry": "true"}
    assert caught.value.to_openai()["error"]["type"] == "requests"
    assert "limit 1, left 0, this request needs 1" in caught.value.message
    hold = reserve(quota, limited, now=now + 42 * SECOND)
    assert hold.rates[0] is not None and hold.rates[0].remaining == 0
    with pytest.raises(RateLimited) as caught:
        reserve(quota, limited, now=now + 42 * SECOND)
    assert caught.value.headers == {"retry-after": "60", "x-should-retry": "true"}


def test_a_clock_that_ran_ahead_and_came_back_locks_nobody_out() -> None:
    clock = [NOON]
    quota, limited = Quota(lambda: clock[0]), plan(requests_per_minute=2, requests_per_day=3)
    reserve(quota, limited, now=NOON)
    clock[0] = NOON + 365 * DAY
    for _ in range(2):
        reserve(quota, limited, now=clock[0])
    clock[0] = NOON + MINUTE

    with pytest.raises(RateLimited) as caught:
        reserve(quota, limited, now=clock[0])
    assert int(caught.value.headers["retry-after"]) <= 60, "what was used counts, and a minute is over in a minute"
    clock[0] += MINUTE
    reserve(quota, limited, now=clock[0])
    with pytest.raises(RateLimited) as caught:
        reserve(quota, limited, now=clock[0])
    assert int(caught.value.headers["retry-after"]) <= DAY // SECOND


def test_a_clock_set_back_by_minutes_is_followed_and_the_days_use_counts() -> None:
    clock = [NOON + 3 * MINUTE]
    quota, limited = Quota(lambda: clock[0]), plan(requests_per_minute=1, requests_per_day=2)
    reserve(quota, limited, now=clock[0])
    clock[0] = NOON
    with pytest.raises(RateLimited):
        reserve(quota, limited, now=NOON)
    assert quota.was_set_back
    # Of the day's two one is left; the minute is one of before.
    reserve(quota, limited, now=NOON + MINUTE)
    with pytest.raises(RateLimited):
        reserve(quota, limited, now=NOON + 2 * MINUTE)


def test_a_request_that_waited_does_not_turn_the_windows_back() -> None:
    clock = [NOON]
    quota, limited = Quota(lambda: clock[0]), plan(requests_per_minute=1)
    reserve(quota, limited, now=NOON)
    clock[0] = NOON + MINUTE
    reserve(quota, limited, now=NOON + MINUTE)

    with pytest.raises(RateLimited):
        reserve(quota, limited, now=NOON)
    assert not quota.was_set_back


def test_a_client_is_told_not_to_retry_for_hours() -> None:
    quota = Quota()
    limited = plan(requests_per_day=1)
    reserve(quota, limited)
    with pytest.raises(RateLimited) as caught:
        reserve(quota, limited)
    assert caught.value.headers == {"retry-after": str(12 * 3600), "x-should-retry": "false"}


def test_a_request_that_needs_none_of_a_unit_is_not_refused_for_it() -> None:
    quota = Quota()
    limited = plan(cost_nano_usd_per_month=100)
    quota.post(reserve(quota, limited, cost=100), tokens=5, cost_nano_usd=150)
    reserve(quota, limited, tokens=10)
    with pytest.raises(RateLimited):
        reserve(quota, limited, cost=1)


def test_a_rotated_key_goes_on_where_the_old_one_stood() -> None:
    quota, limits = Quota(), Limits(requests_per_day=2)
    old = replace(key(), limits=limits)
    new = replace(old, id="key_2", origin_id=old.account_id)
    newest = replace(old, id="key_3", origin_id=new.account_id)
    reserve(quota, plan(), old)
    reserve(quota, plan(), new)
    for each in (old, new, newest):
        with pytest.raises(RateLimited, match="this API key"):
            reserve(quota, plan(), each)


def test_a_void_hold_leaves_no_trace() -> None:
    quota = Quota()
    limited = plan(requests_per_day=1, tokens_per_day=100)
    quota.void(reserve(quota, limited, tokens=100))
    assert quota.used("ten_1", NOON)["day"] == {"requests": 0, "tokens": 0, "cost_nano_usd": 0}
    reserve(quota, limited, tokens=100)


def test_a_hold_that_is_void_in_the_next_minute_is_given_back_to_the_day() -> None:
    quota = Quota()
    hold = reserve(quota, plan(), tokens=100, cost=9)
    reserve(quota, plan(), tokens=10, now=NOON + MINUTE)
    quota.void(hold)
    used = quota.used("ten_1", NOON + MINUTE)
    assert used["minute"] == used["day"] == used["month"] == {"requests": 1, "tokens": 10, "cost_nano_usd": 0}


def test_a_settled_hold_frees_what_was_not_used() -> None:
    quota = Quota()
    limited = plan(tokens_per_day=100)
    hold = reserve(quota, limited, tokens=90)
    with pytest.raises(RateLimited):
        reserve(quota, limited, tokens=11)
    quota.post(hold, tokens=20, cost_nano_usd=0)
    reserve(quota, limited, tokens=80)
    with pytest.raises(RateLimited):
        reserve(quota, limited, tokens=1)


def test_settling_twice_counts_once() -> None:
    quota = Quota()
    limited = plan(tokens_per_day=100, parallel_requests=1)
    hold = reserve(quota, limited, tokens=50)
    quota.post(hold, tokens=50, cost_nano_usd=0)
    quota.void(hold)
    quota.post(hold, tokens=50, cost_nano_usd=0)
    assert quota.parallel("ten_1") == 0
    reserve(quota, limited, tokens=50)
    with pytest.raises(RateLimited):
        reserve(quota, plan(tokens_per_day=100), tokens=1)


def test_a_key_narrows_its_plan_and_never_widens_it() -> None:
    quota = Quota()
    wide_key, narrow_key = key(requests_per_day=1_000), key(requests_per_day=1)
    reserve(quota, plan(requests_per_day=2), narrow_key)
    with pytest.raises(RateLimited, match="this API key"):
        reserve(quota, plan(requests_per_day=2), narrow_key)
    reserve(quota, plan(requests_per_day=2), wide_key)
    with pytest.raises(RateLimited, match="plan 'p'"):
        reserve(quota, plan(requests_per_day=2), wide_key)


def test_parallel_requests_are_counted_and_come_back() -> None:
    quota = Quota()
    limited = plan(parallel_requests=2)
    first = reserve(quota, limited)
    reserve(quota, limited)
    with pytest.raises(RateLimited, match="at once"):
        reserve(quota, limited)
    quota.post(first, 0, 0)
    reserve(quota, limited)


def test_money_is_held_and_refused_as_insufficient_quota() -> None:
    quota = Quota()
    limited = plan(cost_nano_usd_per_month=1_000_000_000)
    reserve(quota, limited, cost=600_000_000)
    with pytest.raises(RateLimited) as caught:
        reserve(quota, limited, cost=400_000_001)
    assert caught.value.to_openai()["error"]["type"] == "insufficient_quota"
    assert "on USD per month" in caught.value.message and "left 0.400000000" in caught.value.message


def test_a_request_larger_than_the_limit_is_told_it_never_passes() -> None:
    with pytest.raises(RateLimited, match="never") as caught:
        reserve(Quota(), plan(tokens_per_minute=10), tokens=11)
    assert caught.value.headers["x-should-retry"] == "false"


def test_a_request_that_ends_in_the_next_window_is_not_settled_there() -> None:
    quota = Quota()
    limited = plan(tokens_per_minute=100)
    hold = reserve(quota, limited, tokens=100)
    fresh = reserve(quota, limited, tokens=60, now=NOON + MINUTE)
    quota.post(hold, tokens=10, cost_nano_usd=0)
    assert quota.state("ten_1").lasting == [[0, 0, 0]] * 3
    with pytest.raises(RateLimited):
        reserve(quota, limited, tokens=50, now=NOON + MINUTE)
    quota.post(fresh, tokens=60, cost_nano_usd=0)
    reserve(quota, limited, tokens=40, now=NOON + MINUTE)


def test_a_clock_set_back_gives_no_second_quota() -> None:
    quota = Quota()
    limited = plan(requests_per_day=1)
    reserve(quota, limited)
    with pytest.raises(RateLimited):
        reserve(quota, limited, now=NOON - 2 * DAY)


@pytest.mark.parametrize(
    ("moment", "month_start", "month_end"),
    [
        (at(2024, 2, 29, 23, 59, 59), at(2024, 2, 1), at(2024, 3, 1)),
        (at(2025, 12, 31, 23, 59, 59), at(2025, 12, 1), at(2026, 1, 1)),
        (at(2026, 1, 1), at(2026, 1, 1), at(2026, 2, 1)),
        (at(2026, 4, 30, 1), at(2026, 4, 1), at(2026, 5, 1)),
    ],
)
def test_months_are_calendar_months(moment: int, month_start: int, month_end: int) -> None:
    windows = Windows.at(moment)
    assert (windows.starts[2], windows.ends[2]) == (month_start, month_end)
    assert all(start <= moment < end for start, end in zip(windows.starts, windows.ends, strict=True))


@pytest.mark.parametrize("window", [0, 1, 2])
def test_what_is_restored_counts(window: int) -> None:
    quota = Quota()
    quota.begin(NOON)
    name = ("minute", "day", "month")[window]
    quota.restore(window, "ten_1", requests=8, tokens=20, cost_nano_usd=3)
    quota.restore(window, "ten_1", requests=1, tokens=5, cost_nano_usd=4)
    assert quota.used("ten_1", NOON)[name] == {"requests": 9, "tokens": 25, "cost_nano_usd": 7}
    limited = plan(**{f"requests_per_{name}": 10})
    reserve(quota, limited)
    with pytest.raises(RateLimited):
        reserve(quota, limited)


def test_a_window_that_a_clock_ahead_had_begun_begins_with_what_was_used_in_it() -> None:
    quota = Quota()
    quota.begin(NOON)
    for use in ((1, 10, 2), (2, 5, 1)):
        quota.await_window(0, NOON + MINUTE, "ten_1", use)
    minutes = [quota.used("ten_1", NOON + number * MINUTE)["minute"].values() for number in range(3)]
    assert [tuple(minute) for minute in minutes] == [(0, 0, 0), (3, 15, 3), (0, 0, 0)]
    assert set(quota.used("ten_1", NOON + MINUTE)["day"].values()) == {0}


def test_a_hold_knows_what_is_left_of_the_tightest_limits_and_until_when() -> None:
    quota = Quota()
    limited = plan(requests_per_minute=10, requests_per_day=5, tokens_per_minute=1_000)
    first = reserve(quota, limited, key(requests_per_minute=8), tokens=300, now=NOON + 15 * SECOND)
    requests, tokens = first.rates
    assert requests is not None and tokens is not None
    assert (requests.limit, requests.remaining, requests.reset_s) == (5, 4, 12 * 3_600 - 15)
    assert (tokens.limit, tokens.remaining, tokens.reset_s) == (1_000, 700, 45)
    assert reserve(quota, plan()).rates == (None, None)
    of_key, _ = reserve(Quota(), plan(), key(requests_per_minute=8)).rates
    assert of_key is not None and of_key.remaining == 7


@pytest.mark.parametrize(
    ("of_plan", "of_key"),
    [
        ({"requests_per_minute": 5, "requests_per_day": 5}, {}),
        ({"requests_per_day": 5}, {"requests_per_minute": 5}),
        ({"requests_per_minute": 5}, {"requests_per_day": 5}),
    ],
)
def test_of_limits_equally_tight_a_hold_knows_the_one_that_resets_last(
    of_plan: dict[str, int], of_key: dict[str, int]
) -> None:
    requests, _ = reserve(Quota(), plan(**of_plan), key(**of_key)).rates
    assert requests is not None
    assert (requests.remaining, requests.reset_s) == (4, 12 * 3_600)


def test_a_hold_knows_the_rate_of_a_budget_that_is_tighter_or_resets_later() -> None:
    budgets = Budgets(lambda: NOON)
    budgets.put(Budget(id="budget_1", name="b", unit="tokens", amount=100, span="day", tenants=("ten_1",)))

    def tokens(**limits: int) -> tuple[int, float]:
        claim = budgets.claim(Drawer("ten_1", "key_1", "p", ("m",)), 10, 0, NOON)
        hold = Quota().reserve(TENANT, plan(**limits), key(), Ask(10, 0), NOON, claim=claim)
        claim.void()
        rate = hold.rates[1]
        assert rate is not None
        return rate.limit, rate.reset_s

    of_budget = (100, 12 * 3_600.0)
    assert tokens() == of_budget
    assert tokens(tokens_per_minute=100) == of_budget
    assert tokens(tokens_per_month=101) == of_budget
    assert tokens(tokens_per_minute=99) == (99, 60.0)
    assert tokens(tokens_per_month=100) == (100, 14 * 86_400 + 12 * 3_600)


def test_a_key_has_its_own_parallel_requests() -> None:
    quota, limited = Quota(), key(parallel_requests=1)
    slot = quota.enter(TENANT, plan(), limited)
    with pytest.raises(RateLimited, match="this API key"):
        quota.enter(TENANT, plan(), limited)
    assert quota.parallel("ten_1") == quota.parallel("key_1") == 1
    hold = quota.reserve(TENANT, plan(), limited, Ask(0, 0), NOON, slot)
    assert quota.parallel("ten_1") == quota.parallel("key_1") == 1, "the request has its slot already"
    quota.void(hold)
    assert quota.parallel("key_1") == quota.parallel("key_2") == 0
    slot, _ = quota.enter(TENANT, plan(), limited), quota.enter(TENANT, plan(), key())
    for _ in range(2):
        slot.release()
    assert quota.parallel("key_1") == 1, "a slot is given back once"


def test_a_limit_that_refuses_is_told_of_once_for_each_subject_and_window() -> None:
    quota, told = Quota(), list[LimitReached]()
    quota.on_limit = told.append
    keys = [replace(key(requests_per_day=1), id=f"key_{number}", origin_id="") for number in (1, 2)]
    for _ in range(3):
        for each in keys:
            with contextlib.suppress(RateLimited):
                reserve(quota, plan(requests_per_month=9), each)
    midnight = at(2026, 5, 18)
    assert told == [LimitReached("ten_1", each.id, "day", "requests", 1, NOON, midnight) for each in keys]
    for most in (9, 9, 4, 4):
        for each in keys:
            with contextlib.suppress(RateLimited):
                reserve(quota, plan(requests_per_month=most), each, now=midnight)
    assert [reached[:3] for reached in told[2:]] == [
        ("ten_1", "key_1", "day"),
        ("ten_1", "key_2", "day"),
        ("ten_1", "", "month"),
    ]
    with pytest.raises(RateLimited):
        reserve(quota, plan(requests_per_month=4), now=midnight + DAY)
    assert len(told) == 5, "the day has begun anew, the month has not"


def test_what_no_window_could_pass_and_what_a_minute_refuses_is_not_told_of() -> None:
    quota, told = Quota(), list[LimitReached]()
    quota.on_limit = told.append
    for limited, tokens in ((plan(tokens_per_day=10), 11), (plan(tokens_per_minute=10), 10)):
        for _ in range(2):
            with contextlib.suppress(RateLimited):
                reserve(quota, limited, tokens=tokens)
    assert not told


def test_what_was_used_is_of_the_windows_of_the_moment() -> None:
    quota = Quota()
    quota.post(reserve(quota, plan(requests_per_minute=9), tokens=100), 60, 7)
    last = NOON + MINUTE - 1
    assert quota.used("ten_1", last)["minute"] == {"requests": 1, "tokens": 60, "cost_nano_usd": 7}
    assert quota.current_usage(last).windows.starts[0] == NOON
    assert quota.current_usage(NOON + MINUTE).windows.starts[0] == NOON + MINUTE
    following = quota.used("ten_1", NOON + MINUTE)
    assert following["minute"] == {"requests": 0, "tokens": 0, "cost_nano_usd": 0}
    assert following["day"] == following["month"] == {"requests": 1, "tokens": 60, "cost_nano_usd": 7}


class QuotaMachine(RuleBasedStateMachine):
    """Any order of reserve, post, void and time against a model that recounts everything each time."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.quota = Quota()
        self.now = at(2026, 1, 31, 23, 50)
        self.limits = {
            ("requests", "minute"): 4,
            ("requests", "day"): 9,
            ("tokens", "minute"): 100,
            ("tokens", "month"): 250,
            ("cost_nano_usd", "day"): 60,
        }
        self.plan = plan(
            **{f"{unit}_per_{window}": most for (unit, window), most in self.limits.items()}, parallel_requests=5
        )
        #: [reserved at, asked or used tokens, asked or used cost, is open]
        self.ledger: dict[int, list[int]] = {}
        self.largest_request = 0

    def used(self, unit: str, window: str) -> int:
        index = ("minute", "day", "month").index(window)
        start = Windows.at(self.now).starts[index]
        rows = [row for row in self.ledger.values() if row[0] >= start]
        return len(rows) if unit == "requests" else sum(row[1 if unit == "tokens" else 2] for row in rows)

    @rule(target=holds, tokens=st.integers(0, 60), cost=st.integers(0, 30))
    def reserve(self, tokens: int, cost: int) -> Hold | None:
        demand = {"requests": 1, "tokens": tokens, "cost_nano_usd": cost}
        fits = all(
            not demand[unit] or self.used(unit, window) + demand[unit] <= most
            for (unit, window), most in self.limits.items()
        )
        fits = fits and sum(row[3] for row in self.ledger.values()) < 5
        try:
            hold = reserve(self.quota, self.plan, tokens=tokens, cost=cost, now=self.now)
        except RateLimited:
            assert not fits
            return None
        assert fits
        self.ledger[id(hold)] = [self.now, tokens, cost, 1]
        self.kept = [*getattr(self, "kept", []), hold]
        return hold

    @rule(hold=consumes(holds), tokens=st.integers(0, 80), cost=st.integers(0, 40))
    def post(self, hold: Hold | None, tokens: int, cost: int) -> None:
        if hold is not None:
            # What needs none of a unit uses none of it.
            tokens, cost = tokens if hold.ask.tokens else 0, cost if hold.ask.cost_nano_usd else 0
            self.quota.post(hold, tokens, cost)
            self.ledger[id(hold)][1:] = [tokens, cost, 0]
            self.largest_request = max(self.largest_request, tokens)

    @rule(hold=consumes(holds))
    def void(self, hold: Hold | None) -> None:
        if hold is not None:
            self.quota.void(hold)
            del self.ledger[id(hold)]

    @rule(seconds=st.sampled_from([1, 20, 61, 1_000, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @invariant()
    def requests_never_pass_their_limit(self) -> None:
        for (unit, window), most in self.limits.items():
            if unit == "requests":
                assert self.used(unit, window) <= most

    @invariant()
    def tokens_overshoot_by_no_more_than_the_open_requests_can_use(self) -> None:
        # Each of at most five parallel requests was held and may use more than its hold: by one request's use each.
        assert self.used("tokens", "month") <= 250 + 5 * 80


QuotaMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQuotaMachine = QuotaMachine.TestCase


def test_what_the_gateway_did_by_itself_is_counted_and_what_goes_on_is_held() -> None:
    quota = Quota()
    quota.begin(NOON)
    hold = quota.hold_work(("ten_1", "key_1"), Ask(500, 90), NOON)
    for subject in ("ten_1", "key_1"):
        for window in quota.used(subject, NOON).values():
            assert window == {"requests": 0, "tokens": 500, "cost_nano_usd": 90}
    quota.void(hold)
    quota.charge(("ten_1", "key_1"), 320, 70, NOON)
    for subject in ("ten_1", "key_1"):
        for window in quota.used(subject, NOON).values():
            assert window == {"requests": 1, "tokens": 320, "cost_nano_usd": 70}
    quota.charge(("ten_1",), 5, 1, NOON + MINUTE)
    assert quota.used("ten_1", NOON + MINUTE)["minute"] == {"requests": 1, "tokens": 5, "cost_nano_usd": 1}
    assert quota.used("ten_1", NOON + MINUTE)["day"] == {"requests": 2, "tokens": 325, "cost_nano_usd": 71}


def test_what_goes_on_is_held_in_the_windows_of_now_and_no_use_of_the_audits() -> None:
    quota, budgets = Quota(), Budgets(lambda: NOON + MINUTE)
    budgets.put(Budget(id="budget_1", name="b", unit="tokens", amount=900, span="day", everyone=True))
    quota.post(reserve(quota, plan(), tokens=100), 60, 7)
    drawer = Drawer("ten_1", "key_1", "p", ("m",), None)
    claim = budgets.claim_work(drawer, 500, 90, NOON + MINUTE)
    hold = quota.hold_work(("ten_1", "key_1"), Ask(500, 90), NOON + MINUTE, claim)

    assert quota.used("ten_1", NOON + MINUTE)["minute"] == {"requests": 0, "tokens": 500, "cost_nano_usd": 90}
    assert [standing.held for standing in budgets.standings(NOON + MINUTE)] == [500]
    reserve(quota, plan(), tokens=10)
    assert quota.current_usage(NOON + MINUTE).counters["ten_1"] == (1, ((1, 10, 0), (2, 70, 7), (2, 70, 7)))
    quota.void(hold)
    assert [standing.held for standing in budgets.standings(NOON + MINUTE)] == [0]
    assert quota.used("ten_1", NOON + MINUTE)["minute"] == {"requests": 1, "tokens": 10, "cost_nano_usd": 0}
    assert quota.current_usage(NOON + MINUTE).counters["ten_1"] == (1, ((1, 10, 0), (2, 70, 7), (2, 70, 7)))


def test_what_another_process_counted_counts_here_in_the_windows_that_run() -> None:
    first, second = Quota(), Quota()
    limited = plan(requests_per_minute=5, requests_per_day=8)
    for _ in range(5):
        reserve(first, limited, tokens=10)
    first.hold_work(("ten_1",), Ask(100, 7), NOON)
    second.begin(NOON)
    assert second.take_in("ten_1", first.state("ten_1"), NOON + SECOND) == [True, True, True]
    with pytest.raises(RateLimited):
        reserve(second, limited, now=NOON + SECOND)
    assert second.parallel("ten_1") == 5
    assert second.current_usage(NOON).counters["ten_1"] == (5, ((5, 50, 0),) * 3), "without what goes on"
    # A minute later the minute is over; the day is not.
    later = NOON + MINUTE
    assert second.take_in("ten_1", first.state("ten_1"), later) == [False, True, True]
    assert second.used("ten_1", later)["minute"]["tokens"] == 0
    assert second.current_usage(later).counters["ten_1"] == (5, ((0, 0, 0), (5, 50, 0), (5, 50, 0)))
    for _ in range(3):
        reserve(second, limited, now=later)
    with pytest.raises(RateLimited):
        reserve(second, limited, now=later)


def test_a_process_whose_clock_is_behind_goes_on_in_the_later_window() -> None:
    ahead, behind = Quota(lambda: NOON + MINUTE), Quota(lambda: NOON + MINUTE)
    reserve(ahead, plan(), now=NOON + MINUTE)
    behind.begin(NOON)
    assert behind.take_in("ten_1", ahead.state("ten_1"), NOON) == [True, True, True]
    assert behind.used("ten_1", NOON)["minute"]["requests"] == 1
