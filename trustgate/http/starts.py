"""Starting requests, a bounded number at each turn of the event loop.

Hundreds of busy connections may all have a request ready at once. Started together they make one turn of the loop as
long as all of them, and each step of anything else waits for it: a client that connects then (a health check too) would
wait for several such turns. Started a few at a time, turns stay short, and what is ready waits in a queue of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

#: Requests that a turn of the loop starts: the first step of each takes some tenths of a millisecond.
_MOST_PER_TURN = 16

Request = TypeVar("Request")


class Starts(Generic[Request]):
    """Requests on their way to the application. First requests of connections and later ones take turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: Callable[[Request], bool]) -> None:
        """``start`` returns whether that was one of a turn's, and not over before it began."""
        self._loop = loop
        self._start = start
        self._first: deque[Request] = deque()
        self._later: deque[Request] = deque()
        self._started = 0
        #: The next turn will be counted anew.
        self._is_counting = False

    @property
    def are_waiting(self) -> bool:
        return bool(self._first or self._later)

    def add(self, request: Request, *, is_first: bool) -> None:
        """Start a request, or let it wait for one of the next turns."""
        if self._started < _MOST_PER_TURN and not (self._first or self._later):
            # Counted first: answered at once, it may bring the next request of its connection here.
            self._started += 1
            start = self._start
            self._started -= not start(request)
        else:
            (self._first if is_first else self._later).append(request)
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._turn)

    def clear(self) -> None:
        """Forget what waits."""
        self._first.clear()
        self._later.clear()

    def _turn(self) -> None:
        self._started = taken = 0
        while self.are_waiting and self._started < _MOST_PER_TURN:
            waiting, other = (self._first, self._later) if taken % 2 == 0 else (self._later, self._first)
            taken += 1
            self._started += 1
            self._started -= not self._start((waiting or other).popleft())
        self._is_counting = taken > 0
        if self._is_counting:
            self._loop.call_soon(self._turn)
