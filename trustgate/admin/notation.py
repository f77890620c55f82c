"""How people write numbers, money and times: on the command line and in the console's forms.

Owns these notations. Each parser raises ``ValueError`` with a sentence for people. Money is parsed as decimals and kept
exactly, as integers; what cannot be kept exactly is refused, never rounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.formats.written import INTEGER_MOST
from trustgate.ids import now_us
from trustgate.settings import duration_s

_WHOLE = re.compile(r"\d+(_\d{3})*", re.ASCII)
_DECIMAL = re.compile(r"\d{1,12}(\.\d*)?|\.\d+", re.ASCII)
_DIGITS_MOST = 100
_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)

_NANO_DECIMALS = 9
#: Micro-USD a million tokens, which is pico-USD a token.
_PRICE_DECIMALS = 6


def whole(text: str) -> int:
    """``50000`` or ``50_000``."""
    # The length first: Python refuses to read thousands of digits.
    if len(text) > _DIGITS_MOST or not _WHOLE.fullmatch(text) or (value := int(text.replace("_", ""))) > INTEGER_MOST:
        raise ValueError(f"{text!r} is not a whole number from 0 on, such as 50000 or 50_000.")
    return value


def usd(text: str) -> int:
    """Dollars as nano-USD: ``5.00``, ``$5``, ``0.0025``."""
    return _decimal(text, _NANO_DECIMALS, "an amount in USD, such as 5.00")


def factor(text: str) -> int:
    """A factor in millionths: ``1.2``, ``0.9``."""
    return _decimal(text, 6, "a factor, such as 1.2")


def usd_per_million(text: str) -> int:
    """Dollars per million tokens as pico-USD a token: ``0.15``."""
    return _decimal(text, _PRICE_DECIMALS, "a price in USD per million tokens, such as 0.15")


def _decimal(text: str, decimals: int, what: str) -> int:
    digits = text.removeprefix("$")
    if not _DECIMAL.fullmatch(digits):
        raise ValueError(f"{text!r} is not {what}.")
    scaled = Decimal(digits).scaleb(decimals)
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{text!r} has more than {decimals} decimals, the most that is kept exactly.")
    if scaled > INTEGER_MOST:
        raise ValueError(f"{text!r} is too large.")
    return int(scaled)


def duration(text: str) -> int:
    """``30d``, ``24h``, ``90m``, ``45s`` or ``2w``, as seconds."""
    seconds = duration_s(text)
    if seconds is None:
        raise ValueError(f"{text!r} is not a time span, such as 30d, 24h, 90m or 45s.")
    return seconds


class Moment(NamedTuple):
    """A time to come: so many seconds from now, or at a time (microseconds UTC)."""

    in_s: int | None = None
    at_us: int | None = None


def moment(text: str) -> Moment:
    """``30d``: so long from now; a date (its beginning, UTC) or a time with its zone."""
    seconds = duration_s(text)
    if seconds is not None:
        return Moment(in_s=seconds)
    try:
        return Moment(at_us=_micros(_written(text)))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time to come, such as 30d, 24h, 2027-01-31 or 2027-01-31T18:00:00Z."
        ) from None


def instant(text: str) -> int:
    """Returns a time that is written out, microseconds UTC: a date (its beginning, UTC) or a time with its zone."""
    try:
        return max(0, _micros(_written(text)))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a date, such as 2027-01-31 or 2027-01-31T18:00:00Z.") from None


def budget_span(text: str) -> str:
    """``month`` and the like; ``6h`` as a rolling span; ``total``."""
    from trustgate.access.spans import CALENDAR

    word = text.lower()
    if word in CALENDAR or word == "total":
        return word
    seconds = duration_s(text)
    if seconds is None:
        raise ValueError(
            f"{text!r} is not a budget's span, such as {', '.join(CALENDAR)}, total, or a rolling span like 6h or 30d."
        )
    return f"{seconds}s"


def is_none(text: str) -> bool:
    """Returns whether it is the word ``none``: nothing of it, or what was there taken away."""
    return text.lower() == "none"


def percentages(text: str) -> tuple[int, ...]:
    """``50,80,100``, or ``none``."""
    if is_none(text):
        return ()
    parts = [part.strip().removesuffix("%").strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        raise ValueError(f"{text!r} is not a list of percentages, such as 50,80,100, or none.")
    return tuple(map(int, parts))


def since(text: str) -> int:
    """Returns the start of a period, microseconds UTC: ``7d`` (ago), ``today``, ``month``, a date, or a time with its
    zone.
    """
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text == "today":
        start = midnight
    elif text == "month":
        start = midnight.replace(day=1)
    elif (seconds := duration_s(text)) is not None:
        try:
            start = now - timedelta(seconds=seconds)
        except OverflowError:
            raise ValueError(f"{text!r} is too far back.") from None
    else:
        start = _written(text)
    return max(0, _micros(start))


def month(text: str) -> str:
    """A month in UTC as ``2026-10``: that, ``last`` or ``this``."""
    from trustgate.statements.months import month_of, parse_month

    if text in ("last", "this"):
        current = month_of(now_us())
        return str(current.preceding if text == "last" else current)
    try:
        return str(parse_month(text))
    except InvalidRequest:
        raise ValueError(f"{text!r} is not a month, such as 2026-10, last or this.") from None


def month_or_since(text: str) -> int:
    """The same, or a month (``2026-01``): its beginning."""
    return since(f"{text}-01" if _MONTH.fullmatch(text) else text)


def _written(text: str) -> datetime:
    try:
        if len(text) <= len("2026-01-01"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a start time, such as 7d, today, month, 2026-01-01 or 2026-01-01T12:00:00Z."
        ) from None
    # Times are UTC unless they say otherwise.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def status(text: str) -> tuple[int, int]:
    """An HTTP status (``429``) or a class of them (``4xx``), as the lowest and the highest."""
    if len(text) == 3 and text[0] in "12345" and text[1:].lower() == "xx":
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    if len(text) == 3 and text.isascii() and text.isdigit():
        return int(text), int(text)
    raise ValueError(f"{text!r} is not a status, such as 429 or 4xx.")


def words(texts: Sequence[str]) -> tuple[str, ...]:
    """Words, several texts or separated by commas, each once."""
    return tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))


def words_or_none(texts: Sequence[str]) -> tuple[str, ...]:
    """The same, at least one; or ``none`` by itself: no word."""
    found = words(texts)
    if not found or (len(found) > 1 and any(map(is_none, found))):
        raise ValueError(f"{','.join(texts)!r} is not a list of words, separated by commas; nor none, by itself.")
    return () if is_none(found[0]) else found


def parameters(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=JSON`` each: ``temperature=0.2``, ``stop=["\\n"]``."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{text!r} is not NAME=JSON, such as temperature=0.2.")
        try:
            found[name] = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            shown = value if len(value) <= 100 else f"{value[:100]}…"
            raise ValueError(f"the value of {name} is not JSON: {shown!r}. Text needs quotes: '{name}=\"…\"'") from None
    return found
