"""The workers of a server on the first page: what each has done, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trustgate.console.live import process_name
from trustgate.console.view import View, when
from trustgate.formats.written import number, usd
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.observe.metrics import Histogram, Metric
from trustgate.types import NANO_USD_PER_USD
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import heads, table

#: Are summed over the workers.
_SUMS = ("trustgate.requests", "trustgate.errors", "trustgate.tokens", "trustgate.cost", "trustgate.requests_in_flight")


def now_title(view: View, window_s: float) -> Html:
    """Returns the heading of the numbers of now; of several workers they are those of all."""
    name = process_name(view.settings)
    # The stream may be another worker's than the page: then its numbers come with its name.
    which = join(" ", tag("span", {"id": "live-process"}, name)) if name else None
    return tag("h2", None, f"Now (the last {window_s:.0f} s)", which)


def worker_table(view: View) -> Html | None:
    """Returns what each worker has done since it started; None for the only process."""
    if not view.settings.worker:
        return None
    found: dict[int, dict[str, float]] = {}
    for metric in view.metrics():
        for worker, value in _by_worker(metric).items():
            found.setdefault(worker, {})[metric.name] = value
    rows = [
        (f"Worker {worker}", when(int(of["process.start_time"] * MICROSECONDS_PER_SECOND)), *_cells(of))
        for worker, of in sorted(found.items())
        if "process.start_time" in of
    ]
    whole = {name: sum(of.get(name, 0) for of in found.values()) for name in _SUMS}
    titles = heads("Process", "Since", ">Requests", ">Refused or failed", ">Tokens", ">Cost", ">In flight")
    return join(tag("h2", None, "Workers"), table("Workers", titles, rows, total=("All", "", *_cells(whole))))


def _cells(values: Mapping[str, float]) -> Sequence[str]:
    requests, errors, tokens, cost_usd, in_flight = (values.get(name, 0) for name in _SUMS)
    cost = usd(round(cost_usd * NANO_USD_PER_USD))
    return (number(int(requests)), number(int(errors)), number(int(tokens)), cost, number(int(in_flight)))


def _by_worker(metric: Metric) -> dict[int, float]:
    """Returns a metric's values, added up for each worker: of tokens, prompts and completions."""
    values: dict[int, float] = {}
    for labels, value in metric.series.items():
        given = dict(labels)
        if isinstance(value, Histogram) or "worker" not in given or given.get("type") in ("cached", "reasoning"):
            continue
        worker = int(given["worker"])
        values[worker] = values.get(worker, 0) + value
    return values
