"""Writes of one turn of the event loop that are made together.

A write to a socket wakes the process that waits to read from it, which costs three times what the write itself does.
The other ends of many connections are often one process: an upstream, a proxy in front. Writes that follow each other
at once wake it once; with a request's work between them each wakes it anew.

Owns when the writes are made: at the end of the turn at the latest, and as soon as ``TOGETHER`` connections have
something to write. Waiting for the end costs one more turn of the loop, which fewer than ``ENOUGH`` writes do not save:
after two such turns in a row, the next ``AT_ONCE`` writes are made at once.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

#: So many connections write without waiting for more: those would save little, and the first waits for all.
TOGETHER: Final = 8
#: Fewer writes in a turn do not save what waiting for its end costs.
ENOUGH: Final = 3
#: How many writes are made at once before waiting is tried again.
AT_ONCE: Final = 32
#: A longer write, bytes, is made at once: beside it the cost of waking the reader is small.
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
        #: How many of the next writes are made at once.
        self._at_once = 0
        #: How many were made in this turn, and whether they were too few in the one before.
        self._written = 0
        self._was_quiet = False
        #: Whether the end of the turn is scheduled.
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
