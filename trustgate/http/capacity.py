"""How many connections may be open at once. When there are as many, those end that have been idle for longest.

Every connection takes a file of the process, and so do connections to upstreams, the journal and the database. A client
that opens connections and sends nothing over them would otherwise leave none to anything else for as long as an idle
connection is kept. One with a request, or with the head of one under way, is never ended for another.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable

#: Files that are left for everything else; less where a process may have few.
_RESERVED_FILES = 2_048
#: Of the idle connections so many are ended at once: to find the oldest of tens of thousands takes milliseconds.
_PART = 16
#: Where the number of files is not limited.
_MOST = 1_000_000

#: Since when a connection is idle, in the loop's time, and what ends it: that returns False where a request has come.
Idle = tuple[float, Callable[[], bool]]


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
            idle: returns those that are idle.
        """
        self._most = most
        self._count = count
        self._idle = idle
        #: How many were ended for connections that have not come yet.
        self._places = 0

    def has_place(self) -> bool:
        """Returns whether one more connection may be accepted. May end idle ones for it, which takes some turns."""
        if self._count() < self._most:
            self._places = 0
            return True
        if not self._places:
            idle = sorted(self._idle(), key=_since)
            self._places = sum(end() for _, end in idle[: -(-len(idle) // _PART)])
        if not self._places:
            return False
        self._places -= 1
        return True


def _since(idle: Idle) -> float:
    return idle[0]
