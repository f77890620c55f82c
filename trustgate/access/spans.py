"""The spans of time that budgets are for: calendar spans, rolling ones, and all of time.

Owns how a span is written, and how its use is laid out in cells. A cell is what use of one moment is counted in, until
the cell ends. A calendar span has one cell at a time, which ends with the calendar span (UTC; weeks begin on Monday,
ISO 8601). A rolling span is divided into 60 cells, or as many as it has seconds: what was used counts for at least
the span and at most one cell longer, whatever the moment, so that a budget is never passed within its span.
"""

from __future__ import annotations

import re
import time
from typing import Final

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.ids import MICROSECONDS_PER_SECOND

_MINUTE_US: Final = 60 * MICROSECONDS_PER_SECOND
_HOUR_US: Final = 60 * _MINUTE_US
_DAY_US: Final = 24 * _HOUR_US
_WEEK_US: Final = 7 * _DAY_US
#: 1970-01-05 was the first Monday of the epoch.
_FIRST_MONDAY_US: Final = 4 * _DAY_US
#: When what never ends would end; the largest integer of SQL's BIGINT.
NEVER_US: Final = 2**63 - 1

_LENGTHS: Final = {"minute": _MINUTE_US, "hour": _HOUR_US, "day": _DAY_US, "week": _WEEK_US}
CALENDAR: Final = (*_LENGTHS, "month")
_ROLLING = re.compile(r"(\d{1,10})s")
_CELLS: Final = 60
_LEAST_S, _MOST_S = 2, 10 * 366 * 86_400


class Span(msgspec.Struct, frozen=True):
    """``name`` as in ``types.Budget``. ``length_us`` and ``cell_us`` are 0 where it does not roll."""

    name: str
    length_us: int = 0
    cell_us: int = 0

    @property
    def is_rolling(self) -> bool:
        return self.cell_us > 0

    @property
    def is_total(self) -> bool:
        return self.name == "total"

    def start(self, at_us: int) -> int:
        """Returns where the cell begins that a moment is in."""
        if self.cell_us:
            return at_us - at_us % self.cell_us
        length_us = _LENGTHS.get(self.name)
        if length_us is not None:
            return at_us - (at_us - _FIRST_MONDAY_US if length_us == _WEEK_US else at_us) % length_us
        if self.name == "month":
            day = at_us - at_us % _DAY_US
            return day - (time.gmtime(at_us // MICROSECONDS_PER_SECOND).tm_mday - 1) * _DAY_US
        return 0

    def end(self, start_us: int) -> int:
        """Returns when the use in the cell that begins at ``start_us`` counts no longer."""
        if self.cell_us:
            return start_us + self.cell_us + self.length_us
        length_us = _LENGTHS.get(self.name)
        if length_us is not None:
            return start_us + length_us
        if self.name == "month":
            return self.start(start_us + 31 * _DAY_US)
        return NEVER_US

    def range(self, at_us: int) -> tuple[int, int]:
        """Returns from when on, and before when, use counts at a moment: what a budget is rebuilt from.

        What is dated after the cell of the moment is of a clock that ran ahead; it counts in the total alone.
        """
        start_us = self.start(at_us)
        if self.cell_us:
            # The oldest cell that has not ended; where no number of cells makes the span, cells end within others.
            oldest_us = self.start(at_us - self.cell_us - self.length_us) + self.cell_us
            return oldest_us, start_us + self.cell_us
        return start_us, self.end(start_us)

    def __str__(self) -> str:
        """``month``; of a rolling span ``6h``, ``30d``."""
        if not self.is_rolling:
            return self.name
        seconds = self.length_us // MICROSECONDS_PER_SECOND
        for letter, unit in (("d", 86_400), ("h", 3_600), ("m", 60)):
            if seconds % unit == 0:
                return f"{seconds // unit}{letter}"
        return f"{seconds}s"


def read_span(text: str) -> Span:
    """Returns the span of a budget's record. Raises ``InvalidRequest``."""
    if text in CALENDAR or text == "total":
        return Span(text)
    rolling = _ROLLING.fullmatch(text)
    seconds = int(rolling[1]) if rolling else 0
    if not _LEAST_S <= seconds <= _MOST_S:
        raise InvalidRequest(
            f"{text[:40]!r} is not a budget's span.",
            hint=f"It is one of {', '.join(CALENDAR)} or total, or a rolling span from 2s to 10 years, such as 6h.",
            param="span",
        )
    cell_s = -(-seconds // _CELLS)
    return Span(text, seconds * MICROSECONDS_PER_SECOND, cell_s * MICROSECONDS_PER_SECOND)
