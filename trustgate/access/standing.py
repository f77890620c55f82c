"""Where a caller's limits stand: each with what was used of it, what is left, and when it resets.

Owns the form. Windows are calendar windows in UTC (``access.windows``), so that each says the moment at which it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustgate.access.windows import Windows
from trustgate.types import UNITS, WINDOWS, Limits


def limit_cards(owner: str, limits: Limits, used: Mapping[str, Mapping[str, int]], at_us: int) -> list[dict[str, Any]]:
    """Returns the limits that are set.

    Args:
        owner: Whose they are: ``plan`` or ``key``.
        limits: The limits.
        used: What was used in each running window, holds included (``Quota.used``).
        at_us: Now, microseconds UTC.
    """
    ends = dict(zip(WINDOWS, Windows.at(at_us).ends, strict=True))
    cards = []
    for window, until_us in ends.items():
        for unit in UNITS:
            most = getattr(limits, f"{unit}_per_{window}")
            if most is not None:
                so_far = used[window][unit]
                cards.append(
                    {
                        "of": owner,
                        "unit": unit,
                        "window": window,
                        "limit": most,
                        "used": so_far,
                        "left": max(0, most - so_far),
                        "resets_us": until_us,
                    }
                )
    return cards
