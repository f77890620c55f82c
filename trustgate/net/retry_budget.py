"""How long to go on asking a node, and how long to wait in between.

Owns the time limit of one undertaking (a flush, a verification) and the pauses within it. Only what may be otherwise
the next time is asked again: ``RpcUnavailable``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from trustgate.errors import RpcUnavailable

T = TypeVar("T")


class RetryTiming(NamedTuple):
    """How long things may take. Tests on a chain with short slots use shorter ones."""

    #: A flush that is not done by then ends with what it has recorded; the next goes on.
    timeout_s: float = 180.0
    #: Between two looks at a transaction, and between two times that it is sent.
    poll_s: float = 1.0
    resend_s: float = 2.0
    #: Before a failed call is made again, doubled each time, up to sixteen times this.
    backoff_s: float = 0.5
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class RetryBudget:
    """The time that one undertaking has, from now on."""

    def __init__(self, timing: RetryTiming, trouble: Callable[[RpcUnavailable], None]) -> None:
        """``trouble`` receives every failure that is retried."""
        self.timing = timing
        self._trouble = trouble
        self._deadline = timing.clock() + timing.timeout_s

    @property
    def now(self) -> float:
        return self.timing.clock()

    @property
    def is_over(self) -> bool:
        return self.now >= self._deadline

    async def pause(self, seconds: float) -> None:
        """Wait, but not past the end."""
        await self.timing.sleep(max(0.0, min(seconds, self._deadline - self.now)))

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Returns the call's answer, asking again while there is time. Then raises the last ``RpcUnavailable``."""
        backoff_s = self.timing.backoff_s
        while True:
            try:
                return await call()
            except RpcUnavailable as error:
                pause_s = max(backoff_s, error.retry_after_s or 0.0)
                if self.now + pause_s >= self._deadline:
                    raise
                self._trouble(error)
            await self.timing.sleep(pause_s)
            backoff_s = min(2 * backoff_s, 16 * self.timing.backoff_s)
