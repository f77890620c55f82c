"""Refusing at the door: a bounded number of requests at each turn of the event loop, the others left where they are.

Under overload most requests are refused, and what that costs is taken from those that are served. A request that is
refused at once costs a comparison of its head with the one before it, and one write: no exchange, no task. One beyond
the turn's number stays in its connection as bytes, to be looked at again in one of the next turns; there may be room
for it by then. So refusals take a fifth or so of a busy loop's time and no more, and nothing that is to be served waits
behind them. On a loop with little to do turns are short, and none of them waits.

A refusal has how long its client should wait (``retry-after``). One that sends the same request again at once is
answered late: after 10 ms, then 20, 40 and from then on 80. It waits in its connection as the others do, is judged
again at the end, and is let through where there is room by then, or earlier where there is room before. So a client in
a tight loop has a dozen refusals a second of each of its connections and not a thousand. No other client waits with it,
even one of a proxy that sends requests of several clients through the same connection: the next request there is
another one. Of HTTP/2 no request waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from trustgate.http.parser import RequestHead
from trustgate.http.sending import Headers

#: A refusal takes some hundredths of a millisecond.
MAX_REFUSED_PER_TURN: Final = 64
#: How soon after its refusal a request comes again "at once", seconds.
IMPATIENT_S: Final = 0.025
#: How long such a request waits, by how often it came so before, in ticks of the wheel.
_HOLD_TICKS: Final = (1, 2, 4, 8)
_TICK_S: Final = 0.01

#: The status, header fields and body of an answer to a request that is not begun.
Refusal = tuple[int, Headers, bytes]


class Shed(Protocol):
    """Judges requests by their head, before anything is begun for them."""

    def judge(self, head: RequestHead) -> Any:
        """Returns why a request is refused; something empty: it is let through, and ``begun`` is called then."""

    def refusal(self, head: RequestHead, reason: Any) -> Refusal:
        """Returns the answer to a request that is refused now; it is counted and logged."""

    def answer(self, head: RequestHead, reason: Any, date: bytes) -> bytes:
        """As ``refusal``: the bytes of the answer, on a connection of HTTP/1.1 that goes on.

        ``date``: the line of that field.
        """

    def spare(self) -> int:
        """Returns how many requests there is room for now, of any tenants."""

    def begun(self, head: RequestHead) -> None:
        """The application begins with a request that was let through, or its client has gone before."""


class Waiting(Protocol):
    """A connection with a request that has no room and was not refused yet."""

    def look_again(self) -> None:
        """Judge the request anew; where it is refused again, do that now."""


class Refusals:
    """The connections whose requests wait to be refused, or let through after all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, spare: Callable[[], int] = int) -> None:
        """``spare``: how many requests there is room for now."""
        self._loop = loop
        self._spare = spare
        self._waiting: deque[Waiting] = deque()
        self._done = 0
        #: The next turn will be counted anew.
        self._is_counting = False
        #: Those that are answered late: by the tick at which they are, the next one first.
        self._held: deque[list[Waiting]] = deque([] for _ in range(_HOLD_TICKS[-1]))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def are_waiting(self) -> bool:
        """Whether requests wait for their turn; of those that are answered late none does yet."""
        return bool(self._waiting)

    def take_place(self) -> bool:
        """Returns whether one more may be refused at this turn; it is counted then."""
        if self._waiting or self._done >= MAX_REFUSED_PER_TURN:
            return False
        self._done += 1
        if not self._is_counting:
            self._count()
        return True

    def add(self, connection: Waiting) -> None:
        """Have a connection looked at again when it is its turn."""
        self._waiting.append(connection)
        if not self._is_counting:
            self._count()

    def hold(self, connection: Waiting, repeats: int) -> None:
        """Have a connection looked at again later, as its request came again at once.

        ``repeats``: how often in a row it came so before.
        """
        ticks = _HOLD_TICKS[repeats] if repeats < len(_HOLD_TICKS) else _HOLD_TICKS[-1]
        self._held[ticks - 1].append(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        for held in self._held:
            held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        due = self._held.popleft()
        self._held.append([])
        spare = self._spare()
        for held in self._held if spare > len(due) else ():
            # Room is not left unused while they wait.
            while held and len(due) < spare:
                due.append(held.pop())
        self._timer = self._loop.call_later(_TICK_S, self._tick) if any(self._held) else None
        self._waiting += due
        if due and not self._is_counting:
            self._count()

    def _count(self) -> None:
        self._is_counting = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_counting = False
        self._done = min(len(self._waiting), MAX_REFUSED_PER_TURN)
        for _ in range(self._done):
            self._waiting.popleft().look_again()
        if (self._done or self._waiting) and not self._is_counting:
            self._count()
