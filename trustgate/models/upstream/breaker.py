"""The circuit breaker of a target: when failures in a row stop requests from being sent to it, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Consecutive failures that open a breaker, and how long it stays open: doubling from the first to the last.
_FAILURES_TO_OPEN = 5
_OPEN_FIRST_S = 5.0
_OPEN_LAST_S = 60.0


class Breaker:
    """Closed: requests pass. Open, after failures in a row: none pass for a while; then one is let through to try."""

    __slots__ = ("_clock", "_failures", "_open_s", "_open_until", "_trying")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_s = _OPEN_FIRST_S
        self._open_until: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        return self._open_until is not None and (self._trying or self._clock() < self._open_until)

    @property
    def retry_after_s(self) -> float:
        return 0.0 if self._open_until is None else max(1.0, self._open_until - self._clock())

    def admit(self) -> bool:
        """Whether a request may try this target now. An open breaker whose time is over admits one at a time."""
        if self._open_until is None:
            return True
        if self.is_open:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._open_s = _OPEN_FIRST_S
        self._open_until = None
        self._trying = False

    def failed(self) -> None:
        self._failures += 1
        if self._trying or self._failures >= _FAILURES_TO_OPEN:
            self._open_until = self._clock() + self._open_s
            self._open_s = min(self._open_s * 2, _OPEN_LAST_S)
            self._trying = False

    def abandoned(self) -> None:
        """The trial ended without a verdict (the client hung up): let the next request try."""
        self._trying = False
