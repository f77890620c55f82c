"""The numbers of several workers on one port, metrics and live statistics: each shows those of all.

Each writes its own into a file of its folder, about once a second, so none waits for another. Sums over the label
``worker`` are the whole. The file of a worker that has ended is left out after some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from trustgate.observe.live_stats import LiveStats
from trustgate.observe.metrics import FRESH_S, Histogram, Labels, Metric, MetricKind
from trustgate.observe.worker_pulse import WorkerPulse, whole

_logger = logging.getLogger("trustgate.server")

_METRICS, _PULSE = "metrics.json", "pulse.json"
#: An older file is of a worker that has ended, or hangs.
_OLD_S = 10.0
#: The live statistics of a worker whose file is older are neither waited for nor shown.
_ENDED_S = 4.0
#: The file whose time is that of the last look at live statistics, at any worker.
_LOOKED = "looked"
#: How long they are shown after a look, and how often a worker looks whether there was one, seconds.
_LOOKING_S, _NOTICED_S = 10.0, 0.5
#: How long the first look waits for the others at most, seconds.
_FIRST_LOOK_S = 3.0


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


_decode_metrics = msgspec.json.Decoder(list[_Kept]).decode
_decode_pulse = msgspec.json.Decoder(WorkerPulse).decode


class WorkerFile:
    """A file in a worker's folder that the other workers read."""

    def __init__(self, folder: Path, number: int, name: str) -> None:
        """
        Args:
            folder: has a folder for each worker, named by its number.
            number: this worker's.
            name: of the file.
        """
        self._folder = folder
        self.number = number
        self._name = name
        self._path = folder / str(number) / name

    def write(self, data: bytes) -> None:
        """Replace the file's content, in one step. Raises OSError."""
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_bytes(data)
        new.rename(self._path)

    def others(self, old_s: float = _OLD_S) -> Iterator[tuple[int, bytes]]:
        """Yields the other workers' numbers and the content of their files, without files older than ``old_s``
        (seconds), whose workers have ended or hang.
        """
        for path in sorted(self._folder.glob(f"*/{self._name}")):
            number = path.parent.name
            if number == str(self.number) or not number.isdecimal():
                continue
            try:
                if time.time() - path.stat().st_mtime <= old_s:
                    yield int(number), path.read_bytes()
            except OSError:
                continue  # it ends just now


class WorkerMetrics:
    """What one worker shows the others: its metrics, and its live statistics while they are looked at."""

    def __init__(
        self,
        folder: Path,
        number: int,
        collect: Callable[[], Sequence[Metric]],
        pulse: Callable[[], Awaitable[WorkerPulse]],
    ) -> None:
        """
        Args:
            folder: has a folder for each worker, named by its number.
            number: this worker's.
            collect: returns this worker's metrics as of now.
            pulse: returns this worker's live statistics as of now.
        """
        self._metrics = WorkerFile(folder, number, _METRICS)
        self._pulses = WorkerFile(folder, number, _PULSE)
        self._looked = folder / _LOOKED
        self._number = number
        self._collect = collect
        self._pulse = pulse

    async def run(self) -> None:
        """Write this worker's numbers for the others, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._show_metrics())
            group.create_task(self._show_pulse())

    async def _show_metrics(self) -> None:
        while True:
            data = msgspec.json.encode([_kept(metric) for metric in self._collect()])
            await self._write(self._metrics, data)
            await asyncio.sleep(FRESH_S)

    async def _show_pulse(self) -> None:
        shown_s = 0.0
        while True:
            with contextlib.suppress(OSError):
                now_s = time.time()
                if now_s - self._looked.stat().st_mtime < _LOOKING_S and now_s - shown_s > FRESH_S * 0.9:
                    shown_s = now_s
                    await self._write(self._pulses, msgspec.json.encode(await self._pulse()))
            await asyncio.sleep(_NOTICED_S)

    async def _write(self, file: WorkerFile, data: bytes) -> None:
        try:
            await asyncio.to_thread(file.write, data)
        except OSError as error:
            _logger.warning("numbers cannot be shown to the other workers: %s", error.strerror)

    def merged(self, own: Iterable[Metric]) -> list[Metric]:
        """Returns this worker's metrics and, as they were about a second ago, those of the others."""
        found: dict[str, Metric] = {}
        _add(found, own, self._number)
        for number, data in self._metrics.others():
            # Another version's are left out.
            with contextlib.suppress(msgspec.DecodeError):
                _add(found, (_metric(each) for each in _decode_metrics(data)), number)
        return list(found.values())

    async def live(self, most: int) -> LiveStats:
        """Returns the live statistics of all workers, the others' as of about a second ago.

        The others show theirs only while they are looked at: the first look waits for them, up to ``_FIRST_LOOK_S``.

        ``most``: how many tenants, and models, to return at most.
        """
        with contextlib.suppress(OSError):
            self._looked.touch()
        pulses = {self._number: await self._pulse()}
        living = {number for number, _ in self._metrics.others(_ENDED_S)}
        until_s = time.monotonic() + _FIRST_LOOK_S
        while True:
            for number, data in self._pulses.others(_ENDED_S):
                with contextlib.suppress(msgspec.DecodeError):
                    pulses[number] = _decode_pulse(data)
            if living <= pulses.keys() or time.monotonic() > until_s:
                return whole(self._number, pulses, most)
            await asyncio.sleep(_NOTICED_S / 4)


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
