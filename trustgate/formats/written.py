"""Numbers, money, sizes and times as people read them; the command line and the pages write them the same."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from trustgate.types import FACTOR_ONE_PPM, NANO_USD_PER_USD

#: The largest integer that every JSON reader keeps exactly (RFC 8259 section 6, RFC 8785 section 3.2.2.3).
INTEGER_MOST: Final = 2**53 - 1

_NOTHING = "–"


def usd(nano_usd: int) -> str:
    """Nano-USD as dollars, exactly: at least two decimals, at most nine. ``$0.0000015``."""
    whole, rest = divmod(abs(nano_usd), NANO_USD_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano_usd < 0 else ''}${whole:,}.{decimals}"


def usd_per_million(pico_usd: int) -> str:
    """Returns a price in pico-USD a token as dollars per million tokens, exactly."""
    return usd(pico_usd * 1000)


def factor(ppm: int) -> str:
    """Returns what is billed of what models cost, as words."""
    return "what models cost" if ppm == FACTOR_ONE_PPM else f"{ppm / FACTOR_ONE_PPM:g} times what models cost"


def number(value: int) -> str:
    return f"{value:,}"


def counted(value: int, one: str) -> str:
    """Returns a number with what it counts: ``1 receipt``, ``1,200 receipts``."""
    return f"{value:,} {one}{'' if value == 1 else 's'}"


def rate(per_s: float) -> str:
    """Returns how many a second, rounded: ``2.0``, ``1,234``."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def size(count: int) -> str:
    """Bytes, rounded: ``12.3 MiB``."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def optional(value: int | None) -> str:
    """Returns a number, or a dash where there is none."""
    return _NOTHING if value is None else number(value)


def instant(at_us: int | None) -> str:
    """Microseconds UTC as ``2026-01-31 23:59:59``; tables say in their heads that it is UTC."""
    if not at_us:
        return _NOTHING
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def instant_utc(at_us: int | None) -> str:
    return f"{instant(at_us)} UTC" if at_us else _NOTHING


def names(values: Iterable[str], *, nothing: str = _NOTHING) -> str:
    return ", ".join(values) or nothing
