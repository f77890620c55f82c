"""The calendar windows that quotas count in: the minute, the day and the month, in UTC."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from trustgate.ids import MICROSECONDS_PER_SECOND

_MINUTE_US: Final = 60 * MICROSECONDS_PER_SECOND
_DAY_US: Final = 86_400 * MICROSECONDS_PER_SECOND


class Windows(msgspec.Struct, frozen=True):
    """The calendar windows that contain a moment: where each began and where each ends, microseconds UTC."""

    starts: tuple[int, int, int]
    ends: tuple[int, int, int]

    @classmethod
    def at(cls, at_us: int) -> Windows:
        minute = at_us - at_us % _MINUTE_US
        day = at_us - at_us % _DAY_US
        date = time.gmtime(at_us // MICROSECONDS_PER_SECOND)
        month = day - (date.tm_mday - 1) * _DAY_US
        next_month = month + 31 * _DAY_US
        next_month -= (time.gmtime(next_month // MICROSECONDS_PER_SECOND).tm_mday - 1) * _DAY_US
        return cls((minute, day, month), (minute + _MINUTE_US, day + _DAY_US, next_month))
