"""The lag of the event loop: how much later a timer runs than it was set for.

Everything waits as long that comes meanwhile, health checks too. Measured by one timer, twenty times a second. A turn
that is long holds up the timers behind it: they count as if each had been set at its time, so that a standstill of a
second is twenty waits and not one. A lag of a millisecond or two is the timer's own resolution; a lag on a busy machine
may be the machine's: the process had to wait for a processor.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Final

from trustgate.observe.metrics import Histogram, Metric

#: Upper bounds of the buckets, milliseconds.
BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
EVERY_S: Final = 0.05
#: The span of ``p99_ms`` and ``worst_ms``.
RECENT_S: Final = 60
_RECENT: Final = round(RECENT_S / EVERY_S)
#: So many timers, those of ten seconds, before there is a ``p99_ms``: a server that starts holds up itself.
_FEWEST: Final = 200


class LoopLag:
    """Lags since the start, in buckets, and those of the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: How many lie in each bucket, the last one without an upper bound.
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.total_s = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    async def run(self) -> None:
        """Measure, for ever."""
        while True:
            due = self._clock() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.note(self._clock() - due)

    def note(self, lag_s: float) -> None:
        """Count one lag, and those of the timers that were due meanwhile."""
        lag_s = max(lag_s, 0.0)
        # At most as many as fill the last minute: a machine that was suspended for a night was late once.
        for _ in range(_RECENT):
            self.counts[bisect_left(BOUNDS_MS, lag_s * 1000)] += 1
            self.total_s += lag_s
            self._recent.append(lag_s)
            lag_s -= EVERY_S
            if lag_s <= 0:
                return

    @property
    def p99_ms(self) -> float:
        """What 99 of 100 timers of the last minute were not later than; 0 in the first ten seconds of a server."""
        lags = sorted(self._recent)
        return lags[math.ceil(len(lags) * 0.99) - 1] * 1000 if len(lags) >= _FEWEST else 0.0

    @property
    def worst_ms(self) -> float:
        """The longest of the last minute."""
        return max(self._recent, default=0.0) * 1000

    def metric(self) -> Metric:
        """Returns the histogram of ``/metrics``, in seconds."""
        histogram = Histogram(list(self.counts), self.total_s, [bound / 1000 for bound in BOUNDS_MS])
        what = "How late timers of the event loop run; all requests wait as long."
        return Metric("trustgate.event_loop.lag", "histogram", what, {(): histogram}, "s")
