"""The circuit breaker of a target: when failures in a row stop requests from being sent to it, and for how long.

Owns the verdict that a server is out of order. It is never drawn from what one caller controls (a prompt on which the
server fails, asked again and again): failures count once a request, and they open the breaker only where a second
witness agrees: another caller, the health probe, or the network, which refuses the connection itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Failures in a row that open a breaker; fewer do where the health probe, or the network, has the same to say.
_FAILURES_TO_OPEN = 5
_WITNESSED_TO_OPEN = 2
#: Of this many callers.
_CALLERS_TO_OPEN = 2
#: How long it stays open, seconds: doubling from the first to the last.
_OPEN_FIRST_S = 5.0
_OPEN_LAST_S = 60.0
#: Callers that may try a target at the same time once that time is over.
_TRIALS_MOST = 3


class Breaker:
    """Closed: requests pass. Open, after failures in a row: none pass for a while. Half open: a few callers try it.

    A half-open breaker closes with the first success, and opens again with a failure that has a second witness.
    """

    __slots__ = ("_callers", "_clock", "_failures", "_open_s", "_open_until", "_trials")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        #: Whose requests failed since the last success; no more of them than are needed.
        self._callers: set[str] = set()
        self._open_s = _OPEN_FIRST_S
        self._open_until: float | None = None
        #: The callers whose requests try a half-open breaker now.
        self._trials: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether no request passes now, or only one on trial."""
        return self._open_until is not None and (bool(self._trials) or self._clock() < self._open_until)

    def is_tripped(self) -> bool:
        """Whether it has opened and no request has succeeded since."""
        return self._open_until is not None

    @property
    def retry_after_s(self) -> float:
        """Until when it stays open, seconds from now."""
        return 0.0 if self._open_until is None else max(1.0, self._open_until - self._clock())

    def admit(self, caller: str = "") -> bool:
        """Returns whether a request of this caller may be sent to the target now."""
        if self._open_until is None:
            return True
        if self._clock() < self._open_until or caller in self._trials or len(self._trials) >= _TRIALS_MOST:
            return False
        self._trials.add(caller)
        return True

    def succeeded(self) -> None:
        """A request was answered, or refused for a reason of its own: the server lives."""
        if self._failures or self._open_until is not None:
            self._failures = 0
            self._callers.clear()
            self._open_s = _OPEN_FIRST_S
            self._open_until = None
            self._trials.clear()

    def failed(self, caller: str = "", *, is_witnessed: bool = False) -> None:
        """A request failed, after all its tries.

        Args:
            caller: whose request it was.
            is_witnessed: the health probe failed too, or there was no connection.
        """
        was_trial = caller in self._trials
        self._trials.discard(caller)
        self._failures += 1
        if len(self._callers) < _CALLERS_TO_OPEN:
            self._callers.add(caller)
        many_callers = len(self._callers) >= _CALLERS_TO_OPEN
        if was_trial:
            opens = is_witnessed or many_callers
        elif self._open_until is not None:
            # It was sent although the breaker is open, or before it opened: nothing new.
            return
        else:
            opens = self._failures >= (_WITNESSED_TO_OPEN if is_witnessed else _FAILURES_TO_OPEN)
            opens = opens and (is_witnessed or many_callers)
        if opens:
            self._open_until = self._clock() + self._open_s
            self._open_s = min(self._open_s * 2, _OPEN_LAST_S)
            self._trials.clear()
            self._callers.clear()

    def abandoned(self, caller: str) -> None:
        """The request ended without a verdict (its client hung up): let the next one try."""
        self._trials.discard(caller)
