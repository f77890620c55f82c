"""Refusing at the door: a bounded number of requests at each turn of the event loop, the others left where they are.

Under overload most requests are refused, and what that costs is taken from those that are served. A request that is
refused at once costs a comparison of its head with the one before it, and one write: no exchange, no task. One beyond
the turn's number stays in its connection as bytes, to be looked at again in one of the next turns; there may be room
for it by then. So refusals take a fifth or so of a busy loop's time and no more, and nothing that is to be served waits
behind them. On a loop with little to do turns are short, and none of them waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from trustgate.http.parser import RequestHead
from trustgate.http.sending import Headers

#: A refusal takes some hundredths of a millisecond.
MAX_REFUSED_PER_TURN = 64

#: The status, header fields and body of an answer to a request that is not begun.
Refusal = tuple[int, Headers, bytes]


class Shed(Protocol):
    """Judges requests by their head, before anything is begun for them."""

    def judge(self, head: RequestHead) -> Any:
        """Returns why a request is refused; something empty: it is let through, and ``begun`` is called then."""

    def refusal(self, head: RequestHead, reason: Any) -> Refusal:
        """Returns the answer to a request that is refused now; it is counted and logged."""

    def begun(self, head: RequestHead) -> None:
        """The application begins with a request that was let through, or its client has gone before."""


class Waiting(Protocol):
    """A connection with a request that has no room and was not refused yet."""

    def look_again(self) -> None:
        """Judge the request anew; where it is refused again, do that now."""


class Refusals:
    """The connections whose requests wait to be refused, or let through after all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Waiting] = deque()
        self._done = 0
        #: The next turn will be counted anew.
        self._is_counting = False

    @property
    def are_waiting(self) -> bool:
        return bool(self._waiting)

    def take_place(self) -> bool:
        """Returns whether one more may be refused at this turn; it is counted then."""
        if self._waiting or self._done >= MAX_REFUSED_PER_TURN:
            return False
        self._done += 1
        self._count()
        return True

    def add(self, connection: Waiting) -> None:
        """Have a connection looked at again when it is its turn."""
        self._waiting.append(connection)
        self._count()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def _count(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_counting = False
        self._done = min(len(self._waiting), MAX_REFUSED_PER_TURN)
        for _ in range(self._done):
            self._waiting.popleft().look_again()
        if self._done or self._waiting:
            self._count()
