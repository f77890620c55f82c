"""What one tenant or key has used in each window of its quota.

Owns the figures of one subject; ``access.quota`` owns the windows, and decides.
"""

from __future__ import annotations

import msgspec

from trustgate.types import Limits

#: The units, as places in a window's figures: requests, tokens, cost (nano-USD).
REQUESTS, TOKENS, COST = range(3)


class QuotaLimit(msgspec.Struct, frozen=True):
    """One limit of a plan or a key that is set."""

    #: 0: the minute, 1: the day, 2: the month.
    window: int
    #: ``REQUESTS``, ``TOKENS`` or ``COST``.
    unit: int
    most: int


class QuotaCounter:
    """One subject's use in each running window, and its requests in flight."""

    __slots__ = ("_used", "active", "cost_nano_usd", "lasting", "limits", "parallel", "requests", "tokens")

    def __init__(self) -> None:
        #: The limits that were asked for last, and those of them that are set: they change seldom.
        self.limits: Limits | None = None
        self.active: tuple[QuotaLimit, ...] = ()
        self._used = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
        #: Use that counts in all windows, as nearly all does, and is not in ``_used`` yet.
        self.requests = 0
        self.tokens = 0
        self.cost_nano_usd = 0
        #: The part of ``used`` that is held for work whose request has ended (``hold_work``).
        self.lasting = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
        self.parallel = 0

    @property
    def used(self) -> list[list[int]]:
        """The use in each window: requests, tokens and cost."""
        if self.requests or self.tokens or self.cost_nano_usd:
            for figures in self._used:
                figures[REQUESTS] += self.requests
                figures[TOKENS] += self.tokens
                figures[COST] += self.cost_nano_usd
            self.requests = self.tokens = self.cost_nano_usd = 0
        return self._used

    @used.setter
    def used(self, used: list[list[int]]) -> None:
        self._used = used
        self.requests = self.tokens = self.cost_nano_usd = 0

    def add(self, requests: int, tokens: int, cost_nano_usd: int) -> None:
        """Count use in all windows; below zero: give it back."""
        self.requests += requests
        self.tokens += tokens
        self.cost_nano_usd += cost_nano_usd


class CounterState(msgspec.Struct, array_like=True):
    """A subject's use, to be kept where several processes count it. Each window has requests, tokens and cost."""

    #: When the windows began, microseconds UTC.
    starts: list[int]
    used: list[list[int]]
    lasting: list[list[int]]
    parallel: int = 0
