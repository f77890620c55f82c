"""Live statistics of several workers together, as one worker makes them from those of each.

Each worker shows its own about once a second (``observe.workers``). Rates are added up. Quantiles of latencies cannot
be, so each group comes with a sample of its latencies in order: at most ``_POINTS``, of fewer requests all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from trustgate.observe.live_stats import E, LiveStats, Load, PastRequest, UpstreamPulse, WorkerLoad
from trustgate.types import COUNTED

_POINTS = 64


class Spread(msgspec.Struct, frozen=True, array_like=True):
    """The latencies of ``count`` answered requests: a sample of them in order, milliseconds."""

    count: int
    first_ms: Sequence[int] = ()
    total_ms: Sequence[int] = ()


class WorkerPulse(msgspec.Struct, frozen=True):
    """The live statistics that one worker shows the others."""

    pid: int
    live: LiveStats
    #: Of all its requests, and of those of each tenant and model that is shown.
    all: Spread
    tenants: dict[str, Spread]
    models: dict[str, Spread]


def spread_of(receipts: Iterable[PastRequest]) -> Spread:
    """Returns how the latencies of a group are spread."""
    answered = [receipt for receipt in receipts if receipt.finish in COUNTED]
    return Spread(
        len(answered),
        _some(sorted(receipt.latency_first_ms for receipt in answered)),
        _some(sorted(receipt.latency_total_ms for receipt in answered)),
    )


def spreads_by(receipts: Iterable[E], name_of: Callable[[E], str], shown: Iterable[Load]) -> dict[str, Spread]:
    """Returns the spread of each group that is shown, by its name."""
    groups: dict[str, list[E]] = {load.name: [] for load in shown}
    for receipt in receipts:
        if (members := groups.get(name_of(receipt))) is not None:
            members.append(receipt)
    return {name: spread_of(members) for name, members in groups.items()}


def whole(own: int, pulses: Mapping[int, WorkerPulse], most: int) -> LiveStats:
    """Returns the live statistics of all workers.

    Args:
        own: the number of the worker that makes them; what all have alike is taken from it.
        pulses: by the workers' numbers.
        most: how many tenants, and models, to return at most.
    """
    live = pulses[own].live
    ordered = sorted(pulses.items())
    each = [pulse.live for _, pulse in ordered]
    errors: dict[str, float] = {}
    for one in each:
        for code, per_s in one.errors.items():
            errors[code] = round(errors.get(code, 0.0) + per_s, 3)
    problems = [(number, pulse.live.log_problem) for number, pulse in ordered if pulse.live.log_problem]
    return replace(
        live,
        started_us=min(one.started_us for one in each),
        all=_together("all", [(pulse.live.all, pulse.all) for _, pulse in ordered]),
        tenants=_groups([(pulse.live.tenants, pulse.tenants) for _, pulse in ordered], most),
        models=_groups([(pulse.live.models, pulse.models) for _, pulse in ordered], most),
        errors=dict(sorted(errors.items(), key=lambda error: -error[1])),
        in_flight=sum(one.in_flight for one in each),
        in_flight_limit=sum(one.in_flight_limit for one in each),
        loop_lag_p99_ms=max(one.loop_lag_p99_ms for one in each),
        receipts=max(one.receipts for one in each),
        pending=sum(one.pending for one in each),
        checkpoint_size=max(one.checkpoint_size for one in each),
        log_problem="; ".join(f"worker {number}: {problem}" for number, problem in problems),
        upstreams=_upstreams([(number, pulse.live.upstreams) for number, pulse in ordered]),
        workers=tuple(_row(number, pulse) for number, pulse in ordered),
    )


def _row(number: int, pulse: WorkerPulse) -> WorkerLoad:
    live = pulse.live
    return WorkerLoad(
        number=number,
        pid=pulse.pid,
        started_us=live.started_us,
        requests_per_s=live.all.requests_per_s,
        failed=live.all.failed,
        total_p50_ms=live.all.total_p50_ms,
        total_p99_ms=live.all.total_p99_ms,
        in_flight=live.in_flight,
        pending=live.pending,
        loop_lag_p99_ms=live.loop_lag_p99_ms,
    )


def _groups(found: Sequence[tuple[Sequence[Load], Mapping[str, Spread]]], most: int) -> tuple[Load, ...]:
    groups: dict[str, list[tuple[Load, Spread]]] = {}
    for loads, spreads in found:
        for load in loads:
            groups.setdefault(load.name, []).append((load, spreads.get(load.name, Spread(0))))
    together = [_together(name, members) for name, members in groups.items()]
    return tuple(sorted(together, key=lambda load: (-load.requests_per_s, load.name))[:most])


def _together(name: str, parts: Sequence[tuple[Load, Spread]]) -> Load:
    loads, spreads = [load for load, _ in parts], [spread for _, spread in parts]
    per_s = sum(load.requests_per_s for load in loads)
    first = [(spread.count, spread.first_ms) for spread in spreads]
    total = [(spread.count, spread.total_ms) for spread in spreads]
    return Load(
        name=name,
        requests_per_s=round(per_s, 3),
        tokens_per_s=round(sum(load.tokens_per_s for load in loads), 3),
        cost_nano_usd_per_s=sum(load.cost_nano_usd_per_s for load in loads),
        failed=round(sum(load.failed * load.requests_per_s for load in loads) / per_s, 4) if per_s else 0.0,
        first_p50_ms=_quantile(first, 0.5),
        first_p99_ms=_quantile(first, 0.99),
        total_p50_ms=_quantile(total, 0.5),
        total_p99_ms=_quantile(total, 0.99),
    )


def _quantile(parts: Iterable[tuple[int, Sequence[int]]], share: float) -> int:
    """Returns the smallest value that is at least as great as ``share`` of all values; 0 where there are none.

    ``parts``: of each how many values it has, and a sample of them in order, each of which stands for equally many.
    """
    weighted = sorted((value, count / len(values)) for count, values in parts for value in values)
    left = share * sum(weight for _, weight in weighted) - 1e-9
    for value, weight in weighted:
        left -= weight
        if left <= 0:
            return value
    return weighted[-1][0] if weighted else 0


def _some(ordered: Sequence[int]) -> Sequence[int]:
    """Returns an even sample of at most ``_POINTS`` values, the greatest among them."""
    count = len(ordered)
    if count <= _POINTS:
        return ordered
    return [ordered[(at + 1) * count // _POINTS - 1] for at in range(_POINTS)]


def _upstreams(found: Sequence[tuple[int, Sequence[UpstreamPulse]]]) -> tuple[UpstreamPulse, ...]:
    """Returns each upstream in the worst state that a worker has for it."""
    worst: dict[str, UpstreamPulse] = {}
    for number, upstreams in found:
        for upstream in upstreams:
            known = worst.get(upstream.name)
            if known is None:
                worst[upstream.name] = upstream
            elif upstream.healthy is False and known.healthy is not False:
                worst[upstream.name] = replace(upstream, detail=f"{upstream.detail} (from worker {number})")
    return tuple(worst.values())
