"""The lag of the event loop: a standstill counts for all that it held up, and `doctor` warns of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.test_metrics import scrape, value
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from trustgate.admin.commands import ServerStatus
from trustgate.admin.findings import LOOP_LAG_MOST_MS, amiss_findings
from trustgate.observe.loop_lag import BOUNDS_MS, EVERY_S, LoopLag
from trustgate.observe.metrics import Histogram


def test_a_standstill_counts_once_for_each_timer_that_it_held_up() -> None:
    lag = LoopLag()
    for _ in range(199):
        lag.note(0.001)
    assert (lag.p99_ms, lag.worst_ms) == (0.0, 1.0), "too few to tell, as of a server that starts"
    lag.note(0.001)
    assert (lag.p99_ms, lag.worst_ms) == (1.0, 1.0)
    lag.note(20 * EVERY_S)
    assert sum(lag.counts) == 200 + 20
    # Each of them waited until its end, the last one as long as a timer's interval.
    assert lag.counts[BOUNDS_MS.index(50)] == 1 and lag.counts[BOUNDS_MS.index(1000)] == 10
    assert lag.worst_ms == pytest.approx(1000) and lag.p99_ms == pytest.approx(900)


@given(st.lists(st.floats(-1, 4_000_000), max_size=20))
def test_whatever_a_clock_says_the_histogram_is_bounded_and_adds_up(lags: list[float]) -> None:
    lag = LoopLag()
    for each in lags:
        lag.note(each)
    [histogram] = lag.metric().series.values()
    assert isinstance(histogram, Histogram)
    assert len(lags) <= sum(histogram.counts) <= 1200 * len(lags)
    assert 0 <= lag.p99_ms <= lag.worst_ms <= 4_000_000_000 and histogram.total >= 0


def test_a_turn_that_is_long_is_seen() -> None:
    async def stand() -> LoopLag:
        asked = 0
        measured = asyncio.Event()

        def clock() -> float:
            nonlocal asked
            asked += 1
            if asked == 2:  # when it was due; when it ran
                measured.set()
            return time.monotonic()

        lag = LoopLag(clock)
        measuring = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        assert asked == 1, "the timer is set"
        time.sleep(0.4)  # noqa: ASYNC251 - what is to be measured
        await measured.wait()
        measuring.cancel()
        return lag

    assert asyncio.run(stand()).worst_ms >= 300


def test_it_is_in_metrics_and_in_top(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    name = "trustgate_event_loop_lag_seconds_count"
    wait_until(lambda: value(scrape(gateway), name) > 0, "a first lag")
    assert gateway.cli_json("top", "--once")["loop_lag_p99_ms"] >= 0


@pytest.mark.parametrize(("p99_ms", "is_told"), [(LOOP_LAG_MOST_MS, False), (LOOP_LAG_MOST_MS + 1, True)])
def test_doctor_warns_of_a_loop_that_is_held_up(p99_ms: int, is_told: bool) -> None:
    status = ServerStatus(
        version="1",
        pid=1,
        address="x",
        started_us=0,
        store_id="x",
        last_seq=0,
        pending=0,
        active_requests=0,
        loop_lag_p99_ms=p99_ms,
        loop_lag_worst_ms=900,
    )
    found = [finding for finding in amiss_findings(status) if finding.name == "loop"]
    assert [finding.status for finding in found] == ["warn"] * is_told
    assert all(f"{p99_ms} ms (p99) and 900 ms (worst)" in finding.message for finding in found)
