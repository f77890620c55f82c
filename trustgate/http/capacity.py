"""How many connections may be open at once. Where there are that many, idle ones end for new ones.

Those that never had a request end first; among these, as among the others, those that have been idle for longest.

Every connection takes a file of the process, and so do connections to upstreams, the journal and the database. A client
that opens connections and sends nothing over them would otherwise leave none for anything else as long as an idle
connection is kept. One with a request, or with the head of one under way, is never ended for another.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import NamedTuple

#: Files that are left for everything else; half of all where a process may have few.
_RESERVED_FILES = 2_048
#: One in so many idle connections is ended at once: to find the oldest of tens of thousands takes milliseconds.
_PART = 16
#: Where the number of files is not limited.
_MOST = 1_000_000


class Idle(NamedTuple):
    """A connection without a request under way."""

    has_had_request: bool
    #: When it became idle, in the loop's time, seconds.
    since: float
    #: Ends it. Returns False, and leaves it open, where another request has come.
    end: Callable[[], bool]


#: Those that are ended first come first.
_order = attrgetter("has_had_request", "since")


def most_connections() -> int:
    """Returns how many connections a process may have by its limit on open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if files == resource.RLIM_INFINITY else files - min(_RESERVED_FILES, files // 2)


class Capacity:
    """See the module."""

    def __init__(self, most: int, count: Callable[[], int], idle: Callable[[], Iterable[Idle]]) -> None:
        """
        Args:
            most: how many connections may be open.
            count: returns how many are.
            idle: returns the idle ones.
        """
        self._most = most
        self._count = count
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        #: How many connections may come in place of those that were ended.
        self._places = 0
        #: Whether idle ones are ending: there are places in a later turn of the loop.
        self.is_clearing = False

    def has_place(self, *, may_end: bool = True) -> bool:
        """Returns whether one more connection may be accepted at this turn of the loop.

        Where as many are open as may be, idle ones are ended, at most once in a turn; that takes a turn.

        ``may_end``: False: none is ended now.
        """
        if self._count() < self._most:
            self._places = 0
            return True
        if not self._places and may_end and not self.is_clearing:
            idle = sorted(self._idle(), key=_order)
            self._places = sum(each.end() for each in idle[: -(-len(idle) // _PART)])
            if self._places:
                self.is_clearing = True
                self._loop.call_soon(self._has_cleared)
        if not self._places:
            return False
        self._places -= 1
        return True

    def _has_cleared(self) -> None:
        self.is_clearing = False
