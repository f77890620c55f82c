"""The metrics of several workers on one port: each shows those of all, with their numbers.

Each writes its own into a file of its folder, about once a second, so none waits for another. Sums over the label
``worker`` are the whole. The file of a worker that has ended is left out after some seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from trustgate.observe.metrics import FRESH_S, Histogram, Labels, Metric, MetricKind

_logger = logging.getLogger("trustgate.server")

FILE: Final = "metrics.json"
#: An older file is of a worker that has ended, or hangs.
_OLD_S = 10.0


class _Series(msgspec.Struct, array_like=True):
    labels: Labels
    value: float
    counts: list[int] = []
    bounds: list[float] = []


class _Kept(msgspec.Struct, array_like=True):
    name: str
    kind: MetricKind
    help: str
    unit: str
    series: list[_Series]


class WorkerMetrics:
    """What one worker shows."""

    def __init__(self, folder: Path, number: int, collect: Callable[[], Sequence[Metric]]) -> None:
        """
        Args:
            folder: has a folder for each worker, named by its number.
            number: this worker's.
            collect: returns this worker's metrics as of now.
        """
        self._folder = folder
        self._number = number
        self._collect = collect

    async def run(self) -> None:
        """Write this worker's metrics for the others, for ever."""
        path = self._folder / str(self._number) / FILE
        while True:
            data = msgspec.json.encode([_kept(metric) for metric in self._collect()])
            try:
                await asyncio.to_thread(_replace, path, data)
            except OSError as error:
                _logger.warning("the metrics cannot be shown to the other workers: %s", error.strerror)
            await asyncio.sleep(FRESH_S)

    def merged(self, own: Iterable[Metric]) -> list[Metric]:
        """Returns this worker's metrics and, as they were about a second ago, those of the others."""
        found: dict[str, Metric] = {}
        _add(found, own, self._number)
        for path in sorted(self._folder.glob(f"*/{FILE}")):
            number = path.parent.name
            if number == str(self._number) or not number.isdecimal():
                continue
            try:
                if time.time() - path.stat().st_mtime > _OLD_S:
                    continue
                kept = msgspec.json.decode(path.read_bytes(), type=list[_Kept])
            except (OSError, msgspec.DecodeError):
                continue  # it ends just now, or was written by another version
            _add(found, (_metric(each) for each in kept), int(number))
        return list(found.values())


def _add(found: dict[str, Metric], metrics: Iterable[Metric], number: int) -> None:
    for metric in metrics:
        series = {(*labels, ("worker", str(number))): value for labels, value in metric.series.items()}
        known = found.get(metric.name)
        if known is not None:
            series = {**known.series, **series}
        found[metric.name] = metric._replace(series=series)


def _kept(metric: Metric) -> _Kept:
    series = [
        _Series(labels, value.total, value.counts, list(value.bounds))
        if isinstance(value, Histogram)
        else _Series(labels, value)
        for labels, value in metric.series.items()
    ]
    return _Kept(metric.name, metric.kind, metric.help, metric.unit, series)


def _metric(kept: _Kept) -> Metric:
    series = {
        each.labels: Histogram(each.counts, each.value, each.bounds) if each.counts else each.value
        for each in kept.series
    }
    return Metric(kept.name, kept.kind, kept.help, series, kept.unit)


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.rename(path)
