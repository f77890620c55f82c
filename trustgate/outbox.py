"""Writes of one turn of the event loop that are made together.

A write whose reader sleeps wakes it, which costs three times what the write itself does. The readers of many
connections are often one process: an upstream, a proxy in front. Written to one after another it is woken once; written
to between two requests' work it has fallen asleep again each time.

Owns when that is: at the end of the turn at the latest, and as soon as ``TOGETHER`` connections have something. To wait
for the end costs another turn of the loop, which fewer than ``ENOUGH`` do not save: after two such turns running, the
next ``AT_ONCE`` write at once.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

#: More would save little, and the first would wait for the work of all of them.
TOGETHER: Final = 8
ENOUGH: Final = 3
AT_ONCE: Final = 32
#: What is more than that is no matter of a wake-up, bytes: it goes at once.
LARGE_BYTES: Final = 16 * 1024


class Unwritten(Protocol):
    """A connection that has something to write."""

    def write_out(self) -> None:
        """Write it, if it can still be written. Raises nothing; may be called where there is nothing."""
        ...


class Outbox:
    """The connections of one kind that have something to write in this turn."""

    __slots__ = ("_at_once", "_is_due", "_loop", "_waiting", "_was_quiet", "_written")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Unwritten] = []
        #: So many write at once.
        self._at_once = 0
        #: How many have written in this turn, and whether too few did in the one before.
        self._written = 0
        self._was_quiet = False
        #: The end of the turn has been asked for.
        self._is_due = False

    def add(self, connection: Unwritten) -> None:
        """Have a connection write out what it has: now, or with others within this turn."""
        if self._at_once:
            self._at_once -= 1
            connection.write_out()
            return
        waiting = self._waiting
        waiting.append(connection)
        if len(waiting) >= TOGETHER:
            self._write_all()
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_due = False
        self._write_all()
        is_quiet = self._written < ENOUGH
        if is_quiet and self._was_quiet:
            self._at_once = AT_ONCE
            is_quiet = False
        self._was_quiet = is_quiet
        self._written = 0

    def _write_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._written += len(waiting)
        for connection in waiting:
            connection.write_out()
