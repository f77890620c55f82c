"""Live statistics of several workers together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tests.support.entries import make_receipt
from trustgate.observe.live_stats import LiveStats, load_of, loads_by
from trustgate.observe.worker_pulse import WorkerPulse, spread_of, spreads_by, whole
from trustgate.types import Receipt


def pulse(receipts: Sequence[Receipt], log_problem: str = "") -> WorkerPulse:
    """What a worker shows that has answered these within ten seconds, as another reads it."""
    tenants = loads_by(receipts, 10.0, lambda receipt: receipt.tenant, 50)
    live = LiveStats(
        at_us=1,
        started_us=1,
        version="1",
        address="a",
        window_s=10.0,
        all=load_of("all", receipts, 10.0),
        tenants=tenants,
        models=(),
        errors={"full": 0.5},
        in_flight=1,
        in_flight_limit=8,
        receipts=0,
        pending=2,
        checkpoint_size=0,
        anchored_size=0,
        anchored_us=0,
        log_problem=log_problem,
    )
    made = WorkerPulse(7, live, spread_of(receipts), spreads_by(receipts, lambda receipt: receipt.tenant, tenants), {})
    return msgspec.json.decode(msgspec.json.encode(made), type=WorkerPulse)


def answered(latencies: range, tenant: str = "ten_1") -> list[Receipt]:
    return [make_receipt(ms, tenant=tenant, latency_total_ms=ms, latency_first_ms=1) for ms in latencies]


def test_of_several_workers_the_numbers_are_those_of_all_their_requests() -> None:
    quick, slow = answered(range(1, 31)), answered(range(1_000, 1_010), "ten_2")
    live = whole(1, {1: pulse(quick), 2: pulse(slow, log_problem="the disk is full")}, 50)
    together = load_of("all", [*quick, *slow], 10.0)
    assert live.all == together
    assert [load.name for load in live.tenants] == ["ten_1", "ten_2"]
    assert (live.in_flight, live.in_flight_limit, live.pending, live.errors) == (2, 16, 4, {"full": 1.0})
    assert live.log_problem == "worker 2: the disk is full"
    assert [(worker.number, worker.pid, worker.requests_per_s) for worker in live.workers] == [(1, 7, 3.0), (2, 7, 1.0)]


def test_of_many_requests_a_quantile_is_near_the_one_of_all() -> None:
    parts = [answered(range(1, 4_001, 2)), answered(range(2, 4_001, 2)), answered(range(5_000, 5_100))]
    live = whole(1, {number: pulse(receipts) for number, receipts in enumerate(parts, 1)}, 50)
    exact = load_of("all", [receipt for part in parts for receipt in part], 10.0)
    assert abs(live.all.total_p50_ms - exact.total_p50_ms) <= 4_000 // 64
    assert abs(live.all.total_p99_ms - exact.total_p99_ms) <= 100


def test_without_requests_there_are_zeros() -> None:
    live = whole(2, {1: pulse([]), 2: pulse([])}, 50)
    assert live.all == load_of("all", [], 10.0)
