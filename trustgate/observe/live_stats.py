"""Live statistics: rates, latencies and shares, from the receipts of the last seconds.

Owns the arithmetic. Nothing is measured for it on the request path: the receipts say everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.types import COUNTED


class PastRequest(Protocol):
    """What is looked at of a request that has ended: these members of its receipt."""

    @property
    def tenant(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def passport(self) -> str: ...
    @property
    def finish(self) -> str: ...
    @property
    def created_us(self) -> int: ...
    @property
    def latency_first_ms(self) -> int: ...
    @property
    def latency_total_ms(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cost_nano_usd(self) -> int: ...


class RequestSummary(NamedTuple):
    """Those members alone: of thousands, whole receipts take more than a kilobyte of memory each."""

    tenant: str
    model: str
    passport: str
    finish: str
    created_us: int
    latency_first_ms: int
    latency_total_ms: int
    prompt_tokens: int
    completion_tokens: int
    cost_nano_usd: int


E = TypeVar("E", bound=PastRequest)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of requests amounts to: rates a second, latencies in milliseconds."""

    name: str
    requests_per_s: float
    tokens_per_s: float
    cost_nano_usd_per_s: int
    #: The share of requests that did not end well, from 0 to 1.
    failed: float
    first_p50_ms: int
    first_p99_ms: int
    total_p50_ms: int
    total_p99_ms: int


class UpstreamPulse(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    healthy: bool | None
    detail: str


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One of several workers; its rates and latencies are those of the same window as ``LiveStats``."""

    number: int
    pid: int
    started_us: int
    requests_per_s: float
    failed: float
    total_p50_ms: int
    total_p99_ms: int
    in_flight: int
    pending: int
    loop_lag_p99_ms: int


class LiveStats(msgspec.Struct, frozen=True, kw_only=True):
    """One look. ``window_s``: how far back the rates and latencies look."""

    at_us: int
    started_us: int
    version: str
    address: str
    window_s: float
    all: Load
    tenants: tuple[Load, ...]
    models: tuple[Load, ...]
    #: Refusals and failures a second, by code.
    errors: dict[str, float]
    in_flight: int
    in_flight_limit: int
    #: How late 99 of 100 timers of the event loop were at most in the last minute.
    loop_lag_p99_ms: int = 0
    #: Receipts, those that wait for the database, those under the checkpoint and under the last anchor.
    receipts: int
    pending: int
    checkpoint_size: int
    anchored_size: int
    anchored_us: int
    schedule: str = ""
    #: What is wrong with the log or with anchoring; "" for nothing.
    log_problem: str = ""
    anchor_problem: str = ""
    upstreams: tuple[UpstreamPulse, ...] = ()
    #: Each worker, where there are several; all other members are of all of them together.
    workers: tuple[WorkerLoad, ...] = ()


def ended_us(receipt: PastRequest) -> int:
    return receipt.created_us + receipt.latency_total_ms * 1000


def in_window(receipts: Sequence[E], now_us: int, window_s: float) -> tuple[list[E], float]:
    """Returns those that ended within the window, and how long it really is: no longer than the receipts reach back.

    ``receipts`` are in the order in which they were written, perhaps without the older ones.
    """
    since_us = now_us - int(window_s * MICROSECONDS_PER_SECOND)
    recent = [receipt for receipt in receipts if ended_us(receipt) >= since_us]
    if len(recent) == len(receipts) and receipts:
        since_us = max(since_us, min(map(ended_us, receipts)))
        return recent, max((now_us - since_us) / MICROSECONDS_PER_SECOND, 0.001)
    return recent, window_s


def loads_by(receipts: Iterable[E], window_s: float, name_of: Callable[[E], str], most: int) -> tuple[Load, ...]:
    """Returns the busiest groups, the busiest first."""
    groups: dict[str, list[E]] = {}
    for receipt in receipts:
        groups.setdefault(name_of(receipt), []).append(receipt)
    busiest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:most]
    return tuple(load_of(name, members, window_s) for name, members in busiest)


def load_of(name: str, receipts: Sequence[PastRequest], window_s: float) -> Load:
    answered = [receipt for receipt in receipts if receipt.finish in COUNTED]
    well = sum(receipt.finish in ("complete", "client_gone") for receipt in receipts)
    first = sorted(receipt.latency_first_ms for receipt in answered)
    total = sorted(receipt.latency_total_ms for receipt in answered)
    return Load(
        name=name,
        requests_per_s=round(len(receipts) / window_s, 3),
        tokens_per_s=round(sum(r.prompt_tokens + r.completion_tokens for r in answered) / window_s, 3),
        cost_nano_usd_per_s=round(sum(receipt.cost_nano_usd for receipt in answered) / window_s),
        failed=round(1 - well / len(receipts), 4) if receipts else 0.0,
        first_p50_ms=_quantile(first, 0.5),
        first_p99_ms=_quantile(first, 0.99),
        total_p50_ms=_quantile(total, 0.5),
        total_p99_ms=_quantile(total, 0.99),
    )


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Returns the smallest value that so large a share does not exceed; 0 of nothing."""
    return ordered[math.ceil(len(ordered) * share) - 1] if ordered else 0
