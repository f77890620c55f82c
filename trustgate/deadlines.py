"""Deadlines of which nearly all are taken back before they are due: one timer of the event loop for all of them.

A timer of the loop costs a busy gateway as much as a step of its path, and every request would set several. Deadlines
of the same length end in the order in which they were set, so that a look at the oldest is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

D = TypeVar("D")


def overdue(deadlines: Mapping[D, float], now: float) -> list[D]:
    """Returns those whose time has come. ``deadlines``: when each is due, in the order of the times."""
    found = []
    for each, at in deadlines.items():
        if at > now:
            break
        found.append(each)
    return found


class Deadlines:
    """Calls what was given to ``set`` after ``after_s`` seconds, unless ``discard`` took it back before."""

    __slots__ = ("_due", "_loop", "_timer", "after_s")

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        #: The running one, of the first call: asking for it costs a system call in Python 3.11.
        self._loop: asyncio.AbstractEventLoop | None = None
        #: What is called, and when, in the loop's time: the oldest first.
        self._due: dict[Callable[[], None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, call: Callable[[], None]) -> None:
        """Call it in ``after_s`` seconds. One that is set already keeps its time."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        at = self._due.setdefault(call, loop.time() + self.after_s)
        if self._timer is None:
            self._timer = loop.call_at(at, self._look)

    def discard(self, call: Callable[[], None]) -> None:
        """Do not call it. Does nothing for what is not set."""
        self._due.pop(call, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for call in overdue(self._due, loop.time()):
            if self._due.pop(call, None) is not None:
                call()
        # What was called may have set one.
        if self._due and not self._timer:
            self._timer = loop.call_at(next(iter(self._due.values())), self._look)
