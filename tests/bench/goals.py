"""The goals: what is compared with what, and how good is good enough.

Values are medians; the spread is the lowest and the highest of the rounds. Ratios are taken within a round, between
measurements a moment apart, because absolute figures wander with the machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.bench.load import Load, Sample, Slow

C1, C8, C32, STREAMS = Load(1, False), Load(8, False), Load(32, False), Load(16, True)
#: The upstream itself, and the gateway on the home folder with millions of receipts.
DIRECT, BIG = "direct", "trustgate, 10M receipts"
OURS = "trustgate"
#: The floor of such a path in Python; and what does less, compiled.
FLOOR, NGINX = "floor", "nginx"
BELOW = (FLOOR, NGINX, "haproxy")

Samples = dict[tuple[Load, str], dict[int, Sample]]


@dataclass
class Measured:
    """All that was measured. Lists are one figure a repetition."""

    #: By load and peer: the sample of each round.
    samples: Samples = field(default_factory=dict)
    #: By peer: the slow streams of each round.
    slow: dict[str, list[Slow]] = field(default_factory=dict)
    ready_s: dict[str, list[float]] = field(default_factory=dict)
    rss_mb: dict[str, list[float]] = field(default_factory=dict)
    command_s: dict[str, list[float]] = field(default_factory=dict)
    #: Megabytes on disk, of the gateway's environment and of LiteLLM's.
    installed_mb: dict[str, float] = field(default_factory=dict)
    #: What could not be run, and why.
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One line of the table. ``values`` empty: it could not be measured."""

    measure: str
    goal: str
    values: list[float]
    met: bool | None
    form: str
    note: str = ""

    @property
    def middle(self) -> str:
        return format(statistics.median(self.values), self.form) if self.values else "–"

    @property
    def spread(self) -> str:
        if len(self.values) < 2:
            return ""
        return f"{min(self.values):{self.form}} to {max(self.values):{self.form}}"

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else "not met"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "middle": self.middle, "spread": self.spread, "verdict": self.verdict}


Better = Literal["≥", "≤"]


def _judge(
    measure: str,
    better: Better,
    goal: float,
    values: Sequence[float],
    *,
    unit: str = "",
    form: str = ".2f",
    note: str = "",
) -> Result:
    met = None
    if values:
        middle = statistics.median(values)
        met = middle >= goal if better == "≥" else middle <= goal
    return Result(measure, f"{better} {goal:g}{unit}", list(values), met, form, note)


def results(measured: Measured) -> list[Result]:
    """Returns every line of the table of goals, in its order."""
    samples = measured.samples
    both = (C8, C32)

    def rps(peer: str, *loads: Load, ours: str = OURS) -> list[float]:
        return _ratios(samples, loads, ours, peer, lambda sample: sample.rps)

    def cpu(load: Load) -> list[float]:
        return _ratios(samples, (load,), OURS, FLOOR, lambda sample: sample.cpu_us)

    slow = measured.slow
    return [
        _judge("requests/s at 32 connections ÷ bare proxy", "≥", 5, rps("bare", C32)),
        _judge("requests/s, 8 and 32 connections ÷ raw limit", "≥", 0.8, rps("raw", *both)),
        _judge("the same ÷ bare proxy on httpx's default transport", "≥", 1.2, rps("httpx", *both)),
        _judge("the same ÷ LiteLLM proxy", "≥", 50, rps("litellm", *both), form=".0f"),
        _judge("the same ÷ Portkey gateway", "≥", 2, rps("portkey", *both)),
        _judge("CPU a plain request, 8 connections ÷ the floor's", "≤", 2.0, cpu(C8)),
        _judge("CPU a stream of 100 chunks ÷ the floor's", "≤", 1.5, cpu(STREAMS)),
        _judge("requests/s at 32 connections ÷ nginx", "≥", 0.2, rps(NGINX, C32)),
        _judge(
            "p99 at 1 connection ÷ the floor's",
            "≤",
            2.0,
            _ratios(samples, (C1,), OURS, FLOOR, lambda sample: sample.p99_ms),
        ),
        _judge("streams of 100 chunks, 16 at once, ÷ bare proxy", "≥", 1.0, rps("bare", STREAMS)),
        _judge("the same ÷ LiteLLM proxy", "≥", 100, rps("litellm", STREAMS), form=".0f"),
        _judge("latency added at 1 connection, p50 ÷ bare proxy's", "≤", 1.0, _added(samples)),
        _judge(
            "p99 at 32 connections ÷ bare proxy's, receipts and checkpoints running",
            "≤",
            1.0,
            _ratios(samples, (C32,), OURS, "bare", lambda sample: sample.p99_ms),
        ),
        _judge("requests/s with 10M receipts, 10,000 tenants ÷ empty", "≥", 0.95, rps(OURS, C32, ours=BIG)),
        *_slow(slow),
        _judge("serve to ready, empty", "≤", 1.0, measured.ready_s.get(OURS, []), unit=" s"),
        _judge("serve to ready, 10M receipts", "≤", 2.0, measured.ready_s.get(BIG, []), unit=" s"),
        _judge("resident memory, idle", "≤", 100, measured.rss_mb.get("idle", []), unit=" MB", form=".0f"),
        _judge(
            "the same after 100,000 requests ÷ idle",
            "≤",
            1.15,
            [
                after / before
                for before, after in zip(
                    measured.rss_mb.get("idle", []), measured.rss_mb.get("loaded", []), strict=False
                )
            ],
        ),
        _judge("trustgate --help", "≤", 0.35, measured.command_s.get("--help", []), unit=" s"),
        _judge("tenant list through the socket", "≤", 0.6, measured.command_s.get("tenant list", []), unit=" s"),
        _judge("installed size ÷ LiteLLM proxy's", "≤", 0.4, _installed(measured)),
        _judge("usage of 10M receipts by tenant and month", "≤", 0.5, measured.command_s.get("usage", []), unit=" s"),
    ]


def _slow(slow: dict[str, list[Slow]]) -> list[Result]:
    ours, direct, floor = slow.get(OURS, []), slow.get(DIRECT, []), slow.get(FLOOR, [])
    if not ours or not direct:
        return []
    added = {
        name: [its.p99_ms - own.p99_ms for its, own in zip(seen, direct, strict=True)]
        for name, seen in slow.items()
        if name != DIRECT
    }
    beside = ", ".join(f"{name} {statistics.median(each):.0f} ms" for name, each in added.items())
    whole = statistics.median(its.whole_p99_ms - own.whole_p99_ms for its, own in zip(ours, direct, strict=True))
    itself = statistics.median(own.p99_ms for own in direct)
    at_once = f"{ours[0].streams:,} slow streams at once (20 ms a chunk)"
    return [
        _judge(
            f"{at_once}: complete, and under way at the same time",
            "≥",
            ours[0].streams,
            [float(min(its.complete, its.at_once)) for its in ours],
            form=".0f",
        ),
        _judge(
            "the same: delay added to a chunk, p99",
            "≤",
            20,
            added[OURS],
            unit=" ms",
            form=".1f",
            note=f"{beside}; the upstream itself {itself:.0f} ms; with the streams' beginnings and ends {whole:.0f} ms",
        ),
        _judge(
            "the same ÷ the floor's",
            "≤",
            1.3,
            [mine / its for mine, its in zip(added[OURS], added[FLOOR], strict=True) if its > 0] if floor else [],
        ),
        _judge(
            "the same: CPU a chunk ÷ the floor's",
            "≤",
            1.3,
            [mine.cpu_us / its.cpu_us for mine, its in zip(ours, floor, strict=True) if its.cpu_us] if floor else [],
            note=", ".join(
                f"{name} {statistics.median(each.cpu_us for each in rounds):.0f} µs"
                for name, rounds in slow.items()
                if name != DIRECT
            ),
        ),
    ]


def _ratios(
    samples: Samples, loads: Sequence[Load], ours: str, other: str, figure: Callable[[Sample], float]
) -> list[float]:
    """Ours to the other's, round by round."""
    found = []
    for load in loads:
        mine, theirs = samples.get((load, ours), {}), samples.get((load, other), {})
        pairs = [(figure(mine[number]), figure(theirs[number])) for number in mine if number in theirs]
        # A server that answered nothing in a round has no figure in it.
        found += [our / their for our, their in pairs if their]
    return found


def _added(samples: Samples) -> list[float]:
    """The latency that the gateway adds to the upstream's own, to that which the bare proxy adds, round by round."""
    direct, bare, mine = (samples.get((C1, peer), {}) for peer in (DIRECT, "bare", OURS))
    return [
        (mine[number].p50_ms - direct[number].p50_ms) / (bare[number].p50_ms - direct[number].p50_ms)
        for number in mine
        if number in direct and number in bare
    ]


def _installed(measured: Measured) -> list[float]:
    ours, theirs = measured.installed_mb.get(OURS), measured.installed_mb.get("litellm")
    return [ours / theirs] if ours and theirs else []
