"""Calendar months in UTC: the periods of statements."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from trustgate.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WRITTEN = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_FIRST_YEAR = 1970


class Month(NamedTuple):
    """A calendar month in UTC."""

    year: int
    month: int

    def __str__(self) -> str:
        """``2026-10``."""
        return f"{self.year:04}-{self.month:02}"

    @property
    def from_us(self) -> int:
        """Its first moment, microseconds UTC."""
        return (datetime(self.year, self.month, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)

    @property
    def until_us(self) -> int:
        """The first moment after it, microseconds UTC."""
        return self.following.from_us

    @property
    def following(self) -> Month:
        """Returns the month after it."""
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    @property
    def preceding(self) -> Month:
        """Returns the month before it."""
        return Month(self.year - (self.month == 1), (self.month - 2) % 12 + 1)

    @property
    def title(self) -> str:
        """``October 2026``."""
        return datetime(self.year, self.month, 1, tzinfo=UTC).strftime("%B %Y")


def parse_month(text: str) -> Month:
    """Returns the month of ``2026-10``. Raises ``InvalidRequest`` for anything else."""
    found = _WRITTEN.fullmatch(text)
    if found is None or not _FIRST_YEAR <= int(found[1]) < 9999:
        raise InvalidRequest(
            f"{text[:40]!r} is not a month, such as 2026-10.", param="month", code="invalid_month", hint="Use YYYY-MM."
        )
    return Month(int(found[1]), int(found[2]))


def month_of(at_us: int) -> Month:
    """Returns the month in UTC that has this moment, microseconds."""
    at = _EPOCH + timedelta(microseconds=at_us)
    return Month(at.year, at.month)
